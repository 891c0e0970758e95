// sign(v)·s with one s per block: a scale per block, then a bit per element, 1 = negative.
#include "blocks.cuh"

struct MeanMagnitude {
    typedef real type;
    typedef real scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x, bool) { return magnitude(x); }
    __device__ static type join(type a, type b) { return a + b; }
    __device__ static real scale(type total, i64 count) { return total / (real)count; }
    __device__ static bool valid(real s) { return is_finite(s); }
};

struct RootMeanSquare {
    typedef double type;
    typedef real scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x, bool) { return (double)x * (double)x; }
    __device__ static type join(type a, type b) { return a + b; }
    __device__ static real scale(type total, i64 count) { return (real)sqrt(total / (double)count); }
    __device__ static bool valid(real s) { return is_finite(s); }
};

struct SignCode : PlainCode<SignCode, real> {
    static const u32 bits = 1;
    using PlainCode::PlainCode;
    __device__ static u32 code(real v, real) { return v < 0; }
    __device__ real value(u32 code, real scale) const { return code ? -scale : scale; }
};

SCALE_KERNELS(signs_l1, MeanMagnitude, SignCode)
SCALE_KERNELS(signs_l2, RootMeanSquare, SignCode)
CODE_KERNELS(signs, SignCode)
