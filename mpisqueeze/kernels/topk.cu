// The k largest |v|, ties to the lowest index: k values, then their int32 indices, ascending.
//
// A radix select on the bits of |v| finds the k-th largest: for each digit from the top, a histogram over the numbers
// that agree with the digits chosen so far, then the choice of the next digit. Then each warp counts what its segment
// holds above the threshold and at it, a prefix sum places the segments, and the warps write what they selected.
#include "common.cuh"

const u32 BINS = 2048;
const u32 SEGMENT = 1024;  // numbers a warp
const u32 BATCH = 8;       // loads that a lane has under way at a time

// A thread four numbers at a time, over the whole vector in strides of the grid. The first pass leaves v in the residual.
extern "C" __global__ void topk_histogram(
    const real* vector, real* residual, i64 n, u32 shift, u32 width, u32 first, const u64* state, u32* histogram,
    int* fault) {
    __shared__ u32 bins[BINS];
    for (u32 b = threadIdx.x; b < BINS; b += blockDim.x) bins[b] = 0;
    __syncthreads();
    real_bits prefix = first ? 0 : (real_bits)state[0];
    for (i64 i = 4 * thread_index(); i < n; i += 4ll * gridDim.x * blockDim.x) {
        real v[4];
        if (first) {
            compensated4(vector, residual, i, n, v);
            if (residual) store4(residual, i, n, v);
        } else {
            load4(residual ? residual : vector, i, n, v);
        }
        for (u32 c = 0; c < 4; ++c) {
            real_bits bits = magnitude_bits(v[c]);
            if (bits >= INFINITE) *fault = 1;
            if (i + c < n && ((bits ^ prefix) >> (shift + width)) == 0)
                atomicAdd(&bins[(u32)(bits >> shift) & ((1u << width) - 1)], 1u);
        }
    }
    __syncthreads();
    for (u32 b = threadIdx.x; b < BINS; b += blockDim.x)
        if (bins[b]) atomicAdd(&histogram[b], bins[b]);
}

// The sum of `own` over this thread and the ones before it, for a whole thread block of up to 1024.
template <class T>
__device__ inline T inclusive_sum(T own, T* shared) {
    shared[threadIdx.x] = own;
    __syncthreads();
    for (u32 distance = 1; distance < blockDim.x; distance *= 2) {
        T before = threadIdx.x >= distance ? shared[threadIdx.x - distance] : 0;
        __syncthreads();
        shared[threadIdx.x] += before;
        __syncthreads();
    }
    return shared[threadIdx.x];
}

// One thread block of 256: each thread 8 bins, from the highest down. state = {bits chosen so far, numbers still wanted
// among those that agree with them}. Leaves the histogram empty.
extern "C" __global__ void topk_choose(i64 k, u32 shift, u32 first, u64* state, u32* histogram) {
    __shared__ u64 sums[256];
    const u32 each = BINS / 256;
    u32 highest = BINS - 1 - threadIdx.x * each, counts[each];
    u64 wanted = first ? (u64)k : state[1], prefix = first ? 0 : state[0], own = 0;
    for (u32 b = 0; b < each; ++b) {
        own += counts[b] = histogram[highest - b];
        histogram[highest - b] = 0;
    }
    u64 above = inclusive_sum(own, sums) - own;
    if (above >= wanted || above + own < wanted) return;
    for (u32 b = 0; b < each; ++b) {
        if (above + counts[b] >= wanted) {
            state[0] = prefix | (u64)(highest - b) << shift;
            state[1] = wanted - above;
            return;
        }
        above += counts[b];
    }
}

// A warp a segment: how many numbers above the threshold (low half), and at it (high half).
extern "C" __global__ void topk_count(const real* v, i64 n, const u64* state, u64* counts) {
    i64 segment = warp_index(), begin = segment * SEGMENT;
    if (begin >= n) return;
    real_bits threshold = (real_bits)state[0];
    u32 above = 0, ties = 0;
#pragma unroll 8
    for (u32 at = lane_index(); at < SEGMENT; at += 32) {
        real_bits bits = begin + at < n ? magnitude_bits(v[begin + at]) : 0;
        above += bits > threshold;
        ties += begin + at < n && bits == threshold;
    }
    u64 both = above | (u64)ties << 32;
    for (u32 distance = 16; distance; distance /= 2) both += __shfl_xor_sync(ALL_LANES, both, distance);
    if (lane_index() == 0) counts[segment] = both;
}

// One thread block of 1024, each thread a row of segments: counts[s] ← the counts of the segments before s.
extern "C" __global__ void topk_scan(u64* counts, i64 segments) {
    __shared__ u64 sums[1024];
    i64 each = (segments + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * each;
    i64 end = begin + each < segments ? begin + each : segments;
    u64 own = 0;
    for (i64 s = begin; s < end; ++s) own += counts[s];
    u64 before = inclusive_sum(own, sums) - own;
    for (i64 s = begin; s < end; ++s) {
        u64 here = counts[s];
        counts[s] = before;
        before += here;
    }
}

// A warp a segment, 32 numbers in a row at a time. A selected number's place is the count of numbers above the threshold
// before it plus the count of taken ties before it. `residual` is v where it is not null.
extern "C" __global__ void topk_gather(
    const real* v, real* residual, i64 n, i64 k, const u64* state, const u64* counts, u8* payload) {
    i64 segment = warp_index(), begin = segment * SEGMENT;
    if (begin >= n) return;
    real* values = (real*)payload;
    int* indices = (int*)(payload + k * sizeof(real));
    real_bits threshold = (real_bits)state[0];
    u32 wanted = (u32)state[1], above = (u32)counts[segment], ties = (u32)(counts[segment] >> 32);
    u32 lower = (1u << lane_index()) - 1;
    for (u32 start = lane_index(); start < SEGMENT; start += 32 * BATCH) {
        real x[BATCH];
#pragma unroll
        for (u32 b = 0; b < BATCH; ++b) {
            i64 i = begin + start + 32 * b;
            x[b] = i < n ? v[i] : (real)0;
        }
#pragma unroll
        for (u32 b = 0; b < BATCH; ++b) {
            i64 i = begin + start + 32 * b;
            bool is_above = i < n && magnitude_bits(x[b]) > threshold;
            bool is_tie = i < n && magnitude_bits(x[b]) == threshold;
            u32 above_mask = __ballot_sync(ALL_LANES, is_above), tie_mask = __ballot_sync(ALL_LANES, is_tie);
            u32 above_before = above + __popc(above_mask & lower), ties_before = ties + __popc(tie_mask & lower);
            if (is_above || (is_tie && ties_before < wanted)) {
                u32 place = above_before + (ties_before < wanted ? ties_before : wanted);
                values[place] = x[b];
                indices[place] = (int)i;
                if (residual) residual[i] = 0;
            }
            above += __popc(above_mask);
            ties += __popc(tie_mask);
        }
    }
}

// A thread a number; indices are distinct, so that each has its number of `out` to itself.
extern "C" __global__ void topk_decode(const u8* payload, real* out, i64 n, i64 k, u32 add, real factor) {
    i64 j = thread_index();
    if (j >= k) return;
    real value = ((const real*)payload)[j];
    i64 i = ((const int*)(payload + k * sizeof(real)))[j];
    if (i >= 0 && i < n) out[i] = add ? out[i] + factor * value : value;
}
