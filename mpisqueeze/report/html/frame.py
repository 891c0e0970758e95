"""The frame of a plot: its axes, with their grid, ticks and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mpisqueeze.report.html.labels import text_width
from mpisqueeze.report.html.markup import Markup, number, tag
from mpisqueeze.report.scales import Marks


@dataclass(frozen=True)
class Frame:
    """Where a plot lies in its picture, in pixels: x from `left` to `right`, y from `top` down to `bottom`."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def x(self, place: float) -> float:
        return self.left + place * self.width

    def y(self, place: float) -> float:
        return self.bottom - place * self.height


def axis_label(label: str, found: Marks) -> str:
    return f"{label} ({found.unit})" if found.unit else label


def axes(
    frame: Frame, below: Marks, side: Marks | None, x_label: str, y_label: str, room: float = math.inf
) -> Iterable[Markup]:
    """Grid, ticks, numbers and labels; the y axis's label stands above it, and numbers end at `room`."""
    left, bottom, right = number(frame.left), number(frame.bottom), number(frame.right)
    grid = "".join(f"M{number(frame.x(place))} {number(frame.top)}V{bottom}" for place, _ in below.ticks)
    grid += "".join(f"M{left} {number(frame.y(place))}H{right}" for place, _ in (side.ticks if side else ()))
    yield tag("path", d=grid, class_="grid")
    ticks = "".join(f"M{number(frame.x(place))} {bottom}v3" for place in below.minor)
    ticks += "".join(f"M{number(frame.x(place))} {bottom}v6" for place, _ in below.ticks)
    for place in side.minor if side else ():
        ticks += f"M{left} {number(frame.y(place))}h-3"
    yield tag("path", d=f"{ticks}M{left} {bottom}H{right}", class_="axis")
    for place, text in below.ticks:
        # As wide as letters usually are, rather than as wide as they may be.
        half = 0.42 * text_width(text)
        at = max(half, min(frame.x(place), room - half))
        yield tag("text", text, x=at, y=frame.bottom + 21, class_="tick middle")
    for place, text in side.ticks if side else ():
        yield tag("text", text, x=frame.left - 8, y=frame.y(place) + 4.5, class_="tick end")
    yield tag("text", x_label, x=frame.right, y=frame.bottom + 42, class_="label end")
    if y_label:
        yield tag("text", y_label, x=0.0, y=15.0, class_="label")
