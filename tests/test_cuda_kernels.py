"""The CUDA kernels against `ReferenceKernels`, bit for bit: in the emulator, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cuda_emulator.fake_cupy import fake_cupy, have_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisqueeze.kernels.cuda import OPTIONS, CudaKernels, cuda_sources
from mpisqueeze.kernels.reference import ReferenceKernels, blocks_of

DTYPES: list[np.dtype] = [np.dtype(np.float32), np.dtype(np.float64)]
KEY = 0x0123456789ABCDEF
GUARD = 0xA5


@dataclass(frozen=True)
class Format:
    """One way to call a kernel set: `size` in bytes of a payload of n numbers, and the calls."""

    name: str
    size: Callable[[int, int], int]  # (n, bytes of a number)
    encode: Callable[[Any, Any, Any, Any], bool]  # (kernels, vector, residual, payload)
    decode: Callable[..., None]  # (kernels, payload, out, add, factor)
    block: int = 0


def bits_size(n: int, bits: int) -> int:
    return -(-n * bits // 8)


def signs(block: int, l2: bool) -> Format:
    return Format(
        f"signs block={block} l2={l2}",
        lambda n, item: blocks_of(n, block)[1] * item + bits_size(n, 1),
        lambda k, v, r, p: k.signs_encode(v, r, p, block, l2),
        lambda k, p, out, *how: k.signs_decode(p, out, block, *how),
        block,
    )


def quantize(bits: int, bucket: int, norm: str) -> Format:
    return Format(
        f"quantize bits={bits} bucket={bucket} norm={norm}",
        lambda n, item: blocks_of(n, bucket)[1] * item + bits_size(n, bits),
        lambda k, v, r, p: k.quantize_encode(v, r, p, bits, bucket, norm, KEY),
        lambda k, p, out, *how: k.quantize_decode(p, out, bits, bucket, *how),
        bucket,
    )


def uniform(bits: int, bucket: int) -> Format:
    return Format(
        f"uniform bits={bits} bucket={bucket}",
        lambda n, item: 2 * blocks_of(n, bucket)[1] * item + bits_size(n, bits),
        lambda k, v, r, p: k.uniform_encode(v, r, p, bits, bucket, KEY),
        lambda k, p, out, *how: k.uniform_decode(p, out, bits, bucket, *how),
        bucket,
    )


def topk(count: Callable[[int], int], name: str) -> Format:
    return Format(
        f"topk {name}",
        lambda n, item: count(n) * (item + 4),
        lambda k, v, r, p: k.topk_encode(v, r, p, count(v.size)),
        lambda k, p, out, *how: k.topk_decode(p, out, count(out.size), *how),
    )


def randomk(count: Callable[[int], int], name: str, unbiased: bool) -> Format:
    return Format(
        f"randomk {name} unbiased={unbiased}",
        lambda n, item: count(n) * item + 8,
        lambda k, v, r, p: k.randomk_encode(v, r, p, count(v.size), KEY, unbiased),
        lambda k, p, out, *how: k.randomk_decode(p, out, count(out.size), *how),
    )


def clip(bits: int) -> Format:
    return Format(
        f"clip bits={bits}",
        lambda n, item: bits_size(n, bits),
        lambda k, v, r, p: k.clip_encode(v, r, p, bits),
        lambda k, p, out, *how: k.clip_decode(p, out, bits, *how),
    )


def half(bfloat: bool) -> Format:
    return Format(
        f"half bfloat={bfloat}",
        lambda n, item: 2 * n,
        lambda k, v, r, p: k.half_encode(v, r, p, bfloat),
        lambda k, p, out, *how: k.half_decode(p, out, bfloat, *how),
    )


COPY = Format(
    "copy",
    lambda n, item: n * item,
    lambda k, v, r, p: k.copy_encode(v, r, p),
    lambda k, p, out, *how: k.copy_decode(p, out, *how),
)
COUNTS: list[tuple[Callable[[int], int], str]] = [
    (lambda n: 1, "one"),
    (lambda n: -(-n // 100), "1%"),
    (lambda n: -(-n // 2), "half"),
    (lambda n: n, "all"),
]
PLAIN = [
    COPY,
    half(False),
    half(True),
    *(clip(bits) for bits in (9, 12, 16, 19, 24, 31)),
    *(topk(*count) for count in COUNTS),
    *(randomk(*count, unbiased) for count in COUNTS for unbiased in (False, True)),
]
BLOCKS = [1, 3, 8, 64, 100, 512, 1000, 1024, 1032, 70000, 0]
BLOCKWISE = [
    form
    for block in BLOCKS
    for form in (
        signs(block, False),
        signs(block, True),
        quantize(2, block, "max"),
        quantize(3, block, "l2"),
        quantize(4, block, "l2"),
        quantize(7, block, "max"),
        quantize(8, block, "l2"),
        uniform(1, block),
        uniform(5, block),
        uniform(8, block),
    )
]
LENGTHS = [1, 2, 7, 8, 9, 33, 127, 128, 129, 1000, 1023, 1024, 1025, 3001]


def vectors(kind: str, n: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(vector, residual) of a kind that is hard in some way."""
    rng = np.random.default_rng(n)
    values = rng.standard_normal((2, n)).astype(dtype)
    limits = np.finfo(dtype)
    if kind == "zeros":
        values[:] = 0
    elif kind == "signed zeros":
        values = np.copysign(0, values)
    elif kind == "ties":
        values = np.round(values)
    elif kind == "denormals":
        values *= 20 * limits.smallest_subnormal
    elif kind == "tiny":
        values *= limits.tiny
    elif kind == "small halves":
        values *= dtype.type(2e-6)
    elif kind == "halves":
        values *= dtype.type(3e4)
    elif kind == "huge":
        values *= limits.max / 1000
    elif kind == "largest":
        values *= limits.max / 8
    elif kind == "wide":
        values *= 2.0 ** rng.integers(-40, 30, (2, n)).astype(dtype)
    elif kind in ("nan", "inf"):
        values[rng.integers(2), rng.integers(n)] = -np.inf if kind == "inf" else np.nan
    else:
        assert kind == "normal"
    return values[0].astype(dtype), values[1].astype(dtype)


KINDS = [
    "normal",
    "zeros",
    "signed zeros",
    "ties",
    "denormals",
    "tiny",
    "small halves",
    "halves",
    "huge",
    "largest",
    "wide",
    "nan",
    "inf",
]


@dataclass
class Device:
    """A kernel set under test and its array module."""

    cupy: Any
    kernels: dict[np.dtype, Any]

    def array(self, values: np.ndarray, offset: int) -> tuple[Any, Any]:
        """(guarded memory, `values` inside it, `offset` items off a multiple of 16 bytes)."""
        before = 64 + offset * values.itemsize
        memory = np.full(before + values.nbytes + 64, GUARD, np.uint8)
        memory[before : before + values.nbytes] = values.view(np.uint8)
        held = self.cupy.asarray(memory)
        return held, held[before : before + values.nbytes].view(values.dtype)

    def intact(self, held: Any, inside: Any) -> bool:
        memory = held.get()
        before = inside.data.ptr - held.data.ptr
        return bool((memory[:before] == GUARD).all() and (memory[before + inside.nbytes :] == GUARD).all())


def comparable(form: Format, payload: np.ndarray, n: int, dtype: np.dtype) -> np.ndarray:
    """The payload's bytes. Of a bucket that holds both zeros as an end NumPy may report either; take +0."""
    if not form.name.startswith("uniform"):
        return payload
    payload = payload.copy()
    ends = payload[: 2 * blocks_of(n, form.block)[1] * dtype.itemsize].view(dtype)
    ends += dtype.type(0)
    return payload


def check(
    device: Device, form: Format, kind: str, n: int, dtype: np.dtype, feedback: bool, offset: int = 0, shift: int = 0
) -> None:
    """Encode and decode with both kernel sets; `shift` moves the payload by so many bytes."""
    where = f"{form.name} {kind} n={n} {dtype} feedback={feedback} offset={offset} shift={shift}"
    reference, kernels = ReferenceKernels(dtype), device.kernels[dtype]
    vector, residual = vectors(kind, n, dtype)
    size = form.size(n, dtype.itemsize)
    expected, memory = np.full(size, 0x77, np.uint8), residual.copy()
    with np.errstate(all="ignore"):
        fine = form.encode(reference, vector, memory if feedback else None, expected)

    payload_held, payload = device.array(np.full(size, 0x77, np.uint8), shift)
    vector_held, given_vector = device.array(vector, offset)
    memory_held, given_memory = device.array(residual, offset)
    done = form.encode(kernels, given_vector, given_memory if feedback else None, payload)
    assert done is fine, where
    for held, inside in ((payload_held, payload), (vector_held, given_vector), (memory_held, given_memory)):
        assert device.intact(held, inside), f"wrote outside: {where}"
    assert given_vector.get().tobytes() == vector.tobytes(), f"vector changed: {where}"
    if not fine:
        return
    same = comparable(form, expected, n, dtype) == comparable(form, payload.get(), n, dtype)
    assert same.all(), f"payload, first at byte {int(np.argmin(same))}: {where}"
    assert given_memory.get().tobytes() == memory.tobytes(), f"residual: {where}"

    base = np.random.default_rng(1).standard_normal(n).astype(dtype)
    for how in ((False, 1.0), (True, 1.0), (True, -0.3)):
        out = base.copy()
        form.decode(reference, expected, out, *how)
        source_held, source = device.array(expected, shift)
        out_held, given_out = device.array(base, offset)
        form.decode(kernels, source, given_out, *how)
        assert given_out.get().tobytes() == out.tobytes(), f"decode {how}: {where}"
        assert device.intact(out_held, given_out), f"decode wrote outside: {where}"
        assert source_held.get().tobytes() == device.array(expected, shift)[0].get().tobytes(), where


def check_lengths(device: Device, forms: list[Format], dtype: np.dtype, lengths: list[int]) -> None:
    for form in forms:
        # A block of a few numbers takes a warp of its own, which is slow to emulate.
        longest = 300 if 0 < form.block < 8 else max(lengths)
        for i, n in enumerate(min(n, longest) for n in lengths):
            check(device, form, "normal", n, dtype, feedback=i % 2 == 0, offset=i % 3, shift=(0, 4, 1)[i // 2 % 3])


def check_kinds(device: Device, forms: list[Format], dtype: np.dtype) -> None:
    for form in forms:
        for i, kind in enumerate(KINDS):
            for n in (13, 1100):
                check(device, form, kind, n, dtype, feedback=i % 2 == n % 2)


def check_long(device: Device, dtype: np.dtype) -> None:
    for form in (signs(70000, False), quantize(4, 0, "l2"), uniform(3, 70000), *PLAIN[:4], topk(*COUNTS[1])):
        check(device, form, "normal", 140007, dtype, feedback=True)
    check(device, topk(*COUNTS[2]), "ties", 70001, dtype, feedback=True)
    # More than 1024 runs of 1024: three levels of halving.
    check(device, signs(0, False), "normal", 1024 * 1024 + 77, dtype, feedback=True)


# -- in the emulator


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Device:
    if not have_compiler():
        pytest.skip("g++ is not installed: the CUDA kernels cannot be emulated")
    cupy = fake_cupy(tmp_path_factory.mktemp("cuda_emulator"))
    with mock.patch.dict(sys.modules, {"cupy": cupy}):
        return Device(cupy, {dtype: CudaKernels(dtype) for dtype in DTYPES})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_emulated_kernels_match_for_every_length(emulated: Device, dtype: np.dtype) -> None:
    check_lengths(emulated, PLAIN + BLOCKWISE, dtype, LENGTHS)


def test_the_order_of_threads_and_blocks_does_not_show(emulated: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated.cupy.settings, "backwards", True)
    check_lengths(emulated, PLAIN + BLOCKWISE, DTYPES[0], [9, 1025, 3001])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_emulated_kernels_match_for_hard_numbers(emulated: Device, dtype: np.dtype) -> None:
    check_kinds(emulated, PLAIN + BLOCKWISE[30:], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_emulated_kernels_match_for_long_vectors(emulated: Device, dtype: np.dtype) -> None:
    check_long(emulated, dtype)


@settings(max_examples=150, deadline=None, database=None)
@given(data=st.data())
def test_emulated_kernels_match_for_any_shape(emulated: Device, data: st.DataObject) -> None:
    block = data.draw(st.one_of(st.integers(0, 40), st.integers(0, 5000)), "block")
    form = data.draw(
        st.one_of(
            st.builds(signs, st.just(block), st.booleans()),
            st.builds(quantize, st.integers(2, 8), st.just(block), st.sampled_from(["l2", "max"])),
            st.builds(uniform, st.integers(1, 8), st.just(block)),
            st.builds(clip, st.integers(9, 31)),
            st.sampled_from(PLAIN),
        ),
        "form",
    )
    check(
        emulated,
        form,
        data.draw(st.sampled_from(KINDS), "kind"),
        data.draw(st.one_of(st.integers(1, 70), st.integers(1, 6000)), "n"),
        data.draw(st.sampled_from(DTYPES), "dtype"),
        feedback=data.draw(st.booleans(), "feedback"),
        offset=data.draw(st.integers(0, 3), "offset"),
        shift=data.draw(st.integers(0, 9), "shift"),
    )


def test_a_fault_does_not_outlive_its_encode(emulated: Device) -> None:
    dtype = DTYPES[0]
    for kind in ("nan", "normal", "inf", "normal"):
        check(emulated, COPY, kind, 100, dtype, feedback=True)


def test_the_emulator_reports_a_barrier_that_some_threads_miss(emulated: Device) -> None:
    source = 'extern "C" __global__ void stuck() { if (threadIdx.x % 2) __syncthreads(); else __syncwarp(); }'
    binary, _ = emulated.cupy.cuda.compiler.compile_using_nvrtc(source, (), filename="stuck.cu")
    module = emulated.cupy.cuda.function.Module()
    module.load(binary)
    with pytest.raises(RuntimeError, match="barrier"):
        module.get_function("stuck")((1,), (32,), ())


# -- compiled


def assert_plain_ieee(ptx: str) -> None:
    assert not re.search(r"\bfma\.|\.ftz\b|\.approx\b", ptx), "not plain IEEE arithmetic"


@pytest.mark.parametrize(("arch", "real_bits"), [("80", 32), ("90", 64)])
def test_sources_compile_with_nvcc(arch: str, real_bits: int, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    options = [*OPTIONS, f"-DREAL_BITS={real_bits}", f"-arch=sm_{arch}", "-Werror=all-warnings"]
    running = []
    for name, source in cuda_sources().items():
        (tmp_path / name).write_text(source, encoding="utf-8")
        # --keep leaves the PTX that the cubin was made from.
        command = [nvcc, *options, "--cubin", "--keep", name]
        running.append(
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    for process in running:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    for name in cuda_sources():
        assert_plain_ieee((tmp_path / name).with_suffix(".ptx").read_text(encoding="utf-8"))


def nvrtc_library() -> ctypes.CDLL | None:
    """libnvrtc from a wheel of NVIDIA's or from the system."""
    wheels = Path(sysconfig.get_path("purelib"), "nvidia").glob("*/lib/libnvrtc.so.*")
    for name in [*map(str, sorted(wheels)), "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def nvrtc_ptx(nvrtc: ctypes.CDLL, source: str, options: list[str]) -> str:
    """PTX, or AssertionError with NVRTC's log."""
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"k.cu", 0, None, None) == 0
    given_options = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), given_options)

    def text(kind: str) -> str:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
        return buffer.value.decode()

    assert status == 0, text("ProgramLog")
    return text("PTX")


@pytest.mark.parametrize(("arch", "real_bits"), [("90", 32), ("80", 64)])
def test_sources_compile_with_nvrtc(arch: str, real_bits: int) -> None:
    nvrtc = nvrtc_library()
    if nvrtc is None:
        pytest.skip("libnvrtc is neither in a wheel nor on the system")
    for source in cuda_sources().values():
        options = [*OPTIONS, f"-DREAL_BITS={real_bits}", f"-arch=compute_{arch}"]
        # CuPy adds the option on the right to every program.
        assert_plain_ieee(nvrtc_ptx(nvrtc, source, [*options, "--device-as-default-execution-space"]))


# -- on a GPU


@pytest.fixture(scope="module")
def gpu() -> Device:
    try:
        import cupy

        cupy.zeros(1).get()
    except Exception as error:
        pytest.skip(f"no GPU that CuPy can use: {error}")
    return Device(cupy, {dtype: CudaKernels(dtype) for dtype in DTYPES})


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gpu_kernels_match_for_every_length(gpu: Device, dtype: np.dtype) -> None:
    check_lengths(gpu, PLAIN + BLOCKWISE, dtype, LENGTHS)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gpu_kernels_match_for_hard_numbers(gpu: Device, dtype: np.dtype) -> None:
    check_kinds(gpu, PLAIN + BLOCKWISE, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gpu_kernels_match_for_long_vectors(gpu: Device, dtype: np.dtype) -> None:
    check_long(gpu, dtype)
    for form in (signs(1024, False), quantize(4, 512, "l2"), topk(*COUNTS[1]), randomk(*COUNTS[1], True), clip(16)):
        check(gpu, form, "normal", 5_000_011, dtype, feedback=True)


@pytest.mark.gpu
def test_gpu_kernels_run_on_the_current_stream(gpu: Device) -> None:
    with gpu.cupy.cuda.Stream(non_blocking=True):
        check(gpu, signs(1024, False), "normal", 100_000, DTYPES[0], feedback=True)
