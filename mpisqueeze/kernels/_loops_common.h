/* The parts of the loops that do not depend on the dtype: hashing, bit streams, 16-bit formats, halving sums. */
#include <math.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "payloads are little-endian; the NumPy kernels serve other machines"
#endif

#define INLINE static inline __attribute__((always_inline))

/* The longest run that one halving sum takes. */
#define RUN 1024
/* Elements worked on at a time: a multiple of RUN, small enough for their numbers and codes to stay in the L1 cache. */
#define PIECE 2048
#define FEISTEL_ROUNDS 6

/* A sum reads a run from eight places at once, and the processor's own prefetching sees no stream in that. */
INLINE void prefetch(const void *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)from + i);
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* The length of a block of a vector cut into blocks of `block` numbers; 0 means the whole vector. */
static int64_t block_length(int64_t d, int64_t block) { return block ? smaller(block, d) : d; }

/* Elements to take the statistics of before they are encoded: whole blocks, and whole bytes of any stream. */
static int64_t group_length(int64_t length) {
    int64_t group = length % 8 ? 8 * length : length;
    return group < PIECE ? PIECE / group * group : group;
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

/* Positions first … first + n − 1 of the permutation, each walked along its cycle until it falls inside. */
static void random_positions(const struct feistel *f, int64_t first, int64_t n, int64_t dimension,
                             uint32_t *positions) {
    struct feistel local = *f;
    for (int64_t i = 0; i < n; i++)
        positions[i] = feistel_permute(&local, (uint32_t)(first + i));
    for (int64_t i = 0; i < n; i++)
        while (positions[i] >= dimension)
            positions[i] = feistel_permute(&local, positions[i]);
}

/* -- streams of up to 8 bits an element: eight codes are squeezed into, or spread from, one 64-bit word */

INLINE uint64_t squeeze8(uint64_t x, int bits) {
    x = (x & 0x00FF00FF00FF00FFu) | ((x & 0xFF00FF00FF00FF00u) >> (8 - bits));
    x = (x & 0x0000FFFF0000FFFFu) | ((x & 0xFFFF0000FFFF0000u) >> (16 - 2 * bits));
    return (x & 0x00000000FFFFFFFFu) | ((x & 0xFFFFFFFF00000000u) >> (32 - 4 * bits));
}

INLINE uint64_t spread8(uint64_t x, int bits) {
    const uint64_t one = (1u << bits) - 1, two = (1u << 2 * bits) - 1, four = ((uint64_t)1 << 4 * bits) - 1;
    x = (x & four) | ((x & (four << 4 * bits)) << (32 - 4 * bits));
    x = (x & (two * 0x0000000100000001u)) | ((x & ((two << 2 * bits) * 0x0000000100000001u)) << (16 - 2 * bits));
    return (x & (one * 0x0001000100010001u)) | ((x & ((one << bits) * 0x0001000100010001u)) << (8 - bits));
}

/* Whole groups of eight codes of 1, 2 or 4 bits: as many bytes as a `type` has. A constant width vectorises. */
#define PACK_GROUPS(type)                                                                                      \
    for (int64_t g = 0; g < groups; g++) {                                                                     \
        uint64_t x;                                                                                            \
        memcpy(&x, codes + 8 * g, 8);                                                                          \
        type word = (type)squeeze8(x, (int)sizeof(type));                                                   \
        memcpy(stream + (int64_t)sizeof(type) * g, &word, sizeof(type));                                       \
    }

/* n uint8 codes (room for 7 more behind them) into ⌈n·bits/8⌉ bytes. */
static void pack(uint8_t *codes, int64_t n, int bits, uint8_t *stream) {
    if (bits == 8) {
        memcpy(stream, codes, (size_t)n);
        return;
    }
    int64_t groups = n / 8, size = (n * bits + 7) / 8;
    if (bits == 1) {
        PACK_GROUPS(uint8_t)
    } else if (bits == 2) {
        PACK_GROUPS(uint16_t)
    } else if (bits == 4) {
        PACK_GROUPS(uint32_t)
    } else {
        /* The next group overwrites what a full store leaves behind this one. */
        const int64_t full = size < 8 ? 0 : smaller(groups, (size - 8) / bits + 1);
        for (int64_t g = 0; g < full; g++) {
            uint64_t x;
            memcpy(&x, codes + 8 * g, 8);
            x = squeeze8(x, bits);
            memcpy(stream + g * bits, &x, 8);
        }
        for (int64_t g = full; g < groups; g++) {
            uint64_t x;
            memcpy(&x, codes + 8 * g, 8);
            x = squeeze8(x, bits);
            memcpy(stream + g * bits, &x, (size_t)bits);
        }
    }
    if (n % 8) {
        uint64_t x;
        memset(codes + n, 0, (size_t)(8 - n % 8));
        memcpy(&x, codes + 8 * groups, 8);
        x = squeeze8(x, bits);
        memcpy(stream + groups * bits, &x, (size_t)(size - groups * bits));
    }
}

#define UNPACK_GROUPS(type)                                                                                    \
    for (int64_t g = 0; g < groups; g++) {                                                                     \
        type word;                                                                                             \
        memcpy(&word, stream + (int64_t)sizeof(type) * g, sizeof(type));                                       \
        uint64_t x = spread8(word, (int)sizeof(type));                                                      \
        memcpy(codes + 8 * g, &x, 8);                                                                          \
    }

/* The inverse of pack; `codes` has room for n + 7. */
static void unpack(const uint8_t *stream, int64_t n, int bits, uint8_t *codes) {
    if (bits == 8) {
        memcpy(codes, stream, (size_t)n);
        return;
    }
    int64_t groups = n / 8, size = (n * bits + 7) / 8;
    if (bits == 1) {
        UNPACK_GROUPS(uint8_t)
    } else if (bits == 2) {
        UNPACK_GROUPS(uint16_t)
    } else if (bits == 4) {
        UNPACK_GROUPS(uint32_t)
    } else {
        const int64_t full = size < 8 ? 0 : smaller(groups, (size - 8) / bits + 1);
        for (int64_t g = 0; g < full; g++) {
            uint64_t x;
            memcpy(&x, stream + g * bits, 8);
            x = spread8(x, bits);
            memcpy(codes + 8 * g, &x, 8);
        }
        for (int64_t g = full; g < groups; g++) {
            uint64_t x = 0;
            memcpy(&x, stream + g * bits, (size_t)bits);
            x = spread8(x, bits);
            memcpy(codes + 8 * g, &x, 8);
        }
    }
    if (n % 8) {
        uint64_t x = 0;
        memcpy(&x, stream + groups * bits, (size_t)(size - groups * bits));
        x = spread8(x, bits);
        memcpy(codes + 8 * groups, &x, 8);
    }
}

/* -- streams of 9 to 31 bits an element */

/* n codes into ⌈n·bits/8⌉ bytes. */
static void pack_words(const uint32_t *words, int64_t n, int bits, uint8_t *stream) {
    if (bits == 16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t low = (uint16_t)words[i];
            memcpy(stream + 2 * i, &low, 2);
        }
        return;
    }
    if (bits == 24) {
        int64_t i = 0;
        for (; i + 4 <= n; i += 2) {
            uint64_t two = words[i] | (uint64_t)words[i + 1] << 24;
            memcpy(stream + 3 * i, &two, 8);
        }
        for (; i < n; i++)
            memcpy(stream + 3 * i, &words[i], 3);
        return;
    }
    uint64_t pending = 0;
    int held = 0;
    for (int64_t i = 0; i < n; i++) {
        pending |= (uint64_t)words[i] << held;
        held += bits;
        if (held >= 32) {
            memcpy(stream, &pending, 4);
            stream += 4;
            pending >>= 32;
            held -= 32;
        }
    }
    memcpy(stream, &pending, (size_t)((held + 7) / 8));
}

/* The inverse of pack_words. */
static void unpack_words(const uint8_t *stream, int64_t n, int bits, uint32_t *words) {
    if (bits == 16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t low;
            memcpy(&low, stream + 2 * i, 2);
            words[i] = low;
        }
        return;
    }
    const int64_t size = (n * bits + 7) / 8, full = size < 8 ? 0 : smaller(n, (size - 8) * 8 / bits + 1);
    const uint32_t mask = (uint32_t)(((uint64_t)1 << bits) - 1);
    /* At most 7 + 31 bits are wanted, so that 8 bytes always hold them. */
    for (int64_t i = 0; i < full; i++) {
        uint64_t x;
        memcpy(&x, stream + i * bits / 8, 8);
        words[i] = (uint32_t)(x >> (i * bits % 8)) & mask;
    }
    for (int64_t i = full; i < n; i++) {
        uint64_t x = 0;
        memcpy(&x, stream + i * bits / 8, (size_t)smaller(8, size - i * bits / 8));
        words[i] = (uint32_t)(x >> (i * bits % 8)) & mask;
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

/* Three halvings at once, of 8q numbers x(0) … x(8q − 1) into q. */
#define FOLD8(x, q, out)                                                                                       \
    for (int64_t i = 0; i < (q); i++)                                                                          \
        (out)[i] = ((x(i) + x(i + 4 * (q))) + (x(i + 2 * (q)) + x(i + 6 * (q)))) +                             \
                   ((x(i + (q)) + x(i + 5 * (q))) + (x(i + 3 * (q)) + x(i + 7 * (q))));

/* fold_*: the halving sum of `width` ≥ 1 numbers, a power of two; the numbers are overwritten.
   sums_*: the sums of a block's runs, arriving one by one, in as many levels as 1024⁴ numbers need. Zeros behind the
   last one change nothing, so that a level that is not full needs no special case. */
#define DEFINE_SUMS(type, suffix)                                                                              \
    static type fold_##suffix(type *w, int64_t width) {                                                        \
        type v[RUN / 8];                                                                                       \
        while (width >= 128) {                                                                                 \
            int64_t q = width / 8;                                                                             \
            FOLD8(W_, q, v)                                                                                    \
            memcpy(w, v, (size_t)q * sizeof(type));                                                            \
            width = q;                                                                                         \
        }                                                                                                      \
        while (width > 1) {                                                                                    \
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
#define W_(i) w[i]
DEFINE_SUMS(float, f32)
DEFINE_SUMS(double, f64)
#undef W_
