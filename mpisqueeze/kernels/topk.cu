// The k largest |v|, ties to the lowest index: k values, then their int32 indices, ascending.
//
// A radix select on the bits of |v| finds the k-th largest: for each digit from the top, a histogram counts the elements
// that agree with the digits chosen so far, and the thread block that ends last chooses the next digit. The vector is read
// once: the pass that forms v = vector + residual also lists candidates, the elements that reach a floor, which by a
// sample lies below the k-th largest. Later digits and the selection itself come from that list. If the sample was wrong,
// so that there are too few or too many candidates, all elements are searched again.
//
// `state` passes values between kernels; between encodes DONE and the histogram are 0.
#include "tile.cuh"

const u32 BINS = 2048;
const u32 DIGIT = 11;                   // bits
const u32 TOP = REAL_BITS - 1 - DIGIT;  // of the first digit, its lowest bit
const u32 SAMPLERS = 1024, SAMPLES = 4096;
const u32 PIECE = TILE * WARPS;  // elements that a thread block takes at a time; candidates are in order within a piece
const u32 BATCH = 8;             // loads in flight per lane
const u32 RESIDENT = REAL_BITS == 64 ? 2 : 5;  // thread blocks of topk_pass at a time on a multiprocessor: what registers allow
enum : u32 {
    PREFIX,  // the digits chosen so far; at the end the k-th largest |v|
    WANTED,  // elements still wanted among those that agree with them; at the end, ties
    FLOOR,   // of candidates
    LISTED,  // candidates
    SOURCE,  // where to look for the next digit, one of the following
    DONE,    // thread blocks of this kernel that have ended
};
enum : u64 { ALL_NUMBERS, LIST, FAILED };

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

// Finds the bin of the `wanted`-th element from the top, and the count still wanted of that bin. One thread of the THREADS
// of a thread block gets true and the results. Leaves the bins empty.
template <u32 THREADS>
__device__ inline bool choose_bin(volatile u32* bins, u64 wanted, u32& bin, u64& left) {
    __shared__ u64 sums[THREADS];
    const u32 each = BINS / THREADS;
    u32 highest = BINS - 1 - threadIdx.x * each, counts[each];
    u64 own = 0;
#pragma unroll
    for (u32 b = 0; b < each; ++b) {
        own += counts[b] = bins[highest - b];
        bins[highest - b] = 0;
    }
    u64 above = inclusive_sum(own, sums) - own;
    bool found = false;
#pragma unroll
    for (u32 b = 0; b < each; ++b) {
        if (above < wanted && above + counts[b] >= wanted) found = true, bin = highest - b, left = wanted - above;
        above += counts[b];
    }
    return found;
}

// True in the thread block that ends last, which then sees what the others wrote: each fences its writes before it counts
// itself, and the last one fences its reads after it has counted itself.
__device__ inline bool is_last_block(u64* state) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&state[DONE], (u64)1) == gridDim.x - 1;
    __syncthreads();
    if (last) __threadfence();
    if (last && threadIdx.x == 0) state[DONE] = 0;
    return last;
}

__device__ inline void clear(u32* bins) {
    for (u32 b = threadIdx.x; b < BINS; b += blockDim.x) bins[b] = 0;
    __syncthreads();
}

__device__ inline void merge(const u32* bins, u32* histogram) {
    __syncthreads();
    for (u32 b = threadIdx.x; b < BINS; b += blockDim.x)
        if (bins[b]) atomicAdd(&histogram[b], bins[b]);
}

// In the last block: the next digit, its lowest bit `shift`, of the `wanted`-th among those that agree with `prefix`.
__device__ inline void choose_digit(u64 prefix, u64 wanted, u32 shift, u64 source, u64* state, u32* histogram) {
    u32 digit;
    u64 left;
    if (choose_bin<32 * WARPS>(histogram, wanted, digit, left)) {
        state[PREFIX] = prefix | (u64)digit << shift;
        state[WANTED] = left;
        state[SOURCE] = source;
    }
}

// One thread block. FLOOR ← the `rank`-th largest of a sample of |v|, its last bits cut off.
extern "C" __global__ void __launch_bounds__(SAMPLERS)
    topk_sample(const real* vector, const real* residual, i64 n, i64 rank, u64* state) {
    __shared__ u32 bins[BINS];
    __shared__ real_bits floor;
    __shared__ u64 wanted;
    const u32 each = SAMPLES / SAMPLERS;
    real_bits bits[each];
#pragma unroll
    for (u32 s = 0; s < each; ++s) {
        i64 i = (i64)(threadIdx.x + s * SAMPLERS) * n / SAMPLES;
        real v = vector[i];
        if (residual) v += residual[i];
        bits[s] = magnitude_bits(v);
    }
    if (threadIdx.x == 0) floor = 0, wanted = (u64)rank;
    clear(bins);
    u32 bin;
    u64 left;
#pragma unroll
    for (u32 s = 0; s < each; ++s) atomicAdd(&bins[bits[s] >> TOP], 1u);
    __syncthreads();
    if (choose_bin<SAMPLERS>(bins, wanted, bin, left)) floor = (real_bits)bin << TOP, wanted = left;
    __syncthreads();
#pragma unroll
    for (u32 s = 0; s < each; ++s)
        if ((bits[s] ^ floor) >> TOP == 0) atomicAdd(&bins[bits[s] >> (TOP - DIGIT) & (BINS - 1)], 1u);
    __syncthreads();
    if (choose_bin<SAMPLERS>(bins, wanted, bin, left)) {
        state[FLOOR] = floor | (real_bits)bin << (TOP - DIGIT);
        state[LISTED] = 0;
    }
}

// One thread block per piece, in strides of the grid. δ ← v; lists the candidates, those of a piece in a row whose place and
// count go to pieces[]; counts the first digit. Without `sampled` all elements are candidates, and none is listed.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) topk_pass(
    const real* vector, real* residual, i64 n, i64 k, u32 sampled, i64 capacity, u64* state, u32* histogram, real* values,
    int* indices, u64* pieces, int* fault) {
    __shared__ u32 bins[BINS];
    __shared__ u32 counts[WARPS];
    __shared__ u64 row;
    clear(bins);
    real_bits floor = sampled ? (real_bits)state[FLOOR] : 0;
    u32 warp = threadIdx.x / 32, lower = (1u << lane_index()) - 1;
    for (i64 piece = blockIdx.x; piece * PIECE < n; piece += gridDim.x) {
        i64 begin = piece * PIECE + warp * TILE;
        u32 count = begin >= n ? 0 : n - begin < TILE ? (u32)(n - begin) : TILE;
        real v[ROWS][4];
        compensated_tile(vector, residual, begin, count, v);
        if (residual) store_tile(residual + begin, count, v);
        real_bits largest = 0;
        u32 candidates = 0;
#pragma unroll
        for (u32 j = 0; j < ROWS; ++j)
#pragma unroll
            for (u32 c = 0; c < 4; ++c) {
                real_bits bits = magnitude_bits(v[j][c]);
                bool is_one = 128 * j + 4 * lane_index() + c < count && bits >= floor;
                largest = bits > largest ? bits : largest;
                candidates += __popc(__ballot_sync(ALL_LANES, is_one));
                if (is_one) atomicAdd(&bins[bits >> TOP], 1u);
            }
        if (largest >= INFINITE) *fault = 1;
        if (floor == 0) continue;
        if (lane_index() == 0) counts[warp] = candidates;
        __syncthreads();
        if (threadIdx.x == 0) {
            u64 total = 0;
            for (u32 w = 0; w < WARPS; ++w) total += counts[w];
            row = atomicAdd(&state[LISTED], total);
            pieces[piece] = row | total << 32;
        }
        __syncthreads();
        i64 place = (i64)row;
        for (u32 w = 0; w < warp; ++w) place += counts[w];
        // `counts` and `row` are the next piece's from here on.
        __syncthreads();
        if (candidates == 0) continue;
#pragma unroll
        for (u32 j = 0; j < ROWS; ++j) {
            u32 before = 0, all = 0, mine = 0;
#pragma unroll
            for (u32 c = 0; c < 4; ++c) {
                bool is_one = 128 * j + 4 * lane_index() + c < count && magnitude_bits(v[j][c]) >= floor;
                u32 mask = __ballot_sync(ALL_LANES, is_one);
                before += __popc(mask & lower);
                all += __popc(mask);
                mine |= (u32)is_one << c;
            }
            i64 at = place + before;
#pragma unroll
            for (u32 c = 0; c < 4; ++c)
                if (mine >> c & 1) {
                    if (at < capacity) {
                        values[at] = v[j][c];
                        indices[at] = (int)(begin + 128 * j + 4 * lane_index() + c);
                    }
                    ++at;
                }
            place += all;
        }
    }
    merge(bins, histogram);
    if (!is_last_block(state)) return;
    u64 listed = floor ? *(volatile u64*)&state[LISTED] : 0;
    if (floor && (listed < (u64)k || listed > (u64)capacity)) {
        for (u32 b = threadIdx.x; b < BINS; b += blockDim.x) histogram[b] = 0;
        if (threadIdx.x == 0) state[SOURCE] = FAILED;
    } else {
        choose_digit(0, (u64)k, TOP, floor ? LIST : ALL_NUMBERS, state, histogram);
    }
}

// Counts a digit of the elements that agree with `prefix` in all bits above it. Each thread takes four elements at a time,
// in strides of the grid.
__device__ inline void count_digits(const real* v, i64 length, real_bits prefix, u32 shift, u32 width, u32* bins) {
    for (i64 i = 4 * thread_index(); i < length; i += 4ll * gridDim.x * blockDim.x) {
        real x[4];
        load4(v, i, length, x);
#pragma unroll
        for (u32 c = 0; c < 4; ++c) {
            real_bits bits = magnitude_bits(x[c]);
            if (i + c < length && (bits ^ prefix) >> (shift + width) == 0)
                atomicAdd(&bins[(u32)(bits >> shift) & ((1u << width) - 1)], 1u);
        }
    }
}

// Counts the first digit of all elements again where the list has failed.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    topk_retry(const real* v, i64 n, i64 k, u64* state, u32* histogram) {
    __shared__ u32 bins[BINS];
    if (state[SOURCE] != FAILED) return;
    clear(bins);
    count_digits(v, n, 0, TOP, DIGIT, bins);
    merge(bins, histogram);
    if (is_last_block(state)) choose_digit(0, (u64)k, TOP, ALL_NUMBERS, state, histogram);
}

// Counts a further digit.
extern "C" __global__ void __launch_bounds__(32 * WARPS) topk_digit(
    const real* v, i64 n, u32 shift, u32 width, u64* state, u32* histogram, const real* values) {
    __shared__ u32 bins[BINS];
    u64 prefix = state[PREFIX], wanted = state[WANTED], source = state[SOURCE];
    clear(bins);
    if (source == LIST) {
        count_digits(values, (i64)state[LISTED], (real_bits)prefix, shift, width, bins);
    } else {
        count_digits(v, n, (real_bits)prefix, shift, width, bins);
    }
    merge(bins, histogram);
    if (is_last_block(state)) choose_digit(prefix, wanted, shift, source, state, histogram);
}

// The elements of a piece to search: its candidates, or all of them.
struct Row {
    const real* from;
    const int* index;  // null: the element's own position
    i64 begin;
    u32 count;
    __device__ Row(
        i64 piece, const real* v, i64 n, const u64* state, const real* values, const int* indices, const u64* pieces) {
        if (state[SOURCE] == LIST) {
            from = values, index = indices, begin = (u32)pieces[piece], count = (u32)(pieces[piece] >> 32);
        } else {
            from = v, index = 0, begin = piece * PIECE, count = n - begin < PIECE ? (u32)(n - begin) : PIECE;
        }
    }
    __device__ real at(u32 i) const { return i < count ? from[begin + i] : (real)0; }
    __device__ int index_of(u32 i) const { return index ? index[begin + i] : (int)(begin + i); }
};

// One warp per piece counts the elements above the threshold (low half) and at it (high half). In the last thread block
// each thread then takes a row of pieces: counts[p] ← the counts of the pieces before p.
extern "C" __global__ void __launch_bounds__(1024) topk_count(
    const real* v, i64 n, u64* state, const real* values, const int* indices, const u64* pieces, u64* counts) {
    __shared__ u64 sums[1024];
    i64 piece = warp_index(), all = (n + PIECE - 1) / PIECE;
    if (piece < all) {
        Row row(piece, v, n, state, values, indices, pieces);
        real_bits threshold = (real_bits)state[PREFIX];
        u32 above = 0, ties = 0;
        for (u32 start = lane_index(); start < row.count; start += 32 * BATCH) {
#pragma unroll
            for (u32 b = 0; b < BATCH; ++b) {
                real_bits bits = magnitude_bits(row.at(start + 32 * b));
                above += bits > threshold;
                ties += start + 32 * b < row.count && bits == threshold;
            }
        }
        u64 both = above | (u64)ties << 32;
        for (u32 distance = 16; distance; distance /= 2) both += __shfl_xor_sync(ALL_LANES, both, distance);
        if (lane_index() == 0) counts[piece] = both;
    }
    if (!is_last_block(state)) return;
    volatile u64* shared_counts = counts;
    i64 each = (all + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * each;
    i64 end = begin + each < all ? begin + each : all;
    u64 own = 0;
    for (i64 p = begin; p < end; ++p) own += shared_counts[p];
    u64 before = inclusive_sum(own, sums) - own;
    for (i64 p = begin; p < end; ++p) {
        u64 here = shared_counts[p];
        shared_counts[p] = before;
        before += here;
    }
}

// One warp per piece, 32 consecutive elements at a time. A selected element's place is the count of elements above the
// threshold before it plus the count of taken ties before it. `residual` is v unless it is null.
extern "C" __global__ void __launch_bounds__(32 * WARPS) topk_gather(
    const real* v, real* residual, i64 n, i64 k, const u64* state, const real* values, const int* indices,
    const u64* pieces, const u64* counts, u8* payload) {
    i64 piece = warp_index();
    if (piece * PIECE >= n) return;
    Row row(piece, v, n, state, values, indices, pieces);
    real* out_values = (real*)payload;
    int* out_indices = (int*)(payload + k * sizeof(real));
    real_bits threshold = (real_bits)state[PREFIX];
    u32 wanted = (u32)state[WANTED], above = (u32)counts[piece], ties = (u32)(counts[piece] >> 32);
    u32 lower = (1u << lane_index()) - 1;
    for (u32 first = 0; first < row.count; first += 32 * BATCH) {
        real x[BATCH];
#pragma unroll
        for (u32 b = 0; b < BATCH; ++b) x[b] = row.at(first + 32 * b + lane_index());
#pragma unroll
        for (u32 b = 0; b < BATCH; ++b) {
            u32 at = first + 32 * b + lane_index();
            bool is_above = at < row.count && magnitude_bits(x[b]) > threshold;
            bool is_tie = at < row.count && magnitude_bits(x[b]) == threshold;
            u32 above_mask = __ballot_sync(ALL_LANES, is_above), tie_mask = __ballot_sync(ALL_LANES, is_tie);
            u32 above_before = above + __popc(above_mask & lower), ties_before = ties + __popc(tie_mask & lower);
            if (is_above || (is_tie && ties_before < wanted)) {
                u32 place = above_before + (ties_before < wanted ? ties_before : wanted);
                int i = row.index_of(at);
                out_values[place] = x[b];
                out_indices[place] = i;
                if (residual) residual[i] = 0;
            }
            above += __popc(above_mask);
            ties += __popc(tie_mask);
        }
    }
}

// One thread per element; indices are distinct, so no two threads write the same element of `out`.
extern "C" __global__ void topk_decode(const u8* payload, real* out, i64 n, i64 k, u32 add, real factor) {
    i64 j = thread_index();
    if (j >= k) return;
    real value = ((const real*)payload)[j];
    i64 i = ((const int*)(payload + k * sizeof(real)))[j];
    if (i >= 0 && i < n) out[i] = add ? out[i] + factor * value : value;
}

// A thread an index.
extern "C" __global__ void topk_clear(const u8* payload, real* out, i64 n, i64 k) {
    i64 j = thread_index();
    if (j >= k) return;
    i64 i = ((const int*)(payload + k * sizeof(real)))[j];
    if (i >= 0 && i < n) out[i] = 0;
}
