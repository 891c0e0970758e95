// Powers of two: a byte per element, the sign as its highest bit, and code 1…127 for 2^(code − 109), 0 for 0.
#include "common.cuh"

#if REAL_BITS == 64
const u32 FRACTION = 52, BIAS = 1023;
#else
const u32 FRACTION = 23, BIAS = 127;
#endif
const u32 CUT = FRACTION - 23;
const real_bits NOTHING = (real_bits)(BIAS - 109) << FRACTION;  // 2^−109, which code 0 would be
const real_bits LEAST = (real_bits)(BIAS - 108) << FRACTION, MOST = (real_bits)(BIAS + 18) << FRACTION;

__device__ inline real value_of(u32 code) {
    real_bits power = code & 0x7Fu ? ((real_bits)(code & 0x7Fu) << FRACTION) + NOTHING : 0;
    return from_bits(power | (real_bits)(code & 0x80u) << (REAL_BITS - 8));
}

// The level is a fixed-point number, the code before the point; below the smallest power of two it is that part of it.
__device__ inline u32 code_of(real v, i64 i, u64 key) {
    real_bits bits = magnitude_bits(v), end = ((real_bits)1 << CUT) - 1;
    u32 level = (u32)((bits - NOTHING) >> CUT);
    real rest = (real)(bits & end) / (real)(end + 1);
    if (bits < LEAST) {
        rest = magnitude(v) * (real)73786976294838206464.0 * (real)36893488147419103232.0;  // 2^66, 2^65
        level = (u32)rest;
        rest -= (real)level;
    }
    u32 sum = level + (~hash32((u32)i, key) >> 9);
    u32 code = (sum >> 23) + (~sum << 9 ? 0 : rest_is_below(rest, key ^ (u64)i));
    return code | ((u32)(to_bits(v) >> (REAL_BITS - 8)) & 0x80u);
}

// Each thread takes four elements.
extern "C" __global__ void natural_encode(
    const real* vector, real* residual, i64 n, u8* payload, u64 key, int* fault) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real v[4];
    compensated4(vector, residual, i, n, v);
    u32 packed = 0;
    for (u32 c = 0; c < 4; ++c) {
        if (magnitude_bits(v[c]) > MOST) *fault = 1;
        u32 code = code_of(v[c], i + c, key);
        packed |= (code & 0xFFu) << (8 * c);
        v[c] -= value_of(code);
    }
    if (i + 4 <= n && ((size_t)(payload + i) & 3) == 0) {
        *(u32*)(payload + i) = packed;
    } else {
        for (u32 c = 0; i + c < n && c < 4; ++c) payload[i + c] = (u8)(packed >> (8 * c));
    }
    if (residual) store4(residual, i, n, v);
}

extern "C" __global__ void natural_decode(const u8* payload, real* out, i64 n, u32 add, real factor) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real x[4];
    for (u32 c = 0; c < 4; ++c) x[c] = value_of(i + c < n ? payload[i + c] : 0);
    deliver4(out, i, n, x, add, factor);
}
