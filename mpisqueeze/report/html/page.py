"""A page: sections of text, tables and plots, rendered as one HTML file.

    page = Page("Title", "What it is about.", [Section("First", [Paragraph("…"), Table(…), Plot(chart)])])
    write_text(render(page), "page.html")

The file refers to nothing outside itself, and its own policy forbids the browser to load anything or to run any other
script. It is complete without the script, which shows values where the pointer is. All text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from mpisqueeze import __version__
from mpisqueeze.report.charts import Chart, LineChart
from mpisqueeze.report.html.bars import bar_chart, patterns
from mpisqueeze.report.html.blocks import (
    Block,
    Cell,
    Code,
    Facts,
    Items,
    Page,
    Paragraph,
    Plot,
    Section,
    Table,
    Tile,
    Tiles,
    Verdict,
)
from mpisqueeze.report.html.lines import line_chart
from mpisqueeze.report.html.markup import Markup, join, tag
from mpisqueeze.report.html.numbers import numbers_of
from mpisqueeze.report.html.shapes import color, marker
from mpisqueeze.report.palette import DARK_GROUND, LIGHT_GROUND, LINES, SEGMENTS

_HERE = Path(__file__).parent


def render(page: Page) -> str:
    """The page as HTML, complete in itself."""
    # Of a template's own, a blank line or an indentation is not needed.
    style = _colors() + re.sub(r"\s*\n\s*", "\n", (_HERE / "page.css").read_text(encoding="utf-8")).strip()
    script = (_HERE / "page.js").read_text(encoding="utf-8").strip()
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    titles = [section.title for section in page.sections if section.title]
    writer = _Writer(titles)
    sections = [writer.section(section) for section in page.sections]
    links = (tag("li", tag("a", title, href=f"#{writer.anchors[title]}")) for title in titles)
    contents = tag("nav", tag("ul", *links), aria_label="Contents")
    return "<!DOCTYPE html>\n" + join(
        [
            Markup('<html lang="en">\n'),
            tag(
                "head",
                Markup("\n"),
                tag("meta", charset="utf-8"),
                tag("meta", http_equiv="Content-Security-Policy", content=policy),
                tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                tag("meta", name="color-scheme", content="light dark"),
                tag("meta", name="generator", content=f"mpisqueeze {__version__}"),
                tag("link", rel="icon", href="data:,"),
                tag("title", f"{page.title} · mpisqueeze"),
                tag("style", Markup(style)),
                Markup("\n"),
            ),
            Markup("\n<body>\n"),
            tag("svg", tag("defs", patterns()), class_="defs", aria_hidden="true", width=0, height=0),
            Markup("\n"),
            tag(
                "header",
                tag("p", "mpisqueeze", class_="product"),
                tag("h1", page.title, *([tag("span", page.badge, class_="badge")] if page.badge else [])),
                tag("p", page.lead, class_="lead"),
                *([contents] if len(titles) > 2 else []),
            ),
            Markup("\n<main>\n"),
            *sections,
            Markup("</main>\n"),
            tag("footer", tag("p", f"Made by mpisqueeze {__version__}. This page needs no network.")),
            Markup("\n"),
            tag("script", Markup(script)),
            Markup("\n</body>\n</html>\n"),
        ]
    )


def _anchors(titles: Sequence[str]) -> dict[str, str]:
    """An id of its own for each section."""
    found: dict[str, str] = {}
    for title in titles:
        base = name = "s-" + (re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section")
        for number in count(2):
            if name not in found.values():
                break
            name = f"{base}-{number}"
        found[title] = name
    return found


def _colors() -> str:
    """The palette as a style sheet, on light ground, and on dark where a screen wants it."""
    grounds = [f"--ground:{ground};" for ground in (LIGHT_GROUND, DARK_GROUND)]
    values = [
        "".join([f"--c{i}:{pair[dark]};" for i, pair in enumerate(LINES)]
                + [f"--b{i}:{pair[dark]};" for i, pair in enumerate(SEGMENTS)])
        for dark in (0, 1)
    ]  # fmt: skip
    classes = [f".c{i}{{--c:var(--c{i})}}" for i in range(len(LINES))]
    classes += [f".b{i}{{fill:var(--b{i})}}" for i in range(len(SEGMENTS))]
    light, dark = (f":root{{{ground}{value}}}" for ground, value in zip(grounds, values, strict=True))
    return f"{light}\n@media screen and (prefers-color-scheme: dark){{{dark}}}\n{''.join(classes)}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Writer:
    """Turns blocks into HTML; plots are numbered in the order of the page."""

    def __init__(self, titles: Sequence[str]) -> None:
        self.anchors = _anchors(titles)
        self._numbers = count(1)

    def section(self, section: Section) -> Markup:
        heading = [tag("h2", section.title), Markup("\n")] if section.title else []
        blocks = (part for block in section.blocks for part in (self.block(block), Markup("\n")))
        return join([tag("section", *heading, *blocks, id=self.anchors.get(section.title)),
                     Markup("\n")])  # fmt: skip

    def block(self, block: Block) -> Markup:
        if isinstance(block, Paragraph):
            return tag("p", block.text, class_=block.kind or None)
        if isinstance(block, Items):
            return tag("ul", *(tag("li", text) for text in block.texts))
        if isinstance(block, Code):
            return tag("pre", tag("code", block.text), tabindex=0)
        if isinstance(block, Facts):
            pairs = (tag("div", tag("dt", name), tag("dd", value)) for name, value in block.pairs)
            return tag("dl", *pairs, class_="facts")
        if isinstance(block, Tiles):
            return tag("div", *(_tile(tile) for tile in block.tiles), class_="tiles")
        if isinstance(block, Table):
            return self._table(block)
        if isinstance(block, Plot):
            return self._plot(block.chart)
        if isinstance(block, Verdict):
            return tag("p", _badge(block.verdict), " ", block.text, class_="verdict")
        return _folded(block.title, [self.block(inner) for inner in block.blocks])

    def _plot(self, chart: Chart) -> Markup:
        key = f"p{next(self._numbers)}"
        drawing = line_chart(chart, key) if isinstance(chart, LineChart) else bar_chart(chart, key)
        about = chart.caption
        if isinstance(chart, LineChart) and chart.measured:
            about += f" Outlined marks are measured: {chart.measured}."
        caption = [tag("p", about.strip(), class_="note")] if about else []
        return tag(
            "figure",
            tag("figcaption", tag("h3", chart.title, id=key), *caption),
            tag("div", drawing, class_="drawing"),
            _folded("Numbers", [self._table(numbers_of(chart))]),
            aria_labelledby=key,
        )

    def _table(self, table: Table) -> Markup:
        # What names the rows needs no heading of its own.
        head = [
            tag("th", title, scope="col", class_=None if index in table.left else "figures") if title else tag("td")
            for index, title in enumerate(table.titles)
        ]
        rows = []
        for row in table.rows:
            cells = []
            for index, cell in enumerate(row):
                cell = cell if isinstance(cell, Cell) else Cell(cell)
                content = self._cell(cell)
                kind = "figures" if index not in table.left else "signed" if cell.style is not None else None
                cells.append(
                    tag("td", *content, class_=kind) if index else tag("th", *content, scope="row", class_=kind)
                )
            rows.append(tag("tr", *cells))
        caption = [tag("caption", table.caption)] if table.caption else []
        inner = tag("table", *caption, tag("thead", tag("tr", *head)), tag("tbody", *rows))
        return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=table.caption or "Table")

    def _cell(self, cell: Cell) -> list[str]:
        parts: list[str] = [_sign(cell.style)] if cell.style is not None else []
        if cell.verdict:
            parts.append(_badge(cell.verdict))
        text = _breakable(cell.text)
        text = tag("strong", text) if cell.best else text
        parts.append(tag("a", text, href=f"#{self.anchors[cell.link]}") if cell.link else text)
        if cell.badge:
            parts += [" ", tag("span", cell.badge, class_="badge")]
        if cell.detail:
            parts.append(tag("span", cell.detail, class_="detail"))
        return parts


def _folded(title: str, blocks: Sequence[str]) -> Markup:
    return tag("details", tag("summary", title), *blocks)


def _badge(verdict: str) -> Markup:
    sign = {"PASS": "✓ ", "FAIL": "✗ "}.get(verdict, "")
    return tag("span", f"{sign}{verdict}", class_=f"badge {verdict.lower()}")


def _sign(style: int) -> Markup:
    mark = tag("path", d=marker(style, 7.0, 7.0), class_=f"mark {color(style)}")
    return tag("svg", mark, class_="sign", viewBox="0 0 14 14", aria_hidden="true")


def _tile(tile: Tile) -> Markup:
    signs = [_sign(tile.style)] if tile.style is not None else []
    detail = [tag("p", *signs, tile.detail, class_="detail")] if tile.detail else []
    return tag("div", tag("h3", tile.title), tag("p", tile.figure, class_="figure"), *detail, class_="tile")


def _breakable(text: str) -> Markup:
    """Text that may be broken behind slashes and commas, too."""
    return join([part for piece in re.split("(?<=[/,])", text) for part in (Markup("<wbr>"), piece)][1:])
