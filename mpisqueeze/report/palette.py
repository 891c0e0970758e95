"""Colours and markers that tell lines and the segments of bars apart, on light and on dark ground.

The order is Okabe & Ito's ("Color Universal Design", 2008), whose hues stay apart for colour-blind readers; on light
ground the bright ones are darker than theirs, so that each has a contrast of 3 : 1 at least (WCAG 2.1, 1.4.11).
Markers and names tell everything apart, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: (on light, on dark ground) of lines.
LINES = (
    ("#1f2630", "#e4e8ee"),
    ("#0072b2", "#4db1f0"),
    ("#cf5a00", "#ff9147"),
    ("#00845f", "#30c79b"),
    ("#b2508a", "#e795c4"),
    ("#9a7400", "#e9c046"),
    ("#2e8cc4", "#9fd8ff"),
)
#: (on light, on dark ground) of the segments of a bar.
SEGMENTS = (
    ("#0072b2", "#2f86c4"),
    ("#c9ced6", "#565f6c"),
    ("#e69f00", "#c98b00"),
    ("#d55e00", "#d0652a"),
    ("#009e73", "#1a9c76"),
    ("#cc79a7", "#b5638f"),
)
#: (on light, on dark ground) of words inside segments.
INKS = (("#ffffff", "#ffffff"), ("#14181e", "#ffffff"), *(("#14181e", "#14181e"),) * 4)
LIGHT_GROUND, DARK_GROUND = "#ffffff", "#14181e"


def style_of(index: int, count: int) -> int:
    """The style of a line among `count`; one by itself is blue rather than black."""
    return index if count > 1 else 1


def _polygon(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in corners) + "Z"


def _star(points: int, inner: float, outer: float) -> str:
    radii = [outer if index % 2 == 0 else inner for index in range(2 * points)]
    angles = [math.pi * (index / points - 0.5) for index in range(2 * points)]
    return _polygon([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])


_CROSS = ((-0.3, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3), (0.3, 0.9), (-0.3, 0.9),
          (-0.3, 0.3), (-0.9, 0.3), (-0.9, -0.3), (-0.3, -0.3))  # fmt: skip
#: Outlines of about the same area around (0, 0), as SVG paths. Their number has no factor in common with that of the
#: colours, so that 63 lines differ.
MARKERS = (
    "M0.75,0A0.75,0.75,0,1,1,-0.75,0A0.75,0.75,0,1,1,0.75,0Z",
    _polygon([(-0.68, -0.68), (0.68, -0.68), (0.68, 0.68), (-0.68, 0.68)]),
    _polygon([(0, -0.94), (0.9, 0.68), (-0.9, 0.68)]),
    _polygon([(0, -0.98), (0.82, 0), (0, 0.98), (-0.82, 0)]),
    _polygon([(0, 0.94), (0.9, -0.68), (-0.9, -0.68)]),
    _polygon(_CROSS),
    _star(5, 0.42, 1.05),
    _polygon([(0.7 * (x - y), 0.7 * (x + y)) for x, y in _CROSS]),
    _star(3, 0.94, 0.94),
)
