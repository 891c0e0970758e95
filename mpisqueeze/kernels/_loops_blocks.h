/* Shared by compressors with a scale or two for each block of the vector, or none, and a code per element. */

struct NAME(blocks) {
    const REAL *vector;
    REAL *residual;
    const REAL *v; /* what is encoded, once the statistics are taken: the residual, or the vector without one */
    int64_t d, length;
    uint8_t *scales, *stream;
    int each; /* scales of a block */
    int bits, l2;
    uint64_t key;
    atomic_int bad; /* an element that is not finite was met */
};

static struct NAME(blocks) NAME(blocks_of)(const void *vector, void *residual, int64_t d, uint8_t *payload,
                                           int64_t block, int scales) {
    struct NAME(blocks) b = {.vector = vector, .residual = residual, .v = residual ? residual : vector, .d = d,
                              .each = scales};
    b.length = block_length(d, block);
    b.scales = payload;
    b.stream = payload + scales * ((d + b.length - 1) / b.length) * (int64_t)sizeof(REAL);
    return b;
}

/* Calls `groups` on ranges of whole groups of blocks: a thread each where there are enough of them; else it spreads
   what it does inside of one. */
static int NAME(encode_blocks)(struct NAME(blocks) *b, spread_work *groups) {
    const int64_t group = group_length(b->length), count = (b->d + group - 1) / group;
    const int parts = threads_parts(b->d);
    spread(groups, b, 0, b->d, group, count >= parts ? parts : 1);
    return !b->bad;
}

/* A payload and where its elements go: out ← out + factor·value, or with `add` 0 out ← value. */
struct NAME(delivery) {
    const uint8_t *scales, *stream;
    REAL *out;
    int64_t length;
    int each, bits, add;
    REAL factor;
};

static struct NAME(delivery) NAME(delivery_of)(const uint8_t *payload, void *out, int64_t d, int64_t block,
                                               int scales, int add, double factor) {
    struct NAME(delivery) to = {.scales = payload, .out = out, .each = scales, .add = add,
                                .factor = add ? (REAL)factor : 1};
    to.length = block_length(d, block);
    to.stream = payload + scales * ((d + to.length - 1) / to.length) * (int64_t)sizeof(REAL);
    return to;
}
