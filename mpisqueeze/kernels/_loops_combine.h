/* Several payloads at once, tile by tile, so that what they add up to stays in the cache while it grows: the mean of all
   ranks' at a server, out ← (D(p₀) + D(p₁) + …)/n, or what gossip mixes, Σ w D(p) = w₀ D(p₀) + w₁ D(p₁) + …, as
   out ← Σ w D(p) where `factor` is 0, else out ← out + factor·Σ w D(p); rounded after each product and sum. */

struct NAME(combination) {
    const struct NAME(delivery) *payloads;
    const REAL *weights;
    int count;
    spread_work *decode;
    REAL factor;
    REAL *out;
};

static void NAME(divide)(REAL *out, int64_t n, int by) {
    const REAL count = (REAL)by, inverse = 1 / count;
    /* The inverse of a power of two is exact, and a product with it rounds as the quotient does. */
    if (!(by & (by - 1)))
        for (int64_t i = 0; i < n; i++)
            out[i] *= inverse;
    else
        for (int64_t i = 0; i < n; i++)
            out[i] /= count;
}

static void NAME(combine_part)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(combination) *m = job;
    REAL sum[TILE];
    for (int64_t s = start; s < stop; s += TILE) {
        const int64_t e = smaller(s + TILE, stop), n = e - s;
        REAL *const here = m->factor != 0 ? sum : m->out + s;
        for (int r = 0; r < m->count; r++) {
            struct NAME(delivery) to = m->payloads[r];
            to.out = here - s;
            m->decode(&to, part, s, e);
            if (m->weights && !r)
                for (int64_t i = 0; i < n; i++)
                    here[i] *= m->weights[0];
        }
        if (!m->weights)
            NAME(divide)(here, n, m->count);
        else if (m->factor != 0)
            for (int64_t i = 0; i < n; i++)
                m->out[s + i] += m->factor * sum[i];
    }
}

static void NAME(copy_combine_part)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(delivery) *to = job;
    (void)part;
    if (to->add)
        NAME(copy_deliver)(to->stream, to->out, start, stop, 1, to->factor);
    else
        memcpy(to->out + start, to->stream + start * (int64_t)sizeof(REAL), (size_t)(stop - start) * sizeof(REAL));
}

/* Returns 0 where there was no memory. */
static int NAME(combine)(enum kind kind, const struct payloads *given, void *out, int64_t d, struct layout layout) {
    if (!d)
        return 1;
    const int count = given->count;
    struct NAME(delivery) *all = malloc((size_t)count * (sizeof *all + sizeof(REAL)));
    if (!all)
        return 0;
    REAL *weights = (REAL *)(all + count);
    for (int r = 0; r < count; r++) {
        weights[r] = given->weights ? (REAL)given->weights[r] : 1;
        all[r] = NAME(delivery_of)(given->each[r], out, d, layout, r > 0, weights[r]);
    }
    struct NAME(combination) job = {.payloads = all, .weights = given->weights ? weights : NULL, .count = count,
                                    .decode = kind == COPY ? NAME(copy_combine_part) : NAME(decoders)[kind],
                                    .factor = (REAL)given->factor, .out = out};
    spread(NAME(combine_part), &job, 0, d, TILE, threads_parts(d));
    free(all);
    return 1;
}
