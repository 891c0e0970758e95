// Steps of optimizers: each thread takes four elements of all their vectors. Without x the step overwrites p.
#include "common.cuh"

// y ← y + factor·x.
extern "C" __global__ void axpy(real* y, real factor, const real* x, i64 n) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real moved[4];
    load4(x, i, n, moved);
    deliver4(y, i, n, moved, 1, factor);
}

// g = scale·p + decay·x, four elements.
__device__ inline void direction4(const real* p, const real* x, i64 i, i64 n, real scale, real decay, real (&g)[4],
                                  int* fault) {
    load4(p, i, n, g);
    for (u32 c = 0; c < 4; ++c) g[c] = scale * g[c];
    if (x) {
        real have[4];
        load4(x, i, n, have);
        for (u32 c = 0; c < 4; ++c) g[c] += decay * have[c];
    }
    if (!(is_finite(g[0]) && is_finite(g[1]) && is_finite(g[2]) && is_finite(g[3]))) *fault = 1;
}

// x ← keep·x − step, or p ← step.
__device__ inline void move4(real* x, real* p, i64 i, i64 n, real keep, const real (&step)[4]) {
    if (!x) return store4(p, i, n, step);
    real moved[4];
    load4(x, i, n, moved);
    for (u32 c = 0; c < 4; ++c) moved[c] = keep * moved[c] - step[c];
    store4(x, i, n, moved);
}

extern "C" __global__ void momentum_step(real* p, real* u, real* x, i64 n, real scale, real decay, real rate, real beta,
                                         u32 nesterov, int* fault) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real g[4], mean[4], step[4];
    direction4(p, x, i, n, scale, decay, g, fault);
    load4(u, i, n, mean);
    for (u32 c = 0; c < 4; ++c) {
        mean[c] = beta * mean[c] + g[c];
        step[c] = nesterov ? g[c] + beta * mean[c] : mean[c];
        if (x) step[c] = rate * step[c];
    }
    store4(u, i, n, mean);
    move4(x, p, i, n, (real)1, step);
}

extern "C" __global__ void adam_step(real* p, real* m, real* v, real* x, i64 n, real scale, real decay, real rate,
                                     real keep, real beta1, real fresh1, real beta2, real fresh2, real root, real eps, int* fault) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real g[4], mean[4], square[4], step[4];
    direction4(p, x, i, n, scale, decay, g, fault);
    load4(m, i, n, mean);
    load4(v, i, n, square);
    for (u32 c = 0; c < 4; ++c) {
        mean[c] = beta1 * mean[c] + fresh1 * g[c];
        square[c] = beta2 * square[c] + fresh2 * (g[c] * g[c]);
        step[c] = rate * mean[c] / (root * (real)sqrt(square[c]) + eps);
    }
    store4(m, i, n, mean);
    store4(v, i, n, square);
    move4(x, p, i, n, keep, step);
}
