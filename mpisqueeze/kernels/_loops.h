/* The loops behind `mpisqueeze.kernels.native`: one table of functions for each instruction set and dtype.

   Each table has the same functions, with the same bits; reference.py is their definition. `vector`, `residual` (NULL:
   no error feedback) and `out` hold d elements of the table's dtype, aligned; a payload may lie at any address. No
   function checks sizes: _native.c does, before it releases the GIL. Encoders return 0 where reference.py returns
   False. Decoders do out ← value, or with `add` out ← out + factor·value. */
#ifndef MPISQUEEZE_LOOPS_H
#define MPISQUEEZE_LOOPS_H

#include <stdint.h>

/* What an element becomes, in the payloads whose elements are all coded. */
enum kind { COPY, SIGNS, QUANTIZE, UNIFORM, CLIP, CLIP16, FP16, BF16, NATURAL, FP8 };

/* Such a payload: `each` scales for each block of the vector (0: one block), then codes of so many bits. */
struct layout {
    int64_t block;
    int each, bits;
};

/* Payloads that are added up: their mean, or with `weights` (else NULL) what gossip mixes. */
struct payloads {
    const uint8_t *const *each;
    const double *weights;
    int count;
    double factor;
};

struct loops {
    int (*encode)(enum kind kind, const void *vector, void *residual, int64_t d, uint8_t *payload,
                  struct layout layout, int l2, uint64_t key);
    /* Returns 0 where an element of COPY was not finite; `out` is changed all the same. */
    int (*decode)(enum kind kind, const uint8_t *payload, void *out, int64_t d, struct layout layout, int add,
                  double factor);
    /* Several payloads at once, see _loops_combine.h; 0 where there was no memory. */
    int (*combine)(enum kind kind, const struct payloads *given, void *out, int64_t d, struct layout layout);
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
