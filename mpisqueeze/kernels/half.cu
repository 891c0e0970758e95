// 16-bit floats, rounded to nearest even: fp16 from the element itself, bf16 from the element as float32.
// Integer arithmetic, because NVRTC may not find <cuda_fp16.h>; either way memory is the limit.
#include "common.cuh"

#if REAL_BITS == 64
const u32 FRACTION = 52, BIAS = 1023;
const real UNIT_2_24 = 268435456.0;  // its last bit is worth 2^−24, the smallest fp16
#else
const u32 FRACTION = 23, BIAS = 127;
const real UNIT_2_24 = 0.5f;
#endif

struct Fp16 {
    __device__ static u32 code(real v) {
        real_bits bits = magnitude_bits(v);
        u32 sign = (u32)(to_bits(v) >> (REAL_BITS - 16)) & 0x8000u;
        if (!(magnitude(v) < (real)65520)) return sign | 0x7C00u;
        if (magnitude(v) < (real)(1.0 / 16384))
            return sign | (u32)(to_bits(magnitude(v) + UNIT_2_24) - to_bits(UNIT_2_24));
        const u32 cut = FRACTION - 10;
        bits += (((real_bits)1 << (cut - 1)) - 1) + (bits >> cut & 1);
        return sign | (u32)((bits >> cut) - ((real_bits)(BIAS - 15) << 10));
    }
    __device__ static u32 single(u32 code) {
        u32 sign = (code & 0x8000u) << 16, rest = code & 0x7FFFu;
        if (rest >= 0x7C00u) return sign | 0x7F800000u | rest << 13;
        if (rest < 0x400u) return sign | __float_as_uint((float)rest * (float)(1.0 / 16777216));
        return sign | ((rest << 13) + (112u << 23));
    }
};

struct Bf16 {
    __device__ static u32 code(real v) {
        u32 bits = __float_as_uint((float)v);
        if (!is_finite_single(bits)) return 0x7F80u;
        return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
    }
    __device__ static u32 single(u32 code) { return code << 16; }
};

// Each thread takes four elements.
template <class F>
__device__ inline void encode(const real* vector, real* residual, i64 n, u8* payload, int* fault) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real v[4];
    compensated4(vector, residual, i, n, v);
    u16* codes = (u16*)payload + i;
    u64 packed = 0;
    for (u32 c = 0; c < 4; ++c) {
        u32 code = F::code(v[c]), decoded = F::single(code);
        if (!is_finite_single(decoded)) *fault = 1;
        packed |= (u64)code << (16 * c);
        v[c] -= (real)__uint_as_float(decoded);
    }
    if (i + 4 <= n && ((size_t)codes & 7) == 0) {
        *(u64*)codes = packed;
    } else {
        for (u32 c = 0; i + c < n && c < 4; ++c) codes[c] = (u16)(packed >> (16 * c));
    }
    if (residual) store4(residual, i, n, v);
}

template <class F>
__device__ inline void decode(const u8* payload, real* out, i64 n, u32 add, real factor) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    const u16* codes = (const u16*)payload + i;
    u64 packed = 0;
    if (i + 4 <= n && ((size_t)codes & 7) == 0) {
        packed = *(const u64*)codes;
    } else {
        for (u32 c = 0; i + c < n && c < 4; ++c) packed |= (u64)codes[c] << (16 * c);
    }
    real x[4];
    for (u32 c = 0; c < 4; ++c) x[c] = (real)__uint_as_float(F::single((u32)(packed >> (16 * c)) & 0xFFFFu));
    deliver4(out, i, n, x, add, factor);
}

extern "C" __global__ void fp16_encode(const real* vector, real* residual, i64 n, u8* payload, int* fault) {
    encode<Fp16>(vector, residual, n, payload, fault);
}
extern "C" __global__ void bf16_encode(const real* vector, real* residual, i64 n, u8* payload, int* fault) {
    encode<Bf16>(vector, residual, n, payload, fault);
}
extern "C" __global__ void fp16_decode(const u8* payload, real* out, i64 n, u32 add, real factor) {
    decode<Fp16>(payload, out, n, add, factor);
}
extern "C" __global__ void bf16_decode(const u8* payload, real* out, i64 n, u32 add, real factor) {
    decode<Bf16>(payload, out, n, add, factor);
}
