"""A drawing that a terminal shows below all other output while a command works, anew in place."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

#: Seconds between two drawings.
_INTERVAL = 0.2


class Drawing:
    """A drawing that changes in place a few times a second; where `live` is false, nothing."""

    def __init__(self, console: Console, live: bool) -> None:
        # No thread draws, which would take its time from what is measured.
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._drawn = 0.0

    def __bool__(self) -> bool:
        return self._live is not None

    def show(self, drawn: Callable[[], RenderableType], now: bool = False) -> None:
        """Show what `drawn` makes, unless the last drawing is recent and `now` is false."""
        if self._live and (now or time.monotonic() - self._drawn > _INTERVAL):
            self._live.start()
            self._drawn = time.monotonic()
            # Open MPI's launcher forwards nothing but whole lines, so that the last one has to be empty.
            self._live.update(Group(drawn(), Text("")), refresh=True)

    def close(self) -> None:
        """Take the drawing away."""
        if self._live:
            self._live.stop()


def bar(done: float, total: float, *texts: str | Text) -> Table:
    """A progress bar with texts behind it, as wide as the terminal."""
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, overflow="ellipsis")
    words = Text("  ").join(Text(text) if isinstance(text, str) else text for text in texts if text)
    row.add_row(ProgressBar(total=total, completed=done), words)
    return row
