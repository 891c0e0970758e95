/* The compiled kernels: arguments are checked here, the loops run in _loops_*.c without the GIL.

   Each function takes the positional arguments of the method of the same name in reference.py. Arrays come by the
   buffer protocol, contiguous, of elements of 4 (float32) or 8 (float64) bytes. A buffer of the wrong size raises
   ValueError. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <string.h>

#include "_loops.h"
#include "_threads.h"

struct level {
    const char *name;
    const struct loops *loops; /* [0] for float32, [1] for float64 */
};

/* Slowest first; levels after the first are added if the processor supports them. */
static struct level levels[3] = {{"base", loops_base}};
static int level_count = 1;
static const struct loops *active = loops_base;

static void find_levels(void) {
#ifdef MPISQUEEZE_X86_LEVELS
    __builtin_cpu_init();
    /* A processor with AVX2 and FMA has F16C, too, which not every compiler can test for. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt")) {
        levels[level_count++] = (struct level){"avx2", loops_avx2};
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            levels[level_count++] = (struct level){"avx512", loops_avx512};
    }
#endif
    active = levels[level_count - 1].loops;
}

/* The buffers of one call: the vector (or `out`), the residual and the payload. */
struct arrays {
    Py_buffer vector, residual, payload, scratch;
    void *delta; /* the residual's elements, or NULL */
    int64_t d;
    const struct loops *loops;
};

static void release(struct arrays *a) {
    /* Releasing a view that was never filled does nothing. */
    PyBuffer_Release(&a->vector);
    PyBuffer_Release(&a->residual);
    PyBuffer_Release(&a->payload);
    PyBuffer_Release(&a->scratch);
}

static int numbers(PyObject *object, Py_buffer *view, int flags, const char *name) {
    if (PyObject_GetBuffer(object, view, flags) < 0)
        return -1;
    if ((view->itemsize == 4 || view->itemsize == 8) && (uintptr_t)view->buf % (uintptr_t)view->itemsize == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s must be an aligned array of float32 or float64", name);
    return -1;
}

/* Fills `a` from an encoder's first three arguments; the caller releases it, whatever is returned. */
static int encoder_arrays(struct arrays *a, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted) {
    memset(a, 0, sizeof *a);
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
        return -1;
    }
    if (numbers(args[0], &a->vector, PyBUF_SIMPLE, "vector") < 0)
        return -1;
    if (args[1] != Py_None) {
        if (numbers(args[1], &a->residual, PyBUF_WRITABLE, "residual") < 0)
            return -1;
        if (a->residual.len != a->vector.len || a->residual.itemsize != a->vector.itemsize) {
            PyErr_SetString(PyExc_ValueError, "residual must have the vector's length and dtype");
            return -1;
        }
        a->delta = a->residual.buf;
    }
    a->d = a->vector.len / a->vector.itemsize;
    a->loops = &active[a->vector.itemsize == 8];
    return PyObject_GetBuffer(args[2], &a->payload, PyBUF_WRITABLE);
}

/* Fills `a` from a decoder's first two arguments, payload and out; the last of those wanted may be missing. */
static int decoder_arrays(struct arrays *a, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted) {
    memset(a, 0, sizeof *a);
    if (given != wanted && given != wanted - 1) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
        return -1;
    }
    if (numbers(args[1], &a->vector, PyBUF_WRITABLE, "out") < 0)
        return -1;
    a->d = a->vector.len / a->vector.itemsize;
    a->loops = &active[a->vector.itemsize == 8];
    return PyObject_GetBuffer(args[0], &a->payload, PyBUF_SIMPLE);
}

static int payload_is(const struct arrays *a, int64_t size) {
    if (a->payload.len == size)
        return 0;
    PyErr_Format(PyExc_ValueError, "payload must have %lld bytes, not %lld", (long long)size,
                 (long long)a->payload.len);
    return -1;
}

/* A whole number within [low, high]. */
static int whole(PyObject *object, const char *name, int64_t low, int64_t high, int64_t *value) {
    *value = PyLong_AsLongLong(object);
    if (*value == -1 && PyErr_Occurred())
        return -1;
    if (*value >= low && *value <= high)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s must be from %lld to %lld, not %lld", name, (long long)low, (long long)high,
                 (long long)*value);
    return -1;
}

static int key_of(PyObject *object, uint64_t *key) {
    PyObject *number = PyNumber_Index(object);
    if (!number)
        return -1;
    *key = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    return *key == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

/* 1, 0, or −1 with an exception. */
static int truth(PyObject *object, int *value) { return *value = PyObject_IsTrue(object); }

/* A decoder's arguments `add`, at index `at`, and `factor`, which may be missing. */
static int adding(PyObject *const *args, Py_ssize_t given, Py_ssize_t at, int *add, double *factor) {
    *factor = given > at + 1 ? PyFloat_AsDouble(args[at + 1]) : 1;
    return *factor == -1 && PyErr_Occurred() ? -1 : truth(args[at], add);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t blocks_of(int64_t d, int64_t block) {
    if (!d)
        return 0;
    return block && block < d ? (d + block - 1) / block : 1;
}

#define FUNCTION(name) static PyObject *name(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)

/* Runs `call`, an int, without the GIL, and returns `found`, which it makes of that as `good`; NULL where `checks` failed
   with an exception. */
#define RELEASED(checks, call, found)                                                                          \
    do {                                                                                                       \
        int good = 0, failed = (checks);                                                                       \
        if (!failed) {                                                                                         \
            Py_BEGIN_ALLOW_THREADS good = (call);                                                              \
            Py_END_ALLOW_THREADS                                                                               \
        }                                                                                                      \
        release(&a);                                                                                           \
        return failed ? NULL : (found);                                                                        \
    } while (0)
#define CHECKED(checks, call) RELEASED(checks, call, PyBool_FromLong(good))
#define DECODE(checks, call) RELEASED(checks, ((call), 1), ((void)good, Py_NewRef(Py_None)))

static int is_l2(PyObject *norm, int *l2) {
    if (PyUnicode_Check(norm)) {
        *l2 = PyUnicode_CompareWithASCIIString(norm, "l2") == 0;
        if (*l2 || PyUnicode_CompareWithASCIIString(norm, "max") == 0)
            return 0;
    }
    PyErr_SetString(PyExc_ValueError, "norm must be 'l2' or 'max'");
    return -1;
}

/* How many arguments set a kind's layout, and what its encoder takes behind them. */
static const struct {
    int layout, more;
} taken[] = {[SIGNS] = {2, 1}, [QUANTIZE] = {2, 2}, [UNIFORM] = {2, 1}, [CLIP] = {1, 0},
             [FP16] = {1, 0},  [NATURAL] = {0, 1},  [FP8] = {1, 0}};

/* The layout: of signs (block, each), of quantize and uniform (bits, bucket), of clip (bits), of fp8 (block). That of
   half (bfloat) makes FP16 the kind that it is, and that of clip CLIP. */
static int layout_of(enum kind *kind, const struct arrays *a, PyObject *const *args, struct layout *layout) {
    int64_t block = 0, each = 0, bits = 8;
    int bfloat, failed = 0;
    switch (*kind) {
    case COPY:
        bits = 8 * a->vector.itemsize;
        break;
    case SIGNS:
        bits = 1;
        failed = whole(args[0], "block", 0, INT64_MAX / 16, &block) < 0 || whole(args[1], "each", 0, 2, &each) < 0;
        break;
    case QUANTIZE:
    case UNIFORM:
        each = *kind == UNIFORM ? 2 : 1;
        failed = whole(args[0], "bits", *kind == UNIFORM ? 1 : 2, 8, &bits) < 0 ||
                 whole(args[1], "bucket", 0, INT64_MAX / 16, &block) < 0;
        break;
    case CLIP:
        failed = whole(args[0], "bits", 9, 31, &bits) < 0;
        *kind = bits == 16 ? CLIP16 : CLIP;
        break;
    case FP8:
        each = 1;
        failed = whole(args[0], "block", 0, INT64_MAX / 16, &block) < 0;
        break;
    case NATURAL:
        break;
    default:
        bits = 16;
        failed = truth(args[0], &bfloat) < 0;
        *kind = !failed && bfloat ? BF16 : FP16;
    }
    *layout = (struct layout){block, (int)each, (int)bits};
    return -failed;
}

/* Bytes of a payload. */
static int64_t coded(const struct arrays *a, const struct layout *layout) {
    return layout->each * blocks_of(a->d, layout->block) * a->vector.itemsize + (a->d * layout->bits + 7) / 8;
}

static PyObject *encode(PyObject *const *args, Py_ssize_t given, enum kind kind) {
    struct arrays a;
    struct layout layout;
    int l2 = 0;
    uint64_t key = 0;
    PyObject *const *more = args + 3 + taken[kind].layout;
    CHECKED(encoder_arrays(&a, args, given, 3 + taken[kind].layout + taken[kind].more) < 0 ||
                layout_of(&kind, &a, args + 3, &layout) < 0 || (kind == SIGNS && truth(more[0], &l2) < 0) ||
                (kind == QUANTIZE && is_l2(more[0], &l2) < 0) ||
                ((kind == QUANTIZE || kind == UNIFORM || kind == NATURAL) && key_of(args[given - 1], &key) < 0) ||
                payload_is(&a, coded(&a, &layout)) < 0,
            a.loops->encode(kind, a.vector.buf, a.delta, a.d, a.payload.buf, layout, l2, key));
}

static PyObject *decode(PyObject *const *args, Py_ssize_t given, enum kind kind) {
    struct arrays a;
    struct layout layout;
    int add;
    double factor;
    const int before = 2 + taken[kind].layout;
    RELEASED(decoder_arrays(&a, args, given, before + 2) < 0 || layout_of(&kind, &a, args + 2, &layout) < 0 ||
                 adding(args, given, before, &add, &factor) < 0 || payload_is(&a, coded(&a, &layout)) < 0,
             a.loops->decode(kind, a.payload.buf, a.vector.buf, a.d, layout, add, factor),
             kind == COPY ? PyBool_FromLong(good) : Py_NewRef(Py_None));
}

/* Payloads of a tuple at once: (payloads, weights, factor, out) and the layout. Weights None and factor 0 stand for
   their mean; else see _loops_combine.h. */
static PyObject *combine(PyObject *const *args, Py_ssize_t given, enum kind kind) {
    const Py_ssize_t wanted = 4 + taken[kind].layout;
    struct arrays a;
    struct payloads all = {0};
    Py_buffer *views = NULL;
    const uint8_t **each_of = NULL;
    double *weights = NULL;
    Py_ssize_t count = 0, held = 0;
    struct layout layout;
    int good = 0;
    memset(&a, 0, sizeof a);
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
        return NULL;
    }
    if (!PyTuple_Check(args[0]) || !(count = PyTuple_GET_SIZE(args[0])) || count > INT_MAX) {
        PyErr_SetString(PyExc_TypeError, "payloads must be a tuple of one at least");
        return NULL;
    }
    if (args[1] != Py_None && (!PyTuple_Check(args[1]) || PyTuple_GET_SIZE(args[1]) != count)) {
        PyErr_SetString(PyExc_TypeError, "weights must be None, or a tuple of one for each payload");
        return NULL;
    }
    all.count = (int)count;
    all.factor = PyFloat_AsDouble(args[2]);
    if (PyErr_Occurred() || numbers(args[3], &a.vector, PyBUF_WRITABLE, "out") < 0)
        goto end;
    a.d = a.vector.len / a.vector.itemsize;
    a.loops = &active[a.vector.itemsize == 8];
    if (layout_of(&kind, &a, args + 4, &layout) < 0)
        goto end;
    const int64_t size = coded(&a, &layout);
    views = PyMem_Calloc((size_t)count, sizeof *views);
    each_of = PyMem_Calloc((size_t)count, sizeof *each_of);
    weights = PyMem_Calloc((size_t)count, sizeof *weights);
    if (!views || !each_of || !weights) {
        PyErr_NoMemory();
        goto end;
    }
    all.each = each_of;
    if (args[1] != Py_None) {
        for (Py_ssize_t r = 0; r < count; r++)
            weights[r] = PyFloat_AsDouble(PyTuple_GET_ITEM(args[1], r));
        if (PyErr_Occurred())
            goto end;
        all.weights = weights;
    }
    for (; held < count; held++) {
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(args[0], held), &views[held], PyBUF_SIMPLE) < 0)
            goto end;
        each_of[held] = views[held].buf;
        if (views[held].len != size) {
            PyErr_Format(PyExc_ValueError, "payload must have %lld bytes, not %lld", (long long)size,
                         (long long)views[held].len);
            held++;
            goto end;
        }
    }
    Py_BEGIN_ALLOW_THREADS;
    good = a.loops->combine(kind, &all, a.vector.buf, a.d, layout);
    Py_END_ALLOW_THREADS;
    if (!good)
        PyErr_NoMemory();
end:
    while (held--)
        PyBuffer_Release(&views[held]);
    PyMem_Free(views);
    PyMem_Free((void *)each_of);
    PyMem_Free(weights);
    release(&a);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

#define CODED(name, kind)                                                                                      \
    FUNCTION(name##_encode) { return encode(args, given, kind); }                                              \
    FUNCTION(name##_decode) { return decode(args, given, kind); }
#define COMBINED(name, kind)                                                                                   \
    CODED(name, kind)                                                                                          \
    FUNCTION(name##_combine) { return combine(args, given, kind); }
COMBINED(copy, COPY)
COMBINED(signs, SIGNS)
COMBINED(quantize, QUANTIZE)
COMBINED(uniform, UNIFORM)
COMBINED(natural, NATURAL)
COMBINED(fp8, FP8)
CODED(clip, CLIP)
CODED(half, FP16)

/* One argument more than the method: scratch for candidates, any writable array of the vector's dtype. */
FUNCTION(topk_encode) {
    struct arrays a;
    int64_t k;
    CHECKED(encoder_arrays(&a, args, given, 5) < 0 || whole(args[3], "k", 0, smaller(a.d, INT32_MAX), &k) < 0 ||
               payload_is(&a, k * (a.vector.itemsize + 4)) < 0 ||
               numbers(args[4], &a.scratch, PyBUF_WRITABLE, "scratch") < 0,
           a.loops->topk_encode(a.vector.buf, a.delta, a.d, a.payload.buf, k, a.scratch.buf,
                                a.scratch.len));
}

static PyObject *indices_inside(int inside) {
    if (inside)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_IndexError, "an index in the payload is out of bounds");
    return NULL;
}

FUNCTION(topk_decode) {
    struct arrays a;
    int64_t k;
    int add;
    double factor;
    RELEASED(decoder_arrays(&a, args, given, 5) < 0 || whole(args[2], "k", 0, smaller(a.d, INT32_MAX), &k) < 0 ||
                 adding(args, given, 3, &add, &factor) < 0 || payload_is(&a, k * (a.vector.itemsize + 4)) < 0,
             a.loops->topk_decode(a.payload.buf, a.vector.buf, a.d, k, add, factor), indices_inside(good));
}

/* The arguments are (payload, out, k): those of a decoder that may lack its last one, `add`. */
FUNCTION(topk_clear) {
    struct arrays a;
    int64_t k;
    RELEASED(decoder_arrays(&a, args, given, 4) < 0 || whole(args[2], "k", 0, smaller(a.d, INT32_MAX), &k) < 0 ||
                 payload_is(&a, k * (a.vector.itemsize + 4)) < 0,
             a.loops->topk_clear(a.payload.buf, a.vector.buf, a.d, k), indices_inside(good));
}

FUNCTION(randomk_clear) {
    struct arrays a;
    int64_t k;
    DECODE(decoder_arrays(&a, args, given, 4) < 0 || whole(args[2], "k", 0, a.d, &k) < 0 ||
               payload_is(&a, 8 + k * a.vector.itemsize) < 0,
           a.loops->randomk_clear(a.payload.buf, a.vector.buf, a.d, k));
}

FUNCTION(randomk_encode) {
    struct arrays a;
    int64_t k;
    uint64_t key;
    int unbiased;
    CHECKED(encoder_arrays(&a, args, given, 6) < 0 || whole(args[3], "k", 0, a.d, &k) < 0 ||
               key_of(args[4], &key) < 0 || truth(args[5], &unbiased) < 0 ||
               payload_is(&a, 8 + k * a.vector.itemsize) < 0,
           a.loops->randomk_encode(a.vector.buf, a.delta, a.d, a.payload.buf, k, key, unbiased));
}

FUNCTION(randomk_decode) {
    struct arrays a;
    int64_t k;
    int add;
    double factor;
    DECODE(decoder_arrays(&a, args, given, 5) < 0 || whole(args[2], "k", 0, a.d, &k) < 0 ||
               adding(args, given, 3, &add, &factor) < 0 || payload_is(&a, 8 + k * a.vector.itemsize) < 0,
           a.loops->randomk_decode(a.payload.buf, a.vector.buf, a.d, k, add, factor));
}

/* An array of k positions, and whether they are in it already. */
static int kept_positions(PyObject *const *args, struct arrays *a, int64_t k, int *drawn) {
    if (numbers(args[0], &a->scratch, PyBUF_WRITABLE, "kept") < 0 || truth(args[1], drawn) < 0)
        return -1;
    if (a->scratch.len >= 4 * k)
        return 0;
    PyErr_Format(PyExc_ValueError, "kept has room for %zd positions", a->scratch.len / 4);
    return -1;
}

FUNCTION(positions_encode) {
    struct arrays a;
    int64_t k;
    uint64_t key;
    int unbiased, drawn;
    CHECKED(encoder_arrays(&a, args, given, 8) < 0 || whole(args[3], "k", 0, a.d, &k) < 0 ||
               key_of(args[4], &key) < 0 || truth(args[5], &unbiased) < 0 ||
               kept_positions(args + 6, &a, k, &drawn) < 0 || payload_is(&a, k * a.vector.itemsize) < 0,
           a.loops->positions_encode(a.vector.buf, a.delta, a.d, a.payload.buf, k, key, unbiased, a.scratch.buf,
                                     drawn));
}

FUNCTION(positions_decode) {
    struct arrays a;
    int64_t k;
    uint64_t key;
    int add, drawn;
    double factor;
    CHECKED(decoder_arrays(&a, args, given, 8) < 0 || whole(args[2], "k", 0, a.d, &k) < 0 ||
                key_of(args[3], &key) < 0 || kept_positions(args + 4, &a, k, &drawn) < 0 ||
                adding(args, given, 6, &add, &factor) < 0 || payload_is(&a, k * a.vector.itemsize) < 0,
            a.loops->positions_decode(a.payload.buf, a.vector.buf, a.d, k, key, a.scratch.buf, drawn, add, factor));
}

/* (d, k, bytes of an element) → bytes of scratch that topk_encode can use. */
FUNCTION(topk_scratch) {
    int64_t d, k, itemsize;
    if (given != 3) {
        PyErr_Format(PyExc_TypeError, "expected 3 arguments, got %zd", given);
        return NULL;
    }
    if (whole(args[0], "d", 0, INT64_MAX / 16, &d) < 0 || whole(args[1], "k", 0, d, &k) < 0 ||
        whole(args[2], "itemsize", 4, 8, &itemsize) < 0)
        return NULL;
    return PyLong_FromLongLong(active[itemsize == 8].topk_scratch(d, k));
}

static PyObject *instruction_sets(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    (void)self;
    PyObject *names = PyTuple_New(level_count);
    for (int i = 0; names && i < level_count; i++)
        PyTuple_SET_ITEM(names, i, PyUnicode_FromString(levels[i].name));
    return names;
}

static PyObject *use_instruction_set(PyObject *self, PyObject *name) {
    (void)self;
    for (int i = 0; PyUnicode_Check(name) && i < level_count; i++)
        if (PyUnicode_CompareWithASCIIString(name, levels[i].name) == 0) {
            active = levels[i].loops;
            Py_RETURN_NONE;
        }
    PyErr_Format(PyExc_ValueError, "this processor has no instruction set %R", name);
    return NULL;
}

/* (count[, the fewest elements in a part]) */
FUNCTION(use_threads) {
    int64_t count, part = SMALLEST_PART;
    if (given < 1 || given > 2) {
        PyErr_Format(PyExc_TypeError, "expected 1 or 2 arguments, got %zd", given);
        return NULL;
    }
    if (whole(args[0], "threads", 1, MAX_THREADS, &count) < 0 ||
        (given > 1 && whole(args[1], "part", 1, INT64_MAX, &part) < 0))
        return NULL;
    threads_use((int)count, part);
    Py_RETURN_NONE;
}

static PyObject *threads(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    (void)self;
    return PyLong_FromLong(threads_in_use());
}

/* The vectors of an optimizer's step: p, one memory or two, and x, which may be None; `count` numbers follow them. */
static int step_arguments(struct arrays *a, PyObject *const *args, Py_ssize_t given, int memories, int count,
                          Py_ssize_t wanted, double *values) {
    static const char *const names[] = {"p", "the first memory", "the second memory", "x"};
    Py_buffer *const views[] = {&a->vector, &a->residual, &a->payload, &a->scratch};
    memset(a, 0, sizeof *a);
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
        return -1;
    }
    for (int i = 0; i < memories + 2; i++) {
        const int place = i == memories + 1 ? 3 : i;
        if (place == 3 && args[i] == Py_None)
            continue;
        if (numbers(args[i], views[place], PyBUF_WRITABLE, names[place]) < 0)
            return -1;
        if (views[place]->len != a->vector.len || views[place]->itemsize != a->vector.itemsize) {
            PyErr_Format(PyExc_ValueError, "%s must have the length and dtype of p", names[place]);
            return -1;
        }
    }
    for (int i = 0; i < count; i++) {
        values[i] = PyFloat_AsDouble(args[memories + 2 + i]);
        if (values[i] == -1 && PyErr_Occurred())
            return -1;
    }
    a->d = a->vector.len / a->vector.itemsize;
    a->loops = &active[a->vector.itemsize == 8];
    return 0;
}

FUNCTION(momentum_step) {
    struct arrays a;
    double values[4];
    int nesterov;
    CHECKED(step_arguments(&a, args, given, 1, 4, 8, values) < 0 || truth(args[7], &nesterov) < 0,
            a.loops->momentum_step(a.vector.buf, a.residual.buf, a.scratch.buf, a.d, values, nesterov));
}

FUNCTION(adam_step) {
    struct arrays a;
    double values[8];
    CHECKED(step_arguments(&a, args, given, 2, 8, 12, values) < 0,
            a.loops->adam_step(a.vector.buf, a.residual.buf, a.payload.buf, a.scratch.buf, a.d, values));
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}
#define BOTH(name) METHOD(name##_encode), METHOD(name##_decode)
static PyMethodDef methods[] = {
    BOTH(copy), METHOD(copy_combine),
    BOTH(signs), METHOD(signs_combine),
    BOTH(quantize), METHOD(quantize_combine),
    BOTH(uniform), METHOD(uniform_combine),
    BOTH(natural), METHOD(natural_combine),
    BOTH(fp8), METHOD(fp8_combine),
    BOTH(topk), METHOD(topk_clear), METHOD(topk_scratch),
    BOTH(randomk), METHOD(randomk_clear),
    BOTH(positions), BOTH(clip), BOTH(half),
    METHOD(momentum_step),
    METHOD(adam_step),
    {"instruction_sets", instruction_sets, METH_NOARGS, "The instruction sets that can be used, slowest first."},
    {"use_instruction_set", use_instruction_set, METH_O, "Use one of them from now on; the last one is the default."},
    METHOD(use_threads),
    {"threads", threads, METH_NOARGS, "The number of threads in use."},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module) {
    static int done = 0;
    (void)module;
    if (!done) {
        find_levels();
        threads_init();
        done = 1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "Compiled kernels; see native.py.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
