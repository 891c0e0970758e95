"""calibration.json: what `calibrate` writes and `predict` reads, and the line that is fitted to message times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from mpisqueeze.costs.exchanges import allreduce
from mpisqueeze.costs.link import Link, Processor
from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import SLOWEST
from mpisqueeze.record.decoding import Ranks, as_type, read_object

SCHEMA_VERSION = 1
#: Relative residuals beyond so many robust standard deviations lose weight: Huber's constant, 95 % efficient on normal
#: noise.
_HUBER = 1.345
_ROUNDS = 200
#: Steps of ln α and ln β that are none.
_STILL = 1e-12
#: Seconds.
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e30)]


@dataclass(frozen=True)
class Fit:
    """t(m) = α + mβ through measured times.

    Attributes:
        alpha_s: α ≥ 0, s.
        byte_s: β ≥ 0, s a byte.
        residuals: (measured − fitted)/measured, of each point.
    """

    alpha_s: float
    byte_s: float
    residuals: list[float]

    @property
    def bandwidth(self) -> float | None:
        """Bits a second, None where more bytes took no more time."""
        return 8 / self.byte_s if self.byte_s > 0 else None

    def as_json(self) -> dict[str, Any]:
        size = np.abs(self.residuals)
        return {
            "method": "sum of sqrt(t) * huber(ln((alpha + m * beta) / t)), minimised by Gauss-Newton steps",
            "points": len(self.residuals),
            "median_relative_error": float(np.median(size)),
            "max_relative_error": float(size.max()),
            "residuals": self.residuals,
        }


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """The α and β that minimise Σ √t·ρ(ln((α + mβ)/t)) over the points.

    Errors are relative, and the same for twice as long as for half as long, since times span six orders of magnitude:
    in seconds the largest message alone would decide, and α be lost in its noise. √t has the large ones decide on β
    nevertheless, as what passes through a shaper's burst, or a cache, says little of sustained traffic. ρ is Huber's
    function at 1.345 robust standard deviations (1.4826 times the median of the errors' sizes), so that a size at
    which MPI changes its protocol or the machine was busy does not bend the line (Huber & Ronchetti, Robust Statistics,
    2009, §7). Solved in ln α and ln β by iteratively reweighted Gauss–Newton steps, halved until they help.

    Args:
        sizes: m, bytes, at least two different ones.
        seconds: t > 0 of each.
    """
    m, t = np.asarray(sizes, float), np.asarray(seconds, float)
    root, largest = np.sqrt(t / t.max()), m.max()

    def line(x: np.ndarray) -> np.ndarray:
        alpha, beta = np.exp(x)
        return alpha + m * beta

    x = np.log([t.min(), t[m.argmax()] / largest])
    for _ in range(_ROUNDS):
        errors = np.log(line(x) / t)
        width = _HUBER * max(1.4826 * float(np.median(np.abs(errors))), 1e-12)
        weights = root * np.minimum(1.0, width / np.maximum(np.abs(errors), 1e-300))
        slopes = np.stack([np.full(m.size, math.exp(x[0])), m * math.exp(x[1])]) / line(x)
        curvature = (weights * slopes) @ slopes.T
        step = np.linalg.solve(curvature + 1e-12 * np.trace(curvature) * np.eye(2), -slopes @ (weights * errors))
        step *= min(1.0, 1 / max(float(np.abs(step).max()), _STILL))
        cost = _huber(errors, width) @ root
        while (_huber(np.log(line(x + step) / t), width) @ root) > cost and np.abs(step).max() > _STILL:
            step /= 2
        # Below a thousandth of any time it makes no difference how small a part of it is.
        x = np.maximum(x + step, np.log([1e-3 * t.min(), 1e-3 * t.min() / largest]) - 1)
        if np.abs(step).max() <= _STILL:
            break
    alpha, beta = (float(value) for value in np.exp(x))
    alpha = alpha if alpha > 1e-3 * t.min() else 0.0
    beta = beta if beta * largest > 1e-3 * t.min() else 0.0
    return Fit(alpha, beta, ((t - alpha - m * beta) / t).tolist())


def _huber(errors: np.ndarray, width: float) -> np.ndarray:
    """ρ: half the square up to `width`, and a straight line from there."""
    size = np.abs(errors)
    return np.where(size <= width, size**2 / 2, width * (size - width / 2))


class Kernel(msgspec.Struct):
    """Seconds an element that a compressor takes, on the slowest of ranks that all compress at once."""

    compressor: str
    encode: _Amount = msgspec.field(name="plain_encode_s_per_element")
    encode_feedback: _Amount = msgspec.field(name="encode_s_per_element")
    decode_add: _Amount = msgspec.field(name="decode_add_s_per_element")


@dataclass(frozen=True)
class Calibration:
    """A calibration that was read.

    Attributes:
        path: as it was given.
        ranks: it was measured on.
        link: between them, with the processors that they share; None of a single rank.
        given: the emulated link's text, or None for a network that is there.
        add_s: seconds an element of an in-place add of vectors that no cache holds.
        dtype: of the vectors that kernels were measured on.
        kernels: by the compressor's spec.
        allreduce: (bytes, s) of MPI_Allreduce, ascending.
        section_s: seconds that an exchange spends on a section, whatever its length.
    """

    path: Path
    ranks: int
    link: Link | None
    add_s: float
    dtype: str
    kernels: dict[str, Kernel]
    given: str | None = None
    allreduce: tuple[tuple[float, float], ...] = ()
    section_s: float = 0.0
    #: (elements, s an element) of an in-place add, ascending.
    adds: tuple[tuple[float, float], ...] = ()

    def add(self, elements: float) -> float:
        """Seconds an element of an in-place add of vectors of this length."""
        if not self.adds:
            return self.add_s
        lengths, seconds = zip(*self.adds, strict=True)
        return float(np.interp(math.log(elements), np.log(lengths), seconds))

    def library(self, nbytes: float) -> float | None:
        """The time of MPI_Allreduce over that of the model's all-reduce here, at about this size; None if unknown."""
        if self.link is None or not self.allreduce:
            return None
        ratios = [seconds / allreduce(self.link, self.ranks, size).seconds for size, seconds in self.allreduce]
        sizes = [math.log(size) for size, _ in self.allreduce]
        return math.exp(float(np.interp(math.log(nbytes), sizes, np.log(ratios))))


class _Processor(msgspec.Struct):
    """The fields of `Processor` of `costs.link`."""

    message_s: _Amount
    byte_s: _Amount
    wake_s: _Amount
    ranks: Ranks
    cores: Ranks


class _Link(msgspec.Struct):
    """α and a gap of messages (s), and bits a second, None where more bytes took no more time."""

    alpha_s: _Amount
    gap_s: _Amount
    bandwidth: Annotated[float, msgspec.Meta(ge=SLOWEST, le=1e30)] | None
    given: str | None = None
    processor: _Processor | None = None


class _Allreduce(msgspec.Struct):
    size: Annotated[float, msgspec.Meta(gt=0)]
    time_s: Annotated[float, msgspec.Meta(gt=0, le=1e30)]


class _Added(msgspec.Struct):
    elements: Annotated[float, msgspec.Meta(gt=0)]
    add_s_per_element: _Amount


class _Memory(msgspec.Struct):
    add_s_per_element: _Amount
    elements: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    shorter: list[_Added] = []


class _CalibrationFile(msgspec.Struct):
    """calibration.json: of all that `calibrate` writes, the part that `predict` reads."""

    ranks: Ranks
    link: _Link | None
    memory: _Memory
    dtype: str
    kernels: list[Kernel]
    allreduce: list[_Allreduce] | None = None
    section_s: _Amount = 0.0


def read_calibration(path: Path) -> Calibration:
    """Read what `calibrate` wrote. Raises UsageError naming the file and what is wrong with it."""
    value = read_object(path, "--calibration", dict[str, Any])
    version = value.get("schema_version")
    if version is None:
        what = "is no calibration: it has no 'schema_version'; `mpisqueeze calibrate` writes one"
        raise UsageError(f"{path} {what}", "--calibration")
    if version != SCHEMA_VERSION:
        raise UsageError(f"{path} has schema_version {version!r}; this version reads {SCHEMA_VERSION}", "--calibration")
    file = as_type(value, _CalibrationFile, f"{path}", "--calibration")
    link = None
    if file.link is not None:
        gap = min(file.link.gap_s, file.link.alpha_s)
        processor = Processor(**msgspec.structs.asdict(file.link.processor)) if file.link.processor else None
        link = Link(file.link.alpha_s - gap, gap, 8 / (file.link.bandwidth or math.inf), processor=processor)
    kernels = {row.compressor: row for row in file.kernels}
    given = file.link.given if file.link else None
    together = tuple(sorted((row.size, row.time_s) for row in file.allreduce or ()))
    memory = file.memory
    add_s = memory.add_s_per_element
    adds = tuple((row.elements, row.add_s_per_element) for row in memory.shorter)
    return Calibration(
        path, file.ranks, link, add_s, file.dtype, kernels, given, together, file.section_s,
        (*adds, (memory.elements, add_s)),
    )  # fmt: skip
