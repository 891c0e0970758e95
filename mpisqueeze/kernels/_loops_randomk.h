/* randomk, positions: the elements at k positions drawn from a key, which stands in front of them or is known. */

/* Positions first … first + n − 1, n ≤ RUN: those that are `kept`, once drawn, or in `room` (RUN) where none are. */
static const uint32_t *NAME(places)(const struct feistel *f, int64_t first, int64_t n, int64_t d, uint32_t *room,
                                    uint32_t *kept, int drawn) {
    uint32_t *positions = kept ? kept + first : room;
    if (!drawn)
        random_positions(f, first, n, d, positions);
    return positions;
}

struct NAME(gather) {
    REAL *residual;
    const REAL *v;
    uint8_t *values;
    uint32_t *kept;
    int64_t d;
    int drawn;
    REAL factor;
    struct feistel feistel;
    atomic_int bad; /* a product is not finite */
};

static void NAME(randomk_gather)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(gather) *from = job;
    const struct feistel feistel = from->feistel;
    const REAL *v = from->v, factor = from->factor;
    REAL *residual = from->residual, values[RUN];
    uint32_t room[RUN];
    (void)part;
    for (int64_t first = start; first < stop; first += RUN) {
        const int64_t n = smaller(RUN, stop - first);
        const uint32_t *positions = NAME(places)(&feistel, first, n, from->d, room, from->kept, from->drawn);
        BITS bad = 0;
        /* The loop does little else, so that the processor can wait for many elements at once. */
        for (int64_t j = 0; j < n; j++)
            values[j] = v[positions[j]];
        for (int64_t j = 0; j < n; j++) {
            /* Times 1 changes no finite element. */
            const REAL value = values[j] * factor;
            bad |= NAME(magnitude)(value) + TO_TOP_BIT;
            NAME(store)(from->values, first + j, value);
            values[j] -= value;
        }
        if (bad >> (REAL_BITS - 1)) {
            from->bad = 1;
            return;
        }
        for (int64_t j = 0; j < n && residual; j++)
            residual[positions[j]] = values[j];
    }
}

static int NAME(positions_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t k,
                                  uint64_t key, int unbiased, uint32_t *kept, int drawn) {
    struct NAME(gather) from = {.residual = residual, .v = residual ? residual : vector, .values = payload, .d = d};
    from.kept = kept;
    from.drawn = drawn;
    from.factor = unbiased ? (REAL)((double)d / (double)k) : 1;
    if (NAME(largest)(vector, residual, residual, d) >= INFINITY_BITS)
        return 0;
    feistel_init(&from.feistel, key, d);
    spread(NAME(randomk_gather), &from, 0, k, RUN, threads_parts(8 * k));
    return !from.bad;
}

static int NAME(randomk_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t k,
                                uint64_t key, int unbiased) {
    memcpy(payload, &key, 8);
    return NAME(positions_encode)(vector, residual, d, payload + 8, k, key, unbiased, NULL, 0);
}

struct NAME(scatter) {
    const uint8_t *values;
    REAL *out;
    uint32_t *kept;
    int64_t d;
    int add, drawn;
    REAL factor;
    struct feistel feistel;
    atomic_int bad; /* a value is not finite, as a sum may be */
};

static void NAME(randomk_scatter)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(scatter) *to = job;
    const struct feistel feistel = to->feistel;
    const uint8_t *values = to->values;
    const REAL factor = to->factor;
    REAL *out = to->out;
    const int add = to->add;
    uint32_t room[RUN];
    BITS bad = 0;
    (void)part;
    for (int64_t first = start; first < stop; first += RUN) {
        const int64_t n = smaller(RUN, stop - first);
        const uint32_t *positions = NAME(places)(&feistel, first, n, to->d, room, to->kept, to->drawn);
        for (int64_t j = 0; j < n; j++) {
            const REAL value = NAME(load)(values, first + j);
            bad |= NAME(magnitude)(value) + TO_TOP_BIT;
            NAME(deliver)(out + positions[j], value, add, factor);
        }
    }
    if (bad >> (REAL_BITS - 1))
        to->bad = 1;
}

static int NAME(positions_decode)(const uint8_t *payload, void *out, int64_t d, int64_t k, uint64_t key,
                                  uint32_t *kept, int drawn, int add, double factor) {
    struct NAME(scatter) to = {.values = payload, .out = out, .d = d, .add = add, .factor = (REAL)factor};
    to.kept = kept;
    to.drawn = drawn;
    feistel_init(&to.feistel, key, d);
    if (!add)
        spread(NAME(clear), out, 0, d, TILE, threads_parts(d));
    spread(NAME(randomk_scatter), &to, 0, k, RUN, threads_parts(8 * k));
    return !to.bad;
}

static void NAME(randomk_decode)(const uint8_t *payload, void *out, int64_t d, int64_t k, int add, double factor) {
    uint64_t key;
    memcpy(&key, payload, 8);
    NAME(positions_decode)(payload + 8, out, d, k, key, NULL, 0, add, factor);
}

static void NAME(randomk_zero)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(scatter) *to = job;
    uint32_t positions[RUN];
    (void)part;
    for (int64_t first = start; first < stop; first += RUN) {
        const int64_t n = smaller(RUN, stop - first);
        random_positions(&to->feistel, first, n, to->d, positions);
        for (int64_t j = 0; j < n; j++)
            to->out[positions[j]] = 0;
    }
}

static void NAME(randomk_clear)(const uint8_t *payload, void *out, int64_t d, int64_t k) {
    struct NAME(scatter) to = {.out = out, .d = d};
    uint64_t key;
    memcpy(&key, payload, 8);
    feistel_init(&to.feistel, key, d);
    spread(NAME(randomk_zero), &to, 0, k, RUN, threads_parts(8 * k));
}
