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
        copy_encode_##dtype, copy_decode_##dtype, signs_encode_##dtype, signs_decode_##dtype,                  \
            quantize_encode_##dtype, quantize_decode_##dtype, uniform_encode_##dtype, uniform_decode_##dtype,  \
            topk_scratch_##dtype, topk_encode_##dtype, topk_decode_##dtype, topk_clear_##dtype,                \
            randomk_encode_##dtype, randomk_decode_##dtype, randomk_clear_##dtype, positions_encode_##dtype,   \
            positions_decode_##dtype, clip_encode_##dtype, clip_decode_##dtype, half_encode_##dtype,           \
            half_decode_##dtype, natural_encode_##dtype, natural_decode_##dtype, fp8_encode_##dtype,           \
            fp8_decode_##dtype, copy_combine_##dtype, signs_combine_##dtype, quantize_combine_##dtype,                  \
            uniform_combine_##dtype, natural_combine_##dtype, fp8_combine_##dtype, momentum_step_##dtype,               \
            adam_step_##dtype                                                                                  \
    }
const struct loops LOOPS[2] = {TABLE(f32), TABLE(f64)};
