// Tiles: up to 128·R elements in the registers of a warp. v[j][c] of a lane is element 128·j + 4·lane + c, so that each
// access of the warp covers 512 consecutive bytes.
#ifndef MPISQUEEZE_TILE
#define MPISQUEEZE_TILE
#include "common.cuh"

const u32 ROWS = 8;
const u32 TILE = 128 * ROWS;

__device__ inline bool quads_at(const real* p, u32 count) { return count % 4 == 0 && ((size_t)p & 15) == 0; }

template <u32 R>
__device__ inline void load_tile(const real* p, u32 count, real (&v)[R][4]) {
#pragma unroll
    for (u32 j = 0; j < R; ++j) v[j][0] = v[j][1] = v[j][2] = v[j][3] = 0;
    if (quads_at(p, count)) {
#pragma unroll
        for (u32 j = 0; j < R; ++j) {
            u32 at = 128 * j + 4 * lane_index();
            if (at < count) load_quad(p + at, v[j]);
        }
    } else {
#pragma unroll
        for (u32 j = 0; j < R; ++j)
#pragma unroll
            for (u32 c = 0; c < 4; ++c) {
                u32 at = 128 * j + 4 * lane_index() + c;
                if (at < count) v[j][c] = p[at];
            }
    }
}

template <u32 R>
__device__ inline void compensated_tile(
    const real* vector, const real* residual, i64 begin, u32 count, real (&v)[R][4]) {
    load_tile(vector + begin, count, v);
    if (!residual) return;
    real memory[R][4];
    load_tile(residual + begin, count, memory);
#pragma unroll
    for (u32 j = 0; j < R; ++j)
#pragma unroll
        for (u32 c = 0; c < 4; ++c) v[j][c] += memory[j][c];
}

template <u32 R>
__device__ inline void store_tile(real* p, u32 count, const real (&v)[R][4]) {
    bool quads = quads_at(p, count);
#pragma unroll
    for (u32 j = 0; j < R; ++j) {
        u32 at = 128 * j + 4 * lane_index();
        if (quads) {
            if (at < count) store_quad(p + at, v[j]);
        } else {
#pragma unroll
            for (u32 c = 0; c < 4; ++c)
                if (at + c < count) p[at + c] = v[j][c];
        }
    }
}

#endif
