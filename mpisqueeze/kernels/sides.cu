// The means of a block's elements ≥ 0 and < 0, one after the other, and behind all of them a bit per element, 1 = negative.
#include "blocks.cuh"

struct Pair {
    real above, below;
};

struct Sides {
    real above, below;
    u32 negatives;
};

template <>
__device__ inline Sides from_lane(Sides x, u32 distance) {
    return {from_lane(x.above, distance), from_lane(x.below, distance), from_lane(x.negatives, distance)};
}

struct Above {
    typedef real type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x, bool) { return x < 0 ? 0 : x; }  // a NaN is here
    __device__ static type join(type a, type b) { return a + b; }
};

struct Below : Above {
    __device__ static type of(real x, bool) { return x < 0 ? x : 0; }
};

struct SideMeans {
    typedef Sides type;
    typedef Pair scale_type;
    __device__ static type none() { return {0, 0, 0}; }
    __device__ static type join(type a, type b) {
        return {a.above + b.above, a.below + b.below, a.negatives + b.negatives};
    }
    // Adding 0 makes +0 of −0, a sum of zeros of either sign.
    __device__ static real mean(real sum, i64 count) { return sum / (real)(count ? count : 1) + (real)0; }
    __device__ static Pair scale(type total, i64 count) {
        return {mean(total.above, count - total.negatives), mean(total.below, total.negatives)};
    }
    __device__ static bool valid(Pair s) { return is_finite(s.above) && is_finite(s.below); }
};

// One after the other, so that a tile of sums at a time is in registers.
template <u32 R>
__device__ inline Sides statistic(SideMeans, const real (&v)[R][4], u32 count) {
    u32 negatives = 0;
#pragma unroll
    for (u32 j = 0; j < R; ++j)
#pragma unroll
        for (u32 c = 0; c < 4; ++c) negatives += v[j][c] < 0;
#pragma unroll
    for (u32 distance = 16; distance; distance /= 2) negatives += from_lane(negatives, distance);
    return {statistic(Above(), v, count), statistic(Below(), v, count), negatives};
}

struct SideCode : PlainCode<SideCode, Pair> {
    static const u32 bits = 1;
    using PlainCode::PlainCode;
    __device__ static u32 code(real v, Pair) { return v < 0; }
    __device__ real value(u32 code, Pair scale) const { return code ? scale.below : scale.above; }
};

SCALE_KERNELS(sides, SideMeans, SideCode)
CODE_KERNELS(sides, SideCode)
