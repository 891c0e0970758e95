/* natural and fp8: a byte per element. The loops are plain ones, which the compiler vectorises. */

#define FRACTION (REAL_BITS == 32 ? 23 : 52)
#define BIAS (REAL_BITS == 32 ? 127 : 1023)
/* The bits of a power of two. */
#define POWER_OF_TWO(exponent) ((BITS)(BIAS + (exponent)) << FRACTION)
/* The sign of x as the highest bit of a byte. */
#define SIGN_(x) ((uint32_t)(NAME(bits)(x) >> (REAL_BITS - 8)) & 0x80u)

/* -- natural: code 1 … 127 is 2^(code − 109), and 0 is 0 */

#define NOTHING POWER_OF_TWO(-109) /* what code 0 would be */
#define CUT (FRACTION - FIRST_BITS)

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

/* Codes of n elements, `index` the first one's. Returns 0; 1 where some are open, and coded as if they went down; or 2
   where one is too large. */
INLINE int NAME(natural_run)(const REAL *x, REAL *residual, int64_t n, uint32_t index, uint64_t key, uint8_t *codes) {
    const uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
    BITS large = 0, open = 0;
    for (int64_t i = 0; i < n; i++) {
        const REAL v = V_(i);
        const BITS magnitude = NAME(magnitude)(v);
        const uint32_t sum = NAME(natural_level)(magnitude) +
                             (~hash32(index + (uint32_t)i, low, high) >> (32 - FIRST_BITS));
        const uint32_t code = sum >> FIRST_BITS | SIGN_(v);
        large |= magnitude > POWER_OF_TWO(18);
        open |= NAME(natural_is_open)(magnitude, sum);
        codes[i] = (uint8_t)code;
        if (residual)
            residual[i] = v - NAME(natural_value)(code);
    }
    return large ? 2 : open != 0;
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
    for (int64_t a = start; a < stop; a += TILE) {
        const int64_t n = smaller(TILE, stop - a);
        const REAL *x = b->vector + a;
        REAL *residual = b->residual ? b->residual + a : NULL;
        uint8_t *codes = b->stream + a;
        const int found = residual ? NAME(natural_run)(x, residual, n, (uint32_t)a, b->key, codes)
                                   : NAME(natural_run)(x, NULL, n, (uint32_t)a, b->key, codes);
        if (found == 2) {
            b->bad = 1;
            return;
        }
        if (__builtin_expect(found, 0))
            NAME(natural_exactly)(x, residual, n, (uint32_t)a, b->key, codes);
    }
}

static int NAME(natural_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, uint64_t key) {
    if (!d)
        return 1;
    struct NAME(blocks) b = NAME(blocks_of)(vector, residual, d, payload, 0, 0);
    b.key = key;
    spread(NAME(natural_encode_part), &b, 0, d, TILE, threads_parts(d));
    return !b.bad;
}

INLINE void NAME(natural_deliver)(const struct NAME(delivery) *to, int64_t start, int64_t stop, int add, REAL factor) {
    const uint8_t *codes = to->stream;
    REAL *out = to->out;
    for (int64_t i = start; i < stop; i++)
        NAME(deliver)(out + i, NAME(natural_value)(codes[i]), add, factor);
}

static void NAME(natural_decode_part)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(delivery) *to = job;
    (void)part;
    if (to->add)
        NAME(natural_deliver)(to, start, stop, 1, to->factor);
    else
        NAME(natural_deliver)(to, start, stop, 0, 1);
}

static void NAME(natural_decode)(const uint8_t *payload, void *out, int64_t d, int add, double factor) {
    if (!d)
        return;
    struct NAME(delivery) to = NAME(delivery_of)(payload, out, d, 0, 0, add, factor);
    spread(NAME(natural_decode_part), &to, 0, d, TILE, threads_parts(d));
}

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

INLINE uint32_t NAME(fp8_code)(REAL x) {
    const BITS magnitude = NAME(magnitude)(x);
    /* Adding a number whose last bit is worth 2^-9 rounds what is below 2^-6. */
    const REAL large = NAME(real)(POWER_OF_TWO(FRACTION - 9));
    const BITS below = NAME(bits)(NAME(absolute)(x) + large) - NAME(bits)(large);
    const BITS normal = (magnitude - POWER_OF_TWO(-7) + (((BITS)1 << (CUT - 1)) - 1) + (magnitude >> CUT & 1)) >> CUT;
    return (uint32_t)(magnitude < POWER_OF_TWO(-6) ? below : normal) | SIGN_(x);
}

INLINE void NAME(fp8_run)(const REAL *v, REAL *residual, int64_t n, REAL scale, uint8_t *codes) {
    for (int64_t i = 0; i < n; i++) {
        const REAL x = v[i];
        const uint32_t code = NAME(fp8_code)(x / scale);
        codes[i] = (uint8_t)code;
        if (residual)
            residual[i] = x - NAME(fp8_value)(code) * scale;
    }
}

static void NAME(fp8_codes)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(blocks) *b = job;
    (void)part;
    int64_t index = start / b->length;
    for (int64_t a = start, end; a < stop; a = end, index++) {
        end = smaller((index + 1) * b->length, stop);
        const REAL scale = NAME(load)(b->scales, index);
        if (b->residual)
            NAME(fp8_run)(b->residual + a, b->residual + a, end - a, scale, b->stream + a);
        else
            NAME(fp8_run)(b->v + a, NULL, end - a, scale, b->stream + a);
    }
}

/* max |v| of n elements, as `magnitude`; v = x + residual is written over the residual. */
static BITS NAME(fp8_largest)(const REAL *x, REAL *residual, int64_t n) {
    if (n > RUN)
        return NAME(largest)(x, residual, n);
    return (BITS)(residual ? NAME(largest_of)(x, residual, n) : NAME(largest_of)(x, NULL, n));
}

static void NAME(fp8_groups)(void *job, int part, int64_t first, int64_t last) {
    struct NAME(blocks) *b = job;
    (void)part;
    const int64_t group = group_length(b->length);
    const REAL tiny = NAME(real)((BITS)1 << FRACTION);
    for (int64_t start = first; start < last && !b->bad; start += group) {
        int64_t stop = smaller(start + group, last);
        for (int64_t a = start; a < stop; a += b->length) {
            REAL *residual = b->residual ? b->residual + a : NULL;
            REAL scale = NAME(real)(NAME(fp8_largest)(b->vector + a, residual, smaller(b->length, stop - a))) / 448;
            scale = scale < tiny ? tiny : scale;
            if (!NAME(finite)(scale * 448)) {
                b->bad = 1;
                return;
            }
            NAME(store)(b->scales, a / b->length, scale);
        }
        spread(NAME(fp8_codes), b, start, stop, TILE, threads_parts(stop - start));
    }
}

static int NAME(fp8_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t block) {
    if (!d)
        return 1;
    struct NAME(blocks) b = NAME(blocks_of)(vector, residual, d, payload, block, 1);
    return NAME(encode_blocks)(&b, NAME(fp8_groups));
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

static void NAME(fp8_decode_part)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(delivery) *to = job;
    (void)part;
    if (to->add)
        NAME(fp8_deliver)(to, start, stop, 1, to->factor);
    else
        NAME(fp8_deliver)(to, start, stop, 0, 1);
}

static void NAME(fp8_decode)(const uint8_t *payload, void *out, int64_t d, int64_t block, int add, double factor) {
    if (!d)
        return;
    struct NAME(delivery) to = NAME(delivery_of)(payload, out, d, block, 1, add, factor);
    spread(NAME(fp8_decode_part), &to, 0, d, TILE, threads_parts(d));
}

#undef CUT
#undef SIGN_
#undef POWER_OF_TWO
#undef BIAS
#undef FRACTION
