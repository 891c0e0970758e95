"""Charts in a terminal or a log: lines in Braille dots with a letter each, bars in blocks."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mpisqueeze.report.charts import BarChart, Chart, LineChart, Numbers, Series, thin
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
        drawn = _bars(chart, width) if isinstance(chart, BarChart) else _lines(chart, width)
        lines += [Text(), Text(chart.title, "bold"), *drawn]
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

    def stroke(self, start: tuple[float, float], end: tuple[float, float], owner: int) -> None:
        """A straight line of dots."""
        steps = int(max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1))
        for step in range(steps + 1):
            part = step / steps
            x, y = (a + part * (b - a) for a, b in zip(start, end, strict=True))
            self.dot(round(x), round(y), owner)

    def letter(self, x: float, y: float, letter: str, owner: int) -> None:
        """A letter in place of a character's dots, unless there is one already."""
        row, column = round(y) // 4, round(x) // 2
        if 0 <= row < self.height and 0 <= column < self.width and (row, column) not in self.letters:
            self.letters[row, column] = letter
            self.owner[row, column] = owner

    def row(self, row: int, styles: Sequence[str]) -> Text:
        text = Text()
        for column in range(self.width):
            owner = self.owner[row, column]
            dots = int(self.dots[row, column])
            character = self.letters.get((row, column)) or (chr(_BLANK + dots) if dots else " ")
            text.append(character, styles[owner] if owner >= 0 else "")
        return text


def _lines(chart: LineChart, width: int) -> list[Text]:
    if not chart.is_drawn:
        return [Text("there is no line to draw", "dim")]
    x, y = chart.scales()
    height = max(10, min(20, width // 6))
    side = marks(y, chart.y.unit, height, lambda text: 2.0, height // 2)
    margin = max((cell_len(text) for _, text in side.ticks), default=0)
    canvas = _Canvas(width - margin - 2, height)
    below = marks(x, chart.x.unit, canvas.width, lambda text: cell_len(text) + 2)
    lines = chart.in_end_order()
    letters = {series.style: _LETTERS[index % len(_LETTERS)] for index, series in enumerate(lines)}
    owners = {series.style: index for index, series in enumerate(lines)}
    styles = [_STYLES[series.style % len(_STYLES)] for series in lines]
    for series in chart.series:
        if series.kind == "line":
            _stroke(series, x, y, canvas, owners[series.style])
    for index, series in enumerate(lines):
        _letters(series, x, y, canvas, letters[series.style], owners[series.style], (index + 0.5) / len(lines))
    _measured(chart, x, y, canvas, letters, owners)
    label = f"{chart.y.label} ({side.unit})" if side.unit else chart.y.label
    text = [Text(label, "dim")]
    ticks = {height - 1 - min(height - 1, int(place * height)): name for place, name in side.ticks}
    for row in range(height):
        name = ticks.get(row, "")
        edge = Text(f"{' ' * (margin - cell_len(name))}{name} {'┤' if name else '│'}", "dim")
        text.append(edge.append_text(canvas.row(row, styles)))
    text += _axis(margin, canvas.width, [(place, name) for place, name in below.ticks], chart.x.label, below.unit)
    for series in lines:
        end = f"  {say(series.end, chart.y.unit)}"
        entry = Text(f"  {letters[series.style]}  ", styles[owners[series.style]])
        text.append(entry.append(Text(series.label)).append(Text(end, "dim")))
    measured = [letters[s.style].upper() for s in chart.series if s.kind == "points" and s.style in letters]
    if measured:
        text.append(Text(f"  {', '.join(sorted(measured))}  measured: {chart.measured}", "dim"))
    return [*text, *_caption(chart.caption, width)]


def _caption(caption: str, width: int) -> list[Text]:
    lines: list[str] = []
    for word in caption.split():
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [Text(line, "dim") for line in lines]


def _pixels(series: Series, x: Scale, y: Scale, canvas: _Canvas) -> Numbers:
    """(K, 2) in dots; far off the canvas is near it."""
    index = thin(series.x, series.y, x, 2 * canvas.width)
    across = x.place(series.x[index]) * (2 * canvas.width - 1)
    down = (1 - y.place(series.y[index])) * (4 * canvas.height - 1)
    return np.stack([across, np.clip(down, -8.0 * canvas.height, 8.0 * canvas.height)], axis=1)


def _stroke(series: Series, x: Scale, y: Scale, canvas: _Canvas, owner: int) -> None:
    points = _pixels(series, x, y, canvas).tolist()
    for start, end in zip(points[:1] + points, points, strict=False):
        if np.isfinite([*start, *end]).all():
            canvas.stroke((start[0], start[1]), (end[0], end[1]), owner)


def _letters(series: Series, x: Scale, y: Scale, canvas: _Canvas, letter: str, owner: int, shift: float) -> None:
    points = _pixels(series, x, y, canvas)
    points = points[np.isfinite(points).all(axis=1) & (points[:, 1] >= 0) & (points[:, 1] < 4 * canvas.height)]
    if not points.shape[0]:
        return
    wanted = (np.arange(_LETTERED) + shift) / _LETTERED * 2 * canvas.width
    at = np.searchsorted(points[:, 0], wanted[(wanted > points[0, 0]) & (wanted < points[-1, 0])])
    for px, py in [points[-1], *points[at]]:
        canvas.letter(px, py, letter, owner)


def _measured(
    chart: LineChart, x: Scale, y: Scale, canvas: _Canvas, letters: dict[int, str], owners: dict[int, int]
) -> None:
    """A capital letter for each, in place of what is there."""
    for series in chart.series:
        if series.kind == "points" and series.style in owners:
            for px, py in _pixels(series, x, y, canvas).tolist():
                if np.isfinite([px, py]).all():
                    canvas.letters.pop((round(py) // 4, round(px) // 2), None)
                    canvas.letter(px, py, letters[series.style].upper(), owners[series.style])


def _axis(margin: int, width: int, ticks: list[tuple[float, str]], label: str, unit: str) -> list[Text]:
    """The line below a plot, its numbers, and what they are of."""
    rule = ["─"] * width
    numbers = [" "] * (margin + 2 + width)
    for place, name in ticks:
        column = min(width - 1, int(place * width))
        rule[column] = "┬"
        # Not over the end of the line.
        start = max(0, min(margin + 2 + column - cell_len(name) // 2, len(numbers) - cell_len(name)))
        numbers[start : start + len(name)] = list(name)
    label = f"{label} ({unit})" if unit else label
    return [
        Text(f"{' ' * margin} └{''.join(rule)}", "dim"),
        Text("".join(numbers), "dim"),
        Text(label.rjust(len(numbers)), "dim"),
    ]


def _bars(chart: BarChart, width: int) -> list[Text]:
    if not chart.bars:
        return [Text("no iteration was measured", "dim")]
    margin = min(max(cell_len(bar.name) for bar in chart.bars), width // 3)
    length = width - margin - 2
    scale = chart.scale()
    text: list[Text] = []
    for bar in chart.bars:
        name = bar.name if cell_len(bar.name) <= margin else f"{bar.name[: margin - 1]}…"
        row = Text(f"{name.rjust(margin)} │")
        cells: list[tuple[str, str]] = []
        reached = 0.0
        for (fill, style), value in zip(_FILLS, bar.parts, strict=False):
            reached += value
            cells += [(fill, style)] * (round(scale.at(reached) * length) - len(cells))
        if bar.mark is not None:
            at = min(length - 1, round(scale.at(bar.mark) * length))
            cells += [(" ", "")] * (at + 1 - len(cells))
            cells[at] = (_MARK, "bold")
        for character, style in cells:
            row.append(character, style)
        text.append(row)
    below = marks(scale, chart.x.unit, length, lambda tick: cell_len(tick) + 2)
    text += _axis(margin, length, below.ticks, chart.x.label, below.unit)
    entries = [*zip((fill for fill, _ in _FILLS), (style for _, style in _FILLS), chart.segments, strict=False)]
    legend = Text("  ")
    for fill, style, name in [*entries, *([(_MARK, "bold", chart.mark)] if chart.mark else [])]:
        if legend.cell_len + cell_len(name) + 5 > width:
            text.append(legend)
            legend = Text("  ")
        legend.append(fill * (1 if fill == _MARK else 2), style).append(f" {name}   ")
    return [*text, legend, *_caption(chart.caption, width)]
