"""The blocks of a page: plain data, of which `page.render` makes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpisqueeze.report.charts import Chart


@dataclass(frozen=True)
class Paragraph:
    """Running text; `note` sets it back, `warning` makes it stand out."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A command, or another text whose line ends and blanks count."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names with their values, in columns."""

    pairs: Sequence[tuple[str, str]]


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
class Tiles:
    """Figures side by side."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        detail: smaller, below the text.
        best: to be shown as the best of its column.
        style: the style of a line whose marker is put before the text, or None.
        badge: a word to be seen behind it, such as `diverged`.
        verdict: `PASS`, `FAIL` or `SKIPPED`, shown as a badge; empty: none.
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
class Plot:
    """A chart with its title, its caption and, folded away, its numbers."""

    chart: Chart


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown on request; a printed page has them."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Verdict:
    """A verdict on a claim, `PASS`, `FAIL` or `SKIPPED`, and the words beside it."""

    verdict: str
    text: str


Block = Paragraph | Items | Code | Facts | Tiles | Table | Plot | Folded | Verdict


@dataclass(frozen=True)
class PageSection:
    """A part of a page, which its table of contents lists; no title is given to an introduction."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        lead: a sentence that introduces it.
        badge: stands beside the title, such as a run's status if it is not well; empty for none.
    """

    title: str
    lead: str
    sections: Sequence[PageSection] = field(default_factory=list)
    badge: str = ""

    @property
    def has_plots(self) -> bool:
        """A chart is on it."""
        return any(isinstance(block, Plot) for section in self.sections for block in section.blocks)
