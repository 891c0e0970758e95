"""`data`: a bar for each file that travels, or lines in a log; the table of what can be had."""

from __future__ import annotations

import time
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpisqueeze.data.published import DownloadWatcher, File
from mpisqueeze.quantities import clock, counted, size
from mpisqueeze.report.live import Drawing, bar
from mpisqueeze.report.tables import TableColumn, filled

#: In a log, seconds between two lines about the same file.
LOG_SECONDS = 10.0


class DownloadView(DownloadWatcher):
    """Writes to `console`; `live` draws a bar that updates in place."""

    def __init__(self, console: Console, live: bool) -> None:
        self.console = console
        self._drawing = Drawing(console, live)
        self._file: File | None = None
        self._resumed = self._have = 0
        self._began = self._said = 0.0

    def start(self, file: File, url: str, have: int) -> None:
        self._file, self._resumed, self._have = file, have, have
        self._began = self._said = time.monotonic()
        resumed = f", the first {size(have)} of it there" if have else ""
        self._print(f"{file.name}  {size(file.size)} from {urlsplit(url).hostname}{resumed}")

    def advance(self, count: int) -> None:
        self._have += count
        file, now = self._file, time.monotonic()
        if not file:
            return
        come = f"{size(self._have)} of {size(file.size)}"
        rate = (self._have - self._resumed) / max(now - self._began, 1e-6)
        left = clock((file.size - self._have) / rate) if rate else ""
        self._drawing.show(lambda: bar(self._have, file.size, Text(come, "green"), f"{size(rate)}/s", left))
        if not self._drawing and now - self._said > LOG_SECONDS:
            self._said = now
            self._print(f"{file.name}  {come}")

    def note(self, text: str) -> None:
        self._print(text, "yellow")

    def done(self, name: str, folder: Path, files: int, received: int) -> None:
        """A data set is complete."""
        self.close()
        how = f"{size(received)} downloaded" if received else "there already"
        self._print(f"{name}: {how}; {counted(files, 'file')} in {folder}, SHA-256 right", "green")

    def close(self) -> None:
        """Take the bar away."""
        self._drawing.close()

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)


def listing(rows: list[dict[str, Any]], root: Path) -> Table:
    """The data sets that can be downloaded, and how much of each is there."""

    def there(row: dict[str, Any]) -> Text:
        present, files = row["files_present"], row["files"]
        some = f"{present} of {files} files" if present else "no"
        return Text("yes", "green") if present == files else Text(some, "dim")

    columns = [
        TableColumn("name", itemgetter("name"), left=True, style="bold"),
        TableColumn("what", itemgetter("summary"), left=True, folds=True),
        TableColumn("download", lambda row: size(row["download_bytes"])),
        TableColumn("there", there, left=True),
    ]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=f"in {root.absolute()}", caption_justify="left")
    return filled(table, columns, rows)
