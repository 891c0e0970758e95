// The top bits of each element as float32: a stream of `bits` (9…31) an element.
#include "common.cuh"

const u32 PIECE = 256;  // elements per warp

// One warp per 256 elements: each lane takes four in a row twice, and each element is one item of the stream.
extern "C" __global__ void __launch_bounds__(32 * WARPS) clip_encode(
    const real* vector, real* residual, i64 n, u8* payload, u32 bits, int* fault) {
    __shared__ u32 staged[WARPS][PIECE];
    u32* items = staged[threadIdx.x / 32];
    i64 begin = warp_index() * PIECE;
    if (begin >= n) return;
    i64 end = n - begin < PIECE ? n : begin + PIECE;
    for (u32 at = 4 * lane_index(); at < PIECE; at += 128) {
        real v[4];
        compensated4(vector, residual, begin + at, end, v);
        for (u32 c = 0; c < 4; ++c) {
            u32 code = __float_as_uint((float)v[c]);
            if (!is_finite_single(code)) *fault = 1;
            code >>= 32 - bits;
            items[at + c] = code;
            v[c] -= (real)__uint_as_float(code << (32 - bits));
        }
        if (residual) store4(residual, begin + at, end, v);
    }
    __syncwarp();
    u32 count = (u32)(end - begin);
    emit(items, count, bits, payload + begin / 8 * bits, (count * bits + 7) / 8);
}

// Each thread takes four elements.
extern "C" __global__ void clip_decode(const u8* payload, real* out, i64 n, u32 bits, u32 add, real factor) {
    i64 i = 4 * thread_index(), bytes = (n * bits + 7) / 8;
    if (i >= n) return;
    real x[4];
    for (u32 c = 0; c < 4; ++c)
        x[c] = (real)__uint_as_float(read_bits(payload, bytes, (i + c) * bits) << (32 - bits));
    deliver4(out, i, n, x, add, factor);
}
