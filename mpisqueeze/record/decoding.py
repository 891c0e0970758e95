"""Reading JSON files as the types that declare them, though they may be cut short, edited, or of another version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import msgspec
import msgspec.inspect

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
        raise UsageError(f"{where} {complaint(error, _printable(value), kind)}", option) from None


def _printable(value: Any) -> Any:
    """A value without halves of characters."""
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def complaint(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
    """The end of a message that begins with the place of the value: which field is wrong, and how."""
    found = re.fullmatch(r"(.*?)(?: - at `\$(.*)`)?", str(error), re.DOTALL)
    assert found is not None
    named = ""
    for step in re.findall(r"[^.\[\]]+|\.{3}", found[2] or ""):
        kind = _inside(kind, step)
        if isinstance(value, list):
            value, named = value[int(step)], f"{named}[{step}]"
        else:
            # msgspec does not tell the key where all values are alike.
            key = next(key for key in value if not _fits(value[key], kind)) if step == "..." else step
            value, named = value[key], f"{named}.{key}".lstrip(".")
    missing = re.fullmatch("Object missing required field `(.*)`", found[1])
    if missing:
        return f"has no {f'{named}.{missing[1]}'.lstrip('.')!r}"
    if not named:
        return "does not hold a JSON object"
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    return f"has {shown} as {named!r}, not {_words(msgspec.inspect.type_info(kind))}"


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _inside(kind: Any, step: str) -> Any:
    """The type of the values that a type has at a key or an index."""
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    if get_args(kind):
        return get_args(kind)[-1]
    if issubclass(kind, msgspec.Struct):
        return next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == step)
    return get_type_hints(kind, include_extras=True)[step]


def _words(info: Any) -> str:
    """A type in words."""
    match info:
        case msgspec.inspect.UnionType():
            return " or ".join(map(_words, info.types))
        case msgspec.inspect.LiteralType():
            return f"one of {', '.join(map(str, info.values))}"
        case msgspec.inspect.IntType():
            return "a whole number" if info.le is None else f"a whole number from {info.ge} to {info.le}"
        case msgspec.inspect.FloatType():
            return "a number" if info.le is None or info.le > 1e300 else f"a number from {info.ge:g} to {info.le:g}"
        case msgspec.inspect.StrType():
            return "text"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.NoneType():
            return "null"
        case msgspec.inspect.ListType() | msgspec.inspect.TupleType():
            return "a list"
    return "an object"
