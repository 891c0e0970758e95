// Shared by all kernels: the scalar type, groups of four elements, bit streams, random numbers.
// Compiled with -DREAL_BITS=32|64 and -fmad=false: plain IEEE arithmetic, so that the bits match the other kernel sets.
#ifndef MPISQUEEZE_COMMON
#define MPISQUEEZE_COMMON

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#if REAL_BITS == 64
typedef double real;
typedef u64 real_bits;
const real_bits INFINITE = 0x7FF0000000000000ull;
__device__ inline real_bits to_bits(real x) { return (real_bits)__double_as_longlong(x); }
__device__ inline real from_bits(real_bits x) { return __longlong_as_double((i64)x); }
#else
typedef float real;
typedef u32 real_bits;
const real_bits INFINITE = 0x7F800000u;
__device__ inline real_bits to_bits(real x) { return __float_as_uint(x); }
__device__ inline real from_bits(real_bits x) { return __uint_as_float(x); }
#endif

// The bits of |x| order as |x| does, with infinity and then NaN behind every element.
__device__ inline real_bits magnitude_bits(real x) { return to_bits(x) & (~(real_bits)0 >> 1); }
__device__ inline real magnitude(real x) { return from_bits(magnitude_bits(x)); }
__device__ inline bool is_finite(real x) { return magnitude_bits(x) < INFINITE; }
__device__ inline bool is_finite_single(u32 x) { return (x & 0x7FFFFFFFu) < 0x7F800000u; }

enum : u32 {
    ALL_LANES = 0xFFFFFFFFu,
    WARPS = 4,  // in a thread block of the kernels that give each warp its own piece
};
__device__ inline u32 lane_index() { return threadIdx.x & 31; }
__device__ inline i64 thread_index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline i64 warp_index() { return thread_index() >> 5; }

// i / length, without the cost of a 64-bit division where both are small.
__device__ inline i64 quotient(i64 i, i64 length) {
    return ((u64)(i | length) >> 32) == 0 ? (u32)i / (u32)length : i / length;
}

// Elements p[i…i+3], 16 bytes an access where the address allows; zeros from `end` on.
__device__ inline bool whole_quad(const real* p, i64 i, i64 end) {
    return i + 4 <= end && ((size_t)(p + i) & 15) == 0;
}

__device__ inline void load_quad(const real* p, real (&x)[4]) {
#if REAL_BITS == 64
    double2 a = ((const double2*)p)[0], b = ((const double2*)p)[1];
    x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
#else
    float4 a = *(const float4*)p;
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
#endif
}

__device__ inline void store_quad(real* p, const real (&x)[4]) {
#if REAL_BITS == 64
    ((double2*)p)[0] = make_double2(x[0], x[1]);
    ((double2*)p)[1] = make_double2(x[2], x[3]);
#else
    *(float4*)p = make_float4(x[0], x[1], x[2], x[3]);
#endif
}

__device__ inline void load4(const real* p, i64 i, i64 end, real (&x)[4]) {
    if (whole_quad(p, i, end)) return load_quad(p + i, x);
    for (u32 c = 0; c < 4; ++c) x[c] = i + c < end ? p[i + c] : (real)0;
}

__device__ inline void store4(real* p, i64 i, i64 end, const real (&x)[4]) {
    if (whole_quad(p, i, end)) return store_quad(p + i, x);
    for (u32 c = 0; c < 4; ++c)
        if (i + c < end) p[i + c] = x[c];
}

// v = vector + residual, four elements; the vector alone where there is no residual.
__device__ inline void compensated4(const real* vector, const real* residual, i64 i, i64 end, real (&v)[4]) {
    load4(vector, i, end, v);
    if (!residual) return;
    real memory[4];
    load4(residual, i, end, memory);
    for (u32 c = 0; c < 4; ++c) v[c] += memory[c];
}

// out ← x, or out ← out + factor·x.
__device__ inline void deliver4(real* out, i64 i, i64 end, real (&x)[4], u32 add, real factor) {
    if (add) {
        real have[4];
        load4(out, i, end, have);
        for (u32 c = 0; c < 4; ++c) x[c] = have[c] + factor * x[c];
    }
    store4(out, i, end, x);
}

// One warp writes `bytes` bytes of a bit stream made of `count` items of `width` bits (4…32) from shared memory; each lane
// writes a 32-bit word at a time. Bits past the last item are 0.
__device__ inline void emit(const u32* items, u32 count, u32 width, u8* to, u32 bytes) {
    bool words = ((size_t)to & 3) == 0;
    for (u32 w = lane_index(); 4 * w < bytes; w += 32) {
        u32 item = 32 * w / width, taken = 32 * w - item * width;
        u32 word = item < count ? items[item] >> taken : 0;
        for (u32 have = width - taken; have < 32 && ++item < count; have += width) word |= items[item] << have;
        if (words && 4 * w + 4 <= bytes) {
            ((u32*)to)[w] = word;
        } else {
            for (u32 b = 4 * w; b < bytes && b < 4 * w + 4; ++b, word >>= 8) to[b] = (u8)word;
        }
    }
}

// 32 bits of a stream of `bytes` bytes, which starts at a multiple of 4 bytes, from bit `bit` on; zeros past the end.
__device__ inline u32 read_bits(const u8* stream, i64 bytes, i64 bit) {
    i64 word = bit >> 5;
    u32 low = 0, high = 0;
    if (4 * word + 8 <= bytes) {
        low = ((const u32*)stream)[word];
        high = ((const u32*)stream)[word + 1];
    } else {
        for (u32 b = 0; b < 4; ++b) {
            if (4 * word + b < bytes) low |= (u32)stream[4 * word + b] << (8 * b);
            if (4 * word + 4 + b < bytes) high |= (u32)stream[4 * word + 4 + b] << (8 * b);
        }
    }
    return __funnelshift_r(low, high, (u32)bit & 31);
}

// The hash and the stream splitter of random.py.
__device__ inline u32 hash32(u32 x, u64 key) {
    x ^= (u32)key;
    x ^= x >> 16;
    x *= 0x21F0AAADu;
    x ^= x >> 15;
    x ^= (u32)(key >> 32);
    x *= 0x735A2D97u;
    return x ^ x >> 15;
}

__device__ inline u64 splitmix64(u64 state) {
    u64 z = state + 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

// The bits of u of random.py that splitmix64 makes from `state` are below `rest`, as a binary fraction.
__device__ inline bool rest_is_below(real rest, u64 state) {
    while (rest > 0) {
        rest *= (real)18446744073709551616.0;
        state = splitmix64(state);
        u64 bits = (u64)rest;
        if (bits != state) return state < bits;
        rest -= (real)bits;
    }
    return false;
}

#endif
