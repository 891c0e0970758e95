"""The CUDA kernels against `ReferenceKernels`, bit for bit: in the emulator, and on a GPU (`pytest -m gpu`)."""

from __future__ import annotations

import ctypes
import re
import sysconfig
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_cases import (
    DTYPES,
    Case,
    Place,
    assert_cleared,
    assert_same,
    clip,
    copy,
    fp8,
    half,
    natural,
    numbers,
    positions,
    quantize,
    randomk,
    signs,
    topk,
    uniform,
)
from parts import COMPRESSORS

from mpisqueeze.kernels.cuda import OPTIONS, SAMPLED, SAMPLES, CudaKernels, cuda_sources
from mpisqueeze.kernels.reference import ReferenceKernels
from mpisqueeze.parts import registry

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
only_emulated = pytest.mark.parametrize("cuda", ["emulator"], indirect=True)


@dataclass
class Gpu:
    """A GPU, real or emulated, and the kernel sets under test."""

    cupy: Any
    kernels: dict[np.dtype[Any], Any]

    @property
    def emulated(self) -> bool:
        return self.cupy.__version__ == "emulated"


@pytest.fixture(scope="module")
def gpu(cuda: Any) -> Gpu:
    return Gpu(cuda, {dtype: CudaKernels(dtype) for dtype in DTYPES})


def check(gpu: Gpu, case: Case, kind: str, n: int, dtype: np.dtype[Any], offset: int = 0, shift: int = 0) -> None:
    """With error feedback; of a vector and a residual that must be refused, one is fine."""
    rng = np.random.default_rng(n)
    kinds = [kind, "normal" if kind in ("nan", "inf") else kind]
    vector, residual = (numbers(rng, n, dtype, kind) for kind in rng.permutation(kinds))
    assert_same(case, vector, residual, [("cuda", gpu.kernels[dtype], gpu.cupy)], offset, shift)


@only_emulated
def test_the_order_of_threads_does_not_show_in_a_sample(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.cupy.settings, "backwards", True)
    check(gpu, topk(0.01), "normal", 2 * SAMPLED, DTYPES[0])


@each_dtype
def test_kernels_match_for_long_vectors(gpu: Gpu, dtype: np.dtype[Any]) -> None:
    for case in (
        copy(),
        half(False),
        half(True),
        clip(9),
        signs(70000),
        signs(70000, "two"),
        quantize(4, 0, "l2"),
        uniform(3, 70000),
        fp8(70000),
        fp8(128),
        natural(),
        positions(0.1, True),
        topk(0.01),
    ):
        check(gpu, case, "normal", 140007, dtype, offset=1)
    check(gpu, topk(0.5), "ties", 70001, dtype)
    # More than 1024 runs of 1024: three levels of halving.
    for scale in ("l1", "two", "none"):
        check(gpu, signs(0, scale), "normal", 1024 * 1024 + 77, dtype)
    if not gpu.emulated:
        for case in (
            signs(1024),
            signs(1024, "two"),
            quantize(4, 512, "l2"),
            topk(0.01),
            randomk(0.01, True),
            clip(16),
        ):
            check(gpu, case, "normal", 5_000_011, dtype)


@each_dtype
def test_what_a_payload_holds_is_cleared(gpu: Gpu, dtype: np.dtype[Any]) -> None:
    assert_cleared(gpu.kernels[dtype], gpu.cupy, dtype)


@each_dtype
def test_sections_make_the_whole_payload(gpu: Gpu, dtype: np.dtype[Any]) -> None:
    """Cut at multiples of its grain, a vector gives the same numbers section by section as at once, on the host."""
    d = 5003
    rng = np.random.default_rng(3)
    vector, delta = numbers(rng, d, dtype, "wide"), numbers(rng, d, dtype, "normal")
    for spec in COMPRESSORS:
        part = registry.compressors.find(spec)
        whole = part.cls(d, np, dtype, 5, **part.options)
        if whole.grain is None or whole.grain >= d:
            continue
        whole.iteration = 4
        memory, payload, expected = delta.copy(), np.empty(whole.payload_bytes, np.uint8), np.empty(d, dtype)
        whole.encode_feedback(vector, memory, payload)
        whole.decode(payload, expected)

        length = whole.grain * max(1, 600 // whole.grain)
        if whole.grain & (whole.grain - 1) == 0:
            length = 1 << (length.bit_length() - 1)
        given, residual, out = map(Place(gpu.cupy, 1).vector, (vector, delta, np.zeros(d, dtype)))
        payloads, start = gpu.cupy.zeros(whole.payload_bytes + 64, np.uint8), 0
        sections = {n: part.cls(n, gpu.cupy, dtype, 5, **part.options) for n in {length, d % length or length}}
        for first in range(0, d, length):
            section = sections[min(length, d - first)]
            section.iteration, section.first = 4, first
            numbers_of = slice(first, first + section.dimension)
            piece = payloads[start : start + section.payload_bytes]
            section.encode_feedback(given[numbers_of], residual[numbers_of], piece)
            section.decode(piece, out[numbers_of])
            start += section.payload_bytes
        assert start == whole.payload_bytes, spec
        assert out.get().tobytes() == expected.tobytes(), spec
        assert residual.get().tobytes() == memory.tobytes(), spec


@each_dtype
def test_topk_whatever_its_sample_says(gpu: Gpu, dtype: np.dtype[Any]) -> None:
    """Where a sample misleads it, too, and where most numbers are equal."""
    n = SAMPLED + 4321
    rng = np.random.default_rng(5)
    sampled = np.arange(SAMPLES) * n // SAMPLES
    unseen = np.setdiff1d(np.arange(n), sampled)
    normal = rng.standard_normal(n)
    vectors = {"normal": normal}
    # The largest are all in the sample, so that candidates are too few; none is, so that they are too many.
    for name, where in (("seen", sampled), ("unseen", unseen)):
        vectors[name] = normal * 1e-3
        vectors[name][where] *= 1e6
    # Many equal numbers, at the threshold, beside larger ones, and zeros.
    vectors["steps"] = np.round(normal)
    vectors["small steps"] = np.round(normal * 20) / 20
    vectors["equal"] = np.full(n, -2.5)
    vectors["few"] = normal * (rng.random(n) < 1e-4)
    # Candidates are in a few pieces, all of whose numbers are.
    vectors["front"] = np.where(np.arange(n) < n // 50, normal * 50, normal)
    kernels, sources = gpu.kernels[dtype], {}
    for name, values in vectors.items():
        for ratio, feedback in ((0.01, True), (0.0005, True), (0.5, False)):
            v = values.astype(dtype)
            delta = np.zeros_like(v) if name in ("equal", "small steps") else (v[::-1] * dtype.type(1e-9)).copy()
            assert_same(topk(ratio), v, delta if feedback else None, [("cuda", kernels, gpu.cupy)])
            sources[name, ratio] = int(kernels.scratch("state", 6, np.uint64).get()[4])
    # A list of candidates was looked through, or all numbers.
    listed = {name for (name, ratio), source in sources.items() if ratio == 0.01 and source == 1}
    assert listed == {"normal", "front", "small steps"}
    assert all(source == 0 for (_, ratio), source in sources.items() if ratio == 0.5)


@each_dtype
def test_axpy_keeps_denormal_elements(gpu: Gpu, dtype: np.dtype[Any]) -> None:
    rng, n, factor = np.random.default_rng(2), 140_007, dtype.type(-0.3)
    x, y = (numbers(rng, n, dtype, "normal") * np.finfo(dtype).tiny for _ in range(2))
    given = [gpu.cupy.asarray(values) for values in (x, y)]
    with np.errstate(all="ignore"):
        expected = y + factor * x
        ReferenceKernels(dtype).axpy(y, factor, x)
    place = Place(gpu.cupy, 1).vector(given[1].get())
    gpu.kernels[dtype].axpy(place, factor, given[0])
    assert place.get().tobytes() == y.tobytes() == expected.tobytes()
    # CuPy's own operations on float32 do not.
    given[1] += factor * given[0]
    assert (given[1].get().tobytes() == y.tobytes()) == (dtype == np.float64)


#: Counts where `levels.cuh` and a division differ. Mantissas x·2^bits − y·(2m + 1) = d ≠ 0 of 24 bits, d small, make
#: quotients next to the middle between two numbers; a thread takes the divisors y of its own.
QUOTIENTS = """
__device__ inline u32 unlike(real x, real by) {
    real q = Divisor(by).into(x), exact = x / by;
    return is_finite(exact) && exact <= 65536 && exact > 2.5e-10f && to_bits(q) != to_bits(exact);
}
extern "C" __global__ void unlike_quotients(u32 step, u32* found, u32* tried) {
    for (u64 y = (1u << 23) + thread_index() * step + 1; y < 1u << 24; y += (u64)step * blockDim.x)
        for (u32 bits = 24; bits <= 25; ++bits)
            for (i64 d = -7; d <= 7; d += 2) {
                u64 odd = y | 1, x = (u64)(d + 8 * (i64)odd) % odd;
                for (u32 s = 0; s < bits; ++s) x = x & 1 ? (x + odd) >> 1 : x >> 1;
                for (; x < 1u << 24; x += odd)
                    if (x >= 1u << 23) found[threadIdx.x] += unlike((real)x, (real)odd), ++tried[threadIdx.x];
            }
}
extern "C" __global__ void unlike_pairs(const real* x, const real* by, i64 n, u32* found) {
    for (i64 i = thread_index(); i < n; i += blockDim.x) found[threadIdx.x] += unlike(x[i], by[i]);
}
extern "C" __global__ void unlike_fractions(u32* found) {
    for (u32 count = 1 + threadIdx.x; count < 256; count += blockDim.x)
        for (u32 level = 0; level <= count; ++level)
            found[threadIdx.x] += to_bits(Levels(count).fraction(level)) != to_bits((real)level / (real)count);
}
"""


@each_dtype
def test_quotients_and_fractions_are_those_of_divisions(gpu: Gpu, dtype: np.dtype[Any]) -> None:
    """Of a quotient with a float32 divisor, all that are hard; `step` 1 takes every divisor."""
    source, option = cuda_sources()["fp8.cu"].partition("\nSCALE_KERNELS(fp8")[0], f"-DREAL_BITS={8 * dtype.itemsize}"
    source += QUOTIENTS
    found, tried = (gpu.cupy.zeros(64, np.uint32) for _ in range(2))
    if dtype == np.float32:
        hard = own_kernel(gpu, source, "unlike_quotients", option)
        hard((1,), (64,), (np.uint32(64), found, tried))
        assert int(tried.get().sum()) > 500_000
    rng, n, limits = np.random.default_rng(4), 100_000, np.finfo(dtype)
    by = np.ldexp(rng.uniform(1, 2, n), rng.integers(limits.minexp - limits.nmant, limits.maxexp, n)).astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        x = by * np.exp2(rng.uniform(-31, 15, n)).astype(dtype)
    pairs = own_kernel(gpu, source, "unlike_pairs", option)
    pairs((1,), (64,), (gpu.cupy.asarray(x), gpu.cupy.asarray(by), np.int64(n), found))
    own_kernel(gpu, source, "unlike_fractions", option)((1,), (64,), (found,))
    assert not found.get().any()


def test_a_fault_does_not_outlive_its_encode(gpu: Gpu) -> None:
    for kind in ("nan", "normal", "inf", "normal"):
        check(gpu, copy(), kind, 100, DTYPES[0])


def test_the_stream_does_not_show(gpu: Gpu) -> None:
    cases = [signs(1024), quantize(4, 512, "l2"), uniform(3, 0), topk(0.01), randomk(0.1, False), clip(17)]
    for stream in (gpu.cupy.cuda.Stream(), gpu.cupy.cuda.Stream(non_blocking=True)):
        with stream:
            for case in cases:
                check(gpu, case, "normal", 20_001, DTYPES[0], shift=1)


def test_kernel_sets_of_two_streams_do_not_disturb_each_other(gpu: Gpu) -> None:
    """Neither waits for the other's stream, nor for the whole device."""
    dtype, n, rounds = DTYPES[0], 100_003 if gpu.emulated else 4_000_003, 3
    case = signs(1024)
    rng = np.random.default_rng(8)
    vector = numbers(rng, n, dtype, "normal")
    memories = [numbers(rng, n, dtype, "normal") for _ in range(2)]
    streams = [gpu.cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    kernels, given, payloads, residuals, outs = [], [], [], [], []
    for stream, memory in zip(streams, memories, strict=True):
        with stream:
            kernels.append(CudaKernels(dtype))
            given.append(gpu.cupy.asarray(vector))
            residuals.append(gpu.cupy.asarray(memory))
            # Not aligned, so that scratch is used.
            size = case.payload_bytes(n, dtype.itemsize)
            payloads.append(gpu.cupy.zeros(size + 1, np.uint8)[1:])
            outs.append(gpu.cupy.zeros(n, dtype))
    for _ in range(rounds):
        for i, stream in enumerate(streams):
            with stream:
                case.encode(kernels[i], given[i], residuals[i], payloads[i])
                case.decode(kernels[i], payloads[i], outs[i], True)
    reference = ReferenceKernels(dtype)
    for i, stream in enumerate(streams):
        stream.synchronize()
        out = np.zeros(n, dtype)
        for _ in range(rounds):
            _, payload = case.encode(reference, vector, memories[i])
            case.decode(reference, payload, out, True)
        with stream:
            assert payloads[i].get().tobytes() == payload.tobytes()
            assert residuals[i].get().tobytes() == memories[i].tobytes()
            assert outs[i].get().tobytes() == out.tobytes()


# -- the emulator itself


def own_kernel(gpu: Gpu, source: str, name: str, *options: str) -> Callable[..., None]:
    """A kernel that has run when it returns."""
    binary, _ = gpu.cupy.cuda.compiler.compile_using_nvrtc(source, options, filename=f"{name}.cu")
    module = gpu.cupy.cuda.function.Module()
    module.load(binary)
    kernel = module.get_function(name)

    def run(*launch: Any) -> None:
        kernel(*launch)
        gpu.cupy.cuda.get_current_stream().synchronize()

    return run


@only_emulated
def test_the_emulator_reports_a_barrier_that_some_threads_miss(gpu: Gpu) -> None:
    source = 'extern "C" __global__ void stuck() { if (threadIdx.x % 2) __syncthreads(); else __syncwarp(); }'
    stuck = own_kernel(gpu, source, "stuck")
    with pytest.raises(RuntimeError, match="barrier"):
        stuck((1,), (32,), ())


@only_emulated
def test_the_emulator_reports_arguments_that_a_kernel_does_not_take(gpu: Gpu) -> None:
    """CUDA takes them by address alone, whatever they are, and reads beyond them."""
    source = 'extern "C" __global__ void put(int* to, long long at, int value) { to[at + blockIdx.x] = value; }'
    put, to = own_kernel(gpu, source, "put"), gpu.cupy.zeros(2, np.int32)
    fine = (to, np.int64(0), np.int32(7))
    for wrong in (
        fine[:2],
        (*fine, np.int32(1)),
        (to, np.int32(0), np.int32(7)),
        (to, np.int64(0), np.float32(7)),
        (to, np.uint64(0), np.int32(7)),
        (np.int64(to.data.ptr), *fine[1:]),
    ):
        with pytest.raises(TypeError, match="put takes"):
            put((1,), (1,), wrong)
    with pytest.raises(TypeError, match="neither a device array"):
        put((1,), (1,), (np.zeros(2, np.int32), *fine[1:]))
    assert to.get().tolist() == [0, 0]
    # As CuPy does, it runs a thread block where it is asked for none.
    put((0,), (1,), fine)
    assert to.get().tolist() == [7, 0]


@only_emulated
def test_an_emulated_array_is_no_array_of_the_host(gpu: Gpu) -> None:
    array = gpu.cupy.arange(6.0)
    assert not isinstance(array, np.ndarray)
    for use in (np.asarray, memoryview, zlib.crc32, np.zeros(6).__add__, np.zeros(6).dot):
        with pytest.raises(TypeError):
            use(array)
    with pytest.raises(TypeError, match="set"):
        array[1:4] = np.ones(3)
    assert array.__cuda_array_interface__["data"][0] == array.data.ptr
    assert array.__dlpack_device__() == (2, 0)
    assert type(array.sum()) is type(array[1]) is type(array)
    assert float(array[2:].sum()) == 14


@only_emulated
def test_the_emulator_reports_an_access_that_is_not_aligned(gpu: Gpu) -> None:
    source = 'extern "C" __global__ void wide(const float* from, float* to) { *(float4*)to = *(const float4*)from; }'
    wide = own_kernel(gpu, source, "wide")
    out = Place(gpu.cupy).vector(np.zeros(4, np.float32))
    for offset in range(4):
        values = Place(gpu.cupy, offset).vector(np.arange(4, dtype=np.float32))
        if offset:
            with pytest.raises(RuntimeError, match="not aligned"):
                wide((1,), (1,), (values, out))
        else:
            wide((1,), (1,), (values, out))
    assert out.get().tolist() == [0, 1, 2, 3]


# -- compiled


def nvrtc_library() -> ctypes.CDLL | None:
    """libnvrtc from a wheel of NVIDIA's or from the system."""
    wheels = Path(sysconfig.get_path("purelib"), "nvidia").glob("*/lib/libnvrtc.so.*")
    for name in [*map(str, sorted(wheels)), "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


#: Registers of a thread, for 16 and 10 warps on a multiprocessor at a time, which has 65 536.
REGISTERS = {32: 128, 64: 200}


@pytest.mark.parametrize(
    ("arch", "real_bits"),
    [
        pytest.param("80", 32, marks=pytest.mark.slow),
        pytest.param("80", 64, marks=pytest.mark.slow),
        ("90", 32),
        ("90", 64),
    ],
)
def test_sources_compile_to_plain_arithmetic_in_registers(arch: str, real_bits: int) -> None:
    nvrtc = nvrtc_library()
    if nvrtc is None:
        pytest.skip("libnvrtc is neither in a wheel nor on the system")
    # CuPy adds the first option to every program, whose warning the second drops; the last tells what registers hold.
    more = ["--device-as-default-execution-space", "--diag-suppress=20044", "--ptxas-options=-v"]
    options = [*OPTIONS, f"-DREAL_BITS={real_bits}", f"-arch=sm_{arch}", *more]
    given_options = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    program = ctypes.c_void_p()

    def text(kind: str) -> str:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
        return buffer.value.decode()

    for source in cuda_sources().values():
        assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"k.cu", 0, None, None) == 0
        status, log = nvrtc.nvrtcCompileProgram(program, len(options), given_options), text("ProgramLog")
        assert status == 0, log
        assert "warning" not in log, log
        registers = {
            name: int(used) for name, used in re.findall(r"function '(\w+)'.*?Used (\d+) registers", log, re.S)
        }
        assert registers, log
        assert max(registers.values()) <= REGISTERS[real_bits], registers
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
        assert set(frames) == {("0", "0", "0")}, f"numbers kept in local memory, not in registers:\n{log}"
        assert not re.search(r"\.ftz\b|\.approx\b", text("PTX")), "not plain IEEE arithmetic"
        # By name only: the others show that the compiler makes none of its own.
        assert ("fma." in text("PTX")) == ("__fma" in source)
