// lo + code/(2^bits − 1)·(hi − lo): lo and hi of each bucket, then a code per element.
#include "blocks.cuh"
#include "levels.cuh"

struct Ends {
    real low, high;
};

template <>
__device__ inline Ends from_lane(Ends x, u32 distance) {
    return {from_lane(x.low, distance), from_lane(x.high, distance)};
}

// A NaN on either side wins.
struct Range {
    typedef Ends type;
    typedef Ends scale_type;
    __device__ static type none() { return {from_bits(INFINITE), -from_bits(INFINITE)}; }
    __device__ static type of(real x, bool inside) { return inside ? Ends{x, x} : none(); }
    __device__ static type join(type a, type b) {
        return {b.low < a.low || b.low != b.low ? b.low : a.low, b.high > a.high || b.high != b.high ? b.high : a.high};
    }
    // Adding 0 makes +0 of −0, so that the order of the reduction cannot show.
    __device__ static Ends scale(type total, i64) { return {total.low + (real)0, total.high + (real)0}; }
    __device__ static bool valid(Ends s) { return is_finite(s.high - s.low); }
};

struct Span {
    Divisor span;
    real low;
};

struct StepCode {
    typedef Ends scale_type;
    typedef Span block_type;
    u32 bits;
    u64 key;
    Levels levels;
    __device__ StepCode(u32 bits, u64 key) : bits(bits), key(key), levels((1u << bits) - 1) {}
    __device__ static Span block(Ends ends) { return {Divisor(ends.high - ends.low), ends.low}; }
    __device__ void encode4(const real (&v)[4], const Span (&blocks)[4], i64 i, u32 (&codes)[4]) const {
        real x[4];
        Divisor by[4];
#pragma unroll
        for (u32 c = 0; c < 4; ++c) x[c] = v[c] - blocks[c].low, by[c] = blocks[c].span;
        levels.round4(x, by, i, key, codes);
    }
    __device__ real value(u32 code, const Span& b) const { return levels.fraction(code) * b.span.given + b.low; }
};

SCALE_KERNELS(uniform, Range, StepCode)
CODE_KERNELS(uniform, StepCode)
