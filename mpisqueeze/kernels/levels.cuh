// Quotients and fractions to the bits of IEEE divisions, by products and their errors.
#ifndef MPISQUEEZE_LEVELS
#define MPISQUEEZE_LEVELS
#include "common.cuh"

#if REAL_BITS == 64
// 2^−512, 2^512, 2^800
const real LITTLE = 7.458340731200207e-155, MUCH = 1.3407807929942597e+154, MORE = 6.668014432879854e+240;
__device__ inline real fused(real a, real b, real c) { return __fma_rn(a, b, c); }
#else
// 2^−64, 2^64, 2^96
const real LITTLE = 5.421010862427522e-20f, MUCH = 1.8446744073709552e+19f, MORE = 7.922816251426434e+28f;
__device__ inline real fused(real a, real b, real c) { return __fmaf_rn(a, b, c); }
#endif

// x / given for many x; 0 counts as 1. From 1/by, rounded, follow a quotient that is less than 1.5 last places off, and,
// by its remainder, the rounded one (Markstein, IBM J. Res. Dev. 34, 1990). A power of two keeps the remainder from over-
// and underflow for quotients from 2^−32 to 2^16; smaller ones come out below 2^−31, whose sign may be lost.
struct Divisor {
    real given, shift, by, inverse;
    __device__ Divisor() {}
    __device__ explicit Divisor(real given)
        : given(given), shift(given > MUCH ? LITTLE : given > 0 && given < LITTLE ? MORE : 1),
          by(given > 0 ? given * shift : 1), inverse(1 / by) {}
    __device__ real into(real x) const {
        x *= shift;
        real quotient = x * inverse;
        return fused(fused(-by, quotient, x), inverse, quotient);
    }
};

// Levels 0…count ≤ 255, at random between two of them.
struct Levels {
    real count, inverse, rest;
    __device__ explicit Levels(u32 levels)
        : count((real)levels), inverse(1 / count), rest(fused(-count, inverse, 1) * inverse) {}

    // level / count.
    __device__ real fraction(u32 level) const { return fused((real)level, inverse, (real)level * rest); }

    // x / divisor · count as fixed-point numbers with 23 bits behind the point.
    __device__ static real scaled(real quotient, real count) {
        real scaled = quotient * (count * (real)8388608);
        // Squares of float64 can underflow, so that a norm is smaller than an element.
        return REAL_BITS == 64 && scaled > count * (real)8388608 ? count * (real)8388608 : scaled;
    }

    // By as many bits of u, see random.py, as it takes.
    __device__ __noinline__ static u32 round_exactly(real x, real divisor, real count, i64 i, u64 key) {
        real level = scaled(x / (divisor > 0 ? divisor : 1), count);
        u32 fixed = (u32)level, sum = fixed + (~hash32((u32)i, key) >> 9);
        return (sum >> 23) + (~sum << 9 ? 0 : rest_is_below(level - (real)fixed, key ^ (u64)i));
    }

    // to[c] ← ⌊x / divisor · count⌋ of element i + c, or one more if u is below the fractional part. A sum that ends in ones
    // has a u that begins as the fractional part does.
    __device__ void round4(const real (&x)[4], const Divisor (&by)[4], i64 i, u64 key, u32 (&to)[4]) const {
        bool sure = true;
#pragma unroll
        for (u32 c = 0; c < 4; ++c) {
            u32 sum = (u32)scaled(by[c].into(x[c]), count) + (~hash32((u32)i + c, key) >> 9);
            sure = sure && ~sum << 9;
            to[c] = sum >> 23;
        }
        if (sure) return;
#pragma unroll
        for (u32 c = 0; c < 4; ++c) to[c] = round_exactly(x[c], by[c].given, count, i + c, key);
    }
};

#endif
