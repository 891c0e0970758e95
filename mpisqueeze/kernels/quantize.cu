// norm·sign·(level/s), s = 2^(bits−1) − 1: a norm per bucket, then a code per element: level, and sign as highest bit.
#include "blocks.cuh"

struct EuclideanNorm {
    typedef double type;
    typedef real scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x) { return (double)x * (double)x; }
    __device__ static type join(type a, type b) { return a + b; }
    __device__ static real scale(type total, i64) { return (real)sqrt(total); }
    __device__ static bool valid(real s) { return is_finite(s); }
};

// As whole numbers, so that a NaN wins.
struct MaximumNorm {
    typedef real_bits type;
    typedef real scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x) { return magnitude_bits(x); }
    __device__ static type join(type a, type b) { return a > b ? a : b; }
    __device__ static real scale(type total, i64) { return from_bits(total); }
    __device__ static bool valid(real s) { return is_finite(s); }
};

struct LevelCode {
    typedef real scale_type;
    u32 bits;
    u64 key;
    __device__ LevelCode(u32 bits, u64 key) : bits(bits), key(key) {}
    __device__ u32 sign() const { return 1u << (bits - 1); }
    __device__ u32 code(real v, real norm, i64 i) const {
        real levels = (real)(sign() - 1), level = magnitude(v) / (norm > 0 ? norm : 1) * levels;
        return round_stochastically(level < levels ? level : levels, i, key) | (v < 0 ? sign() : 0);
    }
    __device__ real value(u32 code, real norm) const {
        real level = (real)(code & (sign() - 1)) / (real)(sign() - 1);
        return (code & sign() ? -level : level) * norm;
    }
};

SCALE_KERNELS(quantize_l2, EuclideanNorm, LevelCode)
SCALE_KERNELS(quantize_max, MaximumNorm, LevelCode)
CODE_KERNELS(quantize, LevelCode)
