/* The loops behind `mpisqueeze.kernels.native`: one table of functions for each instruction set and dtype.

   Each table has the same functions, with the same bits; reference.py is their definition. `vector`, `residual` (NULL:
   no error feedback) and `out` hold d elements of the table's dtype, aligned; a payload may lie at any address. No
   function checks sizes: _native.c does, before it releases the GIL. Encoders return 0 where reference.py returns
   False. Decoders do out ← value, or with `add` out ← out + factor·value. */
#ifndef MPISQUEEZE_LOOPS_H
#define MPISQUEEZE_LOOPS_H

#include <stdint.h>

/* Payloads that are added up: their mean, or with `weights` (else NULL) what gossip mixes. */
struct payloads {
    const uint8_t *const *each;
    const double *weights;
    int count;
    double factor;
};

struct loops {
    int (*copy_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload);
    /* Returns 0 where an element was not finite; `out` is changed all the same. */
    int (*copy_decode)(const uint8_t *payload, void *out, int64_t d, int add, double factor);
    int (*signs_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t block, int each,
                        int l2);
    void (*signs_decode)(const uint8_t *payload, void *out, int64_t d, int64_t block, int each, int add,
                         double factor);
    int (*quantize_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int bits, int64_t bucket,
                           int l2, uint64_t key);
    void (*quantize_decode)(const uint8_t *payload, void *out, int64_t d, int bits, int64_t bucket, int add,
                            double factor);
    int (*uniform_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int bits, int64_t bucket,
                          uint64_t key);
    void (*uniform_decode)(const uint8_t *payload, void *out, int64_t d, int bits, int64_t bucket, int add,
                           double factor);
    /* Bytes of scratch that topk_encode can use. */
    int64_t (*topk_scratch)(int64_t d, int64_t k);
    /* Less scratch makes it slower; it is aligned as int32 and the dtype are. */
    int (*topk_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t k, void *scratch,
                       int64_t bytes);
    /* Returns 0 at an index outside [0, d), when `out` may already have been changed. */
    int (*topk_decode)(const uint8_t *payload, void *out, int64_t d, int64_t k, int add, double factor);
    int (*topk_clear)(const uint8_t *payload, void *out, int64_t d, int64_t k);
    int (*randomk_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t k, uint64_t key,
                          int unbiased);
    void (*randomk_decode)(const uint8_t *payload, void *out, int64_t d, int64_t k, int add, double factor);
    void (*randomk_clear)(const uint8_t *payload, void *out, int64_t d, int64_t k);
    /* The k positions are read from `kept` where they are `drawn`, and else written there, where it is not NULL. */
    int (*positions_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t k, uint64_t key,
                            int unbiased, uint32_t *kept, int drawn);
    /* Returns 0 where a value was not finite; `out` is changed all the same. */
    int (*positions_decode)(const uint8_t *payload, void *out, int64_t d, int64_t k, uint64_t key, uint32_t *kept,
                            int drawn, int add, double factor);
    int (*clip_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int bits);
    void (*clip_decode)(const uint8_t *payload, void *out, int64_t d, int bits, int add, double factor);
    int (*half_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int bfloat);
    void (*half_decode)(const uint8_t *payload, void *out, int64_t d, int bfloat, int add, double factor);
    int (*natural_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, uint64_t key);
    void (*natural_decode)(const uint8_t *payload, void *out, int64_t d, int add, double factor);
    int (*fp8_encode)(const void *vector, void *residual, int64_t d, uint8_t *payload, int64_t block);
    void (*fp8_decode)(const uint8_t *payload, void *out, int64_t d, int64_t block, int add, double factor);
    /* Several payloads at once, see _loops_combine.h; 0 where there was no memory. */
    int (*copy_combine)(const struct payloads *given, void *out, int64_t d, int64_t block, int bits);
    int (*signs_combine)(const struct payloads *given, void *out, int64_t d, int64_t block, int each);
    int (*quantize_combine)(const struct payloads *given, void *out, int64_t d, int64_t block, int bits);
    int (*uniform_combine)(const struct payloads *given, void *out, int64_t d, int64_t block, int bits);
    int (*natural_combine)(const struct payloads *given, void *out, int64_t d, int64_t block, int bits);
    int (*fp8_combine)(const struct payloads *given, void *out, int64_t d, int64_t block, int bits);
    /* Steps of optimizers, see _loops_steps.h: d elements each, x may be NULL; 0 where p was not finite. */
    int (*momentum_step)(void *p, void *u, void *x, int64_t d, const double *numbers, int nesterov);
    int (*adam_step)(void *p, void *m, void *v, void *x, int64_t d, const double *numbers);
};

/* [0] for float32, [1] for float64. */
extern const struct loops loops_base[2];
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MPISQUEEZE_X86_LEVELS 1
extern const struct loops loops_avx2[2];
extern const struct loops loops_avx512[2];
#endif

#endif
