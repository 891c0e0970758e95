/* Bit streams: n codes into ⌈n·bits/8⌉ bytes, and back. */

/* -- streams of up to 8 bits per element: eight codes are squeezed into, or spread from, one 64-bit word */

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

/* -- streams of 9 to 31 bits per element. Eight elements are a whole number of bytes. */

#if LEVEL >= 1
/* As many groups of eight codes as 32-byte stores leave room for; the next one overwrites what a store leaves behind
   its group. Word j of a group's stream starts in the middle of one code, and goes on with those behind it. */
static int64_t pack_groups(const uint32_t *words, int64_t n, int bits, uint8_t *stream) {
    const int64_t size = (n * bits + 7) / 8;
    const int behind = 1 + 30 / bits;
    int32_t codes[5][8], shifts[5][8];
    __m256i code[5], shift[5];
    int64_t i = 0;
    for (int j = 0; j < 8; j++)
        for (int c = 0; c <= behind; c++) {
            codes[c][j] = 32 * j / bits + c;
            /* To the right for the first one, then to the left; a shift by 32 leaves nothing. */
            shifts[c][j] = c ? (32 * j / bits + c) * bits - 32 * j : 32 * j % bits;
            if (codes[c][j] > 7)
                codes[c][j] = 0, shifts[c][j] = 32;
        }
    for (int c = 0; c <= behind; c++) {
        code[c] = _mm256_loadu_si256((const __m256i *)codes[c]);
        shift[c] = _mm256_loadu_si256((const __m256i *)shifts[c]);
    }
    for (; i + 8 <= n && i / 8 * bits + 32 <= size; i += 8) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(words + i));
        __m256i out = _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(x, code[0]), shift[0]);
        for (int c = 1; c <= behind; c++)
            out = _mm256_or_si256(out, _mm256_sllv_epi32(_mm256_permutevar8x32_epi32(x, code[c]), shift[c]));
        _mm256_storeu_si256((__m256i *)(stream + i / 8 * bits), out);
    }
    return i;
}

/* The inverse of pack_groups: a code lies in one word of the stream, or in two. */
static int64_t unpack_groups(const uint8_t *stream, int64_t n, int bits, uint32_t *words) {
    const int64_t size = (n * bits + 7) / 8;
    const __m256i start = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(bits));
    const __m256i word = _mm256_srli_epi32(start, 5), next = _mm256_add_epi32(word, _mm256_set1_epi32(1));
    const __m256i right = _mm256_and_si256(start, _mm256_set1_epi32(31));
    const __m256i left = _mm256_sub_epi32(_mm256_set1_epi32(32), right);
    const __m256i mask = _mm256_set1_epi32((int)((1u << bits) - 1));
    int64_t i = 0;
    for (; i + 8 <= n && i / 8 * bits + 32 <= size; i += 8) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(stream + i / 8 * bits));
        __m256i low = _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(x, word), right);
        __m256i high = _mm256_sllv_epi32(_mm256_permutevar8x32_epi32(x, next), left);
        _mm256_storeu_si256((__m256i *)(words + i), _mm256_and_si256(_mm256_or_si256(low, high), mask));
    }
    return i;
}
#else
/* The same, two codes at a time, where these are whole bytes. */
static int64_t pack_groups(const uint32_t *words, int64_t n, int bits, uint8_t *stream) {
    const int64_t size = (n * bits + 7) / 8;
    int64_t i = 0;
    for (; bits % 4 == 0 && i + 2 <= n && i / 2 * (bits / 4) + 8 <= size; i += 2) {
        uint64_t two = words[i] | (uint64_t)words[i + 1] << bits;
        memcpy(stream + i / 2 * (bits / 4), &two, 8);
    }
    return i;
}

static int64_t unpack_groups(const uint8_t *stream, int64_t n, int bits, uint32_t *words) {
    const int64_t size = (n * bits + 7) / 8;
    const uint32_t mask = (1u << bits) - 1;
    int64_t i = 0;
    for (; bits % 4 == 0 && i + 2 <= n && i / 2 * (bits / 4) + 8 <= size; i += 2) {
        uint64_t two;
        memcpy(&two, stream + i / 2 * (bits / 4), 8);
        words[i] = (uint32_t)two & mask;
        words[i + 1] = (uint32_t)(two >> bits) & mask;
    }
    return i;
}
#endif

/* n codes into ⌈n·bits/8⌉ bytes. */
static void pack_words(const uint32_t *words, int64_t n, int bits, uint8_t *stream) {
    int64_t i = pack_groups(words, n, bits, stream);
    stream += i * bits / 8;
    uint64_t pending = 0;
    int held = 0;
    for (; i < n; i++) {
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
    int64_t i = unpack_groups(stream, n, bits, words);
    const int64_t size = (n * bits + 7) / 8;
    const uint32_t mask = (1u << bits) - 1;
    /* At most 7 + 31 bits are wanted, so that 8 bytes always hold them. */
    for (; i < n && i * bits / 8 + 8 <= size; i++) {
        uint64_t x;
        memcpy(&x, stream + i * bits / 8, 8);
        words[i] = (uint32_t)(x >> (i * bits % 8)) & mask;
    }
    for (; i < n; i++) {
        uint64_t x = 0;
        memcpy(&x, stream + i * bits / 8, (size_t)smaller(8, size - i * bits / 8));
        words[i] = (uint32_t)(x >> (i * bits % 8)) & mask;
    }
}
