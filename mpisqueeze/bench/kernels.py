"""`bench kernels`: the times of each compressor's operations beside an in-place add of the same length, in one run.

For every compressor, size and device four operations are timed in turn, round by round, so that other work of the
machine meets them alike: `encode` with error feedback, `plain_encode` without, `decode`, which adds to what is there,
and `add`, an in-place add of two vectors. Before each the array that it writes is filled, untimed, so that the caches
hold as much of it for one as for another, and residuals stay finite. No buffer is allocated or first touched while a
clock runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpisqueeze.bench.timing import (
    Repetitions,
    TimeStatistics,
    check_memory,
    command_line,
    differing,
    no_garbage_collection,
    rotated,
    seconds_of,
)
from mpisqueeze.compressors.base import Compressor, adapt
from mpisqueeze.compressors.randomk import RandomK
from mpisqueeze.compressors.topk import TopK
from mpisqueeze.devices.device import CudaDevice, Device, gpu_count
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels import kernels_for, use_threads
from mpisqueeze.kernels.reference import ReferenceKernels
from mpisqueeze.language import check_choice
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.record.environment import local_environment
from mpisqueeze.settings import Settings

#: The compressors that are timed unless a user names some.
COMPRESSORS = (
    "identity", "onebit", "onebit:1024,scale=l2", "onebit:1024,scale=two", "qsgd:2", "qsgd:4", "qsgd:8", "uniform:2",
    "uniform:8", "ternary", "topk:0.01", "randomk:0.01", "randomk:0.01,shared", "clip:16", "fp16", "bf16", "fp8",
    "natural",
)  # fmt: skip
OPERATIONS = ("encode", "plain_encode", "decode", "add")
DEVICES = ("cpu", "cuda", "auto", "all")
KERNELS = ("auto", "native", "numpy", "all")
_ARGUMENT = "COMPRESSOR"
#: Vectors that a size needs at once, those of the check included.
_VECTORS = 10
#: Bytes that memory moves at a time.
_LINE = 64
#: The factor of the update that the check has fused with decoding.
_FACTOR = -0.1


@dataclass(frozen=True)
class Variant:
    """A device, and a set of kernels for it: `native`, `numpy` or `cuda`."""

    device: Device
    kernels: str

    @property
    def label(self) -> str:
        """For people: `CPU, native kernels (avx2)`."""
        detail = ""
        if self.kernels == "native":
            from mpisqueeze.kernels import _native

            detail = f" ({_native.instruction_sets()[-1]})"
        return f"{self.device.label}, {self.kernels} kernels{detail}"

    def compressor(self, part: Part, dimension: int, dtype: np.dtype[Any], seed: int = 1) -> Compressor:
        """A compressor on these kernels."""
        return make_compressor(part, dimension, self.device.xp, dtype, seed, _kernel_set(self, dtype))


@dataclass(frozen=True)
class KernelRequest:
    """The options of `bench kernels`, checked.

    Attributes:
        sizes: elements of a vector.
    """

    compressors: list[Part]
    sizes: list[int]
    repetitions: Repetitions
    check: bool
    dtype: np.dtype[Any]
    variants: list[Variant]
    threads: int

    @staticmethod
    def checked(
        compressors: Sequence[str],
        sizes: list[int],
        repetitions: Repetitions,
        check: bool,
        device: str,
        kernels: str,
        settings: Settings,
    ) -> KernelRequest:
        """The request for these options, `device` and `kernels` being the benchmark's own. Raises UsageError."""
        check_choice("--device", device, DEVICES)
        check_choice("--kernels", kernels, KERNELS)
        dtype = np.dtype(settings.dtype)
        check_memory(_VECTORS * sizes[-1] * dtype.itemsize, "benchmarking this size")
        variants = choose_variants(device, kernels, dtype)
        with _blaming(_ARGUMENT):
            parts = [registry.compressors.find(spec) for spec in compressors or COMPRESSORS]
        return KernelRequest(parts, sizes, repetitions, check, dtype, variants, settings.threads)

    @property
    def rounds(self) -> int:
        """The number of rounds of all sizes, compressors and variants together."""
        each = sum(len(self.repetitions.rounds(size)) for size in self.sizes)
        return each * len(self.compressors) * len(self.variants)


def choose_variants(device: str, kernels: str, dtype: np.dtype[Any]) -> list[Variant]:
    """The devices and kernel sets that the options ask for. Raises UsageError where there is none such."""
    count, why = gpu_count() if device != "cpu" else (0, "")
    if device == "cuda" and not count:
        raise UsageError(f"cuda: {why}; use auto, all or cpu", "--device")
    gpus = [Variant(CudaDevice(0, False, ""), "cuda")] if count else []
    if device == "cuda" or (device == "auto" and count):
        return gpus
    native = _native_kernels(dtype) is not None
    if kernels == "native" and not native:
        raise UsageError("native: the extension was not built; use numpy, or install again with a compiler",
                         "--kernels")  # fmt: skip
    named = {"auto": [kernels_for(np, dtype).name], "all": ["native"] * native + ["numpy"]}.get(kernels, [kernels])
    return [*(Variant(Device(), name) for name in named), *gpus]


def _native_kernels(dtype: np.dtype[Any]) -> ReferenceKernels | None:
    try:
        from mpisqueeze.kernels.native import NativeKernels
    except ImportError:
        return None
    return NativeKernels(dtype)


def _kernel_set(variant: Variant, dtype: np.dtype[Any]) -> Any:
    if variant.kernels == "cuda":
        return kernels_for(variant.device.xp, dtype)
    return _native_kernels(dtype) if variant.kernels == "native" else ReferenceKernels(dtype)


@contextmanager
def _blaming(option: str) -> Iterator[None]:
    """A context in which errors of a compressor are blamed on this option, or argument, of the command."""
    try:
        yield
    except UsageError as error:
        raise UsageError(error.message, option) from error


def make_compressor(
    part: Part,
    dimension: int,
    xp: Any,
    dtype: np.dtype[Any],
    seed: int,
    kernels: Any = None,
    option: str = _ARGUMENT,
) -> Compressor:
    """A compressor of `part`, on the kernels given if it takes any.

    Raises UsageError for a broken plug-in, blaming `option`.
    """
    with _blaming(option):
        with contracts.plugin(part, option, "__init__(dimension, xp, dtype, seed)"):
            made = part.cls(dimension, xp, dtype, seed, **part.options)
        contracts.check_compressor(part, made)
        compressor = adapt(made, dimension, xp, dtype)
    if kernels is not None and hasattr(compressor, "kernels"):
        compressor.kernels = kernels
    return compressor


# -- is it right


def count_wrong(part: Part, size: int, variant: Variant, dtype: np.dtype[Any]) -> dict[str, int]:
    """Do each operation once; count payload bytes and elements that differ, in a bit at least, from the reference's.

    The reference does each step by its definition, with a plain encode and a plain decode: v = vector + residual,
    payload = C(v), residual = v − D(payload), out = out + factor·D(payload). It runs on the NumPy kernels, or where
    these are in question, on the compiled ones if they are built. A plug-in without kernels is compared with another
    instance of itself, which must give the same payload from the same seed, and decode with any.
    """
    other = _native_kernels(dtype) if variant.kernels == "numpy" else None
    reference = other or ReferenceKernels(dtype)
    referee, subject = make_compressor(part, size, np, dtype, 1, reference), variant.compressor(part, size, dtype)
    receiver = make_compressor(part, size, np, dtype, 1 if referee.linear else 2, reference)
    xp, home = variant.device.xp, variant.device.to_numpy
    vector, residual = _normal(size, dtype, 1), _normal(size, dtype, 2)
    # Adding a number that was not sent would make +0 of −0.
    residual[residual == 0] = 1
    expected, decoded = np.zeros(referee.payload_bytes, np.uint8), np.full(size, np.nan, dtype)
    given, payload, out = xp.asarray(vector), xp.full(subject.payload_bytes, 255, np.uint8), xp.zeros(size, dtype)
    with contracts.plugin(part, _ARGUMENT, f"encoding or decoding {size} elements"):
        referee.iteration = receiver.iteration = subject.iteration = 1
        referee.encode(vector, expected)
        receiver.decode(expected, decoded)
        subject.encode(given, payload)
        subject.decode(payload, out)
        wrong = {
            "encode": 0,
            "plain_encode": differing(home(payload), expected) + differing(home(given), vector),
            "decode": differing(home(out), decoded),
        }
        referee.iteration = receiver.iteration = subject.iteration = 2
        total = vector + residual
        referee.encode(total, expected)
        receiver.decode(expected, decoded)
        kept = xp.asarray(residual.copy())
        subject.encode_feedback(given, kept, payload)
        np.subtract(total, decoded, out=total)
        wrong["encode"] = differing(home(payload), expected) + differing(home(kept), total)
        for factor in (1.0, _FACTOR):
            kept = xp.asarray(residual.copy())
            subject.decode_add(payload, kept, factor)
            np.multiply(decoded, dtype.type(factor), out=total)
            np.add(residual, total, out=total)
            wrong["decode"] += differing(home(kept), total)
    return wrong


def _normal(size: int, dtype: np.dtype[Any], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size, dtype=dtype)


# -- how long does it take


class Workload:
    """A compressor at work on vectors of one length, all memory allocated and touched.

    Args:
        part: whose compressor it is, for errors of a plug-in.
        seed: of the vector of normal numbers.

    Attributes:
        operations: (what to do before, untimed; what to time) by name.
    """

    def __init__(self, part: Part, compressor: Compressor, device: Device, seed: int = 1) -> None:
        xp, size, dtype = device.xp, compressor.dimension, compressor.dtype
        self.compressor, self._device = compressor, device
        vector = xp.asarray(_normal(size, dtype, seed))
        residual, out, total = (xp.full(size, 0, dtype) for _ in range(3))
        payload = xp.full(compressor.payload_bytes, 0, np.uint8)
        compressor.iteration = 1
        with contracts.plugin(part, _ARGUMENT, f"encoding or decoding {size} elements"):
            compressor.encode(vector, payload)
            compressor.decode(payload, out)
        out -= vector
        #: ‖C(v) − v‖/‖v‖ of a vector v of normal numbers.
        self.relative_error = math.sqrt(float(out.dot(out)) / float(vector.dot(vector)))
        self.operations: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "encode": (lambda: self._next(residual), lambda: compressor.encode_feedback(vector, residual, payload)),
            "plain_encode": (self._next, lambda: compressor.encode(vector, payload)),
            "decode": (lambda: out.fill(0), lambda: compressor.decode_add(payload, out)),
            "add": (lambda: total.fill(0), lambda: xp.add(total, vector, out=total)),
        }

    def _next(self, residual: Any = None) -> None:
        """Begin an iteration, so that encoding draws anew, and decoding finds what was drawn, as in a run."""
        self.compressor.iteration += 1
        if residual is not None:
            residual.fill(0)

    def round(self, number: int) -> dict[str, float]:
        """Seconds of each operation, done once."""
        seconds = {}
        for name in rotated(OPERATIONS, number):
            prepare, work = self.operations[name]
            prepare()
            seconds[name] = seconds_of(work, self._device)
        return seconds

    def bytes_moved(self) -> dict[str, int]:
        """The bytes that each operation has to read and write at the least."""
        compressor = self.compressor
        full, payload = compressor.dimension * compressor.dtype.itemsize, compressor.payload_bytes
        # A sparse payload names the elements to add to, each on a line of memory of its own.
        touched = min(full, compressor.k * _LINE) if isinstance(compressor, TopK | RandomK) else full
        return {
            "encode": 3 * full + payload,
            "plain_encode": full + payload,
            "decode": 2 * touched + payload,
            "add": 3 * full,
        }


@dataclass(frozen=True)
class Operation:
    """An operation of a row.

    Attributes:
        gb_s: GB/s of the vector.
        ns: an element.
        memory_percent: the rate at which it moves what has to be moved, over that of the in-place add.
        ratio: its time over that of the in-place add.
        wrong: payload bytes and elements that differ from the reference's, or None.
    """

    name: str
    time: TimeStatistics
    gb_s: float
    ns: float
    memory_percent: float
    ratio: float
    wrong: int | None

    def flat(self) -> dict[str, Any]:
        """The fields as JSON and CSV have them, with the operation's name."""
        rates = {f"{self.name}_{key}": getattr(self, key) for key in ("gb_s", "ns", "memory_percent", "ratio")}
        return {**self.time.named(self.name), **rates, f"wrong_{self.name}": self.wrong}


@dataclass(frozen=True)
class KernelRow:
    """A row of `results`: a compressor on a device at one size.

    Attributes:
        wire_bits: of the payload, an element.
        wrong: of all operations together, or None.
        operations: all but the in-place add.
        memory_gb_s: the rate at which the in-place add moves memory.
    """

    compressor: str
    device: str
    kernels: str
    variant: str
    dtype: str
    size: int
    payload_bytes: int
    wire_bits: float
    relative_error: float
    wrong: int | None
    iterations: int
    operations: tuple[Operation, ...]
    add: TimeStatistics
    memory_gb_s: float
    samples: dict[str, list[float]]


def measure(request: KernelRequest, tick: Callable[[str], None]) -> Iterator[KernelRow]:
    """A row for each variant, compressor and size, as it is done. Raises UsageError of a broken plug-in.

    Args:
        tick: called after each round, with what is being timed.
    """
    use_threads(request.threads)
    for variant in request.variants:
        for part in request.compressors:
            for size in request.sizes:
                yield _measured(request, variant, part, size, tick)


def _measured(
    request: KernelRequest, variant: Variant, part: Part, size: int, tick: Callable[[str], None]
) -> KernelRow:
    dtype = request.dtype
    wrong = count_wrong(part, size, variant, dtype) if request.check else None
    workload = Workload(part, variant.compressor(part, size, dtype), variant.device)
    samples: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    with no_garbage_collection():
        for number in request.repetitions.rounds(size):
            for name, seconds in workload.round(number).items():
                if number >= 0:
                    samples[name].append(seconds)
            tick(part.spec)
    times = {name: TimeStatistics.of(seconds) for name, seconds in samples.items()}
    moved, add = workload.bytes_moved(), times.pop("add")
    rate = moved["add"] / add.median
    return KernelRow(
        compressor=part.spec,
        device=variant.device.kind,
        kernels=variant.kernels,
        variant=variant.label,
        dtype=dtype.name,
        size=size,
        payload_bytes=workload.compressor.payload_bytes,
        wire_bits=8 * workload.compressor.payload_bytes / size,
        relative_error=workload.relative_error,
        wrong=None if wrong is None else sum(wrong.values()),
        iterations=len(samples["add"]),
        operations=tuple(
            Operation(
                name,
                time,
                gb_s=1e-9 * size * dtype.itemsize / time.median,
                ns=1e9 * time.median / size,
                memory_percent=100 * moved[name] / time.median / rate,
                ratio=time.median / add.median,
                wrong=None if wrong is None else wrong[name],
            )
            for name, time in times.items()
        ),
        add=add,
        memory_gb_s=1e-9 * rate,
        samples={f"{name}_s": seconds for name, seconds in samples.items()},
    )


def context(request: KernelRequest) -> dict[str, Any]:
    """The JSON's `context`, as far as it is known before anything is measured."""
    environment = local_environment()
    host = environment["hosts"][0]
    return {
        "command": command_line(),
        **{key: environment[key] for key in ("started_utc", "git_commit", "versions")},
        "cpu": host["cpu_model"],
        "cores": host["cores"],
        "cpu_quota": host["cpu_quota"],
        "system": host["system"],
        "variables": environment["variables"],
        "threads": request.threads,
        "kernels": [variant.label for variant in request.variants],
        "dtype": request.dtype.name,
        "warmup": request.repetitions.warmup,
        "check": request.check,
    }


def with_memory(facts: dict[str, Any], results: list[KernelRow]) -> dict[str, Any]:
    """`context` with the in-place add's rate at the largest size, GB/s moved, by device."""
    rates: dict[str, float] = {}
    for device in dict.fromkeys(row.device for row in results):
        rows = [row for row in results if row.device == device]
        largest = max(row.size for row in rows)
        rates[device] = float(np.median([row.memory_gb_s for row in rows if row.size == largest]))
    return {**facts, "memory_gb_s": rates}
