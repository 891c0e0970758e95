/* Kinds that treat every element alike: copy, clip, fp16, bf16. */

/* -- identity */

/* A payload of NULL is the vector itself, which is only looked at. */
INLINE int NAME(copy_as)(const REAL *x, REAL *residual, int64_t n, uint8_t *payload) {
    BITS bad = 0;
    for (int64_t i = 0; i < n; i++) {
        REAL v = V_(i);
        bad |= NAME(magnitude)(v) + TO_TOP_BIT;
        if (payload)
            NAME(store)(payload, i, v);
        if (residual)
            residual[i] = 0;
    }
    return bad >> (REAL_BITS - 1);
}

static void NAME(copy_encode_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(blocks) *of = job;
    uint8_t *payload = of->stream + start * (int64_t)sizeof(REAL);
    (void)part;
    const REAL *x = of->vector + start;
    if (of->residual                      ? NAME(copy_as)(x, of->residual + start, stop - start, payload)
        : payload == (const uint8_t *)x ? NAME(copy_as)(x, NULL, stop - start, NULL)
                                          : NAME(copy_as)(x, NULL, stop - start, payload))
        of->bad = 1;
}

INLINE int NAME(copy_deliver)(const uint8_t *payload, REAL *out, int64_t start, int64_t stop, int add, REAL factor) {
    BITS bad = 0;
    for (int64_t i = start; i < stop; i++) {
        REAL v = NAME(load)(payload, i);
        bad |= NAME(magnitude)(v) + TO_TOP_BIT;
        NAME(deliver)(out + i, v, add, factor);
    }
    return bad >> (REAL_BITS - 1);
}

static void NAME(copy_decode_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(delivery) *from = job;
    (void)part;
    if (from->add ? NAME(copy_deliver)(from->stream, from->out, start, stop, 1, from->factor)
                  : NAME(copy_deliver)(from->stream, from->out, start, stop, 0, 1))
        from->bad = 1;
}

/* -- float formats. Those of 16 bits per element go straight to the payload. */

INLINE void NAME(store16)(uint8_t *payload, int64_t i, uint32_t code) {
    const uint16_t low = (uint16_t)code;
    memcpy(payload + 2 * i, &low, 2);
}

INLINE uint32_t NAME(load16)(const uint8_t *payload, int64_t i) {
    uint16_t code;
    memcpy(&code, payload + 2 * i, 2);
    return code;
}

/* The top bits of n elements as whole numbers. */
INLINE int NAME(clip_words)(const REAL *x, REAL *residual, int64_t n, int drop, uint32_t *words) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        REAL v = V_(i);
        uint32_t word = bits_f32((float)v);
        bad |= (word & 0x7fffffffu) + 0x00800000u;
        words[i] = word >> drop;
        if (residual)
            residual[i] = v - (REAL)real_f32(word >> drop << drop);
    }
    return bad >> 31;
}

static void NAME(clip_encode_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(blocks) *of = job;
    const int bits = of->bits, drop = 32 - bits;
    uint32_t words[TILE];
    int bad = 0;
    (void)part;
    for (int64_t a = start; a < stop && !bad; a += TILE) {
        int64_t n = smaller(TILE, stop - a);
        const REAL *x = of->vector + a;
        bad = of->residual ? NAME(clip_words)(x, of->residual + a, n, drop, words)
                           : NAME(clip_words)(x, NULL, n, drop, words);
        pack_words(words, n, bits, of->stream + a * bits / 8);
    }
    if (bad)
        of->bad = 1;
}

INLINE void NAME(clip_deliver)(const struct NAME(delivery) *from, int64_t start, int64_t stop, int add, REAL factor) {
    const int bits = from->bits, drop = 32 - bits;
    uint32_t words[TILE];
    for (int64_t a = start; a < stop; a += TILE) {
        int64_t n = smaller(TILE, stop - a);
        unpack_words(from->stream + a * bits / 8, n, bits, words);
        for (int64_t i = 0; i < n; i++)
            NAME(deliver)(from->out + a + i, (REAL)real_f32(words[i] << drop), add, factor);
    }
}

DELIVERED(clip)

/* n elements in bf16, or their top 16 bits; 1 where one is not finite, or rounds to infinity. */
INLINE int NAME(top16)(const REAL *x, REAL *residual, int64_t n, uint8_t *payload, int rounds) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        REAL v = V_(i);
        uint32_t word = bits_f32((float)v), code = (rounds ? word + ((word >> 16) & 1u) + 0x7fffu : word) >> 16;
        /* From 0x7f7f8000 on an element rounds to infinity. */
        bad |= (word & 0x7fffffffu) + (rounds ? 0x00808000u : 0x00800000u);
        NAME(store16)(payload, i, code);
        if (residual)
            residual[i] = v - (REAL)real_f32(code << 16);
    }
    return bad >> 31;
}

INLINE int NAME(bfloats_of)(const REAL *x, REAL *residual, int64_t n, uint8_t *payload) {
    return NAME(top16)(x, residual, n, payload, 1);
}

INLINE int NAME(clips_of)(const REAL *x, REAL *residual, int64_t n, uint8_t *payload) {
    return NAME(top16)(x, residual, n, payload, 0);
}

INLINE int NAME(halves_of)(const REAL *x, REAL *residual, int64_t n, uint8_t *payload) {
    int64_t i = 0;
    uint32_t bad = 0;
#if LEVEL >= 1 && REAL_BITS == 32
    __m128i any = _mm_setzero_si128();
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        if (residual)
            v = _mm256_add_ps(v, _mm256_loadu_ps(residual + i));
        __m128i code = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(payload + 2 * i), code);
        any = _mm_or_si128(any, _mm_add_epi16(_mm_and_si128(code, _mm_set1_epi16(0x7fff)), _mm_set1_epi16(0x0400)));
        if (residual)
            _mm256_storeu_ps(residual + i, _mm256_sub_ps(v, _mm256_cvtph_ps(code)));
    }
    bad = _mm_movemask_epi8(any) & 0xaaaa ? 0x8000u : 0;
#endif
    for (; i < n; i++) {
        REAL v = V_(i);
#if REAL_BITS == 32
        uint32_t code = half_of_f32(v);
#else
        uint32_t code = half_of_f64(v);
#endif
        bad |= (code & 0x7fffu) + 0x0400u;
        NAME(store16)(payload, i, code);
        if (residual)
            residual[i] = v - (REAL)value_of_half(code);
    }
    return bad >> 15 & 1;
}

#define SIXTEEN(what, loop)                                                                                    \
    static void NAME(what##_encode_part)(void *job, int part, int64_t start, int64_t stop) {                   \
        struct NAME(blocks) *of = job;                                                                         \
        const REAL *x = of->vector + start;                                                                    \
        uint8_t *payload = of->stream + 2 * start;                                                             \
        (void)part;                                                                                            \
        if (of->residual ? NAME(loop)(x, of->residual + start, stop - start, payload)                          \
                         : NAME(loop)(x, NULL, stop - start, payload))                                         \
            of->bad = 1;                                                                                       \
    }
SIXTEEN(half, halves_of)
SIXTEEN(bfloat, bfloats_of)
SIXTEEN(clip16, clips_of)
#undef SIXTEEN

INLINE void NAME(half_deliver)(const struct NAME(delivery) *to, int64_t start, int64_t stop, int add, REAL factor) {
    const uint8_t *payload = to->stream;
    REAL *out = to->out;
    int64_t i = start;
#if LEVEL >= 1 && REAL_BITS == 32
    const __m256 times = _mm256_set1_ps(factor);
    for (; i + 8 <= stop; i += 8) {
        __m256 value = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(payload + 2 * i)));
        if (add)
            value = _mm256_add_ps(_mm256_loadu_ps(out + i), _mm256_mul_ps(times, value));
        _mm256_storeu_ps(out + i, value);
    }
#endif
    for (; i < stop; i++)
        NAME(deliver)(out + i, (REAL)value_of_half(NAME(load16)(payload, i)), add, factor);
}

DELIVERED(half)

INLINE void NAME(bfloat_deliver)(const struct NAME(delivery) *to, int64_t start, int64_t stop, int add, REAL factor) {
    const uint8_t *payload = to->stream;
    REAL *out = to->out;
    for (int64_t i = start; i < stop; i++)
        NAME(deliver)(out + i, (REAL)real_f32(NAME(load16)(payload, i) << 16), add, factor);
}

DELIVERED(bfloat)
