"""Charts in a terminal or a log: lines in Braille dots with a letter each, bars in blocks."""

from __future__ import annotations

import string
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mpisqueeze.report.charts import BarChart, Chart, LineChart, PointChart, Series, marked, thin
from mpisqueeze.report.scales import Scale, marks, say

#: Dots of a Braille character, by column and row, as bits of its code.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK = 0x2800
_LETTERS = string.ascii_lowercase + string.digits
#: Letters tell lines apart; these are for those who see them.
_STYLES = ("bold", "bright_blue", "yellow", "green", "magenta", "cyan", "red")
#: Fills of a bar's segments.
_FILLS = (("█", "bright_blue"), ("░", "white"), ("▚", "yellow"), ("▓", "red"), ("▞", "green"), ("▪", "magenta"))
_MARK = "┃"
_WIDEST, _NARROWEST = 120, 30
#: Letters along each line.
_LETTERED = 4


def terminal_plot(charts: Sequence[Chart], console: Console) -> Text:
    """Charts one below the other, as wide as the console as far as that makes sense."""
    width = max(_NARROWEST, min(_WIDEST, console.width))
    lines: list[Text] = []
    for chart in charts:
        if isinstance(chart, BarChart):
            drawn = _bars(chart, width)
        else:
            drawn = _points(chart, width) if isinstance(chart, PointChart) else _lines(chart, width)
        caption = [Text(line, "dim") for line in textwrap.wrap(chart.caption, width)]
        lines += [Text(), Text(chart.title, "bold"), *drawn, *caption]
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


class _Canvas:
    """Characters with dots in them, and the line that drew into each of them last.

    Args:
        width, height: in characters.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.dots = np.zeros((height, width), np.int32)
        self.owner = np.full((height, width), -1)
        self.letters: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int, owner: int) -> None:
        """Set a dot, 2 a character across and 4 down; outside is nothing."""
        if 0 <= x < 2 * self.width and 0 <= y < 4 * self.height:
            self.dots[y // 4, x // 2] |= _DOTS[x % 2][y % 4]
            self.owner[y // 4, x // 2] = owner

    def stroke(self, start: Sequence[float], end: Sequence[float], owner: int) -> None:
        """Set the dots of a straight line."""
        steps = int(max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1))
        for step in range(steps + 1):
            part = step / steps
            x, y = (a + part * (b - a) for a, b in zip(start, end, strict=True))
            self.dot(round(x), round(y), owner)

    def letter(self, x: float, y: float, letter: str, owner: int) -> None:
        """Put a letter in place of a character's dots, and a capital in place of another letter, too."""
        row, column = round(y) // 4, round(x) // 2
        free = (row, column) not in self.letters or letter.isupper()
        if 0 <= row < self.height and 0 <= column < self.width and free:
            self.letters[row, column] = letter
            self.owner[row, column] = owner

    def row(self, row: int) -> Text:
        text = Text()
        for column in range(self.width):
            owner, dots = int(self.owner[row, column]), int(self.dots[row, column])
            character = self.letters.get((row, column)) or (chr(_BLANK + dots) if dots else " ")
            text.append(character, _STYLES[owner % len(_STYLES)] if owner >= 0 else "")
        return text


def _lines(chart: LineChart, width: int) -> list[Text]:
    if not chart.is_drawn:
        return [Text("there is no line to draw", "dim")]
    x, y = chart.scales()
    height = max(10, min(20, width // 6))
    side = marks(y, chart.y.unit, height, lambda text: 2.0, height // 2)
    margin = max((cell_len(text) for _, text in side), default=0)
    canvas = _Canvas(width - margin - 2, height)
    lines = chart.in_end_order()
    letters = {series.style: _LETTERS[index % len(_LETTERS)] for index, series in enumerate(lines)}

    def dots(series: Series, index: Any) -> list[list[float]]:
        """Points in dots of the canvas; far off it is near it."""
        across = x.place(series.x[index]) * (2 * canvas.width - 1)
        down = (1 - y.place(series.y[index])) * (4 * height - 1)
        return np.stack([across, np.clip(down, -8.0 * height, 8.0 * height)], axis=1).tolist()

    for series in lines:
        points = dots(series, thin(series.x, series.y, x, 2 * canvas.width))
        for start, end in zip(points[:1] + points, points, strict=False):
            if np.isfinite([*start, *end]).all():
                canvas.stroke(start, end, series.style)
    for index, series in enumerate(lines):
        for point in reversed(dots(series, marked(series, x, y, _LETTERED, (index + 0.5) / len(lines)))):
            canvas.letter(point[0], point[1], letters[series.style], series.style)
    measured = [series for series in chart.series if series.kind == "points" and series.style in letters]
    for series in measured:
        for point in dots(series, np.isfinite(x.place(series.x)) & np.isfinite(series.y)):
            canvas.letter(point[0], point[1], letters[series.style].upper(), series.style)

    text = _framed(canvas, chart, x, y, side)
    for series in lines:
        style = _STYLES[series.style % len(_STYLES)]
        value = (f"  {say(series.end, chart.y.unit)}", "dim")
        text.append(Text.assemble((f"  {letters[series.style]}  ", style), series.label, value))
    if measured:
        capitals = sorted({letters[series.style].upper() for series in measured})
        text.append(Text(f"  {', '.join(capitals)}  measured: {chart.measured}", "dim"))
    return text


def _points(chart: PointChart, width: int) -> list[Text]:
    x, y = chart.scales()
    height = max(10, min(20, width // 6))
    side = marks(y, chart.y.unit, height, lambda text: 2.0, height // 2)
    canvas = _Canvas(width - max((cell_len(text) for _, text in side), default=0) - 2, height)

    def dots(across: Sequence[float], up: Sequence[float]) -> list[list[float]]:
        right = x.place(np.array(across, float)) * (2 * canvas.width - 1)
        down = (1 - y.place(np.array(up, float))) * (4 * height - 1)
        return np.stack([right, down], axis=1).tolist()

    for point in chart.points:
        for across, up in ((point.across, (point.y,) * 2), ((point.x,) * 2, point.up)):
            if across and up:
                start, end = dots(across, up)
                canvas.stroke(start, end, point.style)
    for index, point in enumerate(chart.points):
        right, down = dots([point.x], [point.y])[0]
        canvas.letter(right, down, _LETTERS[index % len(_LETTERS)], point.style)
    text = _framed(canvas, chart, x, y, side)
    for index, point in enumerate(chart.points):
        letter = (f"  {_LETTERS[index % len(_LETTERS)]}  ", _STYLES[point.style % len(_STYLES)])
        text.append(
            Text.assemble(letter, point.name, (f"  {', '.join(point.said(chart.x.unit, chart.y.unit))}", "dim"))
        )
    return text


def _framed(
    canvas: _Canvas, chart: LineChart | PointChart, x: Scale, y: Scale, side: Sequence[tuple[float, str]]
) -> list[Text]:
    """A canvas between its axes; `side`: what is marked on that of y."""
    margin, height = max((cell_len(text) for _, text in side), default=0), canvas.height
    text = [Text(chart.y.title(y), "dim")]
    ticks = {height - 1 - min(height - 1, int(place * height)): name for place, name in side}
    for row in range(height):
        name = ticks.get(row, "")
        edge = Text(f"{name.rjust(margin)} {'┤' if name else '│'}", "dim")
        text.append(edge.append_text(canvas.row(row)))
    below = marks(x, chart.x.unit, canvas.width, lambda text: cell_len(text) + 2)
    return [*text, *_axis(margin, canvas.width, below, chart.x.title(x))]


def _axis(margin: int, width: int, ticks: Sequence[tuple[float, str]], title: str) -> list[Text]:
    """The line below a plot, its numbers, and its title."""
    rule = ["─"] * width
    numbers = [" "] * (margin + 2 + width)
    for place, name in ticks:
        column = min(width - 1, int(place * width))
        rule[column] = "┬"
        # Not over the end of the line.
        start = max(0, min(margin + 2 + column - cell_len(name) // 2, len(numbers) - cell_len(name)))
        numbers[start : start + len(name)] = list(name)
    lines = (f"{' ' * margin} └{''.join(rule)}", "".join(numbers), title.rjust(len(numbers)))
    return [Text(line, "dim") for line in lines]


def _bars(chart: BarChart, width: int) -> list[Text]:
    if not chart.bars:
        return [Text("no iteration was measured", "dim")]
    margin = min(max(cell_len(bar.name) for bar in chart.bars), width // 3)
    length = width - margin - 2
    scale = chart.scale()
    text: list[Text] = []
    for bar in chart.bars:
        name = bar.name if cell_len(bar.name) <= margin else f"{bar.name[: margin - 1]}…"
        cells: list[tuple[str, str]] = []
        reached = 0.0
        for cell, value in zip(_FILLS, bar.parts, strict=False):
            reached += value
            cells += [cell] * (round(scale.at(reached) * length) - len(cells))
        if bar.mark is not None:
            at = min(length - 1, round(scale.at(bar.mark) * length))
            cells += [(" ", "")] * (at + 1 - len(cells))
            cells[at] = (_MARK, "bold")
        text.append(Text.assemble(f"{name.rjust(margin)} │", *cells))
    ticks = marks(scale, chart.x.unit, length, lambda tick: cell_len(tick) + 2)
    text += [*_axis(margin, length, ticks, chart.x.title(scale)), Text("  ")]
    entries = [(2 * fill, style, name) for (fill, style), name in zip(_FILLS, chart.segments, strict=False)]
    for fill, style, name in [*entries, *([(_MARK, "bold", chart.mark)] if chart.mark else [])]:
        if text[-1].cell_len + cell_len(name) + 5 > width:
            text.append(Text("  "))
        text[-1].append(fill, style).append(f" {name}   ")
    return text
