"""Markers and the colours' classes: what tells the lines of a chart apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpisqueeze.report.html.markup import number
from mpisqueeze.report.palette import LINES

#: Shapes of markers. It has no factor in common with the number of colours, so that 63 lines differ.
MARKERS = 9


def color(style: int) -> str:
    """The style sheet's class."""
    return f"c{style % len(LINES)}"


def marker(style: int, x: float, y: float, size: float = 4.4) -> str:
    """A closed path around (x, y), one of MARKERS shapes of about the same area."""
    kind = style % MARKERS
    if kind == 0:
        r = size
        return f"M{number(x - r)} {number(y)}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    return polygon([(x + size * dx, y + size * dy) for dx, dy in _SHAPES[kind]])


def polygon(corners: Sequence[tuple[float, float]]) -> str:
    """A closed path."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in corners) + "z"


def _star(points: int, inner: float, turn: float = -math.pi / 2, outer: float = 1.3) -> list[tuple[float, float]]:
    radii = [outer if i % 2 == 0 else inner for i in range(2 * points)]
    angles = [turn + math.pi * i / points for i in range(2 * points)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


_CROSS = [(-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2),
          (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)]  # fmt: skip
_SHAPES: list[list[tuple[float, float]]] = [
    [],
    [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    [(0.0, -1.25), (1.2, 0.9), (-1.2, 0.9)],
    [(0.0, -1.3), (1.1, 0.0), (0.0, 1.3), (-1.1, 0.0)],
    [(0.0, 1.25), (1.2, -0.9), (-1.2, -0.9)],
    _CROSS,
    _star(5, 0.55, outer=1.4),
    [(0.7 * dx - 0.7 * dy, 0.7 * dx + 0.7 * dy) for dx, dy in _CROSS],
    [(1.25 * math.cos(math.pi * (k / 3 + 0.5)), 1.25 * math.sin(math.pi * (k / 3 + 0.5))) for k in range(6)],
]
