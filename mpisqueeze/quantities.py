"""Numbers with units, as people write and read them: `4Ki`, `100mbit`, `5ms`; `1.21 MB`, `3.1 Gbit/s`, `12.1 ms`."""

from __future__ import annotations

import math
import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\+?\d{1,3})?)(k|M|G|Ki|Mi|Gi)?", re.ASCII)
#: The largest size, and the most digits that are read exactly.
_LARGEST_SIZE, _DIGITS = 2**63 - 1, 40
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?)\s*([a-zµμ/]+)", re.ASCII)
#: The smallest rate, in bits per second.
SLOWEST = 1e-3
_BITS_PER_S = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_PER_SECOND = {"ns": 1e9, "us": 1e6, "µs": 1e6, "μs": 1e6, "ms": 1e3, "s": 1.0, "min": 1 / 60, "h": 1 / 3600}


def parse_size(text: str) -> int:
    """Parse `4096`, `4Ki`, `1M`, `1.5Mi`, `1e6` to an integer from 0 to 2⁶³ − 1. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size (a whole number with an optional k, M, G, Ki, Mi, Gi)")
    number = int(match[1]) if match[1].isdigit() and len(match[1]) <= _DIGITS else float(match[1])
    value = number * _FACTORS[match[2] or ""]
    if value > _LARGEST_SIZE:
        raise ValueError(f"{text[:_DIGITS]!r} is too large a size")
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def parse_rate(text: str) -> float:
    """Parse `100mbit`, `2.5gbit`, `56kbit/s`, in any case, to bits per second, > 0. Raises ValueError."""
    match = _QUANTITY.fullmatch(text.strip().lower())
    unit = match[2].removesuffix("/s") if match else ""
    if not match or unit not in _BITS_PER_S:
        raise ValueError(f"{text!r} is not a rate (a number with bit, kbit, mbit, gbit or tbit, such as 100mbit)")
    rate = float(match[1]) * _BITS_PER_S[unit]
    if not SLOWEST <= rate < math.inf:
        raise ValueError(f"{text!r} is not a rate above 0")
    return rate


def parse_time(text: str) -> float:
    """Parse `5ms`, `20us`, `1.5s`, `800ns`, `10min` to seconds, ≥ 0. Raises ValueError."""
    match = _QUANTITY.fullmatch(text.strip())
    if not match or match[2] not in _PER_SECOND:
        raise ValueError(f"{text!r} is not a time (a number with ns, us, ms, s, min or h, such as 5ms)")
    seconds = float(match[1]) / _PER_SECOND[match[2]]
    if not math.isfinite(seconds):
        raise ValueError(f"{text[:_DIGITS]!r} is too long a time")
    return seconds


def without_percent(text: str) -> str:
    """A number as Python reads it: `1%` becomes `1e-2`."""
    return re.sub(r"\s*%\s*$", "e-2", text)


def grouped(value: int) -> str:
    """Digits in groups of three: `12 345 678`."""
    return f"{value:,}".replace(",", " ")


def counted(value: int, noun: str) -> str:
    """A count with its noun: `1 rank`, `8 ranks`."""
    return f"{grouped(value)} {noun}{'' if value == 1 else 's'}"


def significant(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits; it has an exponent only below 1e-4 and from 1e6 on."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}"


def _prefixed(value: float, units: tuple[str, ...]) -> tuple[float, str]:
    """The value in the first unit, each 1000 of the one before, that needs no more than three digits."""
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return value, units[power]


def size(nbytes: float) -> str:
    """Bytes with a decimal prefix: `512 B`, `1.21 MB`."""
    value, unit = _prefixed(nbytes, ("B", "kB", "MB", "GB", "TB"))
    return f"{value:.0f} B" if unit == "B" else f"{significant(value)} {unit}"


def format_rate(bits_per_s: float) -> str:
    """Bits per second with a decimal prefix and no trailing zeros: `100 Mbit/s`, `3.1 Gbit/s`."""
    value, unit = _prefixed(bits_per_s, ("bit", "kbit", "Mbit", "Gbit", "Tbit"))
    figures = significant(value)
    return f"{figures.rstrip('0').rstrip('.') if '.' in figures else figures} {unit}/s"


def duration(seconds: float | None) -> str:
    """Seconds as µs, ms, s or `m:ss`; an em dash for None."""
    if seconds is None:
        return "—"
    if seconds < 999.5e-6:
        return f"{significant(seconds * 1e6)} µs"
    if seconds < 0.9995:
        return f"{significant(seconds * 1e3)} ms"
    return f"{significant(seconds)} s" if seconds < 120 else clock(seconds)


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ratio(value: float | None) -> str:
    """A factor as `26.1×`; an em dash for None."""
    return "—" if value is None else f"{significant(value)}×"
