// Identity: the payload is the vector.
#include "common.cuh"

// Each thread takes four elements.
extern "C" __global__ void copy_encode(const real* vector, real* residual, i64 n, u8* payload, int* fault) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real v[4], zeros[4] = {0, 0, 0, 0};
    compensated4(vector, residual, i, n, v);
    store4((real*)payload, i, n, v);
    if (residual) store4(residual, i, n, zeros);
    if (!(is_finite(v[0]) && is_finite(v[1]) && is_finite(v[2]) && is_finite(v[3]))) *fault = 1;
}

extern "C" __global__ void copy_decode(const u8* payload, real* out, i64 n, int* fault, u32 add, real factor) {
    i64 i = 4 * thread_index();
    if (i >= n) return;
    real x[4];
    load4((const real*)payload, i, n, x);
    if (!(is_finite(x[0]) && is_finite(x[1]) && is_finite(x[2]) && is_finite(x[3]))) *fault = 1;
    deliver4(out, i, n, x, add, factor);
}
