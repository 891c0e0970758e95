"""A drawing that a terminal shows below all other output while a command works, anew in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

#: Seconds between two drawings.
_INTERVAL = 0.2
#: Characters of a progress bar at least; texts that leave it fewer go below it.
_BAR = 24


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


def bar(done: float, total: float, *texts: str | Text) -> _Bar:
    """A progress bar with texts behind it, as wide as the terminal; those for which that is too narrow are below."""
    return _Bar(done, total, [Text(text) if isinstance(text, str) else text for text in texts if text])


@dataclass(frozen=True)
class _Bar:
    done: float
    total: float
    texts: list[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        lines = [self.texts]
        if _joined(self.texts).cell_len + 1 + _BAR > options.max_width:
            lines = [self.texts[:1], []]
            for text in self.texts[1:]:
                if _joined([*lines[-1], text]).cell_len > options.max_width:
                    lines.append([])
                lines[-1].append(text)
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        row.add_row(ProgressBar(total=self.total, completed=self.done), _joined(lines[0]))
        yield row
        yield from (_joined(line) for line in lines[1:] if line)


def _joined(texts: list[Text]) -> Text:
    return Text("  ").join(texts)
