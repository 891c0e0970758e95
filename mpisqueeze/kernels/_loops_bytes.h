/* natural and fp8: a byte per element. */

#define FRACTION (REAL_BITS == 32 ? 23 : 52)
#define BIAS (REAL_BITS == 32 ? 127 : 1023)
/* The bits of a power of two. */
#define POWER_OF_TWO(exponent) ((BITS)(BIAS + (exponent)) << FRACTION)
/* The sign of x as the highest bit of a byte. */
#define SIGN_(x) ((uint32_t)(NAME(bits)(x) >> (REAL_BITS - 8)) & 0x80u)

/* -- natural: code 1 … 127 is 2^(code − 109), and 0 is 0 */

#define NOTHING POWER_OF_TWO(-109) /* what code 0 would be */
#define CUT (FRACTION - FIRST_BITS)
/* The fraction's bits, and the sign's. */
#define FRACTION_BITS (((BITS)1 << FRACTION) - 1)
#define SIGN_BIT ((BITS)1 << (REAL_BITS - 1))

INLINE REAL NAME(natural_value)(uint32_t code) {
    const BITS power = code & 0x7fu ? ((BITS)(code & 0x7fu) << FRACTION) + NOTHING : 0;
    return NAME(real)(power | (BITS)(code & 0x80u) << (REAL_BITS - 8));
}

/* The level of an element: a fixed-point number, the code before the point, FIRST_BITS bits of the fraction behind it.
   The code is the level or one more at random. That of an element below the smallest power of two is not known here. */
INLINE uint32_t NAME(natural_level)(BITS magnitude) {
    return magnitude < POWER_OF_TWO(-108) ? 0 : (uint32_t)((magnitude - NOTHING) >> CUT);
}

/* The bits of a draw that FIRST_BITS have do not decide. */
INLINE int NAME(natural_is_open)(BITS magnitude, uint32_t sum) {
    const int small = magnitude < POWER_OF_TWO(-108) && magnitude;
    return small || (CUT && !(~sum << (32 - FIRST_BITS)));
}

/* The code of one element, by as many bits of u of random.py as it takes. */
static uint32_t NAME(natural_one)(REAL v, uint32_t index, uint64_t key) {
    const BITS magnitude = NAME(magnitude)(v), rest_bits = magnitude & (((BITS)1 << CUT) - 1);
    uint32_t level = NAME(natural_level)(magnitude);
    REAL rest = (REAL)rest_bits / (REAL)((BITS)1 << CUT);
    if (magnitude < POWER_OF_TWO(-108)) {
        /* 2^131 is too large for a float. */
        rest = NAME(absolute)(v) * (REAL)0x1p66 * (REAL)0x1p65;
        level = (uint32_t)rest;
        rest -= (REAL)level;
    }
    const uint32_t sum = level + (~hash32(index, (uint32_t)key, (uint32_t)(key >> 32)) >> (32 - FIRST_BITS));
    uint32_t code = sum >> FIRST_BITS;
    if (!(~sum << (32 - FIRST_BITS)))
        code += NAME(rest_is_below)(rest, key ^ index);
    return code | SIGN_(v);
}

/* What a run has seen: its largest magnitude, and in `open` a bit where an element is open. */
struct NAME(natural_seen) {
    NAME(patterns) largest, open;
};

/* The codes of LANES elements, and their values; open ones as if they went down. */
INLINE NAME(words) NAME(natural_lanes)(NAME(vec) v, NAME(words) not_hashes, NAME(vec) *values,
                                       struct NAME(natural_seen) *seen) {
    const NAME(patterns) bits = NAME(patterns_of)(v), magnitude = bits & MAGNITUDE_BITS;
    const NAME(mask) small = NAME(below)(magnitude, POWER_OF_TWO(-108));
    const NAME(patterns) draw = not_hashes >> (32 - FIRST_BITS);
    /* A carry out of the fraction is the step up to the next power of two. */
    const NAME(patterns) sum = NAME(keep_where)(bits, small, SIGN_BIT) + (draw << CUT);
    seen->largest = NAME(larger)(seen->largest, magnitude);
    seen->open = NAME(or_where)(seen->open, small, magnitude);
    if (CUT)
        seen->open |= ((sum >> CUT) ^ ((sum >> CUT) + 1)) >> FIRST_BITS;
    *values = NAME(vec_of)(sum & ~FRACTION_BITS);
    const NAME(patterns) twice = NAME(larger)(sum + sum, NAME(pattern)(2 * NOTHING)) - 2 * NOTHING;
    return (twice << (REAL_BITS - 9 - FRACTION) | (sum & SIGN_BIT)) >> (REAL_BITS - 8);
}

/* Codes of n elements, the first one's hash that of draws `at`. Returns 0; 1 where some are open, and coded as if they
   went down; or 2 where one is too large. */
INLINE int NAME(natural_run)(const REAL *x, REAL *residual, int64_t n, struct draws_at at, uint8_t *codes) {
    struct NAME(natural_seen) seen = {NAME(pattern)(0), NAME(pattern)(0)};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        NAME(vec) v = NAME(get)(x + i), values;
        NAME(fetch)(x + i + TILE, residual ? residual + i + TILE : NULL);
        if (residual)
            v = v + NAME(get)(residual + i);
        NAME(put_bytes)(codes + i, NAME(natural_lanes)(v, NAME(not_hashes)(at, i), &values, &seen));
        if (residual)
            NAME(put)(residual + i, v - values);
    }
    if (i < n) {
        REAL few[LANES] = {0}, few_values[LANES];
        uint8_t few_codes[LANES];
        NAME(vec) values;
        for (int64_t j = i; j < n; j++)
            few[j - i] = V_(j);
        NAME(put_bytes)(few_codes, NAME(natural_lanes)(NAME(get)(few), NAME(not_hashes)(at, i), &values, &seen));
        NAME(put)(few_values, values);
        memcpy(codes + i, few_codes, (size_t)(n - i));
        if (residual)
            for (int64_t j = i; j < n; j++)
                residual[j] = few[j - i] - few_values[j - i];
    }
    return NAME(largest_lane)(seen.largest) > POWER_OF_TWO(18) ? 2 : NAME(largest_lane)(seen.open) != 0;
}

/* The open ones again. The difference to a power of two beside v is exact, so that a residual tells what v was. */
static __attribute__((noinline, cold)) void NAME(natural_exactly)(const REAL *x, REAL *residual, int64_t n,
                                                                  uint32_t index, uint64_t key, uint8_t *codes) {
    for (int64_t i = 0; i < n; i++) {
        const REAL v = residual ? residual[i] + NAME(natural_value)(codes[i]) : x[i];
        const BITS magnitude = NAME(magnitude)(v);
        const uint32_t hash = hash32(index + (uint32_t)i, (uint32_t)key, (uint32_t)(key >> 32));
        if (!NAME(natural_is_open)(magnitude, NAME(natural_level)(magnitude) + (~hash >> (32 - FIRST_BITS))))
            continue;
        codes[i] = (uint8_t)NAME(natural_one)(v, index + (uint32_t)i, key);
        if (residual)
            residual[i] = v - NAME(natural_value)(codes[i]);
    }
}

static void NAME(natural_encode_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(blocks) *b = job;
    (void)part;
    struct draws draws;
    draws_init(&draws, b->key, b->residual);
    for (int64_t a = start; a < stop; a += TILE) {
        const int64_t n = smaller(TILE, stop - a);
        const REAL *x = b->vector + a;
        REAL *residual = b->residual ? b->residual + a : NULL;
        uint8_t *codes = b->stream + a;
        const struct draws_at at = draws_from(&draws, (uint32_t)a);
        const int found = residual ? NAME(natural_run)(x, residual, n, at, codes)
                                   : NAME(natural_run)(x, NULL, n, at, codes);
        if (found == 2) {
            b->bad = 1;
            return;
        }
        if (__builtin_expect(found, 0))
            NAME(natural_exactly)(x, residual, n, (uint32_t)a, b->key, codes);
    }
}

INLINE void NAME(natural_deliver)(const struct NAME(delivery) *to, int64_t start, int64_t stop, int add, REAL factor) {
    const uint8_t *codes = to->stream;
    REAL *out = to->out;
    for (int64_t i = start; i < stop; i++)
        NAME(deliver)(out + i, NAME(natural_value)(codes[i]), add, factor);
}

DELIVERED(natural)

#undef CUT
#undef NOTHING

/* -- fp8: a scale s a block, and v/s in e4m3, four bits of exponent with bias 7 and three of fraction */

#define CUT (FRACTION - 3)

INLINE REAL NAME(fp8_value)(uint32_t code) {
    const BITS low = (BITS)(code & 0x7fu) << CUT;
    const REAL below = NAME(real)(low + POWER_OF_TWO(-6)) - NAME(real)(POWER_OF_TWO(-6));
    const BITS magnitude = low < (BITS)8 << CUT ? NAME(bits)(below) : low + POWER_OF_TWO(-7);
    return NAME(real)(magnitude | (BITS)(code & 0x80u) << (REAL_BITS - 8));
}

/* The codes of LANES elements, and their values. Adding a power of two whose last bit is worth as much as the code's,
   2^-9 or more, rounds the quotient, and leaves in the last bits of the sum what the code counts. */
INLINE NAME(words) NAME(fp8_lanes)(NAME(vec) v, NAME(vec) scale, NAME(vec) *values) {
    const NAME(vec) quotient = NAME(absolutes)(v) / scale;
    const NAME(patterns) least = NAME(pattern)(POWER_OF_TWO(-6));
    const NAME(patterns) power = NAME(larger)(NAME(patterns_of)(quotient), least) & ~FRACTION_BITS;
    const NAME(vec) large = NAME(vec_of)(power + ((BITS)CUT << FRACTION)), sum = quotient + large;
    const NAME(patterns) sign = NAME(patterns_of)(v) & SIGN_BIT;
    *values = NAME(vec_of)(NAME(patterns_of)((sum - large) * scale) | sign);
    const NAME(patterns) code = NAME(patterns_of)(sum) + (power >> CUT) - (POWER_OF_TWO(-6) >> CUT);
    return code | sign >> (REAL_BITS - 8);
}

/* The codes of a block's elements; and what they leave of v, where there is a residual. */
INLINE void NAME(fp8_run)(const REAL *v, const REAL *ahead, REAL *residual, int64_t n, REAL scale, uint8_t *codes) {
    const NAME(vec) scales = NAME(splat)(scale);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        NAME(vec) x = NAME(get)(v + i), values;
        NAME(fetch)(ahead + i, residual ? residual + i + TILE : NULL);
        NAME(put_bytes)(codes + i, NAME(fp8_lanes)(x, scales, &values));
        if (residual)
            NAME(put)(residual + i, x - values);
    }
    if (i < n) {
        REAL few[LANES] = {0}, few_values[LANES];
        uint8_t few_codes[LANES];
        NAME(vec) values;
        memcpy(few, v + i, (size_t)(n - i) * sizeof(REAL));
        NAME(put_bytes)(few_codes, NAME(fp8_lanes)(NAME(get)(few), scales, &values));
        NAME(put)(few_values, values);
        memcpy(codes + i, few_codes, (size_t)(n - i));
        if (residual)
            for (int64_t j = i; j < n; j++)
                residual[j] = few[j - i] - few_values[j - i];
    }
}

static void NAME(fp8_tile)(const struct NAME(blocks) *b, const REAL *v, const REAL *ahead, int64_t start, int64_t stop,
                           struct draws *draws) {
    int64_t index = start / b->length;
    (void)draws;
    for (int64_t a = start, end; a < stop; a = end, index++) {
        end = smaller((index + 1) * b->length, stop);
        const REAL scale = NAME(load)(b->scales, index), *run = v + (a - start), *next = ahead + (a - start);
        if (b->residual)
            NAME(fp8_run)(run, next, b->residual + a, end - a, scale, b->stream + a);
        else
            NAME(fp8_run)(run, next, NULL, end - a, scale, b->stream + a);
    }
}

static int NAME(fp8_measure)(const struct NAME(blocks) *b, const REAL *x, REAL *residual, REAL *sum, int64_t start,
                             int64_t stop) {
    const REAL tiny = NAME(real)((BITS)1 << FRACTION);
    for (int64_t a = start, at = 0; a < stop; a += b->length, at += b->length) {
        const int64_t n = smaller(b->length, stop - a);
        const REAL *r = residual ? residual + at : NULL;
        REAL *v = residual ? sum + at : NULL;
        BITS largest;
        if (n == 128) /* A constant length makes a faster loop. */
            largest = (BITS)(r ? NAME(largest_of)(x + at, r, v, 128) : NAME(largest_of)(x + at, NULL, NULL, 128));
        else
            largest = NAME(largest)(x + at, r, v, n);
        REAL scale = NAME(real)(largest) / 448;
        scale = scale < tiny ? tiny : scale;
        if (!NAME(finite)(scale * 448))
            return 0;
        NAME(store)(b->scales, a / b->length, scale);
    }
    return 1;
}

INLINE void NAME(fp8_deliver)(const struct NAME(delivery) *to, int64_t start, int64_t stop, int add, REAL factor) {
    const uint8_t *codes = to->stream;
    REAL *out = to->out;
    int64_t index = start / to->length;
    for (int64_t a = start, end; a < stop; a = end, index++) {
        end = smaller((index + 1) * to->length, stop);
        const REAL scale = NAME(load)(to->scales, index);
        for (int64_t i = a; i < end; i++)
            NAME(deliver)(out + i, NAME(fp8_value)(codes[i]) * scale, add, factor);
    }
}

DELIVERED(fp8)

#undef CUT
#undef SIGN_
#undef POWER_OF_TWO
#undef BIAS
#undef FRACTION
