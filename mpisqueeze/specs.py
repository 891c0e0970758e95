"""The small language of the options: `NAME[:ARG][,key=value…]`, sizes such as `4Ki`, rates, times, suggestions.

Compressors, problems, data sets, partitions and schedules all take their parameters in this form, so that each one
declares what it accepts as a list of `Parameter` and shares parsing, checking and error messages.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpisqueeze.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)(k|M|G|Ki|Mi|Gi)?", re.ASCII)
#: Sizes are at most this, and of at most so many digits.
_LARGEST_SIZE, _DIGITS = 2**63 - 1, 40
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµμ/]+)", re.ASCII)
#: Bits a second: what is slower is none.
SLOWEST = 1e-3
_BITS_PER_S = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_PER_SECOND = {"ns": 1e9, "us": 1e6, "µs": 1e6, "μs": 1e6, "ms": 1e3, "s": 1.0, "min": 1 / 60, "h": 1 / 3600}


def parse_size(text: str) -> int:
    """`4096`, `4Ki`, `1M`, `1.5Mi` → a whole number from 0 to 2⁶³ − 1. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size (a whole number with an optional k, M, G, Ki, Mi, Gi)")
    number = float(match[1]) if "." in match[1] or len(match[1]) > _DIGITS else int(match[1])
    value = number * _FACTORS[match[2] or ""]
    if value > _LARGEST_SIZE:
        raise ValueError(f"{text[:_DIGITS]!r} is too large a size")
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def parse_rate(text: str) -> float:
    """`100mbit`, `2.5gbit`, `56kbit` → bits per second, > 0. Case and a trailing `/s` make no difference. Raises
    ValueError."""
    match = _QUANTITY.fullmatch(text.strip().lower())
    unit = match[2].removesuffix("/s") if match else ""
    if not match or unit not in _BITS_PER_S:
        raise ValueError(f"{text!r} is not a rate (a number with bit, kbit, mbit, gbit or tbit, such as 100mbit)")
    rate = float(match[1]) * _BITS_PER_S[unit]
    if not SLOWEST <= rate < math.inf:
        raise ValueError(f"{text!r} is not a rate above 0")
    return rate


def parse_time(text: str) -> float:
    """`5ms`, `20us`, `1.5s`, `800ns`, `10min` → seconds, ≥ 0. Raises ValueError."""
    match = _QUANTITY.fullmatch(text.strip())
    if not match or match[2] not in _PER_SECOND:
        raise ValueError(f"{text!r} is not a time (a number with ns, us, ms, s, min or h, such as 5ms)")
    seconds = float(match[1]) / _PER_SECOND[match[2]]
    if not math.isfinite(seconds):
        raise ValueError(f"{text[:_DIGITS]!r} is too long a time")
    return seconds


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """A converter to an integer in [low, high] that understands size suffixes."""

    def convert(text: str) -> int:
        value = parse_size(text)
        if value < low or (high is not None and value > high):
            raise ValueError(f"{value} is out of range")
        return value

    return convert


def real(
    low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> Callable[[str], float]:
    """A converter to a finite float in the given interval, whose ends are excluded on request."""

    def convert(text: str) -> float:
        value = float(text)
        below = value <= low if open_low else value < low
        above = value >= high if open_high else value > high
        if not math.isfinite(value) or below or above:
            raise ValueError(f"{text} is out of range")
        return value

    return convert


def choice(*names: str) -> Callable[[str], str]:
    """A converter that accepts one of `names`."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return convert


def flag(text: str) -> bool:
    """A converter for a keyword that stands alone (`unbiased`) or as `unbiased=true|false`."""
    return choice("true", "false")(text) == "true"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a named part.

    `accepts` is what an error message shows; a parameter without a default must be given. The positional one is what
    stands behind the colon.
    """

    name: str
    convert: Callable[[str], Any]
    accepts: str
    default: Any = None
    positional: bool = False
    required: bool = False


@dataclass(frozen=True)
class Spec:
    """A parsed `NAME[:ARG][,key=value…]`, still as text."""

    text: str
    name: str
    argument: str | None = None
    options: dict[str, str] = field(default_factory=dict)


def parse_spec(text: str) -> Spec:
    """Split `NAME[:ARG][,key=value…]`; a bare `key` means `key=true`. Raises UsageError on an empty name or a
    repeat."""
    head, *rest = text.split(",")
    name, colon, argument = head.partition(":")
    name = name.strip()
    if not name:
        raise UsageError(f"{text!r} names nothing; write NAME[:ARG][,key=value…]")
    options: dict[str, str] = {}
    for item in rest:
        key, equals, value = item.partition("=")
        key = key.strip()
        if not key or key in options or (equals and not value.strip()):
            raise UsageError(f"{text!r}: expected key=value, once for each key, got {item!r}")
        options[key] = value.strip() if equals else "true"
    if colon and not argument.strip():
        raise UsageError(f"{text!r}: nothing stands behind the colon")
    return Spec(text, name, argument.strip() if colon else None, options)


def resolve_parameters(spec: Spec, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The values that a spec gives to `parameters`, defaults filled in. Raises UsageError naming what is accepted."""
    known = {p.name: p for p in parameters}
    given = dict(spec.options)
    positional = next((p for p in parameters if p.positional), None)
    if spec.argument is not None:
        if positional is None:
            raise UsageError(f"{spec.name} takes no argument behind the colon, got {spec.argument!r}")
        if positional.name in given:
            raise UsageError(f"{spec.text!r} gives {positional.name} twice")
        given[positional.name] = spec.argument
    values: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            accepted = ", ".join(known) or "none"
            raise UsageError(f"{spec.name} has no parameter {key!r}{suggestion(key, known)}; it accepts: {accepted}")
        try:
            values[key] = known[key].convert(text)
        except ValueError as error:
            where = f"{spec.name}:{text}" if known[key].positional else f"{spec.name},{key}={text}"
            raise UsageError(f"{where}: {key} must be {known[key].accepts} ({error})") from None
    for p in parameters:
        if p.name not in values:
            if p.required:
                raise UsageError(f"{spec.name} needs {p.name}, {p.accepts}: write {spec.name}:{p.name.upper()}")
            values[p.name] = p.default
    return values


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
