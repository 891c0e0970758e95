/* LANES elements of one dtype at a time: vectors of float32 where the instruction set has them, else single
   elements, which the compiler may vectorise. The operators + − * / and, on words and on patterns, the
   bits of elements, << >> & | ^ work on all of them. */

#if LEVEL == 2 && REAL_BITS == 32
#define LANES 16
typedef __m512 NAME(vec);
typedef uint32_t NAME(words) __attribute__((vector_size(64)));
typedef NAME(words) NAME(patterns);
typedef __mmask16 NAME(mask);

INLINE NAME(vec) NAME(splat)(REAL x) { return _mm512_set1_ps(x); }
INLINE NAME(vec) NAME(get)(const REAL *from) { return _mm512_loadu_ps(from); }
INLINE void NAME(put)(REAL *to, NAME(vec) x) { _mm512_storeu_ps(to, x); }
INLINE NAME(patterns) NAME(patterns_of)(NAME(vec) x) { return (NAME(patterns))x; }
INLINE NAME(vec) NAME(vec_of)(NAME(patterns) p) { return (NAME(vec))p; }
INLINE NAME(vec) NAME(lesser)(NAME(vec) x, NAME(vec) y) { return _mm512_min_ps(x, y); }
INLINE NAME(mask) NAME(less)(NAME(vec) x, NAME(vec) y) { return _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ); }
INLINE uint32_t NAME(mask_bits)(NAME(mask) mask) { return mask; }
/* Whole numbers below 2^31. */
INLINE NAME(words) NAME(truncate)(NAME(vec) x) { return (NAME(words))_mm512_cvttps_epi32(x); }
/* x·y + z, where x·y is exact, so that the one rounding of the fused operation is that of the sum. */
INLINE NAME(vec) NAME(exact_product_add)(NAME(vec) x, NAME(vec) y, NAME(vec) z) { return _mm512_fmadd_ps(x, y, z); }
INLINE NAME(vec) NAME(convert)(NAME(words) w) { return _mm512_cvtepi32_ps((__m512i)w); }
/* w | bit where the mask is set. */
INLINE NAME(words) NAME(set_where)(NAME(words) w, NAME(mask) where, uint32_t bit) {
    return (NAME(words))_mm512_mask_or_epi32((__m512i)w, where, (__m512i)w, _mm512_set1_epi32((int)bit));
}
/* Notes in `seen` that a word ends in FIRST_BITS ones; `noted` asks if one did. */
INLINE NAME(words) NAME(note_ones)(NAME(words) seen, NAME(words) w) {
    return (NAME(words))_mm512_max_epu32((__m512i)seen, (__m512i)(w << (32 - FIRST_BITS)));
}
INLINE int NAME(noted)(NAME(words) seen) {
    return _mm512_cmpge_epu32_mask((__m512i)seen, _mm512_set1_epi32((int)(~0u << (32 - FIRST_BITS)))) != 0;
}
/* −x where the mask is set. */
INLINE NAME(vec) NAME(negate_where)(NAME(vec) x, NAME(mask) where) {
    const __m512i sign = _mm512_set1_epi32((int)0x80000000u);
    return (NAME(vec))_mm512_mask_xor_epi32((__m512i)x, where, (__m512i)x, sign);
}
/* y where the mask is set, else x. */
INLINE NAME(vec) NAME(blend)(NAME(vec) x, NAME(vec) y, NAME(mask) where) {
    return _mm512_mask_blend_ps(where, x, y);
}
/* ~(x ^ y) */
INLINE NAME(words) NAME(xnor)(NAME(words) x, NAME(words) y) {
    return (NAME(words))_mm512_ternarylogic_epi32((__m512i)x, (__m512i)y, (__m512i)y, 0xc3);
}
/* Bit i: word i ≥ least; both are below 2^31. */
INLINE uint32_t NAME(reach)(NAME(words) w, uint32_t least) {
    return _mm512_cmpge_epi32_mask((__m512i)w, _mm512_set1_epi32((int)least));
}
/* Where `bit`, the highest that is set in any word, is set. */
INLINE NAME(mask) NAME(bit_set)(NAME(words) w, uint32_t bit) {
    return _mm512_test_epi32_mask((__m512i)w, _mm512_set1_epi32((int)bit));
}
INLINE NAME(words) NAME(lane_indices)(void) {
    return (NAME(words)){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}
/* Where p < limit; both are below 2^31. */
INLINE NAME(mask) NAME(below)(NAME(patterns) p, BITS limit) {
    return _mm512_cmplt_epi32_mask((__m512i)p, _mm512_set1_epi32((int)limit));
}
INLINE NAME(patterns) NAME(larger)(NAME(patterns) p, NAME(patterns) q) {
    return (NAME(patterns))_mm512_max_epu32((__m512i)p, (__m512i)q);
}
INLINE NAME(patterns) NAME(pattern)(BITS p) { return (NAME(patterns))_mm512_set1_epi32((int)p); }
/* p & bits where the mask is set, else p. */
INLINE NAME(patterns) NAME(keep_where)(NAME(patterns) p, NAME(mask) where, BITS bits) {
    return (NAME(patterns))_mm512_mask_and_epi32((__m512i)p, where, (__m512i)p, _mm512_set1_epi32((int)bits));
}
/* p | q where the mask is set, else p. */
INLINE NAME(patterns) NAME(or_where)(NAME(patterns) p, NAME(mask) where, NAME(patterns) q) {
    return (NAME(patterns))_mm512_mask_or_epi32((__m512i)p, where, (__m512i)p, (__m512i)q);
}
/* The elements of a table of LANES. */
INLINE NAME(vec) NAME(look_up)(NAME(vec) table, NAME(words) w) { return _mm512_permutexvar_ps((__m512i)w, table); }
/* The last byte of each word. */
INLINE void NAME(put_bytes)(uint8_t *to, NAME(words) w) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)w));
}
INLINE NAME(words) NAME(get_bytes)(const uint8_t *from) {
    return (NAME(words))_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
}

#elif LEVEL == 1 && REAL_BITS == 32
#define LANES 8
typedef __m256 NAME(vec);
typedef uint32_t NAME(words) __attribute__((vector_size(32)));
typedef NAME(words) NAME(patterns);
typedef NAME(words) NAME(mask);

INLINE NAME(vec) NAME(splat)(REAL x) { return _mm256_set1_ps(x); }
INLINE NAME(vec) NAME(get)(const REAL *from) { return _mm256_loadu_ps(from); }
INLINE void NAME(put)(REAL *to, NAME(vec) x) { _mm256_storeu_ps(to, x); }
INLINE NAME(patterns) NAME(patterns_of)(NAME(vec) x) { return (NAME(patterns))x; }
INLINE NAME(vec) NAME(vec_of)(NAME(patterns) p) { return (NAME(vec))p; }
INLINE NAME(vec) NAME(lesser)(NAME(vec) x, NAME(vec) y) { return _mm256_min_ps(x, y); }
INLINE NAME(mask) NAME(less)(NAME(vec) x, NAME(vec) y) { return (NAME(mask))_mm256_cmp_ps(x, y, _CMP_LT_OQ); }
INLINE uint32_t NAME(mask_bits)(NAME(mask) mask) { return (uint32_t)_mm256_movemask_ps((__m256)mask); }
INLINE NAME(words) NAME(truncate)(NAME(vec) x) { return (NAME(words))_mm256_cvttps_epi32(x); }
INLINE NAME(vec) NAME(exact_product_add)(NAME(vec) x, NAME(vec) y, NAME(vec) z) { return _mm256_fmadd_ps(x, y, z); }
INLINE NAME(vec) NAME(convert)(NAME(words) w) { return _mm256_cvtepi32_ps((__m256i)w); }
INLINE NAME(words) NAME(set_where)(NAME(words) w, NAME(mask) where, uint32_t bit) { return w | (where & bit); }
INLINE NAME(words) NAME(note_ones)(NAME(words) seen, NAME(words) w) {
    return (NAME(words))_mm256_max_epu32((__m256i)seen, (__m256i)(w << (32 - FIRST_BITS)));
}
INLINE int NAME(noted)(NAME(words) seen) {
    return _mm256_movemask_ps((__m256)(seen >= ~0u << (32 - FIRST_BITS))) != 0;
}
INLINE NAME(vec) NAME(negate_where)(NAME(vec) x, NAME(mask) where) {
    return (NAME(vec))((NAME(words))x ^ (where & 0x80000000u));
}
INLINE NAME(vec) NAME(blend)(NAME(vec) x, NAME(vec) y, NAME(mask) where) {
    return _mm256_blendv_ps(x, y, (__m256)where);
}
INLINE NAME(words) NAME(xnor)(NAME(words) x, NAME(words) y) { return ~(x ^ y); }
INLINE uint32_t NAME(reach)(NAME(words) w, uint32_t least) {
    __m256i above = _mm256_cmpgt_epi32((__m256i)w, _mm256_set1_epi32((int)least - 1));
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(above));
}
INLINE NAME(mask) NAME(bit_set)(NAME(words) w, uint32_t bit) {
    return (NAME(mask))_mm256_cmpgt_epi32((__m256i)w, _mm256_set1_epi32((int)bit - 1));
}
INLINE NAME(words) NAME(lane_indices)(void) { return (NAME(words)){0, 1, 2, 3, 4, 5, 6, 7}; }
INLINE NAME(mask) NAME(below)(NAME(patterns) p, BITS limit) {
    return (NAME(mask))_mm256_cmpgt_epi32(_mm256_set1_epi32((int)limit), (__m256i)p);
}
INLINE NAME(patterns) NAME(larger)(NAME(patterns) p, NAME(patterns) q) {
    return (NAME(patterns))_mm256_max_epu32((__m256i)p, (__m256i)q);
}
INLINE NAME(patterns) NAME(pattern)(BITS p) { return (NAME(patterns))_mm256_set1_epi32((int)p); }
INLINE NAME(patterns) NAME(keep_where)(NAME(patterns) p, NAME(mask) where, BITS bits) { return p & ~(where & ~bits); }
INLINE NAME(patterns) NAME(or_where)(NAME(patterns) p, NAME(mask) where, NAME(patterns) q) { return p | (where & q); }
INLINE NAME(vec) NAME(look_up)(NAME(vec) table, NAME(words) w) { return _mm256_permutevar8x32_ps(table, (__m256i)w); }
INLINE void NAME(put_bytes)(uint8_t *to, NAME(words) w) {
    const __m256i last = _mm256_set1_epi32(0x0c080400);
    __m256i four = _mm256_shuffle_epi8((__m256i)w, last);
    __m128i low = _mm256_castsi256_si128(four), high = _mm256_extracti128_si256(four, 1);
    _mm_storel_epi64((__m128i *)to, _mm_unpacklo_epi32(low, high));
}
INLINE NAME(words) NAME(get_bytes)(const uint8_t *from) {
    return (NAME(words))_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

#else
#define LANES 1
typedef REAL NAME(vec);
typedef uint32_t NAME(words);
typedef BITS NAME(patterns);
typedef int NAME(mask);

INLINE NAME(vec) NAME(splat)(REAL x) { return x; }
INLINE NAME(vec) NAME(get)(const REAL *from) { return *from; }
INLINE void NAME(put)(REAL *to, NAME(vec) x) { *to = x; }
INLINE NAME(vec) NAME(lesser)(NAME(vec) x, NAME(vec) y) { return x < y ? x : y; }
INLINE NAME(mask) NAME(less)(NAME(vec) x, NAME(vec) y) { return x < y; }
/* Through signed integers, which the instruction sets convert. */
INLINE NAME(words) NAME(truncate)(NAME(vec) x) { return (uint32_t)(int32_t)x; }
INLINE NAME(vec) NAME(exact_product_add)(NAME(vec) x, NAME(vec) y, NAME(vec) z) { return x * y + z; }
INLINE NAME(vec) NAME(convert)(NAME(words) w) { return (REAL)(int32_t)w; }
INLINE NAME(words) NAME(set_where)(NAME(words) w, NAME(mask) where, uint32_t bit) { return w | (where ? bit : 0); }
INLINE NAME(words) NAME(note_ones)(NAME(words) seen, NAME(words) w) { return seen | ((w | ~0u << FIRST_BITS) == ~0u); }
INLINE int NAME(noted)(NAME(words) seen) { return seen != 0; }
INLINE NAME(vec) NAME(negate_where)(NAME(vec) x, NAME(mask) where) {
    return NAME(real)(NAME(bits)(x) ^ (BITS)(uint32_t)where << (REAL_BITS - 1));
}
INLINE NAME(words) NAME(xnor)(NAME(words) x, NAME(words) y) { return ~(x ^ y); }
INLINE NAME(mask) NAME(bit_set)(NAME(words) w, uint32_t bit) { return w >= bit; }
INLINE NAME(words) NAME(lane_indices)(void) { return 0; }
INLINE NAME(patterns) NAME(patterns_of)(NAME(vec) x) { return NAME(bits)(x); }
INLINE NAME(vec) NAME(vec_of)(NAME(patterns) p) { return NAME(real)(p); }
INLINE NAME(mask) NAME(below)(NAME(patterns) p, BITS limit) { return (SBITS)p < (SBITS)limit; }
INLINE NAME(patterns) NAME(larger)(NAME(patterns) p, NAME(patterns) q) { return p > q ? p : q; }
INLINE NAME(patterns) NAME(pattern)(BITS p) { return p; }
INLINE NAME(patterns) NAME(keep_where)(NAME(patterns) p, NAME(mask) where, BITS bits) { return where ? p & bits : p; }
INLINE NAME(patterns) NAME(or_where)(NAME(patterns) p, NAME(mask) where, NAME(patterns) q) {
    return p | (where ? q : 0);
}
INLINE NAME(vec) NAME(look_up)(NAME(vec) table, NAME(words) w) { return (void)w, table; }
INLINE void NAME(put_bytes)(uint8_t *to, NAME(words) w) { *to = (uint8_t)w; }
INLINE NAME(words) NAME(get_bytes)(const uint8_t *from) { return *from; }
#endif

INLINE NAME(vec) NAME(absolutes)(NAME(vec) x) { return NAME(vec_of)(NAME(patterns_of)(x) & MAGNITUDE_BITS); }

INLINE BITS NAME(largest_lane)(NAME(patterns) p) {
#if LANES > 1
    BITS largest = p[0];
    for (int lane = 1; lane < LANES; lane++)
        largest = p[lane] > largest ? p[lane] : largest;
    return largest;
#else
    return p;
#endif
}

/* Fetches LANES elements of x and of the residual. Where there is none, the processor's own prefetching is as good; and
   a plain loop would not be vectorised. */
INLINE void NAME(fetch)(const REAL *x, const REAL *residual) {
    if (LANES > 1 && residual) {
        __builtin_prefetch(x);
        __builtin_prefetch(residual);
    }
}

/* The complement of the hashes of LANES elements, see hash_at. */
INLINE NAME(words) NAME(not_hashes)(struct draws_at at, int64_t i) {
#if LANES > 1
    NAME(words) x;
    memcpy(&x, at.products + i, sizeof x);
    x += at.product;
    x ^= x >> 15 ^ at.high;
    x *= 0x735A2D97u;
    return NAME(xnor)(x, x >> 15);
#else
    return ~hash_at(at, i);
#endif
}
