"""Axes: where a number falls, which numbers to mark, and how to write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.quantities import duration, format_rate, grouped, significant, size

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: Marked within each decade of a logarithmic axis, the most first.
_MANTISSAS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
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
_SAID: dict[Unit, Callable[[float], str]] = {
    Unit.BYTES: size,
    Unit.SECONDS: duration,
    Unit.RATE: format_rate,
    Unit.COUNT: lambda value: grouped(round(value)),
    Unit.NUMBER: lambda value: significant(value, 4),
}


def say(value: float, unit: Unit) -> str:
    """A value in words: `1.21 MB`, `3.4 ms`, `12 300`."""
    return _SAID[unit](value) if math.isfinite(value) else "—"


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
        seen = values[np.isfinite(values) & (values > 0 if log else True)]
        low, high = limits or ((float(seen.min()), float(seen.max())) if seen.size else (1.0, 1.0))
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
        return Scale(low, high, log).padded(0 if limits else pad)

    def padded(self, pad: float) -> Scale:
        """The same with `pad` of its length more on both sides."""
        if self.log:
            factor = (self.high / self.low) ** pad
            return Scale(self.low / factor, self.high * factor, True)
        margin = pad * (self.high - self.low)
        return Scale(self.low - margin, self.high + margin)

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


def linear_unit(scale: Scale, unit: Unit) -> tuple[float, str]:
    """The factor and the name of the unit that a linear axis is written in."""
    if scale.log or unit not in _STEPS:
        return 1.0, ""
    largest = max(abs(scale.low), abs(scale.high))
    found = [step for step in _STEPS[unit] if largest >= (2 * step[0] if step[0] > 1 else step[0])]
    return (found or _STEPS[unit])[-1 if found else 0]


def marks(
    scale: Scale, unit: Unit, length: float, extent: Callable[[str], float], most: int = 9
) -> list[tuple[float, str]]:
    """Places (0 … 1) and texts of marks, as many as fit without touching each other, at most `most`.

    Args:
        length: the axis's length.
        extent: the length of a text along it, gap included.
    """
    factor, _ = linear_unit(scale, unit)
    for values in _candidates(scale, factor, unit is Unit.COUNT, most):
        if scale.log and unit in _STEPS:
            texts = [_with_unit(value, unit) for value in values]
        else:
            texts = [_plain(value / factor) for value in values]
        places = [scale.at(value) for value in values]
        fits = all(
            (places[i + 1] - places[i]) * length >= (extent(texts[i]) + extent(texts[i + 1])) / 2
            for i in range(len(values) - 1)
        )
        if fits and 0 < len(values) <= most and len(set(texts)) == len(texts):
            return list(zip(places, texts, strict=True))
    return []


def _candidates(scale: Scale, factor: float, whole: bool, most: int) -> Iterator[list[float]]:
    """Round numbers on an axis, fewer and fewer of them."""
    if scale.log and scale.high / scale.low >= _SHORT:
        decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        values: list[float] = []
        for mantissas in _MANTISSAS:
            values = [float(f"{mantissa}e{power}") for power in decades for mantissa in mantissas]
            values = [value for value in values if scale.low * (1 - 1e-9) <= value <= scale.high * (1 + 1e-9)]
            yield values
        yield from (values[::stride] for stride in range(2, len(values) + 1))
        return
    low, high = scale.low / factor, scale.high / factor
    power = math.floor(math.log10((high - low) / most))
    for step in (float(f"{mantissa}e{power + extra}") for extra in range(4) for mantissa in (1, 2, 5)):
        if step >= 1 or not whole:
            multiples = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
            # Not a sum of steps: that would carry rounding errors along.
            yield [float(f"{index * step:.12g}") * factor for index in multiples if index > 0 or not scale.log]


def _plain(value: float) -> str:
    """A number of an axis: `0.02`, `5`, `20 000`, `2·10⁻⁵`."""
    if value and not 1e-3 <= abs(value) < 1e6:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        mantissa, ten = f"{value / 10.0**power:.6g}", f"10{str(power).translate(_SUPERSCRIPT)}"
        return ten if mantissa == "1" else f"{mantissa}·{ten}"
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    # Four digits are read at a glance.
    return text if abs(value) < 10_000 else f"{float(text):,}".removesuffix(".0").replace(",", _SPACE)


def _with_unit(value: float, unit: Unit) -> str:
    """A number in the unit of its size: `500 kB`, `1 MB`."""
    steps = [step for step in _STEPS[unit] if step[1] not in ("min", "h")]
    factor, name = next((step for step in reversed(steps) if value >= step[0] * (1 - 1e-9)), steps[0])
    return f"{_plain(float(f'{value / factor:.6g}'))}{_SPACE}{name}"
