/* The loops for x86-64 with AVX-512 F, BW, DQ and VL, and what comes with AVX2. */
#include "_loops.h"
#ifdef MPISQUEEZE_X86_LEVELS
#pragma GCC target("fma,popcnt,avx512f,avx512bw,avx512dq,avx512vl,f16c,prefer-vector-width=256")
#include <immintrin.h>
#define LEVEL 2
#define LOOPS loops_avx512
#include "_loops_tables.h"
#endif
