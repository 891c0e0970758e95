"""A page: sections of facts, tables and plots, rendered as one HTML file.

    page = Page("Title", "What it is about.", [Chapter("First", "drawings", {"note": "…"}, [chart])])
    write_text(render(page), "page.html")

page.html is the frame, sections.html has a macro for each kind of section, and parts.html what they are made of. The
file refers to nothing outside itself, and its own policy forbids the browser to load anything or to run any other
script. It is complete without its scripts, which let readers act on the charts. All text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import count
from pathlib import Path
from typing import Any

from mpisqueeze import __version__
from mpisqueeze.quantities import counted, duration
from mpisqueeze.record.folder import slug
from mpisqueeze.report.html.blocks import Page, TableCell
from mpisqueeze.report.html.figures import drawn, vega
from mpisqueeze.report.html.provenance import NAMED
from mpisqueeze.report.palette import DARK_GROUND, INKS, LIGHT_GROUND, LINES, MARKERS, SEGMENTS
from mpisqueeze.report.plot import require
from mpisqueeze.report.vega import speakable

_HERE = Path(__file__).parent


def check_page() -> None:
    """Raise UsageError with the cure where a library that pages need is missing."""
    for module in ("jinja2", "vl_convert"):
        require(module, "--html")


def render(page: Page) -> str:
    """The page as HTML, complete in itself."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) else speakable(str(value))

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=finalize,
    )  # fmt: skip
    environment.filters |= {"counted": counted, "duration": duration}
    environment.filters["cells"] = lambda row: [
        cell if isinstance(cell, TableCell) else TableCell(cell) for cell in row
    ]
    environment.filters["breakable"] = lambda text: re.split("(?<=[/,])", text)
    # Blank lines and indentation of the style sheet are for its authors.
    style = _colors() + re.sub(r"\s*\n\s*", "\n", (_HERE / "page.css").read_text(encoding="utf-8")).strip()
    script = (_HERE / "page.js").read_text(encoding="utf-8").strip()
    library, packed = vega() if any(section.charts for section in page.sections) else ("", "")
    scripts = " ".join(_hash(text) for text in (script, library) if text)
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {scripts}"
    numbers = count(1)
    titles = [chapter.title for chapter in page.sections if chapter.title]
    environment.globals |= {
        "drawn": lambda chart: drawn(chart, f"p{next(numbers)}"), "markers": MARKERS, "colors": len(LINES),
        "named": NAMED, "anchors": {title: f"s{number}-{slug(title)}" for number, title in enumerate(titles, 1)},
    }  # fmt: skip
    return environment.get_template("page.html").render(
        page=page, version=__version__, policy=policy, style=Markup(style), script=Markup(script), vega=Markup(packed)
    )


def _colors() -> str:
    """The palette as a style sheet, on light ground, and on dark where a screen wants it."""
    rules = []
    for dark, ground in enumerate((LIGHT_GROUND, DARK_GROUND)):
        values = [
            f"--{letter}{index}:{pair[dark]};"
            for letter, colors in (("c", LINES), ("b", SEGMENTS), ("i", INKS))
            for index, pair in enumerate(colors)
        ]
        rules.append(f":root{{--ground:{ground};{''.join(values)}}}")
    classes = "".join(f".c{index}{{color:var(--c{index})}}" for index in range(len(LINES)))
    return f"{rules[0]}\n@media screen and (prefers-color-scheme: dark){{{rules[1]}}}\n{classes}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
