/* quantize and uniform: a few bits per element, rounded at random, between the ends that a block's scales give. */

/* code/levels for code = 0 … levels ≤ 255, rounded as the division would be: high has 8 bits less than a REAL, so that
   code·high is exact, and code·low is so small that its own rounding never tips that of the sum. */
struct NAME(fraction) {
    REAL levels, high, low;
};

INLINE struct NAME(fraction) NAME(fraction_of)(int levels) {
    struct NAME(fraction) f = {.levels = (REAL)levels};
    f.high = NAME(real)(NAME(bits)(1 / f.levels) & ~(BITS)0xff);
    f.low = (1 - f.levels * f.high) / f.levels;
    return f;
}

INLINE NAME(vec) NAME(fraction_at)(struct NAME(fraction) f, NAME(words) code) {
    NAME(vec) level = NAME(convert)(code);
    return NAME(exact_product_add)(level, NAME(splat)(f.high), level * NAME(splat)(f.low));
}

enum NAME(code) { NAME(QUANTIZE), NAME(UNIFORM) };

/* ⌊level⌋, or one more with the fractional part as probability, for levels that are `scaled` by 2^FIRST_BITS. Levels
   are below 256, so that as fixed-point numbers they fit into 31 bits. The first FIRST_BITS bits of a draw decide,
   unless the fractional part begins with the same: `equal` remembers that. */
INLINE NAME(words) NAME(round_stochastically)(NAME(vec) scaled, NAME(words) not_hashes, NAME(words) *equal) {
    NAME(words) sum = NAME(truncate)(scaled) + (not_hashes >> (32 - FIRST_BITS));
    *equal = NAME(note_ones)(*equal, sum);
    return sum >> FIRST_BITS;
}

/* A block's scales: its norm, or its lower end and span; and what all blocks share. */
struct NAME(scale) {
    REAL norm, low, divisor;
    struct NAME(fraction) fraction;
    uint32_t sign; /* the bit of a quantize code that is the sign */
    uint64_t key;
    NAME(vec) values; /* of codes 0, 1, …, where LANES are enough of them */
};

INLINE NAME(vec) NAME(quantize_value)(NAME(words) level, NAME(mask) negative, struct NAME(scale) s) {
    return NAME(negate_where)(NAME(fraction_at)(s.fraction, level) * NAME(splat)(s.norm), negative);
}

INLINE NAME(vec) NAME(uniform_value)(NAME(words) code, struct NAME(scale) s) {
    return NAME(fraction_at)(s.fraction, code) * NAME(splat)(s.norm) + NAME(splat)(s.low);
}

/* The codes of LANES elements, and the values that these stand for; `tabled` if s.values has them. */
INLINE NAME(words) NAME(encode_lanes)(enum NAME(code) kind, int tabled, NAME(vec) x, NAME(words) not_hashes,
                                      struct NAME(scale) s, NAME(vec) *values, NAME(words) *equal) {
    const NAME(vec) levels = NAME(splat)(s.fraction.levels * (REAL)(1 << FIRST_BITS)), divisor = NAME(splat)(s.divisor);
    NAME(words) code;
    if (kind == NAME(UNIFORM)) {
        code = NAME(round_stochastically)((x - NAME(splat)(s.low)) / divisor * levels, not_hashes, equal);
        *values = tabled ? NAME(look_up)(s.values, code) : NAME(uniform_value)(code, s);
        return code;
    }
    NAME(vec) scaled = NAME(absolutes)(x) / divisor * levels;
    /* Squares are added in float64. Those of float64 can underflow, so that the norm is smaller than the element. */
    if (REAL_BITS == 64)
        scaled = NAME(lesser)(scaled, levels);
    const NAME(words) level = NAME(round_stochastically)(scaled, not_hashes, equal);
    const NAME(mask) negative = NAME(less)(x, NAME(splat)(0));
    code = NAME(set_where)(level, negative, s.sign);
    *values = tabled ? NAME(look_up)(s.values, code) : NAME(quantize_value)(level, negative, s);
    return code;
}

/* The bits of u of random.py that splitmix64 makes from `state` are below `rest`, as a binary fraction. */
INLINE int NAME(rest_is_below)(REAL rest, uint64_t state) {
    while (rest > 0) {
        rest *= (REAL)0x1p64;
        state = splitmix64(state);
        const uint64_t bits = (uint64_t)rest;
        if (bits != state)
            return state < bits;
        rest -= (REAL)bits;
    }
    return 0;
}

/* The code of one element, by as many bits of u as it takes. */
INLINE uint32_t NAME(encode_one)(enum NAME(code) kind, REAL x, uint32_t index, struct NAME(scale) s) {
    REAL level = (kind == NAME(UNIFORM) ? x - s.low : NAME(absolute)(x)) / s.divisor * s.fraction.levels;
    if (kind == NAME(QUANTIZE) && level > s.fraction.levels)
        level = s.fraction.levels;
    const REAL scaled = level * (REAL)(1 << FIRST_BITS);
    const uint32_t hash = hash32(index, (uint32_t)s.key, (uint32_t)(s.key >> 32));
    const uint32_t fixed = (uint32_t)scaled, sum = fixed + (~hash >> (32 - FIRST_BITS));
    uint32_t code = sum >> FIRST_BITS;
    if (!(~sum << (32 - FIRST_BITS)))
        code += NAME(rest_is_below)(scaled - (REAL)fixed, s.key ^ index);
    return kind == NAME(QUANTIZE) && x < 0 ? code | s.sign : code;
}

INLINE struct NAME(scale) NAME(scale_of)(enum NAME(code) kind, int bits, uint64_t key) {
    struct NAME(scale) s = {.fraction = NAME(fraction_of)((1 << (kind == NAME(UNIFORM) ? bits : bits - 1)) - 1)};
    s.sign = 1u << (bits - 1);
    s.key = key;
    return s;
}

/* The scale of block `index`, as the payload has it. */
INLINE struct NAME(scale) NAME(scale_at)(enum NAME(code) kind, struct NAME(scale) s, const uint8_t *scales,
                                         int64_t index) {
    if (kind == NAME(UNIFORM)) {
        s.low = NAME(load)(scales, 2 * index);
        s.norm = NAME(load)(scales, 2 * index + 1) - s.low;
    } else {
        s.norm = NAME(load)(scales, index);
    }
    s.divisor = s.norm > 0 ? s.norm : 1;
    return s;
}

INLINE NAME(vec) NAME(decode_lanes)(enum NAME(code) kind, NAME(words) code, struct NAME(scale) s) {
    if (kind == NAME(UNIFORM))
        return NAME(uniform_value)(code, s);
    return NAME(quantize_value)(code & (s.sign - 1), NAME(bit_set)(code, s.sign), s);
}

INLINE void NAME(deliver_run)(enum NAME(code) kind, const uint8_t *codes, int64_t n, struct NAME(scale) s, REAL *out,
                              int add, REAL factor) {
    const NAME(vec) times = NAME(splat)(factor);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        NAME(vec) value = NAME(decode_lanes)(kind, NAME(get_bytes)(codes + i), s);
        if (add)
            value = NAME(get)(out + i) + times * value;
        NAME(put)(out + i, value);
    }
    if (i < n) {
        REAL few[LANES];
        uint8_t few_codes[LANES] = {0};
        memcpy(few_codes, codes + i, (size_t)(n - i));
        NAME(put)(few, NAME(decode_lanes)(kind, NAME(get_bytes)(few_codes), s));
        for (int64_t j = 0; i < n; i++, j++)
            out[i] = add ? out[i] + factor * few[j] : few[j];
    }
}

/* Rare: one of 2^FIRST_BITS elements asks for it. */
static __attribute__((noinline, cold)) void NAME(encode_exactly)(enum NAME(code) kind, const REAL *v, REAL *residual,
                                                                 int64_t n, int64_t index, struct NAME(scale) s,
                                                                 uint8_t *codes) {
    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint8_t)NAME(encode_one)(kind, v[i], (uint32_t)(index + i), s);
    if (residual) {
        memcpy(residual, v, (size_t)n * sizeof(REAL));
        NAME(deliver_run)(kind, codes, n, s, residual, 1, -1);
    }
}

/* The codes of n elements, `index` the first one's, a byte each; and what they leave of v, if there is a residual. */
INLINE void NAME(encode_run)(enum NAME(code) kind, int tabled, const REAL *v, const REAL *ahead, REAL *residual,
                             int64_t n, int64_t index, struct NAME(scale) s, struct draws *draws, uint8_t *codes) {
    NAME(words) equal = {0};
    NAME(vec) values;
    if (tabled)
        s.values = NAME(decode_lanes)(kind, NAME(lane_indices)(), s);
    for (int64_t i = 0, m; i < n; i += m) {
        /* Random numbers are drawn LANES at a time, from a multiple of LANES on. */
        const int64_t place = (uint32_t)(index + i) % TILE, skip = place % LANES;
        const struct draws_at at = draws_from(draws, (uint32_t)(index + i));
        m = smaller(n - i, TILE - place);
        if (!skip && m >= LANES) {
            m -= m % LANES;
            for (int64_t j = i, end = i + m; j < end; j += LANES) {
                NAME(vec) x = NAME(get)(v + j);
                NAME(fetch)(ahead + j, residual ? residual + j + TILE : NULL);
                NAME(words) not_hashes = NAME(not_hashes)(at, place + j - i);
                NAME(put_bytes)(codes + j, NAME(encode_lanes)(kind, tabled, x, not_hashes, s, &values, &equal));
                if (residual)
                    NAME(put)(residual + j, x - values);
            }
        } else {
            REAL few[LANES] = {0}, left[LANES];
            uint8_t few_codes[LANES];
            m = smaller(LANES - skip, n - i);
            memcpy(few + skip, v + i, (size_t)m * sizeof(REAL));
            NAME(vec) x = NAME(get)(few);
            NAME(words) not_hashes = NAME(not_hashes)(at, place - skip);
            NAME(put_bytes)(few_codes, NAME(encode_lanes)(kind, tabled, x, not_hashes, s, &values, &equal));
            memcpy(codes + i, few_codes + skip, (size_t)m);
            NAME(put)(left, x - values);
            if (residual)
                memcpy(residual + i, left + skip, (size_t)m * sizeof(REAL));
        }
    }
    if (__builtin_expect(NAME(noted)(equal), 0))
        NAME(encode_exactly)(kind, v, residual, n, index, s, codes);
}

INLINE void NAME(encode_tile)(enum NAME(code) kind, const struct NAME(blocks) *b, const REAL *v, const REAL *ahead,
                              int64_t start, int64_t stop, struct draws *draws) {
    const struct NAME(scale) shared = NAME(scale_of)(kind, b->bits, b->key);
    uint8_t few[TILE + 8], *codes = b->bits == 8 ? b->stream + start : few;
    int64_t index = start / b->length;
    for (int64_t a = start, end; a < stop; a = end, index++) {
        end = smaller((index + 1) * b->length, stop);
        const struct NAME(scale) scale = NAME(scale_at)(kind, shared, b->scales, index);
        const REAL *run = v + (a - start), *next = ahead + (a - start);
        REAL *residual = b->residual ? b->residual + a : NULL;
        uint8_t *run_codes = codes + (a - start);
        if (!residual)
            NAME(encode_run)(kind, 0, run, next, NULL, end - a, a, scale, draws, run_codes);
        else if (1 << b->bits <= LANES)
            NAME(encode_run)(kind, 1, run, next, residual, end - a, a, scale, draws, run_codes);
        else
            NAME(encode_run)(kind, 0, run, next, residual, end - a, a, scale, draws, run_codes);
    }
    if (b->bits < 8)
        pack(codes, stop - start, b->bits, b->stream + start * b->bits / 8);
}

static void NAME(quantize_tile)(const struct NAME(blocks) *b, const REAL *v, const REAL *ahead, int64_t start,
                                int64_t stop, struct draws *draws) {
    NAME(encode_tile)(NAME(QUANTIZE), b, v, ahead, start, stop, draws);
}

static void NAME(uniform_tile)(const struct NAME(blocks) *b, const REAL *v, const REAL *ahead, int64_t start,
                               int64_t stop, struct draws *draws) {
    NAME(encode_tile)(NAME(UNIFORM), b, v, ahead, start, stop, draws);
}

static int NAME(quantize_measure)(const struct NAME(blocks) *b, const REAL *x, REAL *residual, REAL *sum,
                                  int64_t start, int64_t stop) {
    for (int64_t a = start, at = 0; a < stop; a += b->length, at += b->length) {
        const int64_t n = smaller(b->length, stop - a);
        REAL norm;
        if (!b->l2) {
            norm = NAME(real)(residual ? NAME(largest)(x + at, residual + at, sum + at, n)
                                       : NAME(largest)(x + at, NULL, NULL, n));
        } else if (residual != sum) {
            for (int64_t i = at; i < at + n; i++)
                sum[i] = x[i] + residual[i];
            norm = (REAL)sqrt(NAME(sum_squares)(sum + at, NULL, n));
        } else {
            norm = (REAL)sqrt(NAME(sum_squares)(x + at, residual ? residual + at : NULL, n));
        }
        if (!NAME(finite)(norm))
            return 0;
        NAME(store)(b->scales, a / b->length, norm);
    }
    return 1;
}

static int NAME(uniform_measure)(const struct NAME(blocks) *b, const REAL *x, REAL *residual, REAL *sum,
                                 int64_t start, int64_t stop) {
    for (int64_t a = start, at = 0; a < stop; a += b->length, at += b->length) {
        const int64_t n = smaller(b->length, stop - a), block = a / b->length;
        REAL ends[2];
        const int finite = residual ? NAME(range)(x + at, residual + at, sum + at, n, ends)
                                    : NAME(range)(x + at, NULL, NULL, n, ends);
        if (!finite || !NAME(finite)(ends[1] - ends[0]))
            return 0;
        NAME(store)(b->scales, 2 * block, ends[0]);
        NAME(store)(b->scales, 2 * block + 1, ends[1]);
    }
    return 1;
}

INLINE void NAME(decode_codes)(enum NAME(code) kind, const struct NAME(delivery) *to, int64_t start, int64_t stop) {
    const struct NAME(scale) shared = NAME(scale_of)(kind, to->bits, 0);
    uint8_t codes[TILE + 8];
    for (int64_t s = start; s < stop; s += TILE) {
        int64_t e = smaller(s + TILE, stop), index = s / to->length;
        const uint8_t *bytes = to->bits == 8 ? to->stream + s : codes;
        if (to->bits < 8)
            unpack(to->stream + s * to->bits / 8, e - s, to->bits, codes);
        for (int64_t a = s, end; a < e; a = end, index++) {
            end = smaller((index + 1) * to->length, e);
            const struct NAME(scale) scale = NAME(scale_at)(kind, shared, to->scales, index);
            if (to->add)
                NAME(deliver_run)(kind, bytes + (a - s), end - a, scale, to->out + a, 1, to->factor);
            else
                NAME(deliver_run)(kind, bytes + (a - s), end - a, scale, to->out + a, 0, 1);
        }
    }
}

static void NAME(quantize_decode_part)(void *job, int part, int64_t start, int64_t stop) {
    (void)part;
    NAME(decode_codes)(NAME(QUANTIZE), job, start, stop);
}

static void NAME(uniform_decode_part)(void *job, int part, int64_t start, int64_t stop) {
    (void)part;
    NAME(decode_codes)(NAME(UNIFORM), job, start, stop);
}
