/* The parts of the loops that do not depend on the dtype: hashing, 16-bit formats, halving sums. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "_threads.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "payloads are little-endian; the NumPy kernels serve other machines"
#endif

#define INLINE static inline __attribute__((always_inline))

/* The longest run that one halving sum takes. */
#define RUN 1024
/* Elements worked on at a time: a multiple of RUN, small enough for values and codes to stay in the L1 cache. */
#define TILE 1024
#define FEISTEL_ROUNDS 6
/* Bits of a hash that round an element at random: 8 more, for its level, make 31. */
#define FIRST_BITS 23

/* A sum reads a run from eight places at once, and the processor's own prefetching sees no stream in that. */
INLINE void prefetch(const void *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)from + i);
}

/* Addresses whose last 12 bits are equal: a load waits for an earlier store to such an address. */
#define PAGE 4096

/* The first line in `room`, a page larger than what is to lie there, that is half a page away from `other`. */
INLINE void *away_from(const void *other, void *room) {
    const uintptr_t wanted = (uintptr_t)other / 64 * 64 + PAGE / 2;
    return (char *)room + (wanted - (uintptr_t)room) % PAGE;
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* The length of a block of a vector cut into blocks of `block` elements; 0 means the whole vector. */
static int64_t block_length(int64_t d, int64_t block) { return block ? smaller(block, d) : d; }

/* Elements to take the statistics of before they are encoded: whole blocks, and whole bytes of any stream. */
static int64_t group_length(int64_t length) {
    int64_t group = length % 8 ? 8 * length : length;
    return group < TILE ? TILE / group * group : group;
}

/* -- random.py */

INLINE uint32_t hash32(uint32_t x, uint32_t key_low, uint32_t key_high) {
    x ^= key_low;
    x ^= x >> 16;
    x *= 0x21F0AAADu;
    x ^= x >> 15;
    x ^= key_high;
    x *= 0x735A2D97u;
    x ^= x >> 15;
    return x;
}

/* hash32 of many indices. An index is H + l with l < TILE. What its first xors bring into l is the same for SPAN
   indices, so that the products by the first factor, of H and of l, need only be added. */
#define SPAN (1u << 16)
struct draws {
    uint32_t low, high; /* the key's halves */
    uint32_t span;      /* 1 + that of the products, or 0 before the first one */
    uint32_t *products, room[TILE + PAGE / 4];
};

/* `written`: the vector of float32 that is written while elements are drawn, or NULL. */
static void draws_init(struct draws *d, uint64_t key, const void *written) {
    d->low = (uint32_t)key, d->high = key >> 32, d->span = 0;
    d->products = away_from(written, d->room);
}

/* The hashes of the TILE indices from a multiple of TILE on. */
struct draws_at {
    const uint32_t *products;
    uint32_t product, high;
};

static __attribute__((noinline)) void draws_move(struct draws *d, uint32_t index) {
    const uint32_t mixed = d->low ^ (index ^ d->low) >> 16;
    d->span = index / SPAN + 1;
    for (uint32_t l = 0; l < TILE; l++)
        d->products[l] = (l ^ mixed % TILE) * 0x21F0AAADu;
}

INLINE struct draws_at draws_from(struct draws *d, uint32_t index) {
    if (d->span != index / SPAN + 1)
        draws_move(d, index);
    const uint32_t x = (index ^ d->low) / TILE * TILE;
    return (struct draws_at){d->products, (x ^ (x >> 16) / TILE * TILE) * 0x21F0AAADu, d->high};
}

INLINE uint32_t hash_at(struct draws_at at, int64_t i) {
    uint32_t x = at.product + at.products[i];
    x ^= x >> 15 ^ at.high;
    x *= 0x735A2D97u;
    return x ^ x >> 15;
}

static uint64_t splitmix64(uint64_t state) {
    uint64_t z = state + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* The permutation behind random_positions. */
struct feistel {
    int low_bits;
    uint32_t low_mask, high_mask;
    uint64_t keys[FEISTEL_ROUNDS];
};

static void feistel_init(struct feistel *f, uint64_t key, int64_t dimension) {
    int bits = 1;
    while (bits < 32 && ((dimension - 1) >> bits) > 0)
        bits++;
    f->low_bits = (bits + 1) / 2;
    f->low_mask = (uint32_t)((1u << f->low_bits) - 1);
    f->high_mask = (uint32_t)((1u << (bits - f->low_bits)) - 1);
    for (int r = 0; r < FEISTEL_ROUNDS; r++)
        f->keys[r] = splitmix64(splitmix64(key) ^ (uint64_t)r);
}

INLINE uint32_t feistel_permute(const struct feistel *f, uint32_t x) {
    uint32_t low = x & f->low_mask, high = x >> f->low_bits;
    for (int r = 0; r < FEISTEL_ROUNDS; r += 2) {
        high ^= hash32(low, (uint32_t)f->keys[r], (uint32_t)(f->keys[r] >> 32)) & f->high_mask;
        low ^= hash32(high, (uint32_t)f->keys[r + 1], (uint32_t)(f->keys[r + 1] >> 32)) & f->low_mask;
    }
    return low | (high << f->low_bits);
}

/* Positions first … first + n − 1 of the permutation, n ≤ RUN, each walked along its cycle until it falls inside.

   Up to half of them fall outside at each step. Those are walked together, in loops that compilers vectorise. */
static void random_positions(const struct feistel *f, int64_t first, int64_t n, int64_t dimension,
                             uint32_t *positions) {
    struct feistel local = *f;
    uint32_t walked[RUN], outside[RUN];
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++)
        positions[i] = feistel_permute(&local, (uint32_t)(first + i));
    for (int64_t i = 0; i < n; i++) {
        outside[left] = (uint32_t)i;
        left += positions[i] >= dimension;
    }
    while (left) {
        int64_t still = 0;
        for (int64_t j = 0; j < left; j++)
            walked[j] = positions[outside[j]];
        for (int64_t j = 0; j < left; j++)
            walked[j] = feistel_permute(&local, walked[j]);
        for (int64_t j = 0; j < left; j++) {
            const uint32_t at = outside[j];
            positions[at] = walked[j];
            outside[still] = at;
            still += walked[j] >= dimension;
        }
        left = still;
    }
}

/* -- bit patterns */

INLINE uint32_t bits_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

INLINE float real_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

INLINE uint64_t bits_f64(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}

INLINE double real_f64(uint64_t u) {
    double x;
    memcpy(&x, &u, 8);
    return x;
}

/* -- fp16, rounded to nearest even; a NaN becomes an infinity, since both are refused. The selects vectorise. */

INLINE uint32_t half_of_f32(float x) {
    uint32_t u = bits_f32(x), magnitude = u & 0x7fffffffu;
    /* Adding 2^-1 lines a subnormal half's last bit up with the sum's, so that the addition rounds. */
    uint32_t subnormal = bits_f32(real_f32(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x47800000u ? 0x7c00u : half;
    return half | (u >> 16 & 0x8000u);
}

INLINE uint32_t half_of_f64(double x) {
    uint64_t u = bits_f64(x), magnitude = u & 0x7fffffffffffffffu;
    uint64_t subnormal = bits_f64(real_f64(magnitude) + 268435456.0) - 0x41b0000000000000u;
    uint64_t normal = (magnitude - 0x3f00000000000000u + 0x1ffffffffffu + ((magnitude >> 42) & 1u)) >> 42;
    uint64_t half = magnitude < 0x3f10000000000000u ? subnormal : normal;
    half = magnitude >= 0x40f0000000000000u ? 0x7c00u : half;
    return (uint32_t)(half | (u >> 48 & 0x8000u));
}

INLINE float value_of_half(uint32_t half) {
    uint32_t u = (half & 0x7fffu) << 13;
    uint32_t normal = u + 0x38000000u;
    uint32_t subnormal = bits_f32(real_f32(u + 0x38800000u) - real_f32(0x38800000u));
    uint32_t special = u + 0x70000000u;
    u = u < 0x00800000u ? subnormal : normal;
    u = (half & 0x7c00u) == 0x7c00u ? special : u;
    return real_f32(u | (half & 0x8000u) << 16);
}

/* -- halving sums */

INLINE int64_t padded_width(int64_t n) {
    int64_t width = 1;
    while (width < n)
        width *= 2;
    return width;
}

/* The halving sum of 16 elements. */
INLINE float fold16_f32(const float *w) {
#if LEVEL >= 1
    __m256 eight = _mm256_add_ps(_mm256_loadu_ps(w), _mm256_loadu_ps(w + 8));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float v[8];
    for (int i = 0; i < 8; i++)
        v[i] = w[i] + w[i + 8];
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
#endif
}

INLINE double fold16_f64(const double *w) {
#if LEVEL >= 1
    __m256d low = _mm256_add_pd(_mm256_loadu_pd(w), _mm256_loadu_pd(w + 8));
    __m256d high = _mm256_add_pd(_mm256_loadu_pd(w + 4), _mm256_loadu_pd(w + 12));
    __m256d four = _mm256_add_pd(low, high);
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#else
    double v[8];
    for (int i = 0; i < 8; i++)
        v[i] = w[i] + w[i + 8];
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
#endif
}

/* Three halvings at once, of 8q elements into the first q; an element is read before it is overwritten. */
#define FOLD8(w, q)                                                                                            \
    for (int64_t i = 0; i < (q); i++)                                                                          \
        (w)[i] = (((w)[i] + (w)[i + 4 * (q)]) + ((w)[i + 2 * (q)] + (w)[i + 6 * (q)])) +                       \
                 (((w)[i + (q)] + (w)[i + 5 * (q)]) + ((w)[i + 3 * (q)] + (w)[i + 7 * (q)]));

/* fold_*: the halving sum of `width` ≥ 1 elements, a power of two; the elements are overwritten.
   sums_*: the sums of a block's runs, arriving one by one, in as many levels as 1024⁴ elements need. Zeros behind the
   last one change nothing, so that a level that is not full needs no special case. */
#define DEFINE_SUMS(type, suffix)                                                                              \
    INLINE type fold_##suffix(type *w, int64_t width) {                                                        \
        while (width >= 128) {                                                                                 \
            FOLD8(w, width / 8)                                                                                \
            width /= 8;                                                                                        \
        }                                                                                                      \
        while (width > 1) {                                                                                    \
            if (width == 16)                                                                                   \
                return fold16_##suffix(w);                                                                     \
            width /= 2;                                                                                        \
            for (int64_t i = 0; i < width; i++)                                                                \
                w[i] += w[i + width];                                                                          \
        }                                                                                                      \
        return w[0];                                                                                           \
    }                                                                                                          \
    struct sums_##suffix {                                                                                     \
        type pending[3][RUN];                                                                                  \
        int count[3];                                                                                          \
    };                                                                                                         \
    static type sums_close_##suffix(struct sums_##suffix *s, int level) {                                      \
        int n = s->count[level];                                                                               \
        int64_t width = padded_width(n);                                                                       \
        memset(s->pending[level] + n, 0, (size_t)(width - n) * sizeof(type));                                  \
        s->count[level] = 0;                                                                                   \
        return fold_##suffix(s->pending[level], width);                                                        \
    }                                                                                                          \
    static void sums_add_##suffix(struct sums_##suffix *s, type sum) {                                         \
        for (int level = 0; level < 3; level++) {                                                              \
            s->pending[level][s->count[level]++] = sum;                                                        \
            if (s->count[level] < RUN)                                                                         \
                return;                                                                                        \
            sum = sums_close_##suffix(s, level);                                                               \
        }                                                                                                      \
    }                                                                                                          \
    static type sums_total_##suffix(struct sums_##suffix *s) {                                                 \
        for (int level = 0; level < 2; level++)                                                                \
            if (s->count[level]) {                                                                             \
                type sum = sums_close_##suffix(s, level);                                                      \
                s->pending[level + 1][s->count[level + 1]++] = sum;                                            \
            }                                                                                                  \
        return sums_close_##suffix(s, 2);                                                                      \
    }
DEFINE_SUMS(float, f32)
DEFINE_SUMS(double, f64)
