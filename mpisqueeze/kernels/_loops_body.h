/* The loops of one dtype, named and ordered as in reference.py. See _loops_tables.h for what is defined outside. */

#define MAGNITUDE_BITS ((BITS) ~((BITS)1 << (REAL_BITS - 1)))

/* |x| as a whole number: the same order, with infinities and NaNs on top. */
INLINE BITS NAME(magnitude)(REAL x) { return NAME(bits)(x) & MAGNITUDE_BITS; }

INLINE REAL NAME(absolute)(REAL x) { return NAME(real)(NAME(magnitude)(x)); }

/* x as a signed whole number in the same order, and back: −NaN < −inf < … < −0 < 0 < … < inf < NaN. */
INLINE SBITS NAME(ordered)(REAL x) {
    SBITS s = (SBITS)NAME(bits)(x);
    return s ^ (SBITS)((BITS)(s >> (REAL_BITS - 1)) & MAGNITUDE_BITS);
}

INLINE REAL NAME(unordered)(SBITS s) {
    return NAME(real)((BITS)(s ^ (SBITS)((BITS)(s >> (REAL_BITS - 1)) & MAGNITUDE_BITS)));
}

INLINE int NAME(finite)(REAL x) { return NAME(magnitude)(x) < INFINITY_BITS; }

/* Number i of a payload's section, at any address. */
INLINE REAL NAME(load)(const uint8_t *section, int64_t i) {
    REAL x;
    memcpy(&x, section + i * (int64_t)sizeof x, sizeof x);
    return x;
}

INLINE void NAME(store)(uint8_t *section, int64_t i, REAL x) { memcpy(section + i * (int64_t)sizeof x, &x, sizeof x); }

/* v = vector + residual, kept in the residual's memory; the vector itself without error feedback. */
INLINE const REAL *NAME(compensated)(const REAL *vector, REAL *residual, int64_t start, int64_t n) {
    const REAL *x = vector + start;
    if (!residual) {
        prefetch(x, n * (int64_t)sizeof(REAL));
        return x;
    }
    REAL *v = residual + start;
    for (int64_t i = 0; i < n; i++)
        v[i] = x[i] + v[i];
    return v;
}

#define V_(i) (residual ? x[i] + residual[i] : x[i])

/* -- statistics of a block; v = vector + residual is computed on the way */

#define X_(i) NAME(absolute)(v[i])
static REAL NAME(sum_run)(const REAL *v, int64_t n) {
    REAL w[RUN];
    int64_t width = padded_width(n);
    if (width == n && width >= 64) {
        int64_t q = width / 8;
        FOLD8(X_, q, w)
        width = q;
    } else {
        for (int64_t i = 0; i < n; i++)
            w[i] = X_(i);
        memset(w + n, 0, (size_t)(width - n) * sizeof(REAL));
    }
    return NAME(fold)(w, width);
}
#undef X_

#define X_(i) ((double)v[i] * (double)v[i])
static double NAME(sum_squares_run)(const REAL *v, int64_t n) {
    double w[RUN];
    int64_t width = padded_width(n);
    if (width == n && width >= 64) {
        int64_t q = width / 8;
        FOLD8(X_, q, w)
        width = q;
    } else {
        for (int64_t i = 0; i < n; i++)
            w[i] = X_(i);
        memset(w + n, 0, (size_t)(width - n) * sizeof(double));
    }
    return fold_f64(w, width);
}
#undef X_

/* ‖v‖₁ of n numbers from `start` on. */
static REAL NAME(sum)(const REAL *vector, REAL *residual, int64_t start, int64_t n) {
    if (n <= RUN)
        return NAME(sum_run)(NAME(compensated)(vector, residual, start, n), n);
    struct NAME(sums) sums;
    memset(sums.count, 0, sizeof sums.count);
    for (int64_t a = 0; a < n; a += RUN) {
        int64_t m = smaller(RUN, n - a);
        REAL sum = NAME(sum_run)(NAME(compensated)(vector, residual, start + a, m), m);
        NAME(sums_add)(&sums, sum);
    }
    return NAME(sums_total)(&sums);
}

/* ‖v‖₂² of n numbers from `start` on. */
static double NAME(sum_squares)(const REAL *vector, REAL *residual, int64_t start, int64_t n) {
    if (n <= RUN)
        return NAME(sum_squares_run)(NAME(compensated)(vector, residual, start, n), n);
    struct sums_f64 sums;
    memset(sums.count, 0, sizeof sums.count);
    for (int64_t a = 0; a < n; a += RUN) {
        int64_t m = smaller(RUN, n - a);
        sums_add_f64(&sums, NAME(sum_squares_run)(NAME(compensated)(vector, residual, start + a, m), m));
    }
    return sums_total_f64(&sums);
}

/* max |v|, as `magnitude`. */
static BITS NAME(largest)(const REAL *vector, REAL *residual, int64_t start, int64_t n) {
    SBITS top = 0;
    for (int64_t a = 0; a < n; a += RUN) {
        int64_t m = smaller(RUN, n - a);
        const REAL *v = NAME(compensated)(vector, residual, start + a, m);
        for (int64_t i = 0; i < m; i++) {
            SBITS s = (SBITS)NAME(magnitude)(v[i]);
            top = s > top ? s : top;
        }
    }
    return (BITS)top;
}

/* min v and max v into ends[0] and ends[1]; 0 where a number is not finite. */
static int NAME(range)(const REAL *vector, REAL *residual, int64_t start, int64_t n, REAL ends[2]) {
    SBITS low = NAME(ordered)(NAME(real)(INFINITY_BITS)), high = -low - 1;
    for (int64_t a = 0; a < n; a += RUN) {
        int64_t m = smaller(RUN, n - a);
        const REAL *v = NAME(compensated)(vector, residual, start + a, m);
        for (int64_t i = 0; i < m; i++) {
            SBITS s = NAME(ordered)(v[i]);
            low = s < low ? s : low;
            high = s > high ? s : high;
        }
    }
    /* −0 + 0 = 0: which zero is the smaller must not depend on the order of the comparisons. */
    ends[0] = NAME(unordered)(low) + 0;
    ends[1] = NAME(unordered)(high) + 0;
    return NAME(finite)(ends[0]) && NAME(finite)(ends[1]);
}

/* -- identity */

INLINE BITS NAME(copy_as)(const REAL *x, REAL *residual, int64_t d, uint8_t *payload) {
    SBITS top = 0;
    for (int64_t i = 0; i < d; i++) {
        REAL v = V_(i);
        SBITS s = (SBITS)NAME(magnitude)(v);
        top = s > top ? s : top;
        NAME(store)(payload, i, v);
        if (residual)
            residual[i] = 0;
    }
    return (BITS)top;
}

static int NAME(copy_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload) {
    BITS top = residual ? NAME(copy_as)(vector, residual, d, payload) : NAME(copy_as)(vector, NULL, d, payload);
    return top < INFINITY_BITS;
}

static void NAME(copy_decode)(const uint8_t *payload, void *out_, int64_t d, int add, double factor) {
    REAL *out = out_;
    if (!add) {
        memcpy(out, payload, (size_t)d * sizeof(REAL));
        return;
    }
    const REAL times = (REAL)factor;
    for (int64_t i = 0; i < d; i++)
        out[i] += times * NAME(load)(payload, i);
}

/* -- signs */

/* A bit a number, 1 = negative (−0 is not), into ⌈n/8⌉ bytes. */
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

/* residual − (±scale), where the residual holds v. */
static void NAME(subtract_signed)(REAL *residual, int64_t n, REAL scale) {
    for (int64_t i = 0; i < n; i++) {
        REAL v = residual[i];
        residual[i] = v - (v < 0 ? -scale : scale);
    }
}

/* The signs of v and v − (±scale) in one go, from a whole byte of the stream on, where the residual holds v; returns
   how many numbers it did, a multiple of 8. */
static int64_t NAME(sign_block)(REAL *residual, int64_t n, REAL scale, uint8_t *stream) {
    int64_t i = 0;
#if LEVEL == 2 && REAL_BITS == 32
    const __m512 plus = _mm512_set1_ps(scale), minus = _mm512_set1_ps(-scale);
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_loadu_ps(residual + i);
        __mmask16 negative = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ);
        memcpy(stream + i / 8, &negative, 2);
        _mm512_storeu_ps(residual + i, _mm512_sub_ps(v, _mm512_mask_blend_ps(negative, plus, minus)));
    }
#elif LEVEL == 1 && REAL_BITS == 32
    const __m256 plus = _mm256_set1_ps(scale), minus = _mm256_set1_ps(-scale);
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(residual + i);
        __m256 negative = _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_LT_OQ);
        stream[i / 8] = (uint8_t)_mm256_movemask_ps(negative);
        _mm256_storeu_ps(residual + i, _mm256_sub_ps(v, _mm256_blendv_ps(plus, minus, negative)));
    }
#else
    (void)residual, (void)n, (void)scale, (void)stream;
#endif
    return i;
}

static int NAME(signs_encode)(const void *vector_, void *residual_, int64_t d, uint8_t *payload, int64_t block,
                              int l2) {
    const REAL *vector = vector_;
    REAL *residual = residual_;
    if (!d)
        return 1;
    const int64_t length = block_length(d, block), group = group_length(length);
    uint8_t *stream = payload + (d + length - 1) / length * (int64_t)sizeof(REAL);
    const REAL *v = residual ? residual : vector;
    for (int64_t start = 0; start < d; start += group) {
        int64_t stop = smaller(start + group, d), index = start / length;
        for (int64_t a = start; a < stop; a += length, index++) {
            int64_t n = smaller(length, stop - a);
            REAL scale;
            if (l2)
                scale = (REAL)sqrt(NAME(sum_squares)(vector, residual, a, n) / (double)n);
            else
                scale = NAME(sum)(vector, residual, a, n) / (REAL)n;
            if (!NAME(finite)(scale))
                return 0;
            NAME(store)(payload, index, scale);
        }
        int64_t done = start;
        if (residual && length % 8 == 0)
            for (int64_t a = start, b; a < stop && done == a; a = b) {
                b = smaller(a + length, stop);
                done += NAME(sign_block)(residual + a, b - a, NAME(load)(payload, a / length), stream + a / 8);
            }
        for (int64_t s = done; s < stop; s += PIECE) {
            int64_t e = smaller(s + PIECE, stop);
            NAME(pack_signs)(v + s, e - s, stream + s / 8);
            if (!residual)
                continue;
            index = s / length;
            for (int64_t a = s, b; a < e; a = b, index++) {
                b = smaller((index + 1) * length, e);
                NAME(subtract_signed)(residual + a, b - a, NAME(load)(payload, index));
            }
        }
    }
    return 1;
}

/* ±scale from one code a number. */
INLINE void NAME(deliver_signed)(const uint8_t *codes, int64_t n, REAL scale, REAL *out, int add) {
    const BITS bits = NAME(bits)(scale);
    for (int64_t i = 0; i < n; i++) {
        REAL value = NAME(real)(bits ^ (BITS)codes[i] << (REAL_BITS - 1));
        out[i] = add ? out[i] + value : value;
    }
}

/* The same from whole bytes of the stream; returns how many numbers it did, a multiple of 8. */
INLINE int64_t NAME(deliver_bits)(const uint8_t *stream, int64_t n, REAL scale, REAL *out, int add) {
    int64_t i = 0;
#if LEVEL == 2 && REAL_BITS == 32
    const __m512 plus = _mm512_set1_ps(scale), minus = _mm512_set1_ps(-scale);
    for (; i + 16 <= n; i += 16) {
        __mmask16 negative;
        memcpy(&negative, stream + i / 8, 2);
        __m512 value = _mm512_mask_blend_ps(negative, plus, minus);
        _mm512_storeu_ps(out + i, add ? _mm512_add_ps(_mm512_loadu_ps(out + i), value) : value);
    }
#elif LEVEL == 2
    const __m512d plus = _mm512_set1_pd(scale), minus = _mm512_set1_pd(-scale);
    for (; i + 8 <= n; i += 8) {
        __m512d value = _mm512_mask_blend_pd((__mmask8)stream[i / 8], plus, minus);
        _mm512_storeu_pd(out + i, add ? _mm512_add_pd(_mm512_loadu_pd(out + i), value) : value);
    }
#elif LEVEL == 1 && REAL_BITS == 32
    const __m256i shifts = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    const __m256i sign = _mm256_set1_epi32((int)0x80000000u), bits = _mm256_set1_epi32((int)bits_f32(scale));
    for (; i + 8 <= n; i += 8) {
        __m256i negative = _mm256_sllv_epi32(_mm256_set1_epi32(stream[i / 8]), shifts);
        __m256 value = _mm256_castsi256_ps(_mm256_xor_si256(_mm256_and_si256(negative, sign), bits));
        _mm256_storeu_ps(out + i, add ? _mm256_add_ps(_mm256_loadu_ps(out + i), value) : value);
    }
#else
    (void)stream, (void)n, (void)scale, (void)out, (void)add;
#endif
    return i;
}

INLINE void NAME(signs_decode_as)(const uint8_t *payload, REAL *out, int64_t d, int64_t block, int add, REAL factor) {
    const int64_t length = block_length(d, block);
    const uint8_t *stream = payload + (d + length - 1) / length * (int64_t)sizeof(REAL);
    uint8_t codes[PIECE + 8];
    for (int64_t s = 0; s < d; s += PIECE) {
        int64_t e = smaller(s + PIECE, d), index = s / length, unpacked = 0;
        for (int64_t a = s, b; a < e; a = b, index++) {
            b = smaller((index + 1) * length, e);
            /* factor·(±scale) = ±(factor·scale), to the bit. */
            REAL scale = NAME(load)(payload, index) * factor;
            if (a % 8 == 0)
                a += NAME(deliver_bits)(stream + a / 8, b - a, scale, out + a, add);
            if (a == b)
                continue;
            if (!unpacked)
                unpack(stream + s / 8, e - s, 1, codes);
            unpacked = 1;
            NAME(deliver_signed)(codes + (a - s), b - a, scale, out + a, add);
        }
    }
}

static void NAME(signs_decode)(const uint8_t *payload, void *out, int64_t d, int64_t block, int add, double factor) {
    if (!d)
        return;
    if (add)
        NAME(signs_decode_as)(payload, out, d, block, 1, (REAL)factor);
    else
        NAME(signs_decode_as)(payload, out, d, block, 0, 1);
}

/* -- quantization */

/* A uniform number in [0, 1) with 24 bits. */
INLINE REAL NAME(draw)(uint32_t index, uint64_t key) {
    return (REAL)(int32_t)(hash32(index, (uint32_t)key, (uint32_t)(key >> 32)) >> 8) * (REAL)0x1p-24;
}

/* level/levels·norm with its sign, for a code whose highest bit is the sign. */
INLINE REAL NAME(quantize_value)(int32_t level, int32_t negative, REAL levels, REAL norm) {
    REAL value = (REAL)level / levels * norm;
    return NAME(real)(NAME(bits)(value) | (BITS)(uint32_t)negative << (REAL_BITS - 1));
}

INLINE void NAME(quantize_run)(const REAL *v, REAL *residual, int64_t n, uint32_t index, int bits, REAL norm,
                               uint64_t key, uint8_t *codes) {
    const REAL levels = (REAL)((1 << (bits - 1)) - 1), divisor = norm > 0 ? norm : 1;
    for (int64_t i = 0; i < n; i++) {
        REAL x = v[i];
        REAL level = NAME(absolute)(x) / divisor * levels;
        /* A float64 square can underflow, so that its norm falls short of the number. */
        level = level < levels ? level : levels;
        int32_t code = (int32_t)level;
        code += NAME(draw)(index + (uint32_t)i, key) < level - (REAL)code;
        int32_t negative = x < 0;
        codes[i] = (uint8_t)(code | negative << (bits - 1));
        if (residual)
            residual[i] = x - NAME(quantize_value)(code, negative, levels, norm);
    }
}

static int NAME(quantize_encode)(const void *vector_, void *residual_, int64_t d, uint8_t *payload, int bits,
                                 int64_t bucket, int l2, uint64_t key) {
    const REAL *vector = vector_;
    REAL *residual = residual_;
    if (!d)
        return 1;
    const int64_t length = block_length(d, bucket), group = group_length(length);
    uint8_t *stream = payload + (d + length - 1) / length * (int64_t)sizeof(REAL);
    const REAL *v = residual ? residual : vector;
    uint8_t codes[PIECE + 8];
    for (int64_t start = 0; start < d; start += group) {
        int64_t stop = smaller(start + group, d), index = start / length;
        for (int64_t a = start; a < stop; a += length, index++) {
            int64_t n = smaller(length, stop - a);
            REAL norm;
            if (l2)
                norm = (REAL)sqrt(NAME(sum_squares)(vector, residual, a, n));
            else
                norm = NAME(real)(NAME(largest)(vector, residual, a, n));
            if (!NAME(finite)(norm))
                return 0;
            NAME(store)(payload, index, norm);
        }
        for (int64_t s = start; s < stop; s += PIECE) {
            int64_t e = smaller(s + PIECE, stop);
            index = s / length;
            for (int64_t a = s, b; a < e; a = b, index++) {
                b = smaller((index + 1) * length, e);
                REAL norm = NAME(load)(payload, index);
                if (residual)
                    NAME(quantize_run)(v + a, residual + a, b - a, (uint32_t)a, bits, norm, key, codes + (a - s));
                else
                    NAME(quantize_run)(v + a, NULL, b - a, (uint32_t)a, bits, norm, key, codes + (a - s));
            }
            pack(codes, e - s, bits, stream + s * bits / 8);
        }
    }
    return 1;
}

INLINE void NAME(quantize_deliver)(const uint8_t *codes, int64_t n, int bits, REAL norm, REAL *out, int add,
                                  REAL factor) {
    const int32_t half = 1 << (bits - 1);
    const REAL levels = (REAL)(half - 1);
    for (int64_t i = 0; i < n; i++) {
        REAL value = NAME(quantize_value)(codes[i] & (half - 1), codes[i] >> (bits - 1), levels, norm);
        out[i] = add ? out[i] + factor * value : value;
    }
}

static void NAME(quantize_decode)(const uint8_t *payload, void *out_, int64_t d, int bits, int64_t bucket, int add,
                                  double factor) {
    REAL *out = out_;
    if (!d)
        return;
    const int64_t length = block_length(d, bucket);
    const uint8_t *stream = payload + (d + length - 1) / length * (int64_t)sizeof(REAL);
    uint8_t codes[PIECE + 8];
    for (int64_t s = 0; s < d; s += PIECE) {
        int64_t e = smaller(s + PIECE, d), index = s / length;
        unpack(stream + s * bits / 8, e - s, bits, codes);
        for (int64_t a = s, b; a < e; a = b, index++) {
            b = smaller((index + 1) * length, e);
            REAL norm = NAME(load)(payload, index);
            if (add)
                NAME(quantize_deliver)(codes + (a - s), b - a, bits, norm, out + a, 1, (REAL)factor);
            else
                NAME(quantize_deliver)(codes + (a - s), b - a, bits, norm, out + a, 0, 1);
        }
    }
}

INLINE void NAME(uniform_run)(const REAL *v, REAL *residual, int64_t n, uint32_t index, int bits, REAL low, REAL span,
                              uint64_t key, uint8_t *codes) {
    const REAL levels = (REAL)((1 << bits) - 1), divisor = span > 0 ? span : 1;
    for (int64_t i = 0; i < n; i++) {
        REAL x = v[i];
        REAL level = (x - low) / divisor * levels;
        int32_t code = (int32_t)level;
        code += NAME(draw)(index + (uint32_t)i, key) < level - (REAL)code;
        codes[i] = (uint8_t)code;
        if (residual)
            residual[i] = x - ((REAL)code / levels * span + low);
    }
}

static int NAME(uniform_encode)(const void *vector_, void *residual_, int64_t d, uint8_t *payload, int bits,
                                int64_t bucket, uint64_t key) {
    const REAL *vector = vector_;
    REAL *residual = residual_;
    if (!d)
        return 1;
    const int64_t length = block_length(d, bucket), group = group_length(length);
    uint8_t *stream = payload + 2 * ((d + length - 1) / length) * (int64_t)sizeof(REAL);
    const REAL *v = residual ? residual : vector;
    uint8_t codes[PIECE + 8];
    for (int64_t start = 0; start < d; start += group) {
        int64_t stop = smaller(start + group, d), index = start / length;
        for (int64_t a = start; a < stop; a += length, index++) {
            REAL ends[2];
            if (!NAME(range)(vector, residual, a, smaller(length, stop - a), ends) || !NAME(finite)(ends[1] - ends[0]))
                return 0;
            NAME(store)(payload, 2 * index, ends[0]);
            NAME(store)(payload, 2 * index + 1, ends[1]);
        }
        for (int64_t s = start; s < stop; s += PIECE) {
            int64_t e = smaller(s + PIECE, stop);
            index = s / length;
            for (int64_t a = s, b; a < e; a = b, index++) {
                b = smaller((index + 1) * length, e);
                REAL low = NAME(load)(payload, 2 * index), span = NAME(load)(payload, 2 * index + 1) - low;
                if (residual)
                    NAME(uniform_run)(v + a, residual + a, b - a, (uint32_t)a, bits, low, span, key, codes + (a - s));
                else
                    NAME(uniform_run)(v + a, NULL, b - a, (uint32_t)a, bits, low, span, key, codes + (a - s));
            }
            pack(codes, e - s, bits, stream + s * bits / 8);
        }
    }
    return 1;
}

INLINE void NAME(uniform_deliver)(const uint8_t *codes, int64_t n, int bits, REAL low, REAL span, REAL *out, int add,
                                 REAL factor) {
    const REAL levels = (REAL)((1 << bits) - 1);
    for (int64_t i = 0; i < n; i++) {
        REAL value = (REAL)(int32_t)codes[i] / levels * span + low;
        out[i] = add ? out[i] + factor * value : value;
    }
}

static void NAME(uniform_decode)(const uint8_t *payload, void *out_, int64_t d, int bits, int64_t bucket, int add,
                                 double factor) {
    REAL *out = out_;
    if (!d)
        return;
    const int64_t length = block_length(d, bucket);
    const uint8_t *stream = payload + 2 * ((d + length - 1) / length) * (int64_t)sizeof(REAL);
    uint8_t codes[PIECE + 8];
    for (int64_t s = 0; s < d; s += PIECE) {
        int64_t e = smaller(s + PIECE, d), index = s / length;
        unpack(stream + s * bits / 8, e - s, bits, codes);
        for (int64_t a = s, b; a < e; a = b, index++) {
            b = smaller((index + 1) * length, e);
            REAL low = NAME(load)(payload, 2 * index), span = NAME(load)(payload, 2 * index + 1) - low;
            if (add)
                NAME(uniform_deliver)(codes + (a - s), b - a, bits, low, span, out + a, 1, (REAL)factor);
            else
                NAME(uniform_deliver)(codes + (a - s), b - a, bits, low, span, out + a, 0, 1);
        }
    }
}

/* -- sparsification */

/* The rank-th largest magnitude of v (rank ≥ 1), by histograms of 11 bits at a time from the top; `ties` becomes how
   many of the numbers equal to it are among the `rank` largest. */
static BITS NAME(select)(const REAL *v, int64_t n, int64_t rank, int64_t *ties) {
    BITS prefix = 0, mask = 0;
    for (int shift = REAL_BITS - 1; shift > 0;) {
        int width = shift < 11 ? shift : 11;
        uint32_t histogram[1 << 11];
        memset(histogram, 0, sizeof histogram);
        shift -= width;
        for (int64_t i = 0; i < n; i++) {
            BITS magnitude = NAME(magnitude)(v[i]);
            if ((magnitude & mask) == prefix)
                histogram[(magnitude >> shift) & ((1u << width) - 1)]++;
        }
        int bin = (1 << width) - 1;
        while (histogram[bin] < rank)
            rank -= histogram[bin--];
        prefix |= (BITS)bin << shift;
        mask |= (BITS)((1u << width) - 1) << shift;
    }
    *ties = rank;
    return prefix;
}

/* Bit i: |v[i]| ≥ threshold, of n ≤ 64 numbers. */
INLINE uint64_t NAME(reaching)(const REAL *v, int64_t n, BITS threshold) {
    uint64_t found = 0;
    int64_t i = 0;
#if LEVEL == 2 && REAL_BITS == 32
    const __m512i least = _mm512_set1_epi32((int)threshold), mask = _mm512_set1_epi32(0x7fffffff);
    for (; i + 16 <= n; i += 16) {
        __m512i magnitude = _mm512_and_si512(_mm512_loadu_si512(v + i), mask);
        found |= (uint64_t)_mm512_cmpge_epi32_mask(magnitude, least) << i;
    }
#elif LEVEL == 2
    const __m512i least = _mm512_set1_epi64((long long)threshold), mask = _mm512_set1_epi64(0x7fffffffffffffff);
    for (; i + 8 <= n; i += 8) {
        __m512i magnitude = _mm512_and_si512(_mm512_loadu_si512(v + i), mask);
        found |= (uint64_t)_mm512_cmpge_epi64_mask(magnitude, least) << i;
    }
#elif LEVEL == 1 && REAL_BITS == 32
    const __m256i below = _mm256_set1_epi32((int)threshold - 1), mask = _mm256_set1_epi32(0x7fffffff);
    for (; i + 8 <= n; i += 8) {
        __m256i magnitude = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(v + i)), mask);
        __m256 above = _mm256_castsi256_ps(_mm256_cmpgt_epi32(magnitude, below));
        found |= (uint64_t)(uint32_t)_mm256_movemask_ps(above) << i;
    }
#endif
    for (; i < n; i++)
        found |= (uint64_t)(NAME(magnitude)(v[i]) >= threshold) << i;
    return found;
}

/* Writes the numbers above `threshold` and the first `ties` equal to it, k in all; 0 where one is not finite. */
static int NAME(topk_collect)(const REAL *v, REAL *residual, int64_t d, BITS threshold, int64_t ties, uint8_t *values,
                              uint8_t *indices) {
    int64_t written = 0;
    for (int64_t a = 0; a < d; a += 64)
        for (uint64_t found = NAME(reaching)(v + a, smaller(64, d - a), threshold); found; found &= found - 1) {
            int64_t i = a + __builtin_ctzll(found);
            REAL value = v[i];
            BITS magnitude = NAME(magnitude)(value);
            if (magnitude == threshold && --ties < 0)
                continue;
            if (magnitude >= INFINITY_BITS)
                return 0;
            int32_t index = (int32_t)i;
            memcpy(indices + 4 * written, &index, 4);
            NAME(store)(values, written++, value);
            if (residual)
                residual[i] = 0;
        }
    return 1;
}

/* A magnitude that somewhat more than k numbers can be expected to reach, from a sample; 0: not worth it. */
static BITS NAME(topk_guess)(const REAL *vector, const REAL *residual, int64_t d, int64_t k, int64_t capacity) {
    REAL sample[4096];
    int64_t size = smaller(d / 256, 4096), ties;
    if (d < 1 << 15 || k > d / 16 || capacity < 2 * k)
        return 0;
    /* Places are jittered, so that a period in the vector cannot hide from the sample. */
    for (int64_t i = 0, stride = d / size; i < size; i++) {
        int64_t place = i * stride + hash32((uint32_t)i, 0, 0) % stride;
        sample[i] = residual ? vector[place] + residual[place] : vector[place];
    }
    double expected = (double)size * (double)k / (double)d;
    return NAME(select)(sample, size, (int64_t)(expected + 4 * sqrt(expected)) + 4, &ties);
}

static int NAME(topk_encode)(const void *vector_, void *residual_, int64_t d, uint8_t *payload, int64_t k,
                             void *scratch, int64_t capacity) {
    const REAL *vector = vector_;
    REAL *residual = residual_;
    uint8_t *indices = payload + k * (int64_t)sizeof(REAL);
    if (!k)
        return 1;
    /* Most numbers are out at a glance: those that reach a guessed threshold are kept aside in the one pass over the
       vector, and selected from. If they turn out to be fewer than k, or too many, the whole vector is searched. */
    REAL *candidates = scratch;
    int32_t *places = (int32_t *)(candidates + capacity);
    int64_t count = 0, ties;
    const BITS guess = NAME(topk_guess)(vector, residual, d, k, capacity);
    int guessing = guess > 0;
    for (int64_t start = 0; start < d && (guessing || residual); start += PIECE) {
        int64_t n = smaller(PIECE, d - start);
        const REAL *v = NAME(compensated)(vector, residual, start, n);
        for (int64_t a = 0; a < n && guessing; a += 64) {
            uint64_t found = NAME(reaching)(v + a, smaller(64, n - a), guess);
            if (count + 64 > capacity)
                guessing = 0;
            else
                for (; found; found &= found - 1, count++) {
                    int64_t i = a + __builtin_ctzll(found);
                    candidates[count] = v[i];
                    places[count] = (int32_t)(start + i);
                }
        }
    }
    const REAL *v = residual ? residual : vector;
    if (!guessing || count < k) {
        BITS threshold = NAME(select)(v, d, k, &ties);
        return NAME(topk_collect)(v, residual, d, threshold, ties, payload, indices);
    }
    const BITS threshold = NAME(select)(candidates, count, k, &ties);
    for (int64_t c = 0, written = 0; c < count; c++) {
        BITS magnitude = NAME(magnitude)(candidates[c]);
        if (magnitude < threshold || (magnitude == threshold && --ties < 0))
            continue;
        if (magnitude >= INFINITY_BITS)
            return 0;
        memcpy(indices + 4 * written, &places[c], 4);
        NAME(store)(payload, written++, candidates[c]);
        if (residual)
            residual[places[c]] = 0;
    }
    return 1;
}

static int NAME(topk_decode)(const uint8_t *payload, void *out_, int64_t d, int64_t k, int add, double factor) {
    REAL *out = out_;
    const uint8_t *indices = payload + k * (int64_t)sizeof(REAL);
    if (!add)
        memset(out, 0, (size_t)d * sizeof(REAL));
    for (int64_t j = 0; j < k; j++) {
        uint32_t i;
        memcpy(&i, indices + 4 * j, 4);
        if (i >= d)
            return 0;
        REAL value = NAME(load)(payload, j);
        out[i] = add ? out[i] + (REAL)factor * value : value;
    }
    return 1;
}

static int NAME(randomk_encode)(const void *vector_, void *residual_, int64_t d, uint8_t *payload, int64_t k,
                                uint64_t key, int unbiased) {
    const REAL *vector = vector_;
    REAL *residual = residual_;
    const REAL factor = unbiased ? (REAL)((double)d / (double)k) : 1;
    memcpy(payload, &key, 8);
    if (NAME(largest)(vector, residual, 0, d) >= INFINITY_BITS)
        return 0;
    const REAL *v = residual ? residual : vector;
    uint32_t positions[RUN];
    struct feistel feistel;
    feistel_init(&feistel, key, d);
    for (int64_t first = 0; first < k; first += RUN) {
        int64_t n = smaller(RUN, k - first);
        random_positions(&feistel, first, n, d, positions);
        for (int64_t j = 0; j < n; j++) {
            /* Times 1 changes no finite number. */
            REAL value = v[positions[j]] * factor;
            if (!NAME(finite)(value))
                return 0;
            NAME(store)(payload + 8, first + j, value);
            if (residual)
                residual[positions[j]] -= value;
        }
    }
    return 1;
}

static void NAME(randomk_decode)(const uint8_t *payload, void *out_, int64_t d, int64_t k, int add, double factor) {
    REAL *out = out_;
    uint64_t key;
    uint32_t positions[RUN];
    struct feistel feistel;
    memcpy(&key, payload, 8);
    feistel_init(&feistel, key, d);
    if (!add)
        memset(out, 0, (size_t)d * sizeof(REAL));
    for (int64_t first = 0; first < k; first += RUN) {
        int64_t n = smaller(RUN, k - first);
        random_positions(&feistel, first, n, d, positions);
        for (int64_t j = 0; j < n; j++) {
            REAL value = NAME(load)(payload + 8, first + j);
            out[positions[j]] = add ? out[positions[j]] + (REAL)factor * value : value;
        }
    }
}

/* -- float formats */

/* The top bits of n numbers as whole numbers; returns the largest magnitude met, as that of a float32. */
INLINE int32_t NAME(clip_piece)(const REAL *x, REAL *residual, int64_t n, int drop, uint32_t *words) {
    int32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        REAL v = V_(i);
        uint32_t word = bits_f32((float)v);
        int32_t magnitude = (int32_t)(word & 0x7fffffffu);
        top = magnitude > top ? magnitude : top;
        words[i] = word >> drop;
        if (residual)
            residual[i] = v - (REAL)real_f32(word >> drop << drop);
    }
    return top;
}

static int NAME(clip_encode)(const void *vector_, void *residual_, int64_t d, uint8_t *payload, int bits) {
    const REAL *vector = vector_;
    REAL *residual = residual_;
    uint32_t words[PIECE];
    for (int64_t a = 0; a < d; a += PIECE) {
        int64_t n = smaller(PIECE, d - a);
        int32_t top = residual ? NAME(clip_piece)(vector + a, residual + a, n, 32 - bits, words)
                               : NAME(clip_piece)(vector + a, NULL, n, 32 - bits, words);
        if (top >= 0x7f800000)
            return 0;
        pack_words(words, n, bits, payload + a * bits / 8);
    }
    return 1;
}

static void NAME(clip_decode)(const uint8_t *payload, void *out_, int64_t d, int bits, int add, double factor) {
    REAL *out = out_;
    const int drop = 32 - bits;
    uint32_t words[PIECE];
    for (int64_t a = 0; a < d; a += PIECE) {
        int64_t n = smaller(PIECE, d - a);
        unpack_words(payload + a * bits / 8, n, bits, words);
        if (add)
            for (int64_t i = 0; i < n; i++)
                out[a + i] += (REAL)factor * (REAL)real_f32(words[i] << drop);
        else
            for (int64_t i = 0; i < n; i++)
                out[a + i] = (REAL)real_f32(words[i] << drop);
    }
}

/* n numbers as 16-bit codes; 0 where one is not finite, or rounds to infinity. */
INLINE int NAME(bfloat_piece)(const REAL *x, REAL *residual, int64_t n, uint16_t *codes) {
    int32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        REAL v = V_(i);
        uint32_t word = bits_f32((float)v), code = (word + ((word >> 16) & 1u) + 0x7fffu) >> 16;
        int32_t magnitude = (int32_t)(word & 0x7fffffffu);
        top = magnitude > top ? magnitude : top;
        codes[i] = (uint16_t)code;
        if (residual)
            residual[i] = v - (REAL)real_f32(code << 16);
    }
    /* From here on a number rounds to infinity. */
    return top < 0x7f7f8000;
}

INLINE int NAME(half_piece)(const REAL *x, REAL *residual, int64_t n, uint16_t *codes) {
    int64_t i = 0;
    int32_t top = 0;
#if LEVEL >= 1 && REAL_BITS == 32
    __m128i largest = _mm_setzero_si128();
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        if (residual)
            v = _mm256_add_ps(v, _mm256_loadu_ps(residual + i));
        __m128i code = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(codes + i), code);
        largest = _mm_max_epi16(largest, _mm_and_si128(code, _mm_set1_epi16(0x7fff)));
        if (residual)
            _mm256_storeu_ps(residual + i, _mm256_sub_ps(v, _mm256_cvtph_ps(code)));
    }
    if (_mm_movemask_epi8(_mm_cmpgt_epi16(largest, _mm_set1_epi16(0x7bff))))
        return 0;
#endif
    for (; i < n; i++) {
        REAL v = V_(i);
#if REAL_BITS == 32
        uint32_t code = half_of_f32(v);
#else
        uint32_t code = half_of_f64(v);
#endif
        int32_t magnitude = (int32_t)(code & 0x7fffu);
        top = magnitude > top ? magnitude : top;
        codes[i] = (uint16_t)code;
        if (residual)
            residual[i] = v - (REAL)value_of_half(code);
    }
    return top < 0x7c00;
}

INLINE int NAME(to_half)(const REAL *x, REAL *residual, int64_t n, int bfloat, uint16_t *codes) {
    return bfloat ? NAME(bfloat_piece)(x, residual, n, codes) : NAME(half_piece)(x, residual, n, codes);
}

static void NAME(from_half)(const uint16_t *codes, int64_t n, int bfloat, float *values) {
    if (bfloat) {
        for (int64_t i = 0; i < n; i++)
            values[i] = real_f32((uint32_t)codes[i] << 16);
        return;
    }
    int64_t i = 0;
#if LEVEL >= 1
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(codes + i))));
#endif
    for (; i < n; i++)
        values[i] = value_of_half(codes[i]);
}

static int NAME(half_encode)(const void *vector_, void *residual_, int64_t d, uint8_t *payload, int bfloat) {
    const REAL *vector = vector_;
    REAL *residual = residual_;
    uint16_t codes[PIECE];
    for (int64_t a = 0; a < d; a += PIECE) {
        int64_t n = smaller(PIECE, d - a);
        int good = residual ? NAME(to_half)(vector + a, residual + a, n, bfloat, codes)
                            : NAME(to_half)(vector + a, NULL, n, bfloat, codes);
        if (!good)
            return 0;
        memcpy(payload + 2 * a, codes, (size_t)n * 2);
    }
    return 1;
}

static void NAME(half_decode)(const uint8_t *payload, void *out_, int64_t d, int bfloat, int add, double factor) {
    REAL *out = out_;
    uint16_t codes[PIECE];
    float values[PIECE];
    for (int64_t a = 0; a < d; a += PIECE) {
        int64_t n = smaller(PIECE, d - a);
        memcpy(codes, payload + 2 * a, (size_t)n * 2);
        NAME(from_half)(codes, n, bfloat, values);
        if (add)
            for (int64_t i = 0; i < n; i++)
                out[a + i] += (REAL)factor * (REAL)values[i];
        else
            for (int64_t i = 0; i < n; i++)
                out[a + i] = (REAL)values[i];
    }
}

#undef V_
#undef MAGNITUDE_BITS
