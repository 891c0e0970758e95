/* The loops for x86-64 with AVX2, FMA, F16C and POPCNT. */
#include "_loops.h"
#ifdef MPISQUEEZE_X86_LEVELS
#pragma GCC target("avx2,fma,f16c,popcnt")
#include <immintrin.h>
#define LEVEL 1
#define LOOPS loops_avx2
#include "_loops_tables.h"
#endif
