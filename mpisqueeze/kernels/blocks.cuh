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

// Of two columns a lane keeps one, joined with that of the lane `distance` away, which keeps the other one.
template <class P, class T>
__device__ inline T keep_one(T low, T high, u32 distance) {
    bool upper = lane_index() & distance;
    return P::join(upper ? high : low, from_lane<T>(upper ? low : high, distance));
}

// The halving order over a tile: 512, 256, 128 apart in registers, 64…4 across lanes, 2 and 1 again. `join` commutes.
template <class P, class T, u32 R>
__device__ inline T reduce_tile(T (&a)[R][4]) {
#pragma unroll
    for (u32 half = R / 2; half; half /= 2)
#pragma unroll
        for (u32 j = 0; j < (R + 1) / 2; ++j)  // a bound that depends on `half` would leave the tile in local memory
#pragma unroll
            for (u32 c = 0; c < 4; ++c)
                if (j < half) a[j][c] = P::join(a[j][c], a[j + half][c]);
    T x = keep_one<P>(keep_one<P>(a[0][0], a[0][2], 16), keep_one<P>(a[0][1], a[0][3], 16), 8);
#pragma unroll
    for (u32 distance = 4; distance; distance /= 2) x = P::join(x, from_lane(x, distance));
    x = P::join(x, from_lane(x, 16));
    return P::join(x, from_lane(x, 8));
}

// Elements past `count` are 0.
template <class P, u32 R>
__device__ inline typename P::type statistic(P, const real (&v)[R][4], u32 count) {
    typename P::type shares[R][4];
#pragma unroll
    for (u32 j = 0; j < R; ++j)
#pragma unroll
        for (u32 c = 0; c < 4; ++c) shares[j][c] = P::of(v[j][c], 128 * j + 4 * lane_index() + c < count);
    return reduce_tile<P>(shares);
}

// No scale in the payload: only whether all elements were finite.
struct NoScale {
    u32 finite;
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

// A code of elements one by one, as `Self` says; `Block` is what it needs to know of a block, made from the scale.
template <class Self, class S, class Block = S>
struct PlainCode {
    typedef S scale_type;
    typedef Block block_type;
    __device__ PlainCode(u32, u64) {}
    __device__ static Block block(S scale) { return Block(scale); }
    __device__ static void encode4(const real (&v)[4], const Block (&blocks)[4], i64, u32 (&codes)[4]) {
#pragma unroll
        for (u32 c = 0; c < 4; ++c) codes[c] = Self::code(v[c], blocks[c]);
    }
};

// The blocks of four elements from element i on: one for all, or looked up.
template <class C>
struct OneBlock {
    typename C::block_type block;
    __device__ void look_up(i64, typename C::block_type (&to)[4]) {
#pragma unroll
        for (u32 c = 0; c < 4; ++c) to[c] = block;
    }
};

template <class C>
struct AnyBlocks {
    const typename C::scale_type* scales;
    C code;
    i64 length, last, index, end;
    typename C::block_type block;
    __device__ AnyBlocks(const u8* payload, C code, i64 length, i64 blocks)
        : scales((const typename C::scale_type*)payload), code(code), length(length), last(blocks - 1), end(0) {}
    __device__ void seek(i64 to) {
        index = to;
        end = (to + 1) * length;
        if (scale_bytes<typename C::scale_type>(1)) block = code.block(scales[to]);
    }
    __device__ void look_up(i64 i, typename C::block_type (&to)[4]) {
        if (i >= end) seek(quotient(i, length));
#pragma unroll
        for (u32 c = 0; c < 4; ++c) to[c] = block;
        if (i + 4 <= end) return;
#pragma unroll
        for (u32 c = 1; c < 4; ++c) {
            if (i + c == end && index < last) seek(index + 1);
            to[c] = block;
        }
    }
};

// Codes four elements of a tile, `at` and the following ones, which make an item of the stream: δ ← v − value(code).
template <class C, class Blocks>
__device__ inline u32 encode_quad(
    real (&v)[4], real* residual, i64 begin, u32 at, u32 count, const C& code, Blocks& blocks, bool quads) {
    u32 item = 0, left = count - at, codes[4];
    typename C::block_type here[4];
    blocks.look_up(begin + at, here);
#pragma unroll
    for (u32 c = 1; c < 4; ++c)
        if (c >= left) v[c] = v[0];
    code.encode4(v, here, begin + at, codes);
#pragma unroll
    for (u32 c = 4; c--;) {
        item = item * (1u << code.bits) + codes[c];
        v[c] -= code.value(codes[c], here[c]);
    }
    if (quads) {
        store_quad(residual + begin + at, v);
    } else if (residual) {
        for (u32 c = 0; c < 4; ++c)
            if (c < left) residual[begin + at + c] = v[c];
    }
    return left < 4 ? item & ((1u << left * code.bits) - 1) : item;
}

// From the items of a tile to the stream.
template <class C>
__device__ inline void emit_tile(const u32* items, i64 begin, u32 count, const C& code, i64 blocks, u8* payload) {
    u8* stream = payload + scale_bytes<typename C::scale_type>(blocks) + begin / 8 * code.bits;
    __syncwarp();
    emit(items, (count + 3) / 4, 4 * code.bits, stream, (count * code.bits + 7) / 8);
}

// One warp per block of up to 128·R elements.
template <class P, u32 R, class C>
__device__ inline void encode_fused(
    const real* vector, real* residual, i64 n, i64 length, i64 blocks, u8* payload, C code, int* fault) {
    __shared__ u32 all_items[WARPS][32 * R];
    u32* items = all_items[threadIdx.x / 32];
    i64 block = warp_index(), begin = block * length;
    if (block >= blocks) return;
    u32 count = (u32)(n - begin < length ? n - begin : length);
    real v[R][4];
    compensated_tile(vector, residual, begin, count, v);
    OneBlock<C> scale = {code.block(put_scale<P>(statistic(P(), v, count), block, n, length, payload, fault))};
    bool quads = residual && quads_at(residual + begin, count);
#pragma unroll
    for (u32 j = 0; j < R; ++j) {
        u32 at = 128 * j + 4 * lane_index();
        if (at < count) items[at / 4] = encode_quad(v[j], residual, begin, at, count, code, scale, quads);
    }
    emit_tile(items, begin, count, code, blocks, payload);
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
    typename P::type total = statistic(P(), v, count);
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

// One warp per 1024 elements of the vector, once the scales are known. The last elements come first: those that the
// scales were made from last may still be in the cache.
template <class C>
__device__ inline void encode_split(
    const real* vector, real* residual, i64 n, i64 length, i64 blocks, u8* payload, C code) {
    __shared__ u32 all_items[WARPS][TILE / 4];
    u32* items = all_items[threadIdx.x / 32];
    i64 begin = ((n - 1) / TILE - warp_index()) * TILE;
    if (begin < 0) return;
    u32 count = n - begin < TILE ? (u32)(n - begin) : TILE;
    AnyBlocks<C> scales(payload, code, length, blocks);
    bool quads = residual && quads_at(residual + begin, count);
#pragma unroll 2
    for (u32 at = 4 * lane_index(); at < count; at += 128) {
        real v[4];
        compensated4(vector, residual, begin + at, begin + count, v);
        items[at / 4] = encode_quad(v, residual, begin, at, count, code, scales, quads);
    }
    emit_tile(items, begin, count, code, blocks, payload);
}

// Each thread takes four elements.
template <class C>
__device__ inline void decode_blocks(
    const u8* payload, real* out, i64 n, i64 length, i64 blocks, C code, u32 add, real factor) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    u32 item = read_bits(
        payload + scale_bytes<typename C::scale_type>(blocks), (n * code.bits + 7) / 8, i * code.bits);
    AnyBlocks<C> scales(payload, code, length, blocks);
    typename C::block_type here[4];
    scales.look_up(i, here);
    real x[4];
#pragma unroll
    for (u32 c = 0; c < 4; ++c, item >>= code.bits) x[c] = code.value(item & ((1u << code.bits) - 1), here[c]);
    deliver4(out, i, n, x, add, factor);
}

#define FUSED_KERNEL(name, P, C, R)                                                                                    \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, REAL_BITS == 64 ? 3 : 5) name##_fused##R(                \
        const real* vector, real* residual, i64 n, i64 length, i64 blocks, u8* payload, u32 bits, u64 key,             \
        int* fault) {                                                                                                  \
        encode_fused<P, R>(vector, residual, n, length, blocks, payload, C(bits, key), fault);                         \
    }

#define SCALE_KERNELS(name, P, C)                                                                                      \
    FUSED_KERNEL(name, P, C, 1)                                                                                        \
    FUSED_KERNEL(name, P, C, 4)                                                                                        \
    FUSED_KERNEL(name, P, C, 8)                                                                                        \
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
