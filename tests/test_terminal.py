"""Colours and live updates reach terminals, and nothing else unless the user insists."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Literal

import pytest
from rich.table import Table

import mpisqueeze
from mpisqueeze.errors import UsageError
from mpisqueeze.launch import find_launcher, make_plan
from mpisqueeze.report import terminal
from mpisqueeze.report.terminal import TerminalChoice, choose_terminal, make_console

_CLEARED = ("SLURM_", "PBS_", "LSB_", "OMPI_", "PMI", "MPISQUEEZE_", "GITHUB_", "CI", "MV2_", "MPI_")
_ALSO_CLEARED = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "COLORTERM")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_CLEARED) or name in _ALSO_CLEARED:
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("setting", "color", "expected"),
    [
        ({}, "auto", (True, True, 132, 43)),
        ({"MPISQUEEZE_TERMINAL": "none"}, "auto", (False, False, 100, 25)),
        ({"MPISQUEEZE_TERMINAL": "0x0"}, "auto", (True, True, 100, 25)),
        # Terminals that take nothing, and batch jobs.
        *(
            ({name: value}, "auto", (False, False, 100, 25))
            for name, value in (
                ("TERM", "dumb"), ("TERM", ""), ("CI", "true"), ("GITHUB_ACTIONS", "true"), ("SLURM_JOB_ID", "7"),
                ("PBS_JOBID", "7"), ("LSB_JOBID", "7"),
            )
        ),
        ({"TERM": "dumb"}, "always", (True, False, 100, 25)),
        # Interactive sessions of batch systems.
        ({"SLURM_JOB_ID": "7", "SLURM_PTY_PORT": "1234"}, "auto", (True, True, 132, 43)),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"}, "auto", (True, True, 132, 43)),
        ({"PBS_JOBID": "7", "PBS_ENVIRONMENT": "PBS_INTERACTIVE"}, "auto", (True, True, 132, 43)),
        ({"LSB_JOBID": "7", "LSB_INTERACTIVE": "Y"}, "auto", (True, True, 132, 43)),
        ({"CI": "false"}, "auto", (True, True, 132, 43)),
        # The option rules over the environment, and NO_COLOR over FORCE_COLOR.
        ({"NO_COLOR": "1"}, "auto", (False, True, 132, 43)),
        ({"NO_COLOR": "1"}, "always", (True, True, 132, 43)),
        ({"FORCE_COLOR": "1"}, "never", (False, True, 132, 43)),
        ({"FORCE_COLOR": "1", "MPISQUEEZE_TERMINAL": "none"}, "auto", (True, False, 100, 25)),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1", "MPISQUEEZE_TERMINAL": "none"}, "auto", (False, False, 100, 25)),
        *(
            ({"COLUMNS": text}, "auto", (True, True, width, 43))
            for text, width in (("77", 77), ("200", 200), ("0", 132), ("wide", 132), ("", 132))
        ),
    ],
)  # fmt: skip
def test_a_terminal_gets_what_it_takes_and_a_log_nothing(
    setting: dict[str, str],
    color: Literal["auto", "always", "never"],
    expected: tuple[bool, bool, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"MPISQUEEZE_TERMINAL": "132x43", **setting}.items():
        monkeypatch.setenv(name, value)
    choice = choose_terminal(color)
    assert (choice.color, choice.live, choice.width, choice.height) == expected
    plain = choose_terminal(color, stdout_is_json=True)
    assert (plain.color, plain.live) == (False, False)


def test_a_launcher_out_of_sight_counts_as_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setattr(terminal, "_tty_size", lambda _: os.terminal_size((0, 0)))
    monkeypatch.setattr(terminal, "_ancestors", lambda: iter([(5, "prted"), (2, "sshd")]))
    assert not choose_terminal().live
    monkeypatch.delenv("OMPI_COMM_WORLD_RANK")
    assert choose_terminal().live


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("live", [True, False])
def test_consoles_obey(
    color: bool, live: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What rich would listen to if it were left to decide.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("COLUMNS", "31")
    console = make_console(TerminalChoice(color=color, live=live, width=90))
    assert (console.is_terminal, console.is_interactive, console.width) == (live, live, 90)
    table = Table("a", title="b", expand=True)
    console.print(table)
    console.print("text", style="bold red")
    output = capsys.readouterr().out
    assert ("\x1b[" in output) is color
    assert max(map(len, output.splitlines())) <= 90 or color
    with console.status("busy"):
        pass
    assert ("\x1b[?25l" in capsys.readouterr().out) is live


def test_stderr_has_a_destination_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    choice = TerminalChoice(color=True, live=True, width=90, stderr_color=False)
    console = make_console(choice, stderr=True)
    console.print("wrong [/]", style="red")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "wrong [/]\n")
    assert not console.is_interactive


PROBE = """
import json, os
from mpisqueeze.report.terminal import choose_terminal
choice = choose_terminal()
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or "0"
if rank == "0":
    print(json.dumps([choice.color, choice.live, choice.width, choice.height, choice.stderr_color]), flush=True)
"""


def in_terminal(command: list[str], stderr: int | None = None) -> str:
    """What `command` writes to a terminal of 117 by 33 characters."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 33, 117, 0, 0))
    try:
        process = subprocess.Popen(
            command, env=probe_environment(), stdin=subprocess.DEVNULL, stdout=follower, stderr=stderr or follower
        )
        assert process.wait(timeout=60) == 0
        return os.read(leader, 65536).decode()
    finally:
        os.close(leader)
        os.close(follower)


def probe_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(mpisqueeze.__file__).parents[1])}


def launched() -> list[str]:
    """The probe under this machine's MPI launcher, without what `launch` says of the terminal."""
    try:
        launcher = find_launcher()
    except UsageError as error:
        pytest.skip(str(error))
    plan = make_plan(launcher, 2, [sys.executable, "-c", PROBE], os.environ)
    settings = {name: value for name, value in plan.settings.items() if name != "MPISQUEEZE_TERMINAL"}
    return ["env", *(f"{name}={value}" for name, value in settings.items()), *plan.arguments]


def test_alone_in_a_terminal() -> None:
    assert json.loads(in_terminal([sys.executable, "-c", PROBE])) == [True, True, 117, 33, True]


def test_alone_into_a_file() -> None:
    command = [sys.executable, "-c", PROBE]
    output = subprocess.run(command, env=probe_environment(), capture_output=True, check=True, timeout=20).stdout
    assert json.loads(output) == [False, False, 100, 25, False]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_under_a_launcher_in_a_terminal() -> None:
    assert json.loads(in_terminal(launched())) == [True, True, 117, 33, True]
    assert json.loads(in_terminal(launched(), stderr=subprocess.DEVNULL)) == [True, True, 117, 33, False]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_under_a_launcher_into_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # Through a terminal's shell, where only the file tells the two apart.
    assert in_terminal(["sh", "-c", f"{shlex.join(launched())} > {shlex.quote(str(log))}; echo done"]) == "done\r\n"
    assert json.loads(log.read_text()) == [False, False, 100, 25, True]
