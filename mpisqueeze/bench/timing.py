"""Shared by the benchmarks: sizes and their order, statistics of times, rows as JSON has them, and what differs."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from mpisqueeze.devices.device import Device
from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import parse_size

T = TypeVar("T")

SCHEMA_VERSION = 1
#: Each size is so many times the one before.
STEP = 4
#: Repetitions of a large size, of a small one, and elements in all repetitions of the sizes in between.
_FEW, _MANY, _NUMBERS = 20, 200, 16 << 20
#: The largest number of repetitions that may be asked for.
MOST = 1_000_000
#: int32 is what indices are sent as.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class TimeStatistics:
    """Statistics of a list of times, s; `std` is the samples' standard deviation, 0 for a single one."""

    median: float
    mean: float
    std: float
    p99: float
    fastest: float

    @staticmethod
    def of(samples: Sequence[float]) -> TimeStatistics:
        times = np.asarray(samples, float)
        std = float(times.std(ddof=1)) if times.size > 1 else 0.0
        p99 = float(np.percentile(times, 99))
        return TimeStatistics(float(np.median(times)), float(times.mean()), std, p99, float(times.min()))

    def named(self, name: str) -> dict[str, float]:
        """`NAME_s` is the median, beside it `NAME_mean_s`, `NAME_std_s`, `NAME_p99_s`, `NAME_fastest_s`."""
        rest = {"mean": self.mean, "std": self.std, "p99": self.p99, "fastest": self.fastest}
        return {f"{name}_s": self.median, **{f"{name}_{key}_s": value for key, value in rest.items()}}


def flat(row: Any) -> dict[str, Any]:
    """The fields of a row as JSON and CSV have them: statistics by `named`, and a tuple of parts by their `flat`."""
    found: dict[str, Any] = {}
    for item in fields(row):
        value = getattr(row, item.name)
        if isinstance(value, TimeStatistics):
            found |= value.named(item.name)
        elif isinstance(value, tuple):
            for part in value:
                found |= part.flat()
        else:
            found[item.name] = value
    return found


def benchmark_facts(context: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """The object that `--json` writes for these rows."""
    return {"schema_version": SCHEMA_VERSION, "context": context, "results": [flat(row) for row in results]}


@dataclass(frozen=True)
class Repetitions:
    """The number of times that a size is timed.

    Attributes:
        iterations: of every size; None: 20 of large ones, up to 200 of small ones.
        warmup: more before them, not timed.
    """

    iterations: int | None
    warmup: int

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.iterations is not None and not 1 <= self.iterations <= MOST:
            raise UsageError(f"must be a whole number from 1 to {MOST}, got {self.iterations}", "-i")
        if not 0 <= self.warmup <= MOST:
            raise UsageError(f"must be a whole number from 0 to {MOST}, got {self.warmup}", "-x")

    def of(self, size: int) -> int:
        """Timed repetitions of a vector of `size` elements."""
        return max(_FEW, min(_MANY, _NUMBERS // size)) if self.iterations is None else self.iterations

    def rounds(self, size: int) -> range:
        """The numbers of a size's repetitions; those of the warm-up are negative."""
        return range(-self.warmup, self.of(size))


def parse_sizes(text: str) -> list[int]:
    """`64Ki:16Mi` → lengths of a vector, from the first to the last, each four times the one before; `4Mi` → one.

    Raises UsageError.
    """
    ends = text.split(":")
    accepts = "it takes MIN:MAX or a single size, in elements, such as 64Ki:16Mi"
    if len(ends) > 2:
        raise UsageError(f"{text!r} is no range of sizes; {accepts}", "-m")
    try:
        low, high = parse_size(ends[0]), parse_size(ends[-1])
    except ValueError as error:
        raise UsageError(f"{error}; {accepts}", "-m") from None
    if not 1 <= low <= high <= LARGEST:
        raise UsageError(f"{text!r} must be sizes from 1 to {LARGEST}, the smaller one first", "-m")
    sizes = []
    while low < high:
        sizes.append(low)
        low *= STEP
    return [*sizes, high]


def rotated(items: Sequence[T], number: int) -> Iterator[T]:
    """All items, beginning with another one each round, so that none always follows the same one."""
    start = number % len(items)
    yield from items[start:]
    yield from items[:start]


def seconds_of(work: Callable[[], Any], device: Device, now: Callable[[], float] = perf_counter) -> float:
    """Seconds that `work` takes by the clock `now`, with nothing else queued on the device."""
    device.synchronize()
    began = now()
    work()
    device.synchronize()
    return now() - began


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Python does not look for garbage while clocks run."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_memory(nbytes: int, what: str) -> None:
    """Raise UsageError where this host lacks the memory for `what`."""
    free = Device().free_memory()
    if nbytes > free:
        raise UsageError(
            f"{what} takes about {nbytes / 1e9:.1f} GB, and this host has {free / 1e9:.1f} GB free: name fewer or "
            "smaller ones",
            "-m",
        )


def command_line() -> str:
    """The command as it was typed, whichever Python runs it."""
    return shlex.join(["mpisqueeze", *sys.argv[1:]])


def differing(found: np.ndarray, expected: np.ndarray) -> int:
    """The number of elements that differ, in a bit at least."""
    bits = np.dtype(f"u{expected.itemsize}")
    return int(np.count_nonzero(found.view(bits) != expected.view(bits)))
