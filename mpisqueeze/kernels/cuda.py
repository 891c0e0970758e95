"""The kernels in CUDA, compiled by NVRTC through CuPy: one module for each source file and dtype, loaded once.

`cupy.RawModule` is not used: it appends `-ftz=true` to the options (cupy issue 9576), and flushed denormals would
differ from the other kernel sets.

Launches go to CuPy's current stream. A kernel that meets an element that is not finite sets a flag in pinned host
memory. An encode waits for its stream to read that flag, unless the caller reads it later (`late`); decodes do not
wait.
"""

from __future__ import annotations

import copy
import functools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from mpisqueeze.kernels.compiled import compiled
from mpisqueeze.kernels.reference import RUN, blocks_of

#: `-fmad=false`: a fused multiply-add would round once where the other kernel sets round twice; levels.cuh has its own.
OPTIONS = ("--std=c++14", "-fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
#: Threads of a thread block in kernels that work thread by thread; WARP_THREADS where each warp works by itself (WARPS
#: in common.cuh).
THREADS = 256
WARP_THREADS = 128
#: Thread blocks for each multiprocessor that share the histogram of a top-k pass, by REAL_BITS (RESIDENT in topk.cu):
#: all run at a time, so that none waits for a second turn, and the histogram is merged as seldom as can be.
RESIDENT = {32: 5, 64: 2}
#: DIGIT and SAMPLES are those of topk.cu. Vectors shorter than SAMPLED are not sampled.
DIGIT, SAMPLES, SAMPLED = 11, 4096, 1 << 16
NULL = np.uint64(0)
_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)


@functools.cache
def cuda_sources() -> dict[str, str]:
    """CUDA sources by file name, with includes resolved; compile them with OPTIONS and `-DREAL_BITS=32` or `64`."""
    folder = Path(__file__).parent

    def resolved(path: Path) -> str:
        return _INCLUDE.sub(lambda match: resolved(folder / match[1]), path.read_text(encoding="utf-8"))

    return {path.name: resolved(path) for path in sorted(folder.glob("*.cu"))}


@functools.cache
def _module(cupy: Any, file: str, real_bits: int, device: int) -> Any:
    """A file's module, loaded on the current device, which has index `device`."""
    options = (*OPTIONS, f"-DREAL_BITS={real_bits}")
    return compiled(cupy, cuda_sources()[file], options, file)


@functools.cache
def _multiprocessors(cupy: Any, device: int) -> int:
    return int(cupy.cuda.runtime.getDeviceProperties(device)["multiProcessorCount"])


def pinned(cupy: Any, nbytes: int) -> np.ndarray:
    """`nbytes` bytes (uint8) of pinned host memory, which is freed with the array.

    CuPy's pool would round each block up to a power of two, and keep it.
    """
    memory = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(max(nbytes, 1)), 0)
    return np.frombuffer(memory, np.uint8, nbytes)


class Flag:
    """An int32 in pinned host memory that kernels set to 1.

    Pinned memory has the same address on the device (CUDA Runtime API, Unified Addressing).
    """

    def __init__(self, cupy: Any) -> None:
        self._value = pinned(cupy, 4).view(np.int32)
        self._value[0] = 0
        self.pointer = np.uint64(self._value.ctypes.data)

    @property
    def raised(self) -> bool:
        return bool(self._value[0])

    def take(self) -> bool:
        """Read the flag and clear it."""
        raised = self.raised
        self._value[0] = 0
        return raised


class CudaKernels:
    """`ReferenceKernels` on contiguous 1-D CuPy arrays of one device; payloads are CuPy `uint8`.

    Scratch arrays are kept between calls.
    """

    name = "cuda"

    def __init__(self, dtype: Any) -> None:
        import cupy

        self.dtype = np.dtype(dtype)
        self._cupy: Any = cupy
        self._kernels: dict[str, Any] = {}
        self._scratch: dict[str, Any] = {}
        self._flag: Flag | None = None
        self._waits = True

    def late(self, flag: Flag) -> CudaKernels:
        """These kernels with the same scratch arrays, whose encodes return True at once.

        Once the stream has been waited for, `flag` tells whether they met an element that is not finite.
        """
        made = copy.copy(self)
        made._flag, made._waits = flag, False
        return made

    # -- launching

    def scratch(self, name: str, size: int, dtype: Any) -> Any:
        """A reusable device array of at least `size` elements, zeros when it is first made."""
        have = self._scratch.get(name)
        if have is None or have.size < size:
            have = self._scratch[name] = self._cupy.zeros(size, dtype)
        return have

    def _launch(self, file: str, kernel: str, threads: int, per_block: int, *arguments: Any) -> None:
        """Launch `kernel` with at least `threads` threads, in thread blocks of `per_block`."""
        function = self._kernels.get(kernel)
        if function is None:
            device = self._cupy.cuda.runtime.getDevice()
            module = _module(self._cupy, file, 8 * self.dtype.itemsize, device)
            function = self._kernels[kernel] = module.get_function(kernel)
        function((-(-threads // per_block),), (per_block,), arguments)

    def _warps(self, file: str, kernel: str, warps: int, *arguments: Any) -> None:
        self._launch(file, kernel, 32 * warps, WARP_THREADS, *arguments)

    def _quads(self, file: str, kernel: str, elements: int, *arguments: Any) -> None:
        """Launch a thread for every four elements."""
        self._launch(file, kernel, -(-elements // 4), THREADS, *arguments)

    def _decode(self, name: str, payload: Any, out: Any, add: bool, factor: float, *shape: Any, file: str = "") -> None:
        """Launch the decoder `name` with a thread for every four elements; `shape` holds its own arguments."""
        n, source = out.size, self._aligned(payload, copy=True)
        adding = (np.uint32(add), self.dtype.type(factor))
        self._quads(f"{file or name}.cu", f"{name}_decode", n, source, out, np.int64(n), *shape, *adding)

    def _aligned(self, payload: Any, copy: bool = False) -> Any:
        """`payload`, or a scratch array if it is not aligned for its values (with its content if `copy`)."""
        if payload.data.ptr % self.dtype.itemsize == 0:
            return payload
        staged = self.scratch("payload", payload.size, np.uint8)[: payload.size]
        if copy:
            staged[...] = payload
        return staged

    def _fault(self) -> Any:
        """Address of the flag that kernels set at an element that is not finite."""
        if self._flag is None:
            self._flag = Flag(self._cupy)
        return self._flag.pointer

    def _finish(self, payload: Any, written: Any) -> bool:
        """Copy the payload to its place; False if the stream was waited for and an element was not finite."""
        if written is not payload:
            payload[...] = written
        if not self._waits:
            return True
        assert self._flag is not None
        self._cupy.cuda.get_current_stream().synchronize()
        return not self._flag.take()

    # -- identity

    def copy_encode(self, vector: Any, residual: Any | None, payload: Any) -> bool:
        n, target = vector.size, self._aligned(payload)
        self._quads("copy.cu", "copy_encode", n, vector, _pointer(residual), np.int64(n), target, self._fault())
        return self._finish(payload, target)

    def copy_decode(self, payload: Any, out: Any, add: bool, factor: float = 1.0) -> bool:
        self._decode("copy", payload, out, add, factor, self._fault())
        return self._finish(payload, payload)

    # -- one scale a block

    def _blocks_encode(
        self,
        code: str,
        scale: str,
        share: int,
        vector: Any,
        residual: Any | None,
        payload: Any,
        block: int,
        bits: int,
        key: int,
    ) -> bool:
        """Encode with the kernels of `scale` and `code`; `share` is the size in bytes of a partial scale."""
        file, n, target, fault = f"{code}.cu", vector.size, self._aligned(payload), self._fault()
        length, blocks = blocks_of(n, block)
        given = (vector, _pointer(residual), np.int64(n), np.int64(length), np.int64(blocks))
        coding = (np.uint32(bits), np.uint64(key))
        if length <= RUN and (length % 8 == 0 or blocks == 1):
            rows = 1 if length <= 128 else 4 if length <= 512 else 8
            self._warps(file, f"{scale}_fused{rows}", blocks, *given, target, *coding, fault)
            return self._finish(payload, target)
        level, runs = 0, -(-length // RUN)
        sums = NULL if runs == 1 else self.scratch("sums 0", blocks * runs * share, np.uint8)
        self._warps(file, f"{scale}_first", blocks * runs, *given, np.int64(runs), sums, target, fault)
        while runs > 1:
            level, before, runs = level + 1, runs, -(-runs // RUN)
            below, sums = sums, NULL
            if runs > 1:
                sums = self.scratch(f"sums {level}", blocks * runs * share, np.uint8)
            halving = (below, np.int64(before), np.int64(runs), sums)
            self._warps(file, f"{scale}_next", blocks * runs, *halving, *given[2:], target, fault)
        self._warps(file, f"{code}_encode", -(-n // RUN), *given, target, *coding)
        return self._finish(payload, target)

    def _blocks_decode(
        self, code: str, payload: Any, out: Any, block: int, bits: int, add: bool, factor: float = 1.0
    ) -> None:
        length, blocks = blocks_of(out.size, block)
        self._decode(code, payload, out, add, factor, np.int64(length), np.int64(blocks), np.uint32(bits))

    def signs_encode(self, vector: Any, residual: Any | None, payload: Any, block: int, each: int, l2: bool) -> bool:
        if each != 1:
            code, share = ("sides", 3) if each else ("bare", 1)
            return self._blocks_encode(code, code, share * self.dtype.itemsize, vector, residual, payload, block, 1, 0)
        scale, share = ("signs_l2", 8) if l2 else ("signs_l1", self.dtype.itemsize)
        return self._blocks_encode("signs", scale, share, vector, residual, payload, block, 1, 0)

    def signs_decode(self, payload: Any, out: Any, block: int, each: int, add: bool, factor: float = 1.0) -> None:
        self._blocks_decode(("bare", "signs", "sides")[each], payload, out, block, 1, add, factor)

    def quantize_encode(
        self, vector: Any, residual: Any | None, payload: Any, bits: int, bucket: int, norm: str, key: int
    ) -> bool:
        scale, share = ("quantize_l2", 8) if norm == "l2" else ("quantize_max", self.dtype.itemsize)
        return self._blocks_encode("quantize", scale, share, vector, residual, payload, bucket, bits, key)

    def quantize_decode(self, payload: Any, out: Any, bits: int, bucket: int, add: bool, factor: float = 1.0) -> None:
        self._blocks_decode("quantize", payload, out, bucket, bits, add, factor)

    def uniform_encode(self, vector: Any, residual: Any | None, payload: Any, bits: int, bucket: int, key: int) -> bool:
        share = 2 * self.dtype.itemsize
        return self._blocks_encode("uniform", "uniform", share, vector, residual, payload, bucket, bits, key)

    def uniform_decode(self, payload: Any, out: Any, bits: int, bucket: int, add: bool, factor: float = 1.0) -> None:
        self._blocks_decode("uniform", payload, out, bucket, bits, add, factor)

    def fp8_encode(self, vector: Any, residual: Any | None, payload: Any, block: int) -> bool:
        return self._blocks_encode("fp8", "fp8", self.dtype.itemsize, vector, residual, payload, block, 8, 0)

    def fp8_decode(self, payload: Any, out: Any, block: int, add: bool, factor: float = 1.0) -> None:
        self._blocks_decode("fp8", payload, out, block, 8, add, factor)

    def natural_encode(self, vector: Any, residual: Any | None, payload: Any, key: int) -> bool:
        n = vector.size
        given = (vector, _pointer(residual), np.int64(n), payload, np.uint64(key), self._fault())
        self._quads("natural.cu", "natural_encode", n, *given)
        return self._finish(payload, payload)

    def natural_decode(self, payload: Any, out: Any, add: bool, factor: float = 1.0) -> None:
        self._decode("natural", payload, out, add, factor)

    # -- sparsification

    def topk_encode(self, vector: Any, residual: Any | None, payload: Any, k: int) -> bool:
        file, target = "topk.cu", self._aligned(payload)
        n, size, wanted = vector.size, np.int64(vector.size), np.int64(k)
        memory, v = _pointer(residual), vector if residual is None else residual
        state = self.scratch("state", 6, np.uint64)
        histogram = self.scratch("histogram", 2048, np.uint32)
        pieces = -(-n // (1024 * WARP_THREADS // 32))
        rows, counts = (self.scratch(name, pieces, np.uint64) for name in ("rows", "counts"))
        rank, capacity = _sample(n, k)
        values = self.scratch("values", max(capacity, 1), self.dtype)
        indices = self.scratch("indices", max(capacity, 1), np.int32)
        if rank:
            self._launch(file, "topk_sample", 1024, 1024, vector, memory, size, np.int64(rank), state)
        device = self._cupy.cuda.runtime.getDevice()
        resident = RESIDENT[8 * self.dtype.itemsize] * _multiprocessors(self._cupy, device)
        blocks = min(resident, pieces) * WARP_THREADS
        listing = (np.uint32(rank > 0), np.int64(capacity), state, histogram, values, indices, rows, self._fault())
        self._launch(file, "topk_pass", blocks, WARP_THREADS, vector, memory, size, wanted, *listing)
        if rank:
            self._launch(file, "topk_retry", blocks, WARP_THREADS, v, size, wanted, state, histogram)
        shift = 8 * self.dtype.itemsize - 1 - DIGIT
        while shift > 0:
            width = min(DIGIT, shift)
            shift -= width
            digit = (np.uint32(shift), np.uint32(width), state, histogram, values)
            self._launch(file, "topk_digit", blocks, WARP_THREADS, v, size, *digit)
        self._launch(file, "topk_count", 32 * pieces, 1024, v, size, state, values, indices, rows, counts)
        self._warps(file, "topk_gather", pieces, v, memory, size, wanted, state, values, indices, rows, counts, target)
        return self._finish(payload, target)

    def topk_decode(self, payload: Any, out: Any, k: int, add: bool, factor: float = 1.0) -> None:
        source = self._aligned(payload, copy=True)
        if not add:
            out.fill(0)
        sizes = (np.int64(out.size), np.int64(k))
        self._launch("topk.cu", "topk_decode", k, THREADS, source, out, *sizes, np.uint32(add), self.dtype.type(factor))

    def topk_clear(self, payload: Any, out: Any, k: int) -> None:
        source, sizes = self._aligned(payload, copy=True), (np.int64(out.size), np.int64(k))
        self._launch("topk.cu", "topk_clear", k, THREADS, source, out, *sizes)

    def randomk_encode(self, vector: Any, residual: Any | None, payload: Any, k: int, key: int, unbiased: bool) -> bool:
        return self._gather(vector, residual, payload, 8, k, key, unbiased)

    def randomk_decode(self, payload: Any, out: Any, k: int, add: bool, factor: float = 1.0) -> None:
        self._scatter(payload, 8, out, k, 0, add, factor, NULL)

    def positions_encode(
        self, vector: Any, residual: Any | None, payload: Any, k: int, key: int, unbiased: bool
    ) -> bool:
        return self._gather(vector, residual, payload, 0, k, key, unbiased)

    def positions_decode(self, payload: Any, out: Any, k: int, key: int, add: bool, factor: float = 1.0) -> bool:
        self._scatter(payload, 0, out, k, key, add, factor, self._fault())
        return self._finish(payload, payload)

    def _gather(
        self, vector: Any, residual: Any | None, payload: Any, head: int, k: int, key: int, unbiased: bool
    ) -> bool:
        """Encode k positions; `head` is the number of bytes of the key in front of their values."""
        n, target, fault = vector.size, self._aligned(payload), self._fault()
        memory = _pointer(residual)
        factor = self.dtype.type(n / k if unbiased else 1)
        self._quads("randomk.cu", "randomk_compensate", n, vector, memory, np.int64(n), fault)
        walk = (np.int64(n), np.int64(k), *_feistel_widths(n), np.uint64(key), factor)
        places = (target if head else NULL, target[head:])
        self._launch("randomk.cu", "randomk_encode", k, THREADS, vector, memory, *walk, *places, fault)
        return self._finish(payload, target)

    def _scatter(
        self, payload: Any, head: int, out: Any, k: int, key: int, add: bool, factor: float, fault: Any
    ) -> None:
        n, source = out.size, self._aligned(payload, copy=True)
        if not add:
            out.fill(0)
        places = (source if head else NULL, source[head:])
        walk = (np.int64(n), np.int64(k), *_feistel_widths(n), np.uint64(key))
        adding = (np.uint32(add), self.dtype.type(factor))
        self._launch("randomk.cu", "randomk_decode", k, THREADS, *places, out, *walk, *adding, fault)

    def randomk_clear(self, payload: Any, out: Any, k: int) -> None:
        source, walk = self._aligned(payload, copy=True), (np.int64(out.size), np.int64(k), *_feistel_widths(out.size))
        self._launch("randomk.cu", "randomk_clear", k, THREADS, source, out, *walk)

    # -- float formats

    def clip_encode(self, vector: Any, residual: Any | None, payload: Any, bits: int) -> bool:
        n, target = vector.size, self._aligned(payload)
        given = (vector, _pointer(residual), np.int64(n), target, np.uint32(bits), self._fault())
        self._warps("clip.cu", "clip_encode", -(-n // 256), *given)
        return self._finish(payload, target)

    def clip_decode(self, payload: Any, out: Any, bits: int, add: bool, factor: float = 1.0) -> None:
        self._decode("clip", payload, out, add, factor, np.uint32(bits))

    def half_encode(self, vector: Any, residual: Any | None, payload: Any, bfloat: bool) -> bool:
        n, target = vector.size, self._aligned(payload)
        kernel = "bf16_encode" if bfloat else "fp16_encode"
        self._quads("half.cu", kernel, n, vector, _pointer(residual), np.int64(n), target, self._fault())
        return self._finish(payload, target)

    def half_decode(self, payload: Any, out: Any, bfloat: bool, add: bool, factor: float = 1.0) -> None:
        self._decode("bf16" if bfloat else "fp16", payload, out, add, factor, file="half")

    # -- optimizers

    def axpy(self, y: Any, factor: Any, x: Any) -> None:
        self._quads("steps.cu", "axpy", y.size, y, self.dtype.type(factor), x, np.int64(y.size))

    def momentum_step(
        self, p: Any, u: Any, x: Any | None, scale: float, decay: float, lr: float, beta: float, nesterov: bool
    ) -> bool:
        numbers = map(self.dtype.type, (scale, decay, lr, beta))
        given = (p, u, _pointer(x), np.int64(p.size), *numbers, np.uint32(nesterov))
        self._quads("steps.cu", "momentum_step", p.size, *given, self._fault())
        return self._finish(p, p)

    def adam_step(
        self,
        p: Any,
        m: Any,
        v: Any,
        x: Any | None,
        scale: float,
        decay: float,
        rate: float,
        keep: float,
        beta1: float,
        beta2: float,
        root: float,
        eps: float,
    ) -> bool:
        numbers = map(self.dtype.type, (scale, decay, rate, keep, beta1, 1 - beta1, beta2, 1 - beta2, root, eps))
        self._quads("steps.cu", "adam_step", p.size, p, m, v, _pointer(x), np.int64(p.size), *numbers, self._fault())
        return self._finish(p, p)


def _pointer(array: Any | None) -> Any:
    """A kernel argument for an array that may be missing."""
    return NULL if array is None else array


def _sample(n: int, k: int) -> tuple[int, int]:
    """(rank in a sample of a value very likely below the k-th largest of n, room for the elements above it).

    Zeros where a sample does not pay. On average k·SAMPLES/n of the k largest are in the sample, give or take the root
    of that.
    """
    expected = k * SAMPLES / n
    rank = int(expected + 4 * math.sqrt(expected) + 8)
    if n < SAMPLED or 2 * rank > SAMPLES:
        return 0, 0
    return rank, min(n, math.ceil(n * (rank + 6 * math.sqrt(rank)) / SAMPLES))


def _feistel_widths(dimension: int) -> tuple[np.uint32, np.uint32]:
    """Bits of the two halves of `random_positions`' Feistel network."""
    bits = max(1, (dimension - 1).bit_length())
    low = (bits + 1) // 2
    return np.uint32(low), np.uint32(bits - low)
