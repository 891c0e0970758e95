// lo + code/(2^bits − 1)·(hi − lo): lo and hi of each bucket, then a code per element.
#include "blocks.cuh"

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
    __device__ static type of(real x) { return {x, x}; }
    __device__ static type join(type a, type b) {
        return {b.low < a.low || b.low != b.low ? b.low : a.low, b.high > a.high || b.high != b.high ? b.high : a.high};
    }
    // Adding 0 makes +0 of −0, so that the order of the reduction cannot show.
    __device__ static Ends scale(type total, i64) { return {total.low + (real)0, total.high + (real)0}; }
    __device__ static bool valid(Ends s) { return is_finite(s.high - s.low); }
};

struct StepCode {
    typedef Ends scale_type;
    u32 bits;
    u64 key;
    __device__ StepCode(u32 bits, u64 key) : bits(bits), key(key) {}
    __device__ real levels() const { return (real)((1u << bits) - 1); }
    __device__ u32 code(real v, Ends ends, i64 i) const {
        real span = ends.high - ends.low;
        return round_stochastically((v - ends.low) / (span > 0 ? span : 1) * levels(), i, key);
    }
    __device__ real value(u32 code, Ends ends) const {
        return (real)code / levels() * (ends.high - ends.low) + ends.low;
    }
};

SCALE_KERNELS(uniform, Range, StepCode)
CODE_KERNELS(uniform, StepCode)
