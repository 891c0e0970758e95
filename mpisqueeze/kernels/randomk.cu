// k seeded positions: k values, and in front of them the key as 8 bytes where a payload begins with a `head`.
#include "common.cuh"

const u32 FEISTEL_ROUNDS = 6;

// Position j of random.py, a walk of a Feistel network along its cycle until it falls inside [0, n).
__device__ inline u32 feistel_position(u32 j, i64 n, u32 low_bits, u32 high_bits, const u64* keys) {
    u32 low_mask = (u32)((1ull << low_bits) - 1), high_mask = (u32)((1ull << high_bits) - 1);
    do {
        u32 low = j & low_mask, high = j >> low_bits;
        for (u32 r = 0; r < FEISTEL_ROUNDS; r += 2) {
            high ^= hash32(low, keys[r]) & high_mask;
            low ^= hash32(high, keys[r + 1]) & low_mask;
        }
        j = low | high << low_bits;
    } while (j >= n);
    return j;
}

__device__ inline void feistel_keys(u64 key, u64* keys) {
    if (threadIdx.x < FEISTEL_ROUNDS) keys[threadIdx.x] = splitmix64(splitmix64(key) ^ threadIdx.x);
    __syncthreads();
}

// δ ← vector + δ, and the check that every element is finite. A thread four elements.
extern "C" __global__ void randomk_compensate(const real* vector, real* residual, i64 n, int* fault) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real v[4];
    compensated4(vector, residual, i, n, v);
    if (residual) store4(residual, i, n, v);
    if (!(is_finite(v[0]) && is_finite(v[1]) && is_finite(v[2]) && is_finite(v[3]))) *fault = 1;
}

// One thread per position. `residual` holds v already, where there is one.
extern "C" __global__ void randomk_encode(
    const real* vector, real* residual, i64 n, i64 k, u32 low_bits, u32 high_bits, u64 key, real factor, u32* head,
    real* values, int* fault) {
    __shared__ u64 keys[FEISTEL_ROUNDS];
    feistel_keys(key, keys);
    i64 j = thread_index();
    if (j >= k) return;
    if (j == 0 && head) head[0] = (u32)key, head[1] = (u32)(key >> 32);
    u32 position = feistel_position((u32)j, n, low_bits, high_bits, keys);
    real v = residual ? residual[position] : vector[position], value = v * factor;
    values[j] = value;
    if (residual) residual[position] = v - value;
    if (!is_finite(value)) *fault = 1;
}

// A thread a position; positions are distinct, so no two threads write the same element of `out`.
extern "C" __global__ void randomk_decode(
    const u32* head, const real* values, real* out, i64 n, i64 k, u32 low_bits, u32 high_bits, u64 key, u32 add,
    real factor, int* fault) {
    __shared__ u64 keys[FEISTEL_ROUNDS];
    feistel_keys(head ? head[0] | (u64)head[1] << 32 : key, keys);
    i64 j = thread_index();
    if (j >= k) return;
    u32 position = feistel_position((u32)j, n, low_bits, high_bits, keys);
    real value = values[j];
    if (fault && !is_finite(value)) *fault = 1;
    out[position] = add ? out[position] + factor * value : value;
}

// A thread a position.
extern "C" __global__ void randomk_clear(
    const u8* payload, real* out, i64 n, i64 k, u32 low_bits, u32 high_bits) {
    __shared__ u64 keys[FEISTEL_ROUNDS];
    feistel_keys(((const u32*)payload)[0] | (u64)((const u32*)payload)[1] << 32, keys);
    i64 j = thread_index();
    if (j < k) out[feistel_position((u32)j, n, low_bits, high_bits, keys)] = 0;
}
