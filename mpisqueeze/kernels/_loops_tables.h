/* Instantiates the loops for both dtypes; the including file defines LEVEL (0 plain C, 1 AVX2, 2 AVX-512) and LOOPS. */
#include "_loops.h"
#include "_loops_common.h"
#include "_loops_streams.h"

#define REAL float
#define BITS uint32_t
#define SBITS int32_t
#define REAL_BITS 32
#define INFINITY_BITS 0x7f800000u
#define NAME(name) name##_f32
#include "_loops_body.h"
#undef REAL
#undef BITS
#undef SBITS
#undef REAL_BITS
#undef INFINITY_BITS
#undef NAME

#define REAL double
#define BITS uint64_t
#define SBITS int64_t
#define REAL_BITS 64
#define INFINITY_BITS 0x7ff0000000000000u
#define NAME(name) name##_f64
#include "_loops_body.h"

#define TABLE(dtype)                                                                                           \
    {                                                                                                          \
        encode_##dtype, decode_##dtype, combine_##dtype, topk_scratch_##dtype, topk_encode_##dtype,            \
            topk_decode_##dtype, topk_clear_##dtype, randomk_encode_##dtype, randomk_decode_##dtype,           \
            randomk_clear_##dtype, positions_encode_##dtype, positions_decode_##dtype, momentum_step_##dtype,  \
            adam_step_##dtype                                                                                  \
    }
const struct loops LOOPS[2] = {TABLE(f32), TABLE(f64)};
