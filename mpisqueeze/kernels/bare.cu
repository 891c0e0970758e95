// sign(v) without a scale: a bit per element, 1 = negative.
#include "blocks.cuh"

// The mean magnitude of a block, which `signs` would have for its scale, tells whether all elements are finite.
struct Finite {
    typedef real type;
    typedef NoScale scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x, bool) { return magnitude(x); }
    __device__ static type join(type a, type b) { return a + b; }
    __device__ static NoScale scale(type total, i64 count) { return {is_finite(total / (real)count)}; }
    __device__ static bool valid(NoScale s) { return s.finite; }
};

struct BareCode : PlainCode<BareCode, NoScale> {
    static const u32 bits = 1;
    using PlainCode::PlainCode;
    __device__ static u32 code(real v, NoScale) { return v < 0; }
    __device__ real value(u32 code, NoScale) const { return code ? (real)-1 : (real)1; }
};

SCALE_KERNELS(bare, Finite, BareCode)
CODE_KERNELS(bare, BareCode)
