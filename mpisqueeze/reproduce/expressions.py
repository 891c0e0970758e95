"""What decides a claim: a comparison of figures, written in the claim's file and worked out without running any code.

`doublesqueeze.test_accuracy >= sgd.test_accuracy - 0.01`: numbers, `RUN.FIGURE`, the claim's constants, + - * /, the
functions below, comparisons, `and`, `or`, `not`. Over a sweep a figure is an array, one number a point, and a
comparison holds if it does at every point.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
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
#: x. gap: the mean distance of two runs' smoothed losses, over the first one's whole progress.
FUNCTIONS = {"first": 1, "last": 1, "slope": 1, "gap": 2, "abs": 1, "min": 2, "max": 2}


class Evidence(Protocol):
    """What an expression is about."""

    constants: Mapping[str, float]

    def figure(self, run: str, name: str) -> Any:
        """A run's figure: a float, or an array (P,) over a sweep of P points; NaN for what it does not have."""

    def slope(self, values: Any) -> float:
        """Of the straight line through a swept figure."""

    def gap(self, one: str, other: str) -> float:
        """How far two runs' losses are apart, see FUNCTIONS."""


@dataclass(frozen=True)
class Finding:
    """What an expression came to.

    Attributes:
        holds: whether it is true.
        shown: its comparisons with the numbers in place, for people: `0.981 ≥ 0.979`.
    """

    holds: bool
    shown: str


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: as it was written.
        runs: the runs that it names.
        figures: the figures that it names.
    """

    text: str
    tree: ast.expr
    runs: frozenset[str]
    figures: frozenset[str]

    def decide(self, evidence: Evidence) -> Finding:
        """Work it out."""
        with np.errstate(all="ignore"):
            holds, shown = _truth(self.tree, evidence)
        return Finding(holds, shown)


def parse(text: str) -> Expression:
    """Raises ValueError for anything but the language above."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression: {error}") from None
    runs, figures = set(), set()
    for run, figure in _check_truth(tree):
        runs.add(run)
        if figure:
            figures.add(figure)
    return Expression(text.strip(), tree, frozenset(runs), frozenset(figures))


def _check_truth(node: ast.expr) -> Iterator[tuple[str, str]]:
    """(run, figure) of all that are named; raises ValueError for what is neither true nor false."""
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _check_truth(value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _check_truth(node.operand)
    elif isinstance(node, ast.Compare):
        if not all(type(op) in _COMPARISONS for op in node.ops):
            raise ValueError(f"{ast.unparse(node)}: comparisons are < <= > >= ==")
        for side in (node.left, *node.comparators):
            yield from _check_number(side)
    else:
        raise ValueError(f"{ast.unparse(node)} is no comparison")


def _check_number(node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise ValueError(f"{node.value!r} is no number")
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield node.value.id, node.attr
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        yield from _check_number(node.left)
        yield from _check_number(node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from _check_number(node.operand)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        name = node.func.id
        if FUNCTIONS.get(name) != len(node.args):
            raise ValueError(f"{ast.unparse(node)}: functions are {', '.join(FUNCTIONS)}")
        for argument in node.args:
            if name == "gap":
                if not isinstance(argument, ast.Name):
                    raise ValueError(f"{ast.unparse(node)}: gap takes two runs")
                yield argument.id, ""
            else:
                yield from _check_number(argument)
    elif not isinstance(node, ast.Name) or node.id not in CONSTANTS:
        raise ValueError(f"{ast.unparse(node)} is not understood; constants are {', '.join(CONSTANTS)}")


def _truth(node: ast.expr, evidence: Evidence) -> tuple[bool, str]:
    if isinstance(node, ast.BoolOp):
        word, join = _JOINTS[type(node.op)]
        parts = [_truth(value, evidence) for value in node.values]
        return join(holds for holds, _ in parts), word.join(shown for _, shown in parts)
    if isinstance(node, ast.UnaryOp):
        holds, shown = _truth(node.operand, evidence)
        return not holds, f"not ({shown})"
    assert isinstance(node, ast.Compare)
    sides = [_number(side, evidence) for side in (node.left, *node.comparators)]
    holds, shown = True, _show(sides[0])
    for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
        sign, compare = _COMPARISONS[type(op)]
        holds = holds and bool(np.all(compare(left, right)))
        shown += f" {sign if holds else f'not {sign}'} {_show(right)}"
    return holds, shown


def _number(node: ast.expr, evidence: Evidence) -> Any:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return evidence.constants[node.id]
    if isinstance(node, ast.Attribute):
        assert isinstance(node.value, ast.Name)
        return evidence.figure(node.value.id, node.attr)
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_number(node.left, evidence), _number(node.right, evidence))
    if isinstance(node, ast.UnaryOp):
        return -_number(node.operand, evidence)
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    name = node.func.id
    if name == "gap":
        one, other = (argument.id for argument in node.args if isinstance(argument, ast.Name))
        return evidence.gap(one, other)
    values = [_number(argument, evidence) for argument in node.args]
    if name == "slope":
        return evidence.slope(values[0])
    simple: dict[str, Callable[..., Any]] = {
        "first": lambda v: np.atleast_1d(v)[0],
        "last": lambda v: np.atleast_1d(v)[-1],
        "abs": np.abs,
        "min": np.minimum,
        "max": np.maximum,
    }
    return simple[name](*values)


def _show(value: Any) -> str:
    numbers = [significant(number, 3) for number in np.atleast_1d(value)]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
