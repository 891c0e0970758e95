"""The output of a command: a screen that takes colours and live updates or not, files, or stdout alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mpisqueeze.comm.launched import launched_rank
from mpisqueeze.errors import UsageError
from mpisqueeze.language import check_choice
from mpisqueeze.streams import STDOUT_PATHS

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType

    from mpisqueeze.report.tables import TableColumn
    from mpisqueeze.report.terminal import TerminalChoice

COLORS = ("auto", "always", "never")
#: `--plot` draws here for this, in place of a file.
TERMINAL = "terminal"


class Output:
    """The output options of a command. On ranks other than 0 nothing is shown or written.

    Args:
        color: one of COLORS; None: the first.
        targets: a file, `-` for stdout or None, by option without its dashes: json, csv, markdown, latex, html, plot.
    """

    def __init__(self, color: str | None, targets: Mapping[str, str | None]) -> None:
        self.color = COLORS[0] if color is None else color
        self.targets = {
            name: "-" if target in STDOUT_PATHS else os.path.expanduser(target)
            for name, target in targets.items()
            if target is not None
        }

    def check(self) -> None:
        """Raise UsageError, before there are results, where one cannot be written or two want stdout."""
        check_choice("--color", self.color, COLORS)
        if len(self._on_stdout) > 1:
            first, second, *_ = self._on_stdout
            raise UsageError(f"--{first} takes stdout already; write one of them to a file", f"--{second}")
        for name, target in self.targets.items():
            if name not in self._on_stdout and (name, target) != ("plot", TERMINAL):
                check_file(f"--{name}", target)
        if self.targets.get("plot", TERMINAL) != TERMINAL:
            from mpisqueeze.report.plot import check_plot

            check_plot(self.targets["plot"])
        if "html" in self.targets:
            from mpisqueeze.report.html.page import check_page

            check_page()

    @property
    def _on_stdout(self) -> list[str]:
        return [name for name, target in self.targets.items() if target == "-" and name != "plot"]

    @property
    def alone(self) -> bool:
        """A result takes stdout, where nothing else may then be written."""
        return bool(self._on_stdout)

    @property
    def speaks(self) -> bool:
        """This process is rank 0, or no rank."""
        return not launched_rank()

    @cached_property
    def _terminal(self) -> TerminalChoice:
        from mpisqueeze.report.terminal import choose_terminal

        return choose_terminal(self.color, stdout_is_json=self.alone)  # type: ignore[arg-type]

    @cached_property
    def console(self) -> Console:
        """On stdout, or on stderr where a result takes stdout."""
        from mpisqueeze.report.terminal import make_console

        return make_console(self._terminal, stderr=self.alone)

    @property
    def live(self) -> bool:
        """Views may draw over what they have drawn."""
        return self._terminal.live and self.speaks

    def print(self, *shown: RenderableType, **style: Any) -> None:
        """Print to the console, as rich does."""
        if self.speaks:
            self.console.print(*shown, **style)

    def remark(self, text: str) -> None:
        """Print a line that says where something is."""
        self.print(text, style="dim", soft_wrap=True)

    def folder(self, kind: str, path: Path) -> None:
        """Say where the folder of a result is."""
        self.remark(f"{kind}: {path}")

    def write(self, name: str, write: Callable[[str], object]) -> None:
        """Have `write` write to the target of this option, if it was given."""
        if self.speaks and name in self.targets:
            try:
                write(self.targets[name])
            except IsADirectoryError:
                # The command made it meanwhile, as its run folder.
                raise UsageError(f"{self.targets[name]} cannot be written: Is a directory", f"--{name}") from None

    def json(self, value: Any) -> None:
        """Write what --json asks for."""
        from mpisqueeze.report.json_export import write_json

        self.write("json", lambda target: write_json(value, target))

    def csv(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what --csv asks for."""
        from mpisqueeze.report.csv_export import write_csv

        self.write("csv", lambda target: write_csv(rows, target))

    def table(self, columns: Sequence[TableColumn], rows: Sequence[Any], notes: Sequence[str]) -> None:
        """Write what --markdown and --latex ask for."""
        from mpisqueeze.report.latex_export import write_latex
        from mpisqueeze.report.markdown_export import write_markdown

        self.write("markdown", lambda target: write_markdown(columns, rows, notes, target))
        self.write("latex", lambda target: write_latex(columns, rows, notes, target))


def check_file(option: str, path: str) -> None:
    """Raise UsageError unless a file of this name can be written, or made."""
    folder = os.path.dirname(os.path.realpath(path))
    writable = bool(path) and os.path.isdir(folder) and os.access(folder, os.W_OK)
    try:
        os.stat(path)
        writable = writable and not os.path.isdir(path) and os.access(path, os.W_OK)
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        writable = False
    if not writable:
        raise UsageError(f"{path or repr(path)} cannot be written", option)
