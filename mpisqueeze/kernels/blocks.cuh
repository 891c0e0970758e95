// Formats with a scale per block, or none: a halving sum, a maximum or a range gives it; then a code of 1…8 bits per element.
//
// A policy P says how the scale is found: `type` what is reduced, `of` an element's share, `join`, `none`, and `scale`.
// A code C says how an element is coded under a scale: `code`, and `value` back.
//
// Blocks of up to 1024 elements that end on whole bytes take the fused path: one warp does a block from the sum to the
// payload and reads and writes each element once. For other blocks the scales come first, run by run and level by level,
// and then the codes of tiles of 1024 elements, whatever blocks these touch.
#ifndef MPISQUEEZE_BLOCKS
#define MPISQUEEZE_BLOCKS
#include "tile.cuh"

template <class T>
__device__ inline T from_lane(T x, u32 distance) {
    return __shfl_xor_sync(ALL_LANES, x, distance);
}

// The halving order over a tile: 512, 256, 128 apart in registers, 64…4 across lanes, 2 and 1 in registers.
template <class P>
__device__ inline typename P::type reduce_tile(typename P::type (&a)[ROWS][4]) {
#pragma unroll
    for (u32 half = ROWS / 2; half; half /= 2)
#pragma unroll
        for (u32 j = 0; j < ROWS / 2; ++j)  // a bound that depends on `half` would leave the tile in local memory
#pragma unroll
            for (u32 c = 0; c < 4; ++c)
                if (j < half) a[j][c] = P::join(a[j][c], a[j + half][c]);
#pragma unroll
    for (u32 distance = 16; distance; distance /= 2)
#pragma unroll
        for (u32 c = 0; c < 4; ++c) a[0][c] = P::join(a[0][c], from_lane(a[0][c], distance));
    return P::join(P::join(a[0][0], a[0][2]), P::join(a[0][1], a[0][3]));
}

template <class P>
__device__ inline typename P::type statistic(const real (&v)[ROWS][4], u32 count) {
    typename P::type shares[ROWS][4];
#pragma unroll
    for (u32 j = 0; j < ROWS; ++j)
#pragma unroll
        for (u32 c = 0; c < 4; ++c)
            shares[j][c] = 128 * j + 4 * lane_index() + c < count ? P::of(v[j][c]) : P::none();
    return reduce_tile<P>(shares);
}

// No scale in the payload: only whether all elements were finite.
struct NoScale {
    bool finite;
};

// Bytes of the scales in front of the stream, and how one gets there.
template <class S>
__device__ inline i64 scale_bytes(i64 blocks) { return blocks * sizeof(S); }
template <>
__device__ inline i64 scale_bytes<NoScale>(i64) { return 0; }
template <class S>
__device__ inline void store_scale(u8* payload, i64 block, S scale) { ((S*)payload)[block] = scale; }
template <>
__device__ inline void store_scale(u8*, i64, NoScale) {}

template <class P>
__device__ inline typename P::scale_type put_scale(
    typename P::type total, i64 block, i64 n, i64 length, u8* payload, int* fault) {
    i64 count = n - block * length < length ? n - block * length : length;
    typename P::scale_type scale = P::scale(total, count);
    if (lane_index() == 0) {
        store_scale(payload, block, scale);
        if (!P::valid(scale)) *fault = 1;
    }
    return scale;
}

// The scale of consecutive elements: one for all, or looked up block by block.
template <class S>
struct OneScale {
    S scale;
    __device__ void seek(i64) {}
    __device__ S next() { return scale; }
};

template <class S>
struct BlockScales {
    const S* scales;
    i64 length, block, left;
    S scale;
    __device__ void seek(i64 i) {
        block = quotient(i, length);
        left = length - (i - block * length);
        scale = scales[block];
    }
    __device__ S next() {
        if (left-- == 0) left = length - 1, scale = scales[++block];
        return scale;
    }
};

template <>
struct BlockScales<NoScale> {
    const NoScale* scales;
    i64 length;
    __device__ void seek(i64) {}
    __device__ NoScale next() { return {true}; }
};

// Codes a tile: δ ← v − value(code), and four codes of a lane make one item of the stream.
template <class C, class Scales>
__device__ inline void encode_tile(
    real (&v)[ROWS][4], real* residual, i64 begin, u32 count, C code, Scales scales, u32* items, u8* stream) {
    bool quads = residual && quads_at(residual + begin, count);
#pragma unroll
    for (u32 j = 0; j < ROWS; ++j) {
        u32 at = 128 * j + 4 * lane_index(), item = 0;
        if (at >= count) continue;
        scales.seek(begin + at);
#pragma unroll
        for (u32 c = 0; c < 4; ++c) {
            if (at + c >= count) continue;
            typename C::scale_type scale = scales.next();
            u32 bits = code.code(v[j][c], scale, begin + at + c);
            item |= bits << (c * code.bits);
            v[j][c] -= code.value(bits, scale);
            if (residual && !quads) residual[begin + at + c] = v[j][c];
        }
        items[32 * j + lane_index()] = item;
        if (quads) store_quad(residual + begin + at, v[j]);
    }
    __syncwarp();
    emit(items, (count + 3) / 4, 4 * code.bits, stream + begin / 8 * code.bits, (count * code.bits + 7) / 8);
}

// One warp per block.
template <class P, class C>
__device__ inline void encode_fused(
    const real* vector, real* residual, i64 n, i64 length, i64 blocks, u8* payload, C code, int* fault) {
    __shared__ u32 items[WARPS][TILE / 4];
    i64 block = warp_index(), begin = block * length;
    if (block >= blocks) return;
    u32 count = (u32)(n - begin < length ? n - begin : length);
    real v[ROWS][4];
    compensated_tile(vector, residual, begin, count, v);
    OneScale<typename C::scale_type> scale = {
        put_scale<P>(statistic<P>(v, count), block, n, length, payload, fault)};
    u8* stream = payload + scale_bytes<typename C::scale_type>(blocks);
    encode_tile(v, residual, begin, count, code, scale, items[threadIdx.x / 32], stream);
}

// One warp per run of 1024 elements of a block; each block has `runs` of them, the last ones of the last block empty.
template <class P>
__device__ inline void scales_first(
    const real* vector, const real* residual, i64 n, i64 length, i64 blocks, i64 runs, void* partial, u8* payload,
    int* fault) {
    i64 index = warp_index(), block = quotient(index, runs);
    if (block >= blocks) return;
    i64 begin = block * length + (index - block * runs) * TILE;
    i64 end = (block + 1) * length < n ? (block + 1) * length : n;
    u32 count = begin >= end ? 0 : end - begin < TILE ? (u32)(end - begin) : TILE;
    real v[ROWS][4];
    compensated_tile(vector, residual, begin, count, v);
    typename P::type total = statistic<P>(v, count);
    if (runs == 1) {
        put_scale<P>(total, block, n, length, payload, fault);
    } else if (lane_index() == 0) {
        ((typename P::type*)partial)[index] = total;
    }
}

// One warp per 1024 of the `before` partial results of a block.
template <class P>
__device__ inline void scales_next(
    const void* from, i64 before, i64 runs, void* to, i64 n, i64 length, i64 blocks, u8* payload, int* fault) {
    i64 index = warp_index(), block = quotient(index, runs);
    if (block >= blocks) return;
    i64 first = (index - block * runs) * TILE;
    const typename P::type* partial = (const typename P::type*)from + block * before;
    typename P::type a[ROWS][4];
#pragma unroll
    for (u32 j = 0; j < ROWS; ++j)
#pragma unroll
        for (u32 c = 0; c < 4; ++c) {
            i64 at = first + 128 * j + 4 * lane_index() + c;
            a[j][c] = at < before ? partial[at] : P::none();
        }
    typename P::type total = reduce_tile<P>(a);
    if (runs == 1) {
        put_scale<P>(total, block, n, length, payload, fault);
    } else if (lane_index() == 0) {
        ((typename P::type*)to)[index] = total;
    }
}

// One warp per 1024 elements of the vector, once the scales are known.
template <class C>
__device__ inline void encode_split(
    const real* vector, real* residual, i64 n, i64 length, i64 blocks, u8* payload, C code) {
    typedef typename C::scale_type S;
    __shared__ u32 items[WARPS][TILE / 4];
    i64 begin = warp_index() * TILE;
    if (begin >= n) return;
    u32 count = n - begin < TILE ? (u32)(n - begin) : TILE;
    real v[ROWS][4];
    compensated_tile(vector, residual, begin, count, v);
    BlockScales<S> scales = {(const S*)payload, length};
    encode_tile(v, residual, begin, count, code, scales, items[threadIdx.x / 32], payload + scale_bytes<S>(blocks));
}

// Each thread takes four elements.
template <class C>
__device__ inline void decode_blocks(
    const u8* payload, real* out, i64 n, i64 length, i64 blocks, C code, u32 add, real factor) {
    typedef typename C::scale_type S;
    i64 i = 4 * thread_index();
    if (i >= n) return;
    u32 item = read_bits(payload + scale_bytes<S>(blocks), (n * code.bits + 7) / 8, i * code.bits);
    BlockScales<S> scales = {(const S*)payload, length};
    scales.seek(i);
    real x[4];
#pragma unroll
    for (u32 c = 0; c < 4; ++c, item >>= code.bits)
        if (i + c < n) x[c] = code.value(item & ((1u << code.bits) - 1), scales.next());
    deliver4(out, i, n, x, add, factor);
}

#define SCALE_KERNELS(name, P, C)                                                                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) name##_fused(                                             \
        const real* vector, real* residual, i64 n, i64 length, i64 blocks, u8* payload, u32 bits, u64 key,             \
        int* fault) {                                                                                                  \
        encode_fused<P>(vector, residual, n, length, blocks, payload, C(bits, key), fault);                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) name##_first(                                             \
        const real* vector, const real* residual, i64 n, i64 length, i64 blocks, i64 runs, void* partial,              \
        u8* payload, int* fault) {                                                                                     \
        scales_first<P>(vector, residual, n, length, blocks, runs, partial, payload, fault);                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) name##_next(                                              \
        const void* from, i64 before, i64 runs, void* to, i64 n, i64 length, i64 blocks, u8* payload, int* fault) {    \
        scales_next<P>(from, before, runs, to, n, length, blocks, payload, fault);                                     \
    }

#define CODE_KERNELS(name, C)                                                                                          \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) name##_encode(                                            \
        const real* vector, real* residual, i64 n, i64 length, i64 blocks, u8* payload, u32 bits, u64 key) {           \
        encode_split(vector, residual, n, length, blocks, payload, C(bits, key));                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) name##_decode(                                            \
        const u8* payload, real* out, i64 n, i64 length, i64 blocks, u32 bits, u32 add, real factor) {                 \
        decode_blocks(payload, out, n, length, blocks, C(bits, 0), add, factor);                                       \
    }

#endif
