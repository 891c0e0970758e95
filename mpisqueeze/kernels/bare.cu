// sign(v) without a scale: a bit per element, 1 = negative.
#include "blocks.cuh"

// The mean magnitude of a block, which `signs` would have for its scale, tells whether all elements are finite.
struct Finite {
    typedef real type;
    typedef NoScale scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x) { return magnitude(x); }
    __device__ static type join(type a, type b) { return a + b; }
    __device__ static NoScale scale(type total, i64 count) { return {is_finite(total / (real)count)}; }
    __device__ static bool valid(NoScale s) { return s.finite; }
};

struct BareCode {
    typedef NoScale scale_type;
    static const u32 bits = 1;
    __device__ BareCode(u32, u64) {}
    __device__ u32 code(real v, NoScale, i64) const { return v < 0; }
    __device__ real value(u32 code, NoScale) const { return code ? (real)-1 : (real)1; }
};

SCALE_KERNELS(bare, Finite, BareCode)
CODE_KERNELS(bare, BareCode)
