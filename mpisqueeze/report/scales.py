"""Axes: where a number falls, which numbers to mark, and how to write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.quantities import duration, format_rate, grouped, significant, size

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: Marked within each decade of a logarithmic axis, the fewest first.
_MANTISSAS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 3, 4, 5, 6, 8))
#: A logarithmic axis that spans less than this factor is marked as a linear one.
_SHORT = 4.0
_SPACE = " "


class Unit(Enum):
    """The unit of an axis."""

    NUMBER = "number"
    COUNT = "count"
    BYTES = "bytes"
    SECONDS = "seconds"
    RATE = "rate"


#: The units that a linear axis is written in, each with its factor.
_STEPS = {
    Unit.BYTES: ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")),
    Unit.SECONDS: ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h")),
    Unit.RATE: ((1.0, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s"), (1e12, "Tbit/s")),
}


def say(value: float, unit: Unit) -> str:
    """A value in words: `1.21 MB`, `3.4 ms`, `12 300`."""
    if not math.isfinite(value):
        return "—"
    if unit is Unit.BYTES:
        return size(value)
    if unit is Unit.SECONDS:
        return duration(value)
    if unit is Unit.RATE:
        return format_rate(value)
    return grouped(round(value)) if unit is Unit.COUNT else significant(value, 4)


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, both above 0 where it is logarithmic."""

    low: float
    high: float
    log: bool = False

    @staticmethod
    def around(
        values: NDArray[np.float64], log: bool, limits: tuple[float, float] | None = None, pad: float = 0.05
    ) -> Scale:
        """One that shows all finite values, or what is within `limits`, with `pad` of its length free on both sides."""
        if limits is None:
            seen = values[np.isfinite(values) & (values > 0 if log else True)]
            low, high = (float(seen.min()), float(seen.max())) if seen.size else (1.0, 1.0)
        else:
            low, high = limits
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
        if limits is None and log:
            factor = (high / low) ** pad
            low, high = low / factor, high * factor
        elif limits is None:
            low, high = low - pad * (high - low), high + pad * (high - low)
        return Scale(low, high, log)

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places of values: 0 at `low`, 1 at `high`, NaN where a value has none."""
        with np.errstate(all="ignore"):
            if self.log:
                return (np.log10(np.where(values > 0, values, np.nan)) - math.log10(self.low)) / math.log10(
                    self.high / self.low
                )
            return (values - self.low) / (self.high - self.low)

    def at(self, value: float) -> float:
        """The place of one value."""
        return float(self.place(np.array([value]))[0])


@dataclass(frozen=True)
class Marks:
    """The marks of an axis.

    Attributes:
        ticks: (place in 0 … 1, text) of each, ascending.
        unit: that the texts leave out, for the axis's label; empty where they have it.
    """

    ticks: list[tuple[float, str]]
    unit: str = ""


def marks(scale: Scale, unit: Unit, length: float, extent: Callable[[str], float], most: int = 9) -> Marks:
    """As many marks as fit without touching each other, at most `most`.

    Args:
        length: the axis's length.
        extent: the length of a text along it, gap included.
    """
    factor, suffix = linear_unit(scale, unit)
    for count in range(most, 0, -1):
        values = _log_values(scale, count) if scale.log else _linear_values(scale, count, factor, unit)
        own_unit = scale.log and unit in _STEPS
        texts = _own_texts(values, unit) if own_unit else _texts(values, factor, scale.log)
        places = [scale.at(value) for value in values]
        fits = all(
            (places[i + 1] - places[i]) * length >= (extent(texts[i]) + extent(texts[i + 1])) / 2
            for i in range(len(values) - 1)
        )
        if fits and len(set(texts)) == len(texts) and (values or count == 1):
            return Marks(list(zip(places, texts, strict=True)), "" if own_unit else suffix)
    return Marks([], suffix)


def linear_unit(scale: Scale, unit: Unit) -> tuple[float, str]:
    if scale.log or unit not in _STEPS:
        return 1.0, ""
    largest = max(abs(scale.low), abs(scale.high))
    steps = _STEPS[unit]
    return next(
        ((factor, name) for factor, name in reversed(steps) if largest >= (2 * factor if factor > 1 else factor)),
        steps[0],
    )


def _linear_values(scale: Scale, most: int, factor: float, unit: Unit) -> list[float]:
    low, high = scale.low / factor, scale.high / factor
    power = math.floor(math.log10((high - low) / most))
    for step in (float(f"{mantissa}e{power + extra}") for extra in range(3) for mantissa in (1, 2, 5)):
        if unit is Unit.COUNT and step < 1:
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            # Not a sum of steps: that would carry rounding errors along.
            return [float(f"{index * step:.12g}") * factor for index in range(first, last + 1)]
    return []


def _log_values(scale: Scale, most: int) -> list[float]:
    if scale.high / scale.low < _SHORT:
        values = _linear_values(scale, most, 1.0, Unit.NUMBER)
        return [value for value in values if value > 0]
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    best: list[float] = []
    for mantissas in _MANTISSAS:
        values = [float(f"{m}e{power}") for power in range(first, last + 1) for m in mantissas]
        values = [value for value in values if scale.low * (1 - 1e-9) <= value <= scale.high * (1 + 1e-9)]
        if len(values) > most:
            break
        best = values
    if best:
        return best
    powers = [power for power in range(first, last + 1) if scale.low <= 10.0**power * (1 + 1e-9)]
    powers = [power for power in powers if 10.0**power <= scale.high * (1 + 1e-9)]
    return [10.0**power for power in powers[:: -(-len(powers) // most)]]


def _texts(values: list[float], factor: float, log: bool) -> list[str]:
    scaled = [value / factor for value in values]
    if log or not scaled:
        return [_plain(value) for value in scaled]
    largest = max(abs(value) for value in scaled)
    if largest and not 1e-4 <= largest < 1e7:
        power = math.floor(math.log10(largest) + 1e-9)
        return [f"{value / 10**power:.3g}·10{str(power).translate(_SUPERSCRIPT)}" if value else "0" for value in scaled]
    digits = max(len(f"{value:.10f}".rstrip("0").partition(".")[2]) for value in scaled)
    return [_grouped(f"{value:.{digits}f}") for value in scaled]


def _plain(value: float) -> str:
    """A number on a logarithmic axis: `0.02`, `5`, `20 000`, `2·10⁻⁵`."""
    if value and not 1e-3 <= abs(value) < 1e6:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        mantissa = f"{value / 10.0**power:.3g}"
        ten = f"10{str(power).translate(_SUPERSCRIPT)}"
        return ten if mantissa == "1" else f"{mantissa}·{ten}"
    return _grouped(f"{value:.10f}".rstrip("0").rstrip("."))


def _grouped(text: str) -> str:
    whole, point, rest = text.partition(".")
    # Four digits are read at a glance.
    if len(whole.lstrip("-")) > 4:
        whole = f"{int(whole):,}".replace(",", _SPACE)
    return f"{whole}{point}{rest}"


def _own_texts(values: list[float], unit: Unit) -> list[str]:
    """Each in the unit of its size: `500 kB`, `1 MB`."""
    steps = [step for step in _STEPS[unit] if step[1] not in ("min", "h")]
    texts = []
    for value in values:
        factor, name = next(((f, n) for f, n in reversed(steps) if value >= f * (1 - 1e-9)), steps[0])
        texts.append(f"{_plain(float(f'{value / factor:.6g}'))}{_SPACE}{name}")
    return texts
