"""The destination of rank 0's output: a terminal that takes colours and live updates, or a log that stays plain.

Under an MPI launcher the rank's own stdout says nothing: Open MPI gives each rank a pty of size 0x0 even when
the output lands in a file. What counts is the launcher's stdout.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.text import Text

from mpisqueeze.comm.launched import RANK_VARIABLES
from mpisqueeze.streams import STDERR, STDOUT, discard, harmless, results, results_descriptor

LOG_WIDTH = 100
_HEIGHT = 25

_LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prun", "orterun", "srun", "jsrun", "aprun")


@dataclass(frozen=True)
class TerminalChoice:
    """The way to write to the user.

    `color`: styles on stdout; `live`: cursor movement, as progress bars need; `width` and `height` in
    characters; `stderr_color`: styles on stderr, which may go elsewhere than stdout.
    """

    color: bool
    live: bool
    width: int
    height: int = _HEIGHT
    stderr_color: bool = False


def choose_terminal(color: Literal["auto", "always", "never"] = "auto", stdout_is_json: bool = False) -> TerminalChoice:
    """Decide, on rank 0, how to write to the user.

    `always` and `never` rule over the environment. With `auto`, NO_COLOR, then FORCE_COLOR, then TERM, batch
    systems and the true destination decide. Live updates need a terminal, whatever `color` says; so does every
    control sequence under `auto` without FORCE_COLOR. COLUMNS sets the width wherever the output goes.

    Args:
        stdout_is_json: stdout carries one JSON object and nothing else, so neither style nor live update.
    """
    capable = os.environ.get("TERM", "") not in ("", "dumb", "unknown") and not _in_batch()
    terminal = _terminal(STDOUT) if capable else None
    live = terminal is not None and not stdout_is_json
    return TerminalChoice(
        color=_wants_color(color, terminal is not None) and not stdout_is_json,
        live=live,
        width=_width(terminal),
        height=(terminal.lines if terminal else 0) or _HEIGHT,
        stderr_color=_wants_color(color, capable and _terminal(STDERR) is not None),
    )


class _Console(Console):
    """A console whose reader may leave: the command goes on, and writes its files."""

    def on_broken_pipe(self) -> None:
        discard(self.file)

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as rich does; what it shows may come from a file of somebody else's."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))

    def print(self, *objects: Any, soft_wrap: bool | None = None, **about: Any) -> None:
        """Print as rich does; with `soft_wrap` a line stays one in a log, and is broken at blanks alone on a terminal.

        A word that is longer than the terminal is wide is left for it to break, so that it can be copied whole.
        """
        if soft_wrap and self.is_terminal:
            texts = [Text(each) if isinstance(each, str) else each for each in objects]
            objects = tuple(each.copy() if isinstance(each, Text) else each for each in texts)
            for each in objects:
                if isinstance(each, Text):
                    each.plain = _at_blanks(each.plain, self.width)
        super().print(*objects, soft_wrap=soft_wrap, **about)


def make_console(choice: TerminalChoice, stderr: bool = False) -> Console:
    """A rich console that follows `choice` and decides nothing by itself; one on stderr is never live.

    What it prints is no markup, as it may hold names and paths of any kind.
    """
    color = choice.stderr_color if stderr else choice.color
    live = choice.live and not stderr
    rich_colors = "256color" in os.environ.get("TERM", "") or bool(os.environ.get("COLORTERM"))
    system: Literal["standard", "256"] = "256" if rich_colors else "standard"
    return _Console(
        file=sys.stderr if stderr else results(),
        color_system=system if color else None,
        no_color=not color,
        force_terminal=live,
        force_interactive=live,
        force_jupyter=False,
        legacy_windows=False,
        width=choice.width,
        height=choice.height,
        markup=False,
        emoji=False,
        highlight=False,
    )


def broken(text: str) -> str:
    """`text` for stderr: each line broken at blanks where stderr is a terminal, and whole elsewhere."""
    text = harmless(text)
    terminal = _terminal(STDERR)
    if terminal is None:
        return text
    return _at_blanks(text, _width(terminal))


def _at_blanks(text: str, width: int) -> str:
    """`text` with a line's end for a blank wherever a line would be wider; of the same length."""
    characters, start = list(text), 0
    for word in re.finditer(r"\S+", text):
        start = max(start, text.rfind("\n", 0, word.start()) + 1)
        if text[start : word.start()].strip() and cell_len(text[start : word.end()]) > width:
            start = word.start()
            characters[start - 1] = "\n"
    return "".join(characters)


def _wants_color(color: str, on_terminal: bool) -> bool:
    if color != "auto":
        return color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    force = os.environ.get("FORCE_COLOR")
    if force:
        return force not in ("0", "false")
    return on_terminal


def _width(terminal: os.terminal_size | None) -> int:
    """Characters of a line; 0, as that of some terminals, is unknown."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return int(columns)
    return (terminal.columns if terminal else 0) or LOG_WIDTH


def _in_batch() -> bool:
    """Within a batch job or continuous integration, but not in an interactive session of a batch system."""
    environment = os.environ
    if environment.get("CI", "").lower() not in ("", "0", "false") or "GITHUB_ACTIONS" in environment:
        return True
    if "SLURM_JOB_ID" in environment:
        # salloc names its job so; `srun --pty` leaves the port.
        return "SLURM_PTY_PORT" not in environment and environment.get("SLURM_JOB_NAME") != "interactive"
    if "PBS_JOBID" in environment:
        return environment.get("PBS_ENVIRONMENT") != "PBS_INTERACTIVE"
    return "LSB_JOBID" in environment and environment.get("LSB_INTERACTIVE") != "Y"


def _terminal(descriptor: int) -> os.terminal_size | None:
    """The terminal that really receives what goes to stdout (1) or stderr (2), or None."""
    told = os.environ.get("MPISQUEEZE_TERMINAL")
    if told and descriptor == STDOUT:
        columns, x, lines = told.partition("x")
        return os.terminal_size((int(columns), int(lines))) if x and columns.isdigit() and lines.isdigit() else None
    own = _tty_size(results_descriptor() if descriptor == STDOUT else descriptor)
    if own is not None and own.columns > 0:  # a pty that a launcher made for the rank has no size
        return own
    if not any(name in os.environ for name in RANK_VARIABLES):
        return own
    # None if the launcher runs on another host or is out of sight.
    starters = dropwhile(lambda ancestor: not ancestor[1].startswith(_LAUNCHERS), _ancestors())
    launcher, _ = next(starters, (None, ""))
    size = None if launcher is None else _tty_size_of_process(launcher, descriptor)
    if size is None and "MPISQUEEZE_LAUNCHED_RANKS" in os.environ:
        # `launch` reads what the launcher writes to stderr, and has the user's own.
        pid, _ = next(dropwhile(lambda ancestor: ancestor[1].startswith(_LAUNCHERS), starters), (None, ""))
        size = None if pid is None else _tty_size_of_process(pid, descriptor)
    return size


def _tty_size(descriptor: int) -> os.terminal_size | None:
    try:
        return os.get_terminal_size(descriptor)
    except OSError:
        return None


def _tty_size_of_process(pid: int, descriptor: int) -> os.terminal_size | None:
    path = f"/proc/{pid}/fd/{descriptor}"
    try:
        # The name is checked first because opening a pipe would make this process one of its readers.
        if not os.readlink(path).startswith(("/dev/pts/", "/dev/tty", "/dev/console")):
            return None
        tty = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _tty_size(tty)
    finally:
        os.close(tty)


def _ancestors() -> Iterator[tuple[int, str]]:
    """Process ids and names from the parent upwards, as far as /proc shows them."""
    pid = os.getppid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                text = stat.read().decode(errors="replace")
        except OSError:
            return
        # The name stands in parentheses and may contain some itself.
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        yield pid, name
        pid = int(rest[1])
