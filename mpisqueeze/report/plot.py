"""Charts as files for papers: PDF, SVG and PNG, drawn by Vega without a browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.report.charts import Chart
from mpisqueeze.report.vega import PAPER, VEGA_LITE, Spec, panels_spec

FORMATS = (".png", ".svg", ".pdf")
#: Pixels of a plot by itself, and of each of several.
_ONE, _PANEL = 380, 300


def check_plot(target: str) -> None:
    """Raise UsageError unless `target` is a kind of file that can be drawn and what draws it is installed."""
    if Path(target).suffix.lower() not in FORMATS:
        raise UsageError(f"{target} must end in {', '.join(FORMATS)}", "--plot")
    require("vl_convert", "--plot")


def require(module: str, option: str) -> None:
    """Raise UsageError with the cure where a library of the extra `report` is missing."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise UsageError(f"needs {module}: pip install 'mpisqueeze[report]'", option)


def draw(charts: Sequence[Chart], target: str) -> None:
    """Draw charts side by side, under one legend, into a .png, .svg or .pdf file."""
    draw_spec(panels_spec(charts, PAPER, _PANEL if len(charts) > 1 else _ONE), target)


def draw_spec(spec: Spec, target: str) -> None:
    """Draw a specification of Vega-Lite into a .png, .svg or .pdf file."""
    import vl_convert

    kind = Path(target).suffix.lower()[1:]
    options: dict[str, Any] = {"scale": 3} if kind == "png" else {}
    convert: Callable[..., Any] = getattr(vl_convert, f"vegalite_to_{kind}")
    drawn = convert(spec, vl_version=VEGA_LITE, allowed_base_urls=[], **options)
    Path(target).write_bytes(drawn.encode() if isinstance(drawn, str) else drawn)
