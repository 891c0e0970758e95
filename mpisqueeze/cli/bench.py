"""The options that both benchmarks have."""

from __future__ import annotations

from typing import Annotated

import typer

from mpisqueeze.errors import UsageError
from mpisqueeze.settings import RUN

SizesOption = Annotated[
    str,
    typer.Option(
        "-m",
        "--sizes",
        help="Elements of a vector: one size, or a range, each 4 times the one before.",
        metavar="MIN:MAX",
        rich_help_panel=RUN,
    ),
]
IterationsOption = Annotated[
    str | None,
    typer.Option(
        "-i",
        "--iterations",
        help="Timed repetitions. Default: 20 of large sizes, up to 200 of small ones.",
        metavar="COUNT",
        rich_help_panel=RUN,
    ),
]
WarmupOption = Annotated[
    int, typer.Option("-x", "--warmup", help="Repetitions before them, not timed.", rich_help_panel=RUN)
]
CheckOption = Annotated[
    str,
    typer.Option(
        "-c", "--check", help="Compare results with the reference, to the bit.", metavar="on|off", rich_help_panel=RUN
    ),
]


def is_on(text: str) -> bool:
    """The value of --check. Raises UsageError."""
    known = {"on": True, "1": True, "off": False, "0": False}
    if text not in known:
        raise UsageError(f"{text!r} is neither on nor off", "-c")
    return known[text]
