// v/s in e4m3, rounded to nearest even: a scale s = max|v|/448 per block, then a byte per element.
#include "blocks.cuh"
#include "levels.cuh"

#if REAL_BITS == 64
const u32 FRACTION = 52, BIAS = 1023;
const real UNIT_2_9 = 8796093022208.0;  // its last bit is worth 2^−9, the smallest e4m3
#else
const u32 FRACTION = 23, BIAS = 127;
const real UNIT_2_9 = 16384.0f;
#endif
const u32 CUT = FRACTION - 3;

// As whole numbers, so that a NaN wins.
struct LargestTo448 {
    typedef real_bits type;
    typedef real scale_type;
    __device__ static type none() { return 0; }
    __device__ static type of(real x, bool) { return magnitude_bits(x); }
    __device__ static type join(type a, type b) { return a > b ? a : b; }
    __device__ static real scale(type total, i64) {
        real s = from_bits(total) / (real)448, tiny = from_bits((real_bits)1 << FRACTION);
        return s < tiny ? tiny : s;
    }
    __device__ static bool valid(real s) { return is_finite(s * (real)448); }
};

struct E4M3 : PlainCode<E4M3, real, Divisor> {
    static const u32 bits = 8;
    using PlainCode::PlainCode;
    __device__ static u32 code(real v, const Divisor& scale) {
        real x = scale.into(v);
        real_bits m = magnitude_bits(x), low = to_bits(magnitude(x) + UNIT_2_9) - to_bits(UNIT_2_9);
        real_bits high = m - ((real_bits)(BIAS - 7) << FRACTION) + (((real_bits)1 << (CUT - 1)) - 1) + (m >> CUT & 1);
        u32 code = (u32)(m < ((real_bits)(BIAS - 6) << FRACTION) ? low : high >> CUT);
        return (code & 0x7Fu) | ((u32)(to_bits(v) >> (REAL_BITS - 8)) & 0x80u);
    }
    __device__ real value(u32 code, const Divisor& scale) const {
        real_bits low = (real_bits)(code & 0x7Fu) << CUT, least = (real_bits)(BIAS - 6) << FRACTION;
        real_bits m = (code & 0x7Fu) < 8 ? to_bits(from_bits(low + least) - from_bits(least))
                                         : low + ((real_bits)(BIAS - 7) << FRACTION);
        return from_bits(m | (real_bits)(code & 0x80u) << (REAL_BITS - 8)) * scale.given;
    }
};

SCALE_KERNELS(fp8, LargestTo448, E4M3)
CODE_KERNELS(fp8, E4M3)
