"""The content of a page: sections, each with facts that a macro of sections.html shows, and tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpisqueeze.report.charts import Chart


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        detail: smaller, below the text.
        best: to be shown as the best of its column.
        style: the style of a line whose marker is put before the text, or None.
        badge: a word to be seen behind it, such as `diverged`.
        verdict: `PASS`, `FAIL`, `NOT DISTINGUISHABLE` or `SKIPPED`, shown as a badge; empty: none.
        link: the title of a section that it leads to.
    """

    text: str
    detail: str = ""
    best: bool = False
    style: int | None = None
    badge: str = ""
    verdict: str = ""
    link: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of which names its row.

    Attributes:
        titles: headings of the columns.
        left: columns that hold words, and stand at the left; others hold figures.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[TableCell | str]]
    caption: str = ""
    left: Sequence[int] = (0,)


@dataclass(frozen=True)
class Tile:
    """A figure to see first.

    Attributes:
        style: the style of the line that it stands for, or None.
    """

    title: str
    figure: str
    detail: str = ""
    style: int | None = None


@dataclass(frozen=True)
class Chapter:
    """A part of a page, which its table of contents lists; no title is given to an introduction.

    Attributes:
        macro: of sections.html, which shows it.
        facts: what the macro is given, besides the charts.
    """

    title: str
    macro: str
    facts: Mapping[str, Any]
    charts: Sequence[Chart] = ()


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        lead: a sentence that introduces it.
        badge: stands beside the title, such as a run's status if it is not well; empty for none.
    """

    title: str
    lead: str
    sections: Sequence[Chapter] = field(default_factory=list)
    badge: str = ""
