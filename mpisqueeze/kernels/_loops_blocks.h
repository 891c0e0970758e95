/* Shared by the kinds of payloads with a scale or two for each block of the vector, or none, and a code per element. */

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
    /* For encode_groups. Fills the scales of the blocks of [start, stop), and returns 0 where one is not finite. The
       elements are those of x, or where there is a residual, of x + residual, which is written to `sum`. */
    int (*measure)(const struct NAME(blocks) *b, const REAL *x, REAL *residual, REAL *sum, int64_t start, int64_t stop);
    /* Writes the stream and the residual of [start, stop), a tile at most; v has the elements. Meanwhile it
       fetches those behind `ahead`, and the residual a tile further on, if there is one. */
    void (*encode)(const struct NAME(blocks) *b, const REAL *v, const REAL *ahead, int64_t start, int64_t stop,
                   struct draws *draws);
};

/* Bytes of the scales, of d ≥ 1 elements in blocks of `length`. */
INLINE int64_t NAME(scale_bytes)(int64_t d, int64_t length, int each) {
    return each * ((d + length - 1) / length) * (int64_t)sizeof(REAL);
}

/* Calls `groups` on ranges of whole groups of blocks: a thread each where there are enough of them; else it spreads
   what it does inside of one. */
static int NAME(encode_blocks)(struct NAME(blocks) *b, spread_work *groups) {
    const int64_t group = group_length(b->length), count = (b->d + group - 1) / group;
    const int parts = threads_parts(b->d);
    spread(groups, b, 0, b->d, group, count >= parts ? parts : 1);
    return !b->bad;
}

/* A part of a block that is longer than a tile; where there is a residual, it has the elements. */
static void NAME(encode_tiles)(void *job, int part, int64_t first, int64_t last) {
    const struct NAME(blocks) *b = job;
    struct draws draws;
    REAL tile[TILE];
    (void)part;
    draws_init(&draws, b->key, b->residual);
    for (int64_t start = first; start < last; start += TILE) {
        const int64_t stop = smaller(start + TILE, last);
        const REAL *v = b->v + start;
        if (b->residual)
            v = memcpy(tile, v, (size_t)(stop - start) * sizeof(REAL));
        b->encode(b, v, b->v + start + TILE, start, stop, &draws);
    }
}

/* A group of blocks that is no longer than a tile stays in the L1 cache until it is encoded. */
static void NAME(encode_groups)(void *job, int part, int64_t first, int64_t last) {
    struct NAME(blocks) *b = job;
    const int64_t group = group_length(b->length);
    struct draws draws;
    REAL room[TILE + PAGE / sizeof(REAL)];
    (void)part;
    draws_init(&draws, b->key, b->residual);
    for (int64_t start = first; start < last; start += group) {
        const int64_t stop = smaller(start + group, last);
        const REAL *x = b->vector + start;
        REAL *residual = b->residual ? b->residual + start : NULL;
        REAL *sum = residual && group <= TILE ? away_from(residual, room) : residual;
        if (b->bad || !b->measure(b, x, residual, sum, start, stop)) {
            b->bad = 1;
            return;
        }
        if (group <= TILE)
            b->encode(b, residual ? sum : x, x + TILE, start, stop, &draws);
        else
            spread(NAME(encode_tiles), b, start, stop, TILE, threads_parts(stop - start));
    }
}

/* A payload and where its elements go: out ← out + factor·value, or with `add` 0 out ← value. */
struct NAME(delivery) {
    const uint8_t *scales, *stream;
    REAL *out;
    int64_t length;
    int each, bits, add;
    REAL factor;
    atomic_int bad; /* of COPY alone: an element is not finite */
};

static struct NAME(delivery) NAME(delivery_of)(const uint8_t *payload, void *out, int64_t d, struct layout layout,
                                               int add, double factor) {
    struct NAME(delivery) to = {.scales = payload, .out = out, .length = block_length(d, layout.block),
                                .each = layout.each, .bits = layout.bits, .add = add,
                                .factor = add ? (REAL)factor : 1};
    to.stream = payload + NAME(scale_bytes)(d, to.length, to.each);
    return to;
}

/* A decoder of elements [start, stop), out of a loop that is compiled with `add` and without. */
#define DELIVERED(what)                                                                                        \
    static void NAME(what##_decode_part)(void *job, int part, int64_t start, int64_t stop) {                   \
        const struct NAME(delivery) *to = job;                                                                 \
        (void)part;                                                                                            \
        if (to->add)                                                                                           \
            NAME(what##_deliver)(to, start, stop, 1, to->factor);                                              \
        else                                                                                                   \
            NAME(what##_deliver)(to, start, stop, 0, 1);                                                       \
    }
