/* The loops for x86-64 with AVX2; every such processor has F16C too. */
#include "_loops.h"
#ifdef MPISQUEEZE_X86_LEVELS
#pragma GCC target("avx2,f16c")
#include <immintrin.h>
#define LEVEL 1
#define LOOPS loops_avx2
#include "_loops_tables.h"
#endif
