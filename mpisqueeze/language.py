"""The small language of the options: `NAME[:ARG][,key=value…]`, and suggestions for names that are mistyped.

Compressors, algorithms, problems, data sets, partitions and schedules all take their parameters in this form. A part
declares them once, as keyword-only arguments of its `__init__` (or of the function that makes it):

    def __init__(self, …, *, bits: Annotated[int, integer(2, 8)], bucket: int = 512) -> None:

The first of them is the one that may stand behind the colon without its name.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import parse_size, without_percent


@dataclass(frozen=True)
class Kind:
    """The values that a parameter may have.

    Attributes:
        read: text → value; raises ValueError.
        accepts: what an error message says is accepted.
        choices: all values, where there are few.
    """

    read: Callable[[str], Any]
    accepts: str
    choices: tuple[str, ...] = ()

    def __call__(self, text: str) -> Any:
        return self.read(text)


def integer(low: int, high: int | None = None, accepts: str = "") -> Kind:
    """Integers in [low, high], with size suffixes such as 4Ki."""

    def read(text: str) -> int:
        value = parse_size(text)
        if value < low or (high is not None and value > high):
            raise ValueError(f"{value} is out of range")
        return value

    return Kind(read, accepts or f"a whole number {f'≥ {low}' if high is None else f'from {low} to {high}'}")


def real(
    low: float = -math.inf,
    high: float = math.inf,
    accepts: str = "",
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> Kind:
    """Finite numbers, `1%` too, in the given interval, whose ends are excluded on request."""

    def read(text: str) -> float:
        value = float(without_percent(text))
        below = value <= low if open_low else value < low
        above = value >= high if open_high else value > high
        if not math.isfinite(value) or below or above:
            raise ValueError(f"{text} is out of range")
        return value

    bounds = [f"{'>' if open_low else '≥'} {low:g}"] * (low > -math.inf)
    bounds += [f"{'<' if open_high else '≤'} {high:g}"] * (high < math.inf)
    return Kind(read, accepts or " ".join(["a number", " and ".join(bounds)]).rstrip())


def choice(*names: str) -> Kind:
    """One of `names`."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return Kind(read, " or ".join([", ".join(names[:-1]), names[-1]]), names)


#: A keyword that stands alone (`unbiased`) or as `unbiased=true|false`.
flag = Kind(lambda text: choice("true", "false")(text) == "true", "true or false")

#: The kinds that bare annotations stand for.
_KINDS: dict[Any, Kind] = {
    int: Kind(parse_size, "a whole number"),
    float: real(),
    bool: flag,
    str: Kind(str, "text"),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a named part; one that is required has no default."""

    name: str
    kind: Kind
    default: Any = None
    required: bool = False


@cache
def parameters_of(maker: Callable[..., Any], given: tuple[str, ...] = ()) -> tuple[Parameter, ...]:
    """The parameters that a class or function declares: its keyword-only arguments, the first one positional in a spec.

    An argument is annotated with a `Kind` (`Annotated[int, integer(2, 8)]`), with int, float, bool or str, or has a
    default of such a type. Others, and those in `given`, are handed over by the caller and are no parameters.
    """
    function = maker.__init__ if isinstance(maker, type) else maker  # type: ignore[misc]
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    found = []
    for argument in arguments:
        if argument.kind is not argument.KEYWORD_ONLY or argument.name in given:
            continue
        kind = _kind_of(argument, getattr(function, "__globals__", {}))
        required = argument.default is argument.empty
        if kind is not None:
            found.append(Parameter(argument.name, kind, None if required else argument.default, required))
    return tuple(found)


def _kind_of(argument: inspect.Parameter, names: dict[str, Any]) -> Kind | None:
    annotation = argument.annotation
    if isinstance(annotation, str):
        try:
            alone = SimpleNamespace(__annotations__={"it": annotation})
            annotation = get_type_hints(alone, names, include_extras=True)["it"]
        except Exception:  # a name that is imported for type checkers alone, say
            annotation = argument.empty
    if annotation is argument.empty:
        annotation = type(argument.default)
    if get_origin(annotation) is Annotated:
        declared = [item for item in get_args(annotation)[1:] if isinstance(item, Kind)]
        if declared:
            return declared[0]
        annotation = get_args(annotation)[0]
    kinds = [item for item in get_args(annotation) if item is not type(None)]
    return _KINDS.get(kinds[0] if len(kinds) == 1 else annotation)


#: A parameter behind the colon that is given by its name.
_NAMED = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.*\S)\s*", re.DOTALL)


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
    # No key begins with a digit: `0,01` and `64,64` are one value, which its kind refuses.
    head, *rest = re.split(r",(?!\s*\d[^,=]*(?:,|$))", text)
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


def label_of(name: str, spec: str) -> str:
    """A part's name with the parameters that its spec gives: `diana,alpha=0.5` for `FILE.py:Diana,alpha=0.5`."""
    return name + re.sub(r"^(.+\.py:)?[^:,]*", "", spec)


def resolve_parameters(spec: Spec, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The values that a spec gives to `parameters`, defaults filled in. Raises UsageError naming what is accepted.

    Behind the colon stands the first parameter, `topk:0.01`, or any of them by its name, `choco:eta=0.3`.
    """
    known = {p.name: p for p in parameters}
    given = {key: (text, f",{key}={text}") for key, text in spec.options.items()}
    if spec.argument is not None:
        named = _NAMED.fullmatch(spec.argument)
        if named is None and not parameters:
            raise UsageError(f"{spec.name} takes no argument behind the colon, got {spec.argument!r}")
        key, text = named.groups() if named else (parameters[0].name, spec.argument)
        if key in given:
            raise UsageError(f"{spec.text!r} gives {key} twice")
        given[key] = text, f":{spec.argument}"
    values: dict[str, Any] = {}
    for key, (text, typed) in given.items():
        if key not in known:
            accepted = ", ".join(known) or "none"
            raise UsageError(f"{spec.name} has no parameter {key!r}{suggestion(key, known)}; it accepts: {accepted}")
        try:
            values[key] = known[key].kind(text)
        except ValueError as error:
            near = without_commas(text, known[key].kind)
            raise UsageError(f"{spec.name}{typed}: {key} must be {known[key].kind.accepts} ({error}){near}") from None
    for p in parameters:
        if p.name not in values:
            if p.required:
                raise UsageError(f"{spec.name} needs {p.name}, {p.kind.accepts}: write {spec.name}:{p.name.upper()}")
            values[p.name] = p.default
    return {p.name: values[p.name] for p in parameters}


def without_commas(text: str, kind: Callable[[str], Any]) -> str:
    """`; did you mean 0.1?` for `0,1`, 1000 for `1,000`, 64x64 for `64,64`; empty where that is not accepted either."""
    thousands = re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", text)
    for mark in ("",) if thousands else (".", "x") if "," in text else ():
        meant = text.replace(",", mark)
        with suppress(ValueError):
            kind(meant)
            return f"; did you mean {meant}?"
    return ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_choice(option: str, value: str, accepted: Collection[str]) -> None:
    """Raise UsageError, naming the option and the nearest choice, unless `value` is accepted."""
    if value not in accepted:
        raise UsageError(f"{value!r} is not one of {', '.join(accepted)}{suggestion(value, accepted)}", option)
