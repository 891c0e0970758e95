"""The language that decides a claim: a comparison of figures, written in the claim's file; no code of a file is run.

`doublesqueeze.test_accuracy >= sgd.test_accuracy - 0.01`: numbers, `RUN.FIGURE`, the claim's constants, + - * /, the
functions below, comparisons, `and`, `or`, `not`. Over a sweep a figure is an array, one number a point, and a
comparison holds if it does at every point.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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
_JOINTS = {ast.And: (" and ", all), ast.Or: (" or ", any)}
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


class FigureSource(Protocol):
    """The runs that an expression is about."""

    constants: Mapping[str, float]

    def figure(self, run: str, name: str) -> Any:
        """A run's figure: a float, or an array (P,) over a sweep of P points; NaN for what it does not have."""

    def slope(self, values: Any) -> float:
        """The slope of the straight line through a swept figure."""

    def gap(self, one: str, other: str) -> float:
        """The distance between two runs' losses, see FUNCTIONS."""


@dataclass(frozen=True)
class Ruling:
    """The value of an expression.

    Attributes:
        holds: it is true.
        shown: its comparisons with the numbers in place, for people: `0.981 ≥ 0.979`.
    """

    holds: bool
    shown: str


_Truth = Callable[[FigureSource], Ruling]
_Number = Callable[[FigureSource], Any]


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: as it was written.
        runs, figures: the names in it.
    """

    text: str
    decision: _Truth
    runs: frozenset[str]
    figures: frozenset[str]

    def decide(self, evidence: FigureSource) -> Ruling:
        """Work it out."""
        with np.errstate(all="ignore"):
            return self.decision(evidence)


def parse(text: str) -> Expression:
    """Raises ValueError for anything but the language above."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression: {error}") from None
    reader = _Reader()
    decision = reader.truth(tree)
    return Expression(text.strip(), decision, frozenset(reader.runs), frozenset(reader.figures))


class _Reader:
    """Turns a syntax tree into functions of the evidence, and notes the names of runs and figures in it.

    Raises ValueError for whatever is not in the language.
    """

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self.figures: set[str] = set()

    def truth(self, node: ast.expr) -> _Truth:
        if isinstance(node, ast.BoolOp):
            word, join = _JOINTS[type(node.op)]
            parts = [self.truth(value) for value in node.values]

            def joined(evidence: FigureSource) -> Ruling:
                found = [part(evidence) for part in parts]
                return Ruling(join(each.holds for each in found), word.join(each.shown for each in found))

            return joined
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.truth(node.operand)

            def negated(evidence: FigureSource) -> Ruling:
                found = inner(evidence)
                return Ruling(not found.holds, f"not ({found.shown})")

            return negated
        if not isinstance(node, ast.Compare):
            raise ValueError(f"{ast.unparse(node)} is no comparison")
        if not all(type(op) in _COMPARISONS for op in node.ops):
            raise ValueError(f"{ast.unparse(node)}: comparisons are < <= > >= ==")
        sides = [self.number(side) for side in (node.left, *node.comparators)]
        signs = [_COMPARISONS[type(op)] for op in node.ops]

        def compared(evidence: FigureSource) -> Ruling:
            values = [side(evidence) for side in sides]
            holds, shown = True, _show(values[0])
            for (sign, compare), left, right in zip(signs, values, values[1:], strict=False):
                holds = holds and bool(np.all(compare(left, right)))
                shown += f" {sign if holds else f'not {sign}'} {_show(right)}"
            return Ruling(holds, shown)

        return compared

    def number(self, node: ast.expr) -> _Number:
        match node:
            case ast.Constant(value=value):
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"{value!r} is no number")
                return lambda evidence: float(value)
            case ast.Name(id=name) if name in CONSTANTS:
                return lambda evidence: evidence.constants[name]
            case ast.Attribute(value=ast.Name(id=run), attr=figure):
                self.runs.add(run)
                self.figures.add(figure)
                return lambda evidence: evidence.figure(run, figure)
            case ast.BinOp(op=op) if type(op) in _OPERATIONS:
                left, right, operation = self.number(node.left), self.number(node.right), _OPERATIONS[type(op)]
                return lambda evidence: operation(left(evidence), right(evidence))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.number(operand)
                return lambda evidence: -inner(evidence)
            case ast.Call(func=ast.Name(id=name), keywords=[]):
                return self.call(node, name)
        raise ValueError(f"{ast.unparse(node)} is not understood; constants are {', '.join(CONSTANTS)}")

    def call(self, node: ast.Call, name: str) -> _Number:
        count, function = FUNCTIONS.get(name, (None, None))
        if count != len(node.args):
            raise ValueError(f"{ast.unparse(node)}: functions are {', '.join(FUNCTIONS)}")
        if name == "gap":
            names = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
            if len(names) != count:
                raise ValueError(f"{ast.unparse(node)}: gap takes two runs")
            self.runs.update(names)
            return lambda evidence: evidence.gap(*names)
        arguments = [self.number(argument) for argument in node.args]
        if function is None:
            return lambda evidence: evidence.slope(arguments[0](evidence))
        return lambda evidence: function(*(argument(evidence) for argument in arguments))


def _show(value: Any) -> str:
    numbers = [significant(number, 3) for number in np.atleast_1d(value)]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
