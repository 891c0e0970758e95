/* The loops of one dtype, named and ordered as in reference.py. See _loops_tables.h for what is defined outside. */

#define MAGNITUDE_BITS ((BITS) ~((BITS)1 << (REAL_BITS - 1)))

/* |x| as a whole number: the same order, with infinities and NaNs on top. */
INLINE BITS NAME(magnitude)(REAL x) { return NAME(bits)(x) & MAGNITUDE_BITS; }

INLINE REAL NAME(absolute)(REAL x) { return NAME(real)(NAME(magnitude)(x)); }

/* x as a signed whole number in the same order, and back: −NaN < −inf < … < −0 < 0 < … < inf < NaN. */
INLINE SBITS NAME(ordered)(REAL x) {
    SBITS s = (SBITS)NAME(bits)(x);
    return s ^ (SBITS)((BITS)(s >> (REAL_BITS - 1)) & MAGNITUDE_BITS);
}

INLINE REAL NAME(unordered)(SBITS s) {
    return NAME(real)((BITS)(s ^ (SBITS)((BITS)(s >> (REAL_BITS - 1)) & MAGNITUDE_BITS)));
}

INLINE int NAME(finite)(REAL x) { return NAME(magnitude)(x) < INFINITY_BITS; }

/* Element i of an array in a payload, at any address. */
INLINE REAL NAME(load)(const uint8_t *section, int64_t i) {
    REAL x;
    memcpy(&x, section + i * (int64_t)sizeof x, sizeof x);
    return x;
}

INLINE void NAME(store)(uint8_t *section, int64_t i, REAL x) { memcpy(section + i * (int64_t)sizeof x, &x, sizeof x); }

/* A magnitude plus this has its top bit set if and only if the element is not finite. */
#define TO_TOP_BIT (((BITS)1 << (REAL_BITS - 1)) - INFINITY_BITS)

/* out ← out + factor·value, or value. */
INLINE void NAME(deliver)(REAL *out, REAL value, int add, REAL factor) { *out = add ? *out + factor * value : value; }

static void NAME(clear)(void *numbers, int part, int64_t start, int64_t stop) {
    (void)part;
    memset((REAL *)numbers + start, 0, (size_t)(stop - start) * sizeof(REAL));
}

#include "_loops_lanes.h"
#include "_loops_statistics.h"
#include "_loops_blocks.h"
#include "_loops_formats.h"
#include "_loops_signs.h"
#include "_loops_quantize.h"
#include "_loops_bytes.h"
#include "_loops_kinds.h"
#include "_loops_combine.h"
#include "_loops_topk.h"
#include "_loops_randomk.h"
#include "_loops_steps.h"

#undef DELIVERED
#undef LANES
#undef V_
#undef TO_TOP_BIT
#undef MAGNITUDE_BITS
