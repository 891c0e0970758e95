"""`data`: a bar for each file that travels, or lines in a log; the table of what can be had."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from mpisqueeze.data.published import DownloadWatcher, File
from mpisqueeze.quantities import counted, size
from mpisqueeze.report.training_view import LineProgress

#: In a log, seconds between two lines about the same file.
LOG_SECONDS = 10.0


class DownloadView(DownloadWatcher):
    """Writes to `console`; `live` draws a bar that updates in place."""

    def __init__(self, console: Console, live: bool) -> None:
        self.console, self._live = console, live
        self._bar: Progress | None = None
        self._file: File | None = None
        self._have, self._said = 0, 0.0

    def start(self, file: File, url: str, have: int) -> None:
        self._file, self._have, self._said = file, have, time.monotonic()
        resumed = f", the first {size(have)} of it there" if have else ""
        self._print(f"{file.name}  {size(file.size)} from {urlsplit(url).hostname}{resumed}")
        if not self._live:
            return
        self.close()
        self._bar = LineProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=5,
        )
        self._task = self._bar.add_task(file.name, total=file.size, completed=have)
        self._bar.start()

    def advance(self, count: int) -> None:
        self._have += count
        if self._bar:
            self._bar.update(self._task, completed=self._have)
        elif self._file and time.monotonic() - self._said > LOG_SECONDS:
            self._said = time.monotonic()
            self._print(f"{self._file.name}  {size(self._have)} of {size(self._file.size)}")

    def note(self, text: str) -> None:
        self._print(text, "yellow")

    def done(self, name: str, folder: Path, files: int, received: int) -> None:
        """A data set is complete."""
        self.close()
        how = f"{size(received)} downloaded" if received else "there already"
        self._print(f"{name}: {how}; {counted(files, 'file')} in {folder}, SHA-256 right", "green")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)


def listing(rows: list[dict[str, Any]], root: Path) -> Table:
    """The data sets that can be downloaded, and how much of each is there."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=f"in {root.absolute()}", caption_justify="left")
    for title in ("name", "what", "download", "there"):
        table.add_column(title, justify="right" if title == "download" else "left")
    for row in rows:
        there, files = row["files_present"], row["files"]
        state = Text("yes", "green") if there == files else Text(f"{there} of {files} files" if there else "no", "dim")
        table.add_row(Text(row["name"], "bold"), row["summary"], size(row["download_bytes"]), state)
    return table
