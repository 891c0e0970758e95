"""The small language of the options: `NAME[:ARG][,key=value…]`, and suggestions for names that are mistyped.

Compressors, problems, data sets, partitions and schedules all take their parameters in this form, so that each one
declares what it accepts as a list of `Parameter` and shares parsing, checking and error messages.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import parse_size


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


def check_choice(option: str, value: str, accepted: Collection[str]) -> None:
    """Raise UsageError, naming the option and the nearest choice, unless `value` is accepted."""
    if value not in accepted:
        raise UsageError(f"{value!r} is not one of {', '.join(accepted)}{suggestion(value, accepted)}", option)
