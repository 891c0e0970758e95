"""The language that decides a claim: a comparison of figures, written in the claim's file; no code of a file is run.

`doublesqueeze.test_accuracy >= sgd.test_accuracy - 0.01`: numbers, `RUN.FIGURE`, the claim's constants, + - * /, the
functions below, comparisons, `and`, `or`, `not`. Over a sweep a figure is an array, one number a point, and a
comparison holds if it does at every point.

With three seeds and more the interval of the two sides' ratio, paired by seed, decides: a comparison holds where all of
the interval holds it, does not where none of it does, and is otherwise not told apart. Values that are not all above 0
are held apart by their difference; infinities and NaNs, by what each seed says.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mpisqueeze.analysis.evidence import Evidence
from mpisqueeze.analysis.intervals import FEWEST, difference, paired
from mpisqueeze.quantities import significant

_COMPARISONS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("≤", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: ("≥", operator.ge),
    ast.Eq: ("=", lambda a, b: np.isclose(a, b, rtol=1e-9, atol=0)),
}
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
}
#: The words, and the value that is the whole's once one part has it.
_JOINTS = {ast.And: (" and ", False), ast.Or: (" or ", True)}
#: N: the ranks. d: the dimension.
CONSTANTS = ("N", "d")
#: first, last: a swept figure at the sweep's ends. slope: of the straight line through a swept figure, by the sweep's
#: x. gap: the mean distance of two runs' smoothed losses, over the first one's whole progress. slope and gap are the
#: evidence's.
FUNCTIONS: dict[str, tuple[int, Callable[..., Any] | None]] = {
    "first": (1, lambda values: np.atleast_1d(values)[0]),
    "last": (1, lambda values: np.atleast_1d(values)[-1]),
    "abs": (1, np.abs),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "slope": (1, None),
    "gap": (2, None),
}


@dataclass(frozen=True)
class Ruling:
    """The value of an expression.

    Attributes:
        holds: None where the seeds do not tell.
        shown: its comparisons with the medians in place and the interval of their ratio, for people: `0.981 ≥ 0.979
            (1.00 to 1.01 ×)`.
    """

    holds: bool | None
    shown: str


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        runs, figures: the names in it.
    """

    text: str
    tree: ast.expr
    runs: frozenset[str]
    figures: frozenset[str]

    def decide(self, evidence: Evidence) -> Ruling:
        """Work it out."""
        with np.errstate(all="ignore"):
            return _truth(self.tree, evidence)


class _Names(Evidence):
    """Evidence in which everything is 1, and which notes the names that it is asked for."""

    constants: Mapping[str, float] = dict.fromkeys(CONSTANTS, 1.0)
    seeds = ()

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self.figures: set[str] = set()

    def figure(self, run: str, name: str) -> float:
        self.runs.add(run)
        self.figures.add(name)
        return 1.0

    def slope(self, values: Any) -> float:
        return 1.0

    def gap(self, one: str, other: str) -> float:
        self.runs |= {one, other}
        return 1.0


def parse(text: str) -> Expression:
    """Raises ValueError for anything but the language above."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression: {error}") from None
    names = _Names()
    with np.errstate(all="ignore"):
        _truth(tree, names)
    return Expression(text.strip(), tree, frozenset(names.runs), frozenset(names.figures))


def _truth(node: ast.expr, evidence: Evidence) -> Ruling:
    """The ruling of a syntax tree, all of which is looked at. Raises ValueError for what is not in the language."""
    match node:
        case ast.BoolOp():
            word, decisive = _JOINTS[type(node.op)]
            parts = [_truth(value, evidence) for value in node.values]
            return Ruling(joined([part.holds for part in parts], decisive), word.join(part.shown for part in parts))
        case ast.UnaryOp(op=ast.Not()):
            inner = _truth(node.operand, evidence)
            return Ruling(None if inner.holds is None else not inner.holds, f"not ({inner.shown})")
        case ast.Compare():
            if not all(type(op) in _COMPARISONS for op in node.ops):
                raise ValueError(f"{ast.unparse(node)}: comparisons are < <= > >= ==")
            sides = (node.left, *node.comparators)
            values = [_number(side, evidence) for side in sides]
            by_seed = [[_number(side, seed) for seed in evidence.seeds] for side in sides]
            signs, compares = zip(*(_COMPARISONS[type(op)] for op in node.ops), strict=True)
            links = zip(signs, compares, pairwise(values), pairwise(by_seed), strict=True)
            found = [_compared(sign, compare, *middle, *seeds) for sign, compare, middle, seeds in links]
            # Values that should be equal may differ in a late digit.
            digits = 10 if "=" in [sign for sign, (holds, _) in zip(signs, found, strict=True) if not holds] else 3
            shown = _show(values[0], digits)
            for sign, (holds, interval), right in zip(signs, found, values[1:], strict=True):
                word = {True: sign, False: f"not {sign}", None: f"perhaps {sign}"}[holds]
                shown += f" {word} {_show(right, digits)}{interval}"
            return Ruling(joined([holds for holds, _ in found], False), shown)
    raise ValueError(f"{ast.unparse(node)} is no comparison")


def joined(parts: Sequence[bool | None], decisive: bool) -> bool | None:
    """The value of parts joined by `and` or `or`: of which False, or True, is `decisive`."""
    if decisive in parts:
        return decisive
    return None if None in parts else not decisive


def _compared(
    sign: str, compare: Callable[[Any, Any], Any], left: Any, right: Any, lefts: Sequence[Any], rights: Sequence[Any]
) -> tuple[bool | None, str]:
    """The truth of a comparison, and the interval of its sides' ratio in words, where that is one.

    Args:
        left, right: medians over the seeds.
        lefts, rights: (K,) by seed.
    """
    if len(lefts) < FEWEST:
        return bool(np.all(compare(left, right))), ""
    sides = np.broadcast_arrays(*(np.stack([np.atleast_1d(value) for value in side]) for side in (lefts, rights)))
    found = [_point(sign, compare, *(side[:, point].tolist() for side in sides)) for point in range(sides[0].shape[1])]
    return joined([holds for holds, _ in found], False), found[0][1] if len(found) == 1 else ""


def _point(
    sign: str, compare: Callable[[Any, Any], Any], lefts: list[float], rights: list[float]
) -> tuple[bool | None, str]:
    """The comparison of what the seeds have at a point."""
    held = [bool(compare(left, right)) for left, right in zip(lefts, rights, strict=True)]
    if sign == "=":
        return all(held), ""
    if np.isfinite([*lefts, *rights]).all():
        ratio, apart = paired(lefts, rights), difference(lefts, rights)
        low, high, even = (apart.low, apart.high, 0.0) if ratio.low is None else (ratio.low, ratio.high, 1.0)
        if low is not None and high is not None:
            words = f" ({significant(low)} to {significant(high)} ×)" if even and low != high else ""
            return _alike([bool(compare(end, even)) for end in (low, high)]), words
    return _alike(held), ""


def _alike(held: Sequence[bool]) -> bool | None:
    """The value of all of them; None where they are not alike."""
    return held[0] if len(set(held)) == 1 else None


def _number(node: ast.expr, evidence: Evidence) -> Any:
    """A float, or an array over a sweep."""
    match node:
        case ast.Constant(value=value):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{value!r} is no number")
            try:
                return float(value)
            except OverflowError:
                raise ValueError(f"{ast.unparse(node):.20}… is no number that can be computed with") from None
        case ast.Name(id=name) if name in CONSTANTS:
            return evidence.constants[name]
        case ast.Attribute(value=ast.Name(id=run), attr=figure):
            return evidence.figure(run, figure)
        case ast.BinOp() if type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](_number(node.left, evidence), _number(node.right, evidence))
        case ast.UnaryOp(op=ast.USub()):
            return -_number(node.operand, evidence)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            count, function = FUNCTIONS.get(name, (None, None))
            if count != len(arguments):
                raise ValueError(f"{ast.unparse(node)}: functions are {', '.join(FUNCTIONS)}")
            if name == "gap":
                runs = [argument.id for argument in arguments if isinstance(argument, ast.Name)]
                if len(runs) != count:
                    raise ValueError(f"{ast.unparse(node)}: gap takes two runs")
                return evidence.gap(*runs)
            return (function or evidence.slope)(*(_number(argument, evidence) for argument in arguments))
    raise ValueError(f"{ast.unparse(node)} is not understood; constants are {', '.join(CONSTANTS)}")


def _show(value: Any, digits: int) -> str:
    numbers = [significant(number, digits) for number in np.atleast_1d(value)]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
