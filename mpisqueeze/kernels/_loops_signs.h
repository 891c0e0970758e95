/* signs: a bit per element, and a scale or two a block, or none. */

/* What elements ≥ 0 are decoded to, and those < 0. */
struct NAME(pair) {
    REAL above, below;
};

/* Those of block `index`, of which the payload has both, or the one for ±scale, or none for ±1. */
INLINE struct NAME(pair) NAME(pair_at)(const uint8_t *scales, int each, int64_t index) {
    if (each == 2)
        return (struct NAME(pair)){NAME(load)(scales, 2 * index), NAME(load)(scales, 2 * index + 1)};
    const REAL scale = each ? NAME(load)(scales, index) : 1;
    return (struct NAME(pair)){scale, -scale};
}

/* A bit per element, 1 = negative (−0 is not), into ⌈n/8⌉ bytes. */
static void NAME(pack_signs)(const REAL *v, int64_t n, uint8_t *stream) {
    int64_t i = 0;
#if LEVEL == 2 && REAL_BITS == 32
    for (; i + 16 <= n; i += 16) {
        __mmask16 negative = _mm512_cmp_ps_mask(_mm512_loadu_ps(v + i), _mm512_setzero_ps(), _CMP_LT_OQ);
        memcpy(stream + i / 8, &negative, 2);
    }
#elif LEVEL == 2
    for (; i + 8 <= n; i += 8)
        stream[i / 8] = (uint8_t)_mm512_cmp_pd_mask(_mm512_loadu_pd(v + i), _mm512_setzero_pd(), _CMP_LT_OQ);
#elif LEVEL == 1 && REAL_BITS == 32
    for (; i + 8 <= n; i += 8)
        stream[i / 8] =
            (uint8_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v + i), _mm256_setzero_ps(), _CMP_LT_OQ));
#endif
    while (i < n) {
        uint8_t codes[256];
        int64_t m = smaller(248, n - i);
        for (int64_t j = 0; j < m; j++)
            codes[j] = v[i + j] < 0;
        pack(codes, m, 1, stream + i / 8);
        i += m;
    }
}

/* What v is decoded to, subtracted from the residual, which holds v. */
static void NAME(subtract_signed)(REAL *residual, int64_t n, struct NAME(pair) value) {
    for (int64_t i = 0; i < n; i++) {
        REAL v = residual[i];
        residual[i] = v - (v < 0 ? value.below : value.above);
    }
}

#if LANES > 1
/* The same for n < 32 elements; returns their signs. */
static uint32_t NAME(few_signs)(REAL *residual, int64_t n, struct NAME(pair) value) {
    uint32_t negative = 0;
    for (int64_t i = 0; i < n; i++)
        negative |= (uint32_t)(residual[i] < 0) << i;
    NAME(subtract_signed)(residual, n, value);
    return negative;
}
#endif

/* The signs of v from a whole byte of the stream on, and what they leave out, where the residual holds v. */
static void NAME(encode_signs)(REAL *residual, int64_t n, struct NAME(pair) value, uint8_t *stream) {
#if LANES > 1
    const NAME(vec) above = NAME(splat)(value.above), below = NAME(splat)(value.below);
    /* Vectors are aligned, so that signs may wait for a byte to be full. */
    int64_t held = NAME(until_line)(residual, n), i = held;
    uint32_t pending = NAME(few_signs)(residual, held, value);
    for (; i + LANES <= n; i += LANES) {
        NAME(vec) v = NAME(get)(residual + i);
        NAME(mask) negative = NAME(less)(v, NAME(splat)(0));
        NAME(put)(residual + i, v - NAME(blend)(above, below, negative));
        pending |= NAME(mask_bits)(negative) << held;
        memcpy(stream, &pending, LANES / 8);
        stream += LANES / 8;
        pending >>= LANES;
    }
    pending |= NAME(few_signs)(residual + i, n - i, value) << held;
    memcpy(stream, &pending, (size_t)(held + n - i + 7) / 8);
#else
    NAME(pack_signs)(residual, n, stream);
    NAME(subtract_signed)(residual, n, value);
#endif
}

/* The stream of [start, stop), from a whole byte on, and the residual. */
static void NAME(signs_codes)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(blocks) *b = job;
    (void)part;
    if (!b->residual) {
        NAME(pack_signs)(b->v + start, stop - start, b->stream + start / 8);
        return;
    }
    for (int64_t a = start, end; a < stop; a = end) {
        /* A block, or what there is of it, if it ends with a byte of the stream; else some blocks at once. */
        const int64_t index = a / b->length;
        end = smaller((index + 1) * b->length, stop);
        if (end % 8 == 0 || end == stop) {
            NAME(encode_signs)(b->residual + a, end - a, NAME(pair_at)(b->scales, b->each, index), b->stream + a / 8);
            continue;
        }
        end = smaller(a + TILE, stop);
        NAME(pack_signs)(b->v + a, end - a, b->stream + a / 8);
        for (int64_t s = a, e; s < end; s = e) {
            e = smaller((s / b->length + 1) * b->length, end);
            NAME(subtract_signed)(b->residual + s, e - s, NAME(pair_at)(b->scales, b->each, s / b->length));
        }
    }
}

static void NAME(signs_groups)(void *job, int part, int64_t first, int64_t last) {
    struct NAME(blocks) *b = job;
    (void)part;
    const int64_t group = group_length(b->length);
    for (int64_t start = first; start < last && !b->bad; start += group) {
        int64_t stop = smaller(start + group, last);
        for (int64_t a = start; a < stop; a += b->length) {
            int64_t n = smaller(b->length, stop - a);
            REAL *residual = b->residual ? b->residual + a : NULL, scale;
            if (b->each == 2) {
                const struct NAME(sides) sums = NAME(sides)(b->vector + a, residual, n);
                const int64_t negatives = sums.negatives, others = n - negatives;
                /* −0 + 0 = 0: a sum of zeros of either sign. */
                const REAL below = sums.below / (REAL)(negatives ? negatives : 1) + 0;
                scale = sums.above / (REAL)(others ? others : 1) + 0;
                NAME(store)(b->scales, 2 * (a / b->length) + 1, below);
                if (!NAME(finite)(below))
                    scale = below;
            } else if (b->l2)
                scale = (REAL)sqrt(NAME(sum_squares)(b->vector + a, residual, n) / (double)n);
            else
                scale = NAME(sum)(b->vector + a, residual, n) / (REAL)n;
            if (!NAME(finite)(scale)) {
                b->bad = 1;
                return;
            }
            if (b->each)
                NAME(store)(b->scales, b->each * (a / b->length), scale);
        }
        spread(NAME(signs_codes), b, start, stop, TILE, threads_parts(stop - start));
    }
}

/* Values from one code per element. */
INLINE void NAME(deliver_signed)(const uint8_t *codes, int64_t n, struct NAME(pair) to, REAL *out, int add) {
    const BITS above = NAME(bits)(to.above), change = above ^ NAME(bits)(to.below);
    for (int64_t i = 0; i < n; i++) {
        REAL value = NAME(real)(above ^ (change & -(BITS)codes[i]));
        out[i] = add ? out[i] + value : value;
    }
}

/* The same from whole bytes of the stream; returns how many elements it did, a multiple of 8. */
INLINE int64_t NAME(deliver_bits)(const uint8_t *stream, int64_t n, struct NAME(pair) to, REAL *out, int add) {
    int64_t i = 0;
#if LEVEL == 2 && REAL_BITS == 32
    const __m512 above = _mm512_set1_ps(to.above), below = _mm512_set1_ps(to.below);
    for (; i + 16 <= n; i += 16) {
        __mmask16 negative;
        memcpy(&negative, stream + i / 8, 2);
        __m512 value = _mm512_mask_blend_ps(negative, above, below);
        _mm512_storeu_ps(out + i, add ? _mm512_add_ps(_mm512_loadu_ps(out + i), value) : value);
    }
#elif LEVEL == 2
    const __m512d above = _mm512_set1_pd(to.above), below = _mm512_set1_pd(to.below);
    for (; i + 8 <= n; i += 8) {
        __m512d value = _mm512_mask_blend_pd((__mmask8)stream[i / 8], above, below);
        _mm512_storeu_pd(out + i, add ? _mm512_add_pd(_mm512_loadu_pd(out + i), value) : value);
    }
#elif LEVEL == 1 && REAL_BITS == 32
    const __m256i shifts = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    const __m256 above = _mm256_set1_ps(to.above), below = _mm256_set1_ps(to.below);
    for (; i + 8 <= n; i += 8) {
        __m256i negative = _mm256_sllv_epi32(_mm256_set1_epi32(stream[i / 8]), shifts);
        __m256 value = _mm256_blendv_ps(above, below, _mm256_castsi256_ps(negative));
        _mm256_storeu_ps(out + i, add ? _mm256_add_ps(_mm256_loadu_ps(out + i), value) : value);
    }
#else
    (void)stream, (void)n, (void)to, (void)out, (void)add;
#endif
    return i;
}

INLINE void NAME(signs_deliver)(const struct NAME(delivery) *to, int64_t start, int64_t stop, int add, REAL factor) {
    uint8_t codes[TILE + 8];
    for (int64_t s = start; s < stop; s += TILE) {
        int64_t e = smaller(s + TILE, stop), index = s / to->length, unpacked = 0;
        for (int64_t a = s, b; a < e; a = b, index++) {
            b = smaller((index + 1) * to->length, e);
            struct NAME(pair) value = NAME(pair_at)(to->scales, to->each, index);
            value.above *= factor, value.below *= factor;
            if (a % 8 == 0)
                a += NAME(deliver_bits)(to->stream + a / 8, b - a, value, to->out + a, add);
            if (a == b)
                continue;
            if (!unpacked)
                unpack(to->stream + s / 8, e - s, 1, codes);
            unpacked = 1;
            NAME(deliver_signed)(codes + (a - s), b - a, value, to->out + a, add);
        }
    }
}

DELIVERED(signs)
