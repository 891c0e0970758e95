"""Numbers as people read them."""

from __future__ import annotations

import math


def grouped(value: int) -> str:
    """12345678 → `12 345 678`."""
    return f"{value:,}".replace(",", " ")


def counted(value: int, noun: str) -> str:
    """`1 rank`, `8 ranks`."""
    return f"{grouped(value)} {noun}{'' if value == 1 else 's'}"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent for everyday sizes."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}"


def size(nbytes: float) -> str:
    """Bytes with a decimal prefix: `512 B`, `1.21 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(nbytes) < 999.5 or unit == "TB":
            return f"{nbytes:.0f} B" if unit == "B" else f"{significant(nbytes)} {unit}"
        nbytes /= 1000
    raise AssertionError


def format_rate(bits_per_s: float) -> str:
    """Bits per second with a decimal prefix and no needless zeros: `100 Mbit/s`, `3.1 Gbit/s`."""
    for unit in ("bit", "kbit", "Mbit", "Gbit", "Tbit"):
        if abs(bits_per_s) < 999.5 or unit == "Tbit":
            break
        bits_per_s /= 1000
    figures = significant(bits_per_s)
    return f"{figures.rstrip('0').rstrip('.') if '.' in figures else figures} {unit}/s"


def duration(seconds: float | None) -> str:
    """Seconds as µs, ms or s; an em dash for None."""
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
    """`26.1×`; an em dash for None."""
    return "—" if value is None else f"{significant(value)}×"
