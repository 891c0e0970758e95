/* All kinds of payloads whose elements are coded one by one: each by its parts. */

static int NAME(encode)(enum kind kind, const void *vector, void *residual, int64_t d, uint8_t *payload,
                        struct layout layout, int l2, uint64_t key) {
    static spread_work *const alike[] = {
        [COPY] = NAME(copy_encode_part), [CLIP] = NAME(clip_encode_part),   [CLIP16] = NAME(clip16_encode_part),
        [FP16] = NAME(half_encode_part), [BF16] = NAME(bfloat_encode_part), [NATURAL] = NAME(natural_encode_part),
    };
    if (!d)
        return 1;
    struct NAME(blocks) b = {.vector = vector, .residual = residual, .v = residual ? residual : vector, .d = d,
                             .length = block_length(d, layout.block), .scales = payload, .each = layout.each,
                             .bits = layout.bits, .l2 = l2, .key = key};
    b.stream = payload + NAME(scale_bytes)(d, b.length, b.each);
    switch (kind) {
    case SIGNS:
        return NAME(encode_blocks)(&b, NAME(signs_groups));
    case QUANTIZE:
        b.measure = NAME(quantize_measure), b.encode = NAME(quantize_tile);
        break;
    case UNIFORM:
        b.measure = NAME(uniform_measure), b.encode = NAME(uniform_tile);
        break;
    case FP8:
        b.measure = NAME(fp8_measure), b.encode = NAME(fp8_tile);
        break;
    default:
        spread(alike[kind], &b, 0, d, TILE, threads_parts(d));
        return !b.bad;
    }
    return NAME(encode_blocks)(&b, NAME(encode_groups));
}

static spread_work *const NAME(decoders)[] = {
    [COPY] = NAME(copy_decode_part),       [SIGNS] = NAME(signs_decode_part),   [QUANTIZE] = NAME(quantize_decode_part),
    [UNIFORM] = NAME(uniform_decode_part), [CLIP] = NAME(clip_decode_part),     [CLIP16] = NAME(bfloat_decode_part),
    [FP16] = NAME(half_decode_part),       [BF16] = NAME(bfloat_decode_part),   [FP8] = NAME(fp8_decode_part),
    [NATURAL] = NAME(natural_decode_part),
};

static int NAME(decode)(enum kind kind, const uint8_t *payload, void *out, int64_t d, struct layout layout, int add,
                        double factor) {
    if (!d)
        return 1;
    struct NAME(delivery) to = NAME(delivery_of)(payload, out, d, layout, add, factor);
    spread(NAME(decoders)[kind], &to, 0, d, TILE, threads_parts(d));
    return !to.bad;
}
