"""What a JSON file must hold, and reading one that was cut short, edited or never was ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.files import read_text

#: (value, its place in the file) → None, or raises ValueError that says what is wrong there.
Shape = Callable[[Any, str], None]

#: Bytes of the longest file that is read as a whole: a comparison's of thousands of ranks.
_LONGEST = 1 << 28


def read_object(path: Path, option: str, shape: Shape) -> dict[str, Any]:
    """The object of a JSON file. Raises UsageError that names the file and what is wrong in it, blaming `option`."""
    text = read_text(path, option, _LONGEST)
    try:
        value = parsed(text)
        shape(value, "")
    except ValueError as error:
        raise UsageError(f"{path} {error}", option) from None
    return value


def parsed(text: str) -> Any:
    """JSON without what it lacks, NaN and infinities. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _wrong(value: Any, where: str, what: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"has {shown if len(shown) <= 60 else shown[:57] + '…'} as {where[1:]!r}, not {what}")


def number(low: float = -math.inf, high: float = math.inf) -> Shape:
    """A finite number in [low, high]."""
    what = "a number" + (f" ≥ {low:g}" if low > -math.inf else "") + (f" ≤ {high:g}" if high < math.inf else "")

    def check(value: Any, where: str) -> None:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not fits or abs(value) > 1.7e308:
            raise _wrong(value, where, what)

    return check


def count(low: int = 0, high: int = 2**53) -> Shape:
    """A whole number from `low` to `high`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(value, where, f"a whole number from {low} to {high}")

    return check


def text(value: Any, where: str) -> None:
    """A text."""
    if not isinstance(value, str):
        raise _wrong(value, where, "text")


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(value, where, "true or false")


def scalar(value: Any, where: str) -> None:
    """Text, a number, true, false or null."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number()(value, where)
    elif not isinstance(value, str | bool | None):
        raise _wrong(value, where, "a single value")


def one_of(*known: str) -> Shape:
    """One of these texts."""

    def check(value: Any, where: str) -> None:
        if value not in known:
            raise _wrong(value, where, f"one of {', '.join(known)}")

    return check


def maybe(shape: Shape) -> Shape:
    """Null, too."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            shape(value, where)

    return check


def list_of(shape: Shape) -> Shape:
    """A list of any length."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise _wrong(value, where, "a list")
        for index, item in enumerate(value):
            shape(item, f"{where}[{index}]")

    return check


def table_of(shape: Shape) -> Shape:
    """An object whose values are alike."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object")
        for key, item in value.items():
            shape(item, f"{where}.{key}")

    return check


def table(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these keys; those that are not named may hold anything."""
    shapes = {**required, **(optional or {})}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object") if where else ValueError("does not hold a JSON object")
        missing = [key for key in required if key not in value]
        if missing:
            raise ValueError(f"has no {f'{where}.{missing[0]}'[1:]!r}")
        for key, shape in shapes.items():
            if key in value:
                shape(value[key], f"{where}.{key}")

    return check
