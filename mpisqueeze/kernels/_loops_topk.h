/* topk: the k largest magnitudes and their positions.

   Most elements are ruled out at once: a sample gives a threshold that somewhat more than k elements should reach, and
   one pass over the vector collects those that do, with their places, as candidates. The k largest are selected from
   the candidates. If there are fewer than k of them, or more than fit, the whole vector is searched instead. */

#define SAMPLE 4096
#define SMALLEST_CHUNK 1024
#define ROOMY_CHUNKS 256
#define MOST_CHUNKS (ROOMY_CHUNKS + MAX_PARTS + 64)

/* Elements to select from, in the vector's order: a chunk of candidates, or the whole vector. */
struct NAME(segment) {
    const REAL *numbers;
    const int32_t *places; /* NULL: 0, 1, 2, … */
    int64_t count;
    int next; /* the chunk behind it, of the same part of the vector; −1: none */
};

struct NAME(topk) {
    const REAL *vector;
    REAL *residual;
    int64_t d, k;
    uint8_t *values, *indices;
    BITS guess;
    /* Room for candidates, in chunks that are taken one after the other. */
    REAL *candidates;
    int32_t *places;
    int64_t chunk, chunks;
    atomic_int taken; /* larger than `chunks` if they did not suffice */
    int first_of[MAX_PARTS];
    struct NAME(segment) segments[MOST_CHUNKS];
    /* The segments in their order. */
    const struct NAME(segment) *order[MOST_CHUNKS];
    int count;
};

/* Bit i: |v[i]| ≥ least, of n ≤ 64 elements v = x + residual, which the residual then holds. */
INLINE uint64_t NAME(reaching)(const REAL *x, REAL *residual, int64_t n, BITS least) {
    uint64_t found = 0;
    int64_t i = 0;
#if LANES > 1
    for (; i + LANES <= n; i += LANES) {
        NAME(vec) v = NAME(get)(x + i);
        if (residual) {
            v = v + NAME(get)(residual + i);
            NAME(put)(residual + i, v);
        }
        found |= (uint64_t)NAME(reach)(NAME(patterns_of)(v) & MAGNITUDE_BITS, least) << i;
    }
#elif LEVEL == 2
    const __m512i lowest = _mm512_set1_epi64((long long)least), mask = _mm512_set1_epi64(0x7fffffffffffffff);
    for (; i + 8 <= n; i += 8) {
        __m512d v = _mm512_loadu_pd(x + i);
        if (residual) {
            v = _mm512_add_pd(v, _mm512_loadu_pd(residual + i));
            _mm512_storeu_pd(residual + i, v);
        }
        found |= (uint64_t)_mm512_cmpge_epi64_mask(_mm512_and_si512(_mm512_castpd_si512(v), mask), lowest) << i;
    }
#else
    /* Where most elements are out, it pays to look at 16 at once whether one is not. */
    NAME(compensated)(x, residual, n);
    const REAL *v = residual ? residual : x;
    for (; i + 16 <= n; i += 16) {
        SBITS top = 0;
        for (int64_t j = i; j < i + 16; j++) {
            SBITS magnitude = (SBITS)NAME(magnitude)(v[j]);
            top |= ((SBITS)least - 1 - magnitude);
        }
        if (top < 0)
            for (int64_t j = i; j < i + 16; j++)
                found |= (uint64_t)(NAME(magnitude)(v[j]) >= least) << j;
    }
    x = v, residual = NULL;
#endif
    for (; i < n; i++) {
        REAL v = V_(i);
        if (residual)
            residual[i] = v;
        found |= (uint64_t)(NAME(magnitude)(v) >= least) << i;
    }
    return found;
}

/* An empty chunk behind `last`, or the first one of a part; NULL where there is no room. */
static struct NAME(segment) *NAME(take_chunk)(struct NAME(topk) *t, struct NAME(segment) *last, int part) {
    const int i = atomic_fetch_add(&t->taken, 1);
    if (i >= t->chunks)
        return NULL;
    struct NAME(segment) *s = &t->segments[i];
    *s = (struct NAME(segment)){t->candidates + i * t->chunk, t->places + i * t->chunk, 0, -1};
    *(last ? &last->next : &t->first_of[part]) = i;
    return s;
}

/* v in the residual, and what reaches the guess among the candidates. */
INLINE void NAME(collect)(struct NAME(topk) *t, int part, int64_t start, int64_t stop, REAL *residual) {
    struct NAME(segment) *s = NAME(take_chunk)(t, NULL, part);
    const REAL *v = residual ? residual : t->vector;
    for (int64_t a = start; a < stop; a += 64) {
        const int64_t n = smaller(64, stop - a);
        uint64_t found = NAME(reaching)(t->vector + a, residual ? residual + a : NULL, n, t->guess);
        if (!s)
            continue;
        if (s->count + 64 > t->chunk && !(s = NAME(take_chunk)(t, s, part)))
            continue;
        REAL *numbers = (REAL *)s->numbers;
        int32_t *places = (int32_t *)s->places;
        /* Four at a time; later stores overwrite surplus ones. Nearly always one turn, so the branch is predicted. */
        int64_t to = s->count;
        s->count += __builtin_popcountll(found);
        do {
            for (int j = 0; j < 4; j++, found &= found - 1) {
                int64_t i = a + __builtin_ctzll(found | (uint64_t)1 << (n - 1));
                numbers[to] = v[i];
                places[to++] = (int32_t)i;
            }
        } while (found);
    }
}

static void NAME(topk_collect)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(topk) *t = job;
    if (t->residual)
        NAME(collect)(t, part, start, stop, t->residual);
    else
        NAME(collect)(t, part, start, stop, NULL);
}

static void NAME(topk_compensate)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(topk) *t = job;
    (void)part;
    NAME(compensated)(t->vector + start, t->residual + start, stop - start);
}

/* The rank-th largest magnitude in the segments (rank ≥ 1), digit by digit from the top; none in them is below `low`.
   `ties` is set to the number of elements equal to it among the `rank` largest. Returns INFINITY_BITS where an element
   is not finite. */
static BITS NAME(topk_select)(const struct NAME(segment) *const *order, int n, int64_t rank, BITS low, int64_t *ties) {
    /* Two histograms, because an increment waits for the one before it in the same bin. */
    uint32_t counts[2][1 << 11];
    SBITS top = (SBITS)low;
    int64_t count = 0;
    for (int s = 0; s < n; s++) {
        top = NAME(largest_from)(order[s]->numbers, order[s]->count, top);
        count += order[s]->count;
    }
    if ((BITS)top >= INFINITY_BITS)
        return INFINITY_BITS;
    /* A few elements are counted faster than many bins are searched. */
    const int digit = count < 1 << 13 ? 8 : 11;
    for (int bits = (BITS)top > low ? 64 - __builtin_clzll((BITS)top - low) : 0; bits;) {
        const int width = bits < digit ? bits : digit, bins = 1 << width, shift = bits - width;
        memset(counts[0], 0, (size_t)bins * sizeof(uint32_t));
        memset(counts[1], 0, (size_t)bins * sizeof(uint32_t));
        for (int s = 0; s < n; s++)
            for (int64_t i = 0; i < order[s]->count; i++) {
                const BITS above = NAME(magnitude)(order[s]->numbers[i]) - low;
                if (above >> bits == 0)
                    counts[i & 1][above >> shift]++;
            }
        int bin = bins - 1;
        for (; (int64_t)counts[0][bin] + counts[1][bin] < rank; bin--)
            rank -= (int64_t)counts[0][bin] + counts[1][bin];
        low += (BITS)bin << shift;
        bits = shift;
    }
    *ties = rank;
    return low;
}

/* Writes the elements above the threshold and the first `ties` equal to it, k in all. */
static void NAME(topk_emit)(const struct NAME(topk) *t, BITS threshold, int64_t ties) {
    int64_t to = 0;
    for (int s = 0; s < t->count; s++) {
        const struct NAME(segment) *segment = t->order[s];
        for (int64_t a = 0; a < segment->count; a += 64) {
            const REAL *numbers = segment->numbers + a;
            uint64_t found = NAME(reaching)(numbers, NULL, smaller(64, segment->count - a), threshold);
            for (; found; found &= found - 1) {
                const int i = __builtin_ctzll(found);
                if (NAME(magnitude)(numbers[i]) == threshold && --ties < 0)
                    continue;
                const int32_t place = segment->places ? segment->places[a + i] : (int32_t)(a + i);
                memcpy(t->indices + 4 * to, &place, 4);
                NAME(store)(t->values, to++, numbers[i]);
            }
        }
    }
}

static void NAME(topk_forget)(void *job, int part, int64_t start, int64_t stop) {
    const struct NAME(topk) *t = job;
    const uint8_t *indices = t->indices;
    REAL *residual = t->residual;
    (void)part;
    for (int64_t j = start; j < stop; j++) {
        int32_t place;
        memcpy(&place, indices + 4 * j, 4);
        residual[place] = 0;
    }
}

/* A sample of `size` elements, of which the rank-th largest is reached by somewhat more than k of the vector's, and
   room for as many candidates as may then be expected; size = 0 where sampling is not worth it. */
struct NAME(plan) {
    int64_t size, rank, chunk, chunks;
    int parts;
};

static struct NAME(plan) NAME(topk_plan)(int64_t d, int64_t k) {
    struct NAME(plan) plan = {.parts = threads_parts(d)};
    if (d < 1 << 15 || k > d / 4)
        return plan;
    plan.size = smaller(d / 64, SAMPLE);
    const double spacing = (double)d / (double)plan.size, expected = (double)k / spacing;
    plan.rank = (int64_t)(expected + 4 * sqrt(expected)) + 4;
    double room = spacing * ((double)plan.rank + 5 * sqrt((double)plan.rank) + 8);
    room = room < (double)plan.size ? (double)plan.size : room;
    plan.chunk = (int64_t)(room / ROOMY_CHUNKS);
    if (plan.chunk < SMALLEST_CHUNK)
        plan.chunk = SMALLEST_CHUNK;
    /* Up to 63 places of each chunk may be left over, and most of each part's last one. */
    plan.chunks = (int64_t)(room / (double)(plan.chunk - 63)) + 1 + plan.parts;
    return plan;
}

INLINE int64_t NAME(room)(const struct NAME(plan) *plan) {
    return plan->chunk * plan->chunks * (int64_t)(sizeof(REAL) + sizeof(int32_t));
}

/* Bytes of scratch that topk_encode can use. */
static int64_t NAME(topk_scratch)(int64_t d, int64_t k) {
    const struct NAME(plan) plan = NAME(topk_plan)(d, k);
    return NAME(room)(&plan);
}

/* The threshold that k elements should reach, by the plan's sample. */
static BITS NAME(topk_guess)(struct NAME(topk) *t, const struct NAME(plan) *plan) {
    const struct NAME(segment) sample = {t->candidates, NULL, plan->size, -1}, *order = &sample;
    const uint64_t stride = (uint64_t)(t->d / plan->size);
    int64_t ties;
    /* Places are jittered, so that a period in the vector cannot hide from the sample. */
    for (uint32_t i = 0; i < plan->size; i++) {
        const uint64_t place = i * stride + (hash32(i, 0, 0) * stride >> 32);
        t->candidates[i] = t->residual ? t->vector[place] + t->residual[place] : t->vector[place];
    }
    return NAME(topk_select)(&order, 1, plan->rank, 0, &ties);
}

/* Makes the candidates the segments; 0 where there are not enough of them, or too many. */
static int NAME(topk_candidates)(struct NAME(topk) *t, const struct NAME(plan) *plan) {
    int64_t count = 0;
    t->guess = NAME(topk_guess)(t, plan);
    for (int part = 0; part < plan->parts; part++)
        t->first_of[part] = -1;
    spread(NAME(topk_collect), t, 0, t->d, TILE, plan->parts);
    if (t->taken > t->chunks)
        return 0;
    t->count = 0;
    for (int part = 0; part < plan->parts; part++)
        for (int i = t->first_of[part]; i >= 0; i = t->segments[i].next) {
            t->order[t->count++] = &t->segments[i];
            count += t->segments[i].count;
        }
    return count >= t->k;
}

static int NAME(topk_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t k,
                             void *scratch, int64_t bytes) {
    struct NAME(topk) t;
    const struct NAME(plan) plan = NAME(topk_plan)(d, k);
    if (!k)
        return 1;
    t.vector = vector, t.residual = residual, t.d = d, t.k = k;
    t.values = payload, t.indices = payload + k * (int64_t)sizeof(REAL);
    t.candidates = scratch, t.places = (int32_t *)(t.candidates + plan.chunk * plan.chunks);
    t.chunk = plan.chunk, t.chunks = plan.chunks;
    atomic_init(&t.taken, 0);
    const int sampled = plan.size && bytes >= NAME(room)(&plan);
    if (residual && !sampled)
        spread(NAME(topk_compensate), &t, 0, d, TILE, plan.parts);
    BITS low = 0;
    if (sampled && NAME(topk_candidates)(&t, &plan)) {
        low = t.guess;
    } else {
        t.segments[0] = (struct NAME(segment)){residual ? residual : vector, NULL, d, -1};
        t.order[0] = t.segments;
        t.count = 1;
    }
    int64_t ties = 0;
    const BITS threshold = NAME(topk_select)(t.order, t.count, k, low, &ties);
    if (threshold >= INFINITY_BITS)
        return 0;
    NAME(topk_emit)(&t, threshold, ties);
    if (residual)
        spread(NAME(topk_forget), &t, 0, k, RUN, threads_parts(8 * k));
    return 1;
}

static int NAME(topk_decode)(const uint8_t *payload, void *out_, int64_t d, int64_t k, int add, double factor) {
    const uint8_t *indices = payload + k * (int64_t)sizeof(REAL);
    REAL *out = out_;
    if (!add)
        spread(NAME(clear), out, 0, d, TILE, threads_parts(d));
    for (int64_t j = 0; j < k; j++) {
        uint32_t i;
        memcpy(&i, indices + 4 * j, 4);
        if (i >= d)
            return 0;
        NAME(deliver)(out + i, NAME(load)(payload, j), add, (REAL)factor);
    }
    return 1;
}

static int NAME(topk_clear)(const uint8_t *payload, void *out, int64_t d, int64_t k) {
    const uint8_t *indices = payload + k * (int64_t)sizeof(REAL);
    for (int64_t j = 0; j < k; j++) {
        uint32_t i;
        memcpy(&i, indices + 4 * j, 4);
        if (i >= d)
            return 0;
        ((REAL *)out)[i] = 0;
    }
    return 1;
}
