/* The mean of all ranks' payloads at a server: out ← (D(p₀) + D(p₁) + …)/n, added in this order, tile by tile, so that
   the sum stays in the cache while it grows. */

struct NAME(mean) {
    const struct NAME(delivery) *payloads;
    int count;
    spread_work *decode;
    REAL *out;
};

static void NAME(mean_part)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(mean) *m = job;
    const REAL count = (REAL)m->count, inverse = 1 / count;
    /* The inverse of a power of two is exact, and a product with it rounds as the quotient does. */
    const int exact = !(m->count & (m->count - 1));
    for (int64_t s = start; s < stop; s += TILE) {
        int64_t e = smaller(s + TILE, stop);
        for (int r = 0; r < m->count; r++) {
            struct NAME(delivery) to = m->payloads[r];
            m->decode(&to, part, s, e);
        }
        if (exact)
            for (int64_t i = s; i < e; i++)
                m->out[i] *= inverse;
        else
            for (int64_t i = s; i < e; i++)
                m->out[i] /= count;
    }
}

/* Returns 0 where there was no memory. */
static int NAME(mean_of)(const uint8_t *const *payloads, int count, void *out, int64_t d, int64_t block, int scales,
                         int bits, spread_work *decode) {
    struct NAME(delivery) *all = malloc((size_t)count * sizeof *all);
    if (!all)
        return 0;
    for (int r = 0; r < count; r++) {
        all[r] = NAME(delivery_of)(payloads[r], out, d, block, scales, r > 0, 1);
        all[r].bits = bits;
    }
    struct NAME(mean) job = {.payloads = all, .count = count, .decode = decode, .out = out};
    if (d)
        spread(NAME(mean_part), &job, 0, d, TILE, threads_parts(d));
    free(all);
    return 1;
}

static void NAME(copy_mean_part)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(delivery) *to = job;
    (void)part;
    if (to->add)
        NAME(copy_deliver)(to->stream, to->out, start, stop, 1, 1);
    else
        memcpy(to->out + start, to->stream + start * (int64_t)sizeof(REAL), (size_t)(stop - start) * sizeof(REAL));
}

static int NAME(copy_mean)(const uint8_t *const *payloads, int count, void *out, int64_t d, int64_t block, int bits) {
    (void)block, (void)bits;
    return NAME(mean_of)(payloads, count, out, d, 0, 0, 0, NAME(copy_mean_part));
}

static int NAME(signs_mean)(const uint8_t *const *payloads, int count, void *out, int64_t d, int64_t block, int each) {
    return NAME(mean_of)(payloads, count, out, d, block, each, 1, NAME(signs_decode_part));
}

static int NAME(quantize_mean)(const uint8_t *const *payloads, int count, void *out, int64_t d, int64_t block,
                               int bits) {
    return NAME(mean_of)(payloads, count, out, d, block, 1, bits, NAME(quantize_decode_part));
}

static int NAME(uniform_mean)(const uint8_t *const *payloads, int count, void *out, int64_t d, int64_t block,
                              int bits) {
    return NAME(mean_of)(payloads, count, out, d, block, 2, bits, NAME(uniform_decode_part));
}

static int NAME(natural_mean)(const uint8_t *const *payloads, int count, void *out, int64_t d, int64_t block,
                              int bits) {
    return NAME(mean_of)(payloads, count, out, d, block, 0, bits, NAME(natural_decode_part));
}

static int NAME(fp8_mean)(const uint8_t *const *payloads, int count, void *out, int64_t d, int64_t block, int bits) {
    return NAME(mean_of)(payloads, count, out, d, block, 1, bits, NAME(fp8_decode_part));
}
