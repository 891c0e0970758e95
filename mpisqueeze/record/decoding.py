"""Reading JSON files as the types that declare them, though they may be cut short, edited, or of another version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from mpisqueeze.errors import UsageError
from mpisqueeze.files import read_text

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
#: The ranks and elements that the cost model takes.
Ranks = Annotated[int, msgspec.Meta(ge=1, le=10**6)]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
#: Any finite number; a ratio, a percentage or bytes; seconds, a few ten thousand years at most.
Number = Annotated[float, msgspec.Meta(ge=-1.7e308, le=1.7e308)]
Ratio = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]

#: Bytes of the longest file that is read as a whole: a comparison's of thousands of ranks.
_LONGEST = 1 << 28
_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "object": "a JSON object",
    "array": "a list",
}  # fmt: skip


def read_object(path: Path, option: str, kind: Any) -> dict[str, Any]:
    """The object of a JSON file, checked to be of `kind`, with whatever else it holds.

    Raises:
        UsageError: names the file and what is wrong in it, blaming `option`.
    """
    value = parsed(read_text(path, option, _LONGEST), f"{path}", option)
    as_type(value, kind, f"{path}", option)
    return value


def parsed(text: str, where: str, option: str) -> Any:
    """JSON without what it lacks, NaN and infinities. Raises UsageError that begins with `where`."""
    try:
        # Not by msgspec, which refuses the halves of characters in names of files that are not UTF-8.
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}", option) from None


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}")


def as_type(value: Any, kind: type[T], where: str, option: str) -> T:
    """A value that was parsed, as a `kind`. Raises UsageError that begins with `where`."""
    try:
        try:
            return msgspec.convert(value, kind)
        except UnicodeEncodeError:
            return msgspec.convert(_printable(value), kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where} {complaint(error, value)}", option) from None


def _printable(value: Any) -> Any:
    """A value without halves of characters."""
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def complaint(error: msgspec.ValidationError, value: Any) -> str:
    """The end of a message that begins with the place of the value: which field is wrong, and how."""
    found = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", str(error), re.DOTALL)
    assert found is not None
    text, place = found[1], found[2] or ""
    missing = re.fullmatch("Object missing required field `(.*)`", text)
    if missing:
        return f"has no {f'{place}.{missing[1]}'.lstrip('.')!r}"
    wanted = re.sub(r"\w+", lambda word: _WORDS.get(word[0], word[0]), text.partition(", got")[0])
    wanted = wanted.replace("`", "").replace(" | ", " or ").replace("Expected ", "")
    wanted = re.sub("Invalid enum.*", "one of those that are known", wanted)
    if not place:
        return f"does not hold {wanted}"
    for step in re.findall(r"[^.\[\]]+", place):
        inner = value[int(step)] if isinstance(value, list) else value.get(step) if isinstance(value, dict) else None
        if inner is None:
            break
        value = inner
    shown = repr(value)
    return f"has {shown if len(shown) <= 60 else f'{shown[:57]}…'} as {place!r}, not {wanted}"
