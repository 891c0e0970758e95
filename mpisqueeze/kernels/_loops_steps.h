/* Steps of optimizers, one pass over all of their vectors. A job without x overwrites the direction p by the step. */

struct NAME(stepping) {
    REAL *x, *p, *u, *v;
    REAL scale, decay, rate, keep, beta1, beta2, fresh1, fresh2, root, eps;
    int nesterov;
    atomic_int bad; /* an element of the direction that is not finite */
};

#if REAL_BITS == 32
#define SQUARE_ROOT sqrtf
#else
#define SQUARE_ROOT sqrt
#endif

INLINE BITS NAME(momentum_of)(const struct NAME(stepping) *of, int64_t start, int64_t stop, int moves, int nesterov) {
    REAL *restrict x = of->x, *restrict p = of->p, *restrict u = of->u;
    const REAL scale = of->scale, decay = of->decay, rate = of->rate, beta = of->beta1;
    BITS bad = 0;
    for (int64_t i = start; i < stop; i++) {
        const REAL g = moves ? scale * p[i] + decay * x[i] : scale * p[i];
        const REAL mean = beta * u[i] + g, step = nesterov ? g + beta * mean : mean;
        bad |= NAME(magnitude)(g) + TO_TOP_BIT;
        u[i] = mean;
        if (moves)
            x[i] = x[i] - rate * step;
        else
            p[i] = step;
    }
    return bad >> (REAL_BITS - 1);
}

static void NAME(momentum_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(stepping) *of = job;
    (void)part;
    if (of->x ? of->nesterov ? NAME(momentum_of)(of, start, stop, 1, 1) : NAME(momentum_of)(of, start, stop, 1, 0)
        : of->nesterov ? NAME(momentum_of)(of, start, stop, 0, 1)
                       : NAME(momentum_of)(of, start, stop, 0, 0))
        of->bad = 1;
}

/* `numbers`: scale, decay, γ, β. */
static int NAME(momentum_step)(void *p, void *u, void *x, int64_t d, const double *numbers, int nesterov) {
    struct NAME(stepping) of = {.x = x, .p = p, .u = u, .nesterov = nesterov};
    of.scale = (REAL)numbers[0], of.decay = (REAL)numbers[1], of.rate = (REAL)numbers[2], of.beta1 = (REAL)numbers[3];
    spread(NAME(momentum_part), &of, 0, d, TILE, threads_parts(d));
    return !of.bad;
}

INLINE BITS NAME(adam_of)(const struct NAME(stepping) *of, int64_t start, int64_t stop, int moves) {
    REAL *restrict x = of->x, *restrict p = of->p, *restrict u = of->u, *restrict v = of->v;
    const REAL scale = of->scale, decay = of->decay, rate = of->rate, keep = of->keep;
    const REAL beta1 = of->beta1, beta2 = of->beta2;
    const REAL fresh1 = of->fresh1, fresh2 = of->fresh2, root = of->root, eps = of->eps;
    BITS bad = 0;
    for (int64_t i = start; i < stop; i++) {
        const REAL g = moves ? scale * p[i] + decay * x[i] : scale * p[i];
        const REAL mean = beta1 * u[i] + fresh1 * g, square = beta2 * v[i] + fresh2 * (g * g);
        const REAL step = rate * mean / (root * SQUARE_ROOT(square) + eps);
        bad |= NAME(magnitude)(g) + TO_TOP_BIT;
        u[i] = mean;
        v[i] = square;
        if (moves)
            x[i] = keep * x[i] - step;
        else
            p[i] = step;
    }
    return bad >> (REAL_BITS - 1);
}

static void NAME(adam_part)(void *job, int part, int64_t start, int64_t stop) {
    struct NAME(stepping) *of = job;
    (void)part;
    if (of->x ? NAME(adam_of)(of, start, stop, 1) : NAME(adam_of)(of, start, stop, 0))
        of->bad = 1;
}

/* `numbers`: scale, decay, rate, keep, β₁, β₂, root, ε. */
static int NAME(adam_step)(void *p, void *m, void *v, void *x, int64_t d, const double *numbers) {
    struct NAME(stepping) of = {.x = x, .p = p, .u = m, .v = v};
    of.scale = (REAL)numbers[0], of.decay = (REAL)numbers[1], of.rate = (REAL)numbers[2], of.keep = (REAL)numbers[3];
    of.beta1 = (REAL)numbers[4], of.fresh1 = (REAL)(1 - numbers[4]);
    of.beta2 = (REAL)numbers[5], of.fresh2 = (REAL)(1 - numbers[5]);
    of.root = (REAL)numbers[6], of.eps = (REAL)numbers[7];
    spread(NAME(adam_part), &of, 0, d, TILE, threads_parts(d));
    return !of.bad;
}

#undef SQUARE_ROOT
