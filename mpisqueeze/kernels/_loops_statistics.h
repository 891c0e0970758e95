/* Statistics of n elements of v = vector + residual, which the residual then holds, or of the vector where there is no
   residual. Long runs are spread over threads. */

/* The elements of n in front of the first aligned address. Stores that cross a cache line take twice as long. */
INLINE int64_t NAME(until_line)(const REAL *at, int64_t n) {
    const uintptr_t line = LANES > 1 ? LANES * sizeof(REAL) : 64;
    return smaller(n, (int64_t)(-(uintptr_t)at % line / sizeof(REAL)));
}

/* v[i] = x[i] + residual[i], written over the residual; x itself without one. */
INLINE const REAL *NAME(compensated)(const REAL *x, REAL *residual, int64_t n) {
    if (!residual)
        return x;
    const int64_t head = NAME(until_line)(residual, n);
    for (int64_t i = 0; i < head; i++)
        residual[i] = x[i] + residual[i];
    for (int64_t i = head; i < n; i++)
        residual[i] = x[i] + residual[i];
    return residual;
}

#define V_(i) (residual ? x[i] + residual[i] : x[i])

/* Three halvings at once of 8q magnitudes, or squares, of v: entries [from, to) of the q sums. term2: of two of them. */
#define FOLD8_OF(term, v, q, from, to, w)                                                                      \
    for (int64_t i = (from); i < (to); i++)                                                                    \
        (w)[i] = (term##2((v)[i], (v)[i + 4 * (q)]) + term##2((v)[i + 2 * (q)], (v)[i + 6 * (q)])) +           \
                 (term##2((v)[i + (q)], (v)[i + 5 * (q)]) + term##2((v)[i + 3 * (q)], (v)[i + 7 * (q)]));

/* Sums of a run of n ≤ RUN elements. */
#define DEFINE_RUN(function, number, suffix, term)                                                             \
    INLINE number NAME(function##_of)(const REAL *x, REAL *residual, int64_t n) {                              \
        number w[RUN];                                                                                         \
        int64_t width = padded_width(n);                                                                       \
        const REAL *v = NAME(compensated)(x, residual, n);                                                     \
        if (!residual)                                                                                         \
            prefetch(x, n * (int64_t)sizeof(REAL));                                                            \
        if (n == width && n >= 512) {                                                                          \
            const int64_t line = 64 / sizeof(REAL), head = NAME(until_line)(v, line);                          \
            width /= 8;                                                                                        \
            if (head) {                                                                                        \
                FOLD8_OF(term, v, width, head, head + width - line, w)                                         \
                FOLD8_OF(term, v, width, 0, line, w)                                                           \
                FOLD8_OF(term, v, width, width - line, width, w)                                               \
            } else {                                                                                           \
                FOLD8_OF(term, v, width, 0, width, w)                                                          \
            }                                                                                                  \
        } else {                                                                                               \
            for (int64_t i = 0; i < n; i++)                                                                    \
                w[i] = term(v[i]);                                                                             \
            memset(w + n, 0, (size_t)(width - n) * sizeof(number));                                            \
        }                                                                                                      \
        return fold_##suffix(w, width);                                                                        \
    }                                                                                                          \
    /* The compiler makes a faster loop where the length and the residual's presence are constants. */         \
    static number NAME(function##_run)(const REAL *x, REAL *residual, int64_t n) {                             \
        if (n == RUN)                                                                                          \
            return residual ? NAME(function##_of)(x, residual, RUN) : NAME(function##_of)(x, NULL, RUN);       \
        if (n == RUN / 2)                                                                                      \
            return residual ? NAME(function##_of)(x, residual, RUN / 2)                                        \
                            : NAME(function##_of)(x, NULL, RUN / 2);                                           \
        return residual ? NAME(function##_of)(x, residual, n) : NAME(function##_of)(x, NULL, n);               \
    }                                                                                                          \
    struct NAME(function##_job) {                                                                              \
        const REAL *x;                                                                                         \
        REAL *residual;                                                                                        \
        number *sums; /* of each run */                                                                        \
    };                                                                                                         \
    static void NAME(function##_part)(void *job_, int part, int64_t start, int64_t stop) {                     \
        const struct NAME(function##_job) *job = job_;                                                         \
        (void)part;                                                                                            \
        for (int64_t a = start; a < stop; a += RUN)                                                            \
            job->sums[a / RUN] = NAME(function##_run)(job->x + a, job->residual ? job->residual + a : NULL,    \
                                                      smaller(RUN, stop - a));                                 \
    }                                                                                                          \
    static number NAME(function)(const REAL *x, REAL *residual, int64_t n) {                                   \
        if (n <= RUN)                                                                                          \
            return NAME(function##_run)(x, residual, n);                                                       \
        struct sums_##suffix sums;                                                                             \
        memset(sums.count, 0, sizeof sums.count);                                                              \
        const int parts = threads_parts(n);                                                                    \
        number *spread_sums = parts > 1 ? malloc((size_t)(n / RUN + 1) * sizeof(number)) : NULL;               \
        if (spread_sums) {                                                                                     \
            struct NAME(function##_job) job = {x, residual, spread_sums};                                      \
            spread(NAME(function##_part), &job, 0, n, RUN, parts);                                             \
        }                                                                                                      \
        for (int64_t a = 0; a < n; a += RUN)                                                                   \
            sums_add_##suffix(&sums, spread_sums ? spread_sums[a / RUN]                                        \
                                                 : NAME(function##_run)(x + a, residual ? residual + a : NULL, \
                                                                        smaller(RUN, n - a)));                 \
        free(spread_sums);                                                                                     \
        return sums_total_##suffix(&sums);                                                                     \
    }

#define MAGNITUDE_(x) NAME(absolute)(x)
#define MAGNITUDE_2(x, y) (MAGNITUDE_(x) + MAGNITUDE_(y))
#define SQUARE_(x) ((double)(x) * (double)(x))
/* The square of a float32 is exact in float64, so that the one rounding of the fused operation is that of the sum. */
#if LEVEL > 0 && REAL_BITS == 32
#define SQUARE_2(x, y) __builtin_fma((double)(x), (double)(x), SQUARE_(y))
#else
#define SQUARE_2(x, y) (SQUARE_(x) + SQUARE_(y))
#endif
/* ‖v‖₁ */
#if REAL_BITS == 32
DEFINE_RUN(sum, float, f32, MAGNITUDE_)
#else
DEFINE_RUN(sum, double, f64, MAGNITUDE_)
#endif
/* ‖v‖₂² */
DEFINE_RUN(sum_squares, double, f64, SQUARE_)
#undef MAGNITUDE_
#undef MAGNITUDE_2
#undef SQUARE_
#undef SQUARE_2
#undef DEFINE_RUN

/* The sums of the elements ≥ 0 and of those < 0, and the number of these. A NaN is in the first sum. */
struct NAME(sides) {
    REAL above, below;
    int64_t negatives;
};

#define ABOVE_(x) ((x) < 0 ? 0 : (x))
#define BELOW_(x) ((x) < 0 ? (x) : 0)
/* −0 is not < 0, and BELOW_ makes 0 of it. */
#define NEGATIVE_(x) (NAME(bits)(BELOW_(x)) >> (REAL_BITS - 1))
#define EIGHT_(term, v, q)                                                                                     \
    (((term((v)[0]) + term((v)[4 * (q)])) + (term((v)[2 * (q)]) + term((v)[6 * (q)]))) +                       \
     ((term((v)[q]) + term((v)[5 * (q)])) + (term((v)[3 * (q)]) + term((v)[7 * (q)]))))
/* Entries [from, to) of the three sums of 8q elements. */
#define SIDES_(v, q, from, to)                                                                                 \
    for (int64_t i = (from); i < (to); i++) {                                                                  \
        above[i] = EIGHT_(ABOVE_, (v) + i, q);                                                                 \
        below[i] = EIGHT_(BELOW_, (v) + i, q);                                                                 \
        negatives[i] = EIGHT_(NEGATIVE_, (v) + i, q);                                                          \
    }
INLINE struct NAME(sides) NAME(sides_of)(const REAL *x, REAL *residual, int64_t n) {
    REAL above[RUN], below[RUN];
    BITS negatives[RUN], count = 0;
    int64_t width = padded_width(n);
    const REAL *v = NAME(compensated)(x, residual, n);
    if (!residual)
        prefetch(x, n * (int64_t)sizeof(REAL));
    if (n == width && n >= 512) {
        const int64_t line = 64 / sizeof(REAL), head = NAME(until_line)(v, line);
        width /= 8;
        SIDES_(v, width, head, head + width - line)
        SIDES_(v, width, 0, line)
        SIDES_(v, width, width - line, width)
    } else {
        for (int64_t i = 0; i < n; i++)
            above[i] = ABOVE_(v[i]), below[i] = BELOW_(v[i]), negatives[i] = NEGATIVE_(v[i]);
        memset(above + n, 0, (size_t)(width - n) * sizeof(REAL));
        memset(below + n, 0, (size_t)(width - n) * sizeof(REAL));
        memset(negatives + n, 0, (size_t)(width - n) * sizeof(BITS));
    }
    for (int64_t i = 0; i < width; i++)
        count += negatives[i];
    return (struct NAME(sides)){NAME(fold)(above, width), NAME(fold)(below, width), (int64_t)count};
}
#undef ABOVE_
#undef BELOW_
#undef NEGATIVE_
#undef EIGHT_
#undef SIDES_

static struct NAME(sides) NAME(sides_run)(const REAL *x, REAL *residual, int64_t n) {
    if (n == RUN)
        return residual ? NAME(sides_of)(x, residual, RUN) : NAME(sides_of)(x, NULL, RUN);
    return NAME(sides_of)(x, residual, n);
}

struct NAME(sides_job) {
    const REAL *x;
    REAL *residual;
    struct NAME(sides) *runs;
};

static void NAME(sides_part)(void *job_, int part, int64_t start, int64_t stop) {
    const struct NAME(sides_job) *job = job_;
    (void)part;
    for (int64_t a = start; a < stop; a += RUN)
        job->runs[a / RUN] =
            NAME(sides_run)(job->x + a, job->residual ? job->residual + a : NULL, smaller(RUN, stop - a));
}

static struct NAME(sides) NAME(sides)(const REAL *x, REAL *residual, int64_t n) {
    if (n <= RUN)
        return NAME(sides_run)(x, residual, n);
    struct NAME(sums) above, below;
    struct NAME(sides) all = {0};
    memset(above.count, 0, sizeof above.count);
    memset(below.count, 0, sizeof below.count);
    const int parts = threads_parts(n);
    struct NAME(sides) *runs = parts > 1 ? malloc((size_t)(n / RUN + 1) * sizeof *runs) : NULL;
    if (runs) {
        struct NAME(sides_job) job = {x, residual, runs};
        spread(NAME(sides_part), &job, 0, n, RUN, parts);
    }
    for (int64_t a = 0; a < n; a += RUN) {
        const struct NAME(sides) run =
            runs ? runs[a / RUN] : NAME(sides_run)(x + a, residual ? residual + a : NULL, smaller(RUN, n - a));
        NAME(sums_add)(&above, run.above);
        NAME(sums_add)(&below, run.below);
        all.negatives += run.negatives;
    }
    free(runs);
    all.above = NAME(sums_total)(&above), all.below = NAME(sums_total)(&below);
    return all;
}

/* The extremes of each part of the vector. */
struct NAME(extremes) {
    const REAL *x, *residual;
    REAL *sum;
    SBITS largest[MAX_PARTS], low[MAX_PARTS], high[MAX_PARTS];
};

/* Where there is a residual, v is written to `sum`, which may be the residual. */
INLINE SBITS NAME(largest_of)(const REAL *x, const REAL *residual, REAL *sum, int64_t n) {
    SBITS top = 0;
    for (int64_t i = 0; i < n; i++) {
        REAL v = V_(i);
        if (residual)
            sum[i] = v;
        SBITS s = (SBITS)NAME(magnitude)(v);
        top = s > top ? s : top;
    }
    return top;
}

/* The same without a residual, or `top` where it is larger. */
static SBITS NAME(largest_from)(const REAL *x, int64_t n, SBITS top) {
    const SBITS largest = NAME(largest_of)(x, NULL, NULL, n);
    return largest > top ? largest : top;
}

static void NAME(largest_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(extremes) *e = job;
    if (e->residual)
        e->largest[part] = NAME(largest_of)(e->x + start, e->residual + start, e->sum + start, stop - start);
    else
        e->largest[part] = NAME(largest_of)(e->x + start, NULL, NULL, stop - start);
}

/* max |v|, as `magnitude`. */
static BITS NAME(largest)(const REAL *x, const REAL *residual, REAL *sum, int64_t n) {
    struct NAME(extremes) e;
    const int parts = threads_parts(n);
    e.x = x, e.residual = residual, e.sum = sum;
    for (int part = 0; part < parts; part++)
        e.largest[part] = 0;
    spread(NAME(largest_part), &e, 0, n, RUN, parts);
    for (int part = 1; part < parts; part++)
        e.largest[0] = e.largest[part] > e.largest[0] ? e.largest[part] : e.largest[0];
    return (BITS)e.largest[0];
}

INLINE void NAME(range_of)(const REAL *x, const REAL *residual, REAL *sum, int64_t n, SBITS *lowest,
                           SBITS *highest) {
    SBITS low = NAME(ordered)(NAME(real)(INFINITY_BITS)), high = -low - 1;
    for (int64_t i = 0; i < n; i++) {
        REAL v = V_(i);
        if (residual)
            sum[i] = v;
        SBITS s = NAME(ordered)(v);
        low = s < low ? s : low;
        high = s > high ? s : high;
    }
    *lowest = low, *highest = high;
}

static void NAME(range_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(extremes) *e = job;
    SBITS *low = &e->low[part], *high = &e->high[part];
    if (e->residual)
        NAME(range_of)(e->x + start, e->residual + start, e->sum + start, stop - start, low, high);
    else
        NAME(range_of)(e->x + start, NULL, NULL, stop - start, low, high);
}

/* min v and max v into ends[0] and ends[1]; 0 where an element is not finite. */
static int NAME(range)(const REAL *x, const REAL *residual, REAL *sum, int64_t n, REAL ends[2]) {
    struct NAME(extremes) e;
    const int parts = threads_parts(n);
    e.x = x, e.residual = residual, e.sum = sum;
    for (int part = 0; part < parts; part++)
        NAME(range_of)(x, NULL, NULL, 0, &e.low[part], &e.high[part]);
    spread(NAME(range_part), &e, 0, n, RUN, parts);
    for (int part = 1; part < parts; part++) {
        e.low[0] = e.low[part] < e.low[0] ? e.low[part] : e.low[0];
        e.high[0] = e.high[part] > e.high[0] ? e.high[part] : e.high[0];
    }
    /* −0 + 0 = 0: which zero is the smaller must not depend on the order of the comparisons. */
    ends[0] = NAME(unordered)(e.low[0]) + 0;
    ends[1] = NAME(unordered)(e.high[0]) + 0;
    return NAME(finite)(ends[0]) && NAME(finite)(ends[1]);
}
