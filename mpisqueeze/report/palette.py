"""Colours of lines and of bars' segments, on light and on dark ground.

The order is Okabe & Ito's ("Color Universal Design", 2008), whose hues stay apart for colour-blind readers; on light
ground the bright ones are darker than theirs, so that each has a contrast of 3 : 1 at least (WCAG 2.1, 1.4.11).
Markers, patterns and names tell everything apart, too.
"""

from __future__ import annotations

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
LIGHT_GROUND, DARK_GROUND = "#ffffff", "#14181e"


def style_of(index: int, count: int) -> int:
    """The style of a line among `count`; one by itself is blue rather than black."""
    return index if count > 1 else 1
