// norm·sign·(level/s), s = 2^(bits−1) − 1: a norm per bucket, then a code per element: level, and sign as highest bit.
#include "blocks.cuh"
#include "levels.cuh"

struct EuclideanNorm {
    typedef double type;
    typedef real scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x, bool) { return (double)x * (double)x; }
    __device__ static type join(type a, type b) { return a + b; }
    __device__ static real scale(type total, i64) { return (real)sqrt(total); }
    __device__ static bool valid(real s) { return is_finite(s); }
};

// As whole numbers, so that a NaN wins.
struct MaximumNorm {
    typedef real_bits type;
    typedef real scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x, bool) { return magnitude_bits(x); }
    __device__ static type join(type a, type b) { return a > b ? a : b; }
    __device__ static real scale(type total, i64) { return from_bits(total); }
    __device__ static bool valid(real s) { return is_finite(s); }
};

struct LevelCode {
    typedef real scale_type;
    typedef Divisor block_type;
    u32 bits;
    u64 key;
    Levels levels;
    __device__ LevelCode(u32 bits, u64 key) : bits(bits), key(key), levels(sign() - 1) {}
    __device__ u32 sign() const { return 1u << (bits - 1); }
    __device__ static Divisor block(real norm) { return Divisor(norm); }
    __device__ void encode4(const real (&v)[4], const Divisor (&norms)[4], i64 i, u32 (&codes)[4]) const {
        real x[4];
#pragma unroll
        for (u32 c = 0; c < 4; ++c) x[c] = magnitude(v[c]);
        levels.round4(x, norms, i, key, codes);
#pragma unroll
        for (u32 c = 0; c < 4; ++c) codes[c] |= v[c] < 0 ? sign() : 0;
    }
    __device__ real value(u32 code, const Divisor& norm) const {
        real level = levels.fraction(code & (sign() - 1));
        return (code & sign() ? -level : level) * norm.given;
    }
};

SCALE_KERNELS(quantize_l2, EuclideanNorm, LevelCode)
SCALE_KERNELS(quantize_max, MaximumNorm, LevelCode)
CODE_KERNELS(quantize, LevelCode)
