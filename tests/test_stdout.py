"""stdout has the result alone; every command shows what it shows in any locale, and with streams that are closed."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished
from rich.console import Console
from rich.table import Table

from mpisqueeze import streams
from mpisqueeze.cli.app import run

SHORT = ("train", "--iterations", "3", "--out", "run")

NOISY = """
import atexit, ctypes, logging, os, sys, warnings

C, RANK = ctypes.CDLL(None), 0
print("noise: loading")
atexit.register(print, "noise: leaving")


class Noisy:
    dimension = 4

    def __init__(self, rank, size, seed, xp, dtype):
        self.x = xp.zeros(4, dtype)
        print("noise: Python", rank)
        print("noise: the stream of the beginning", rank, file=sys.__stdout__)
        C.printf(b"noise: C %d\\n", rank)
        C.fflush(None)
        C.printf(b"noise: held back by C %d\\n", rank)
        os.system(f"echo noise: child {rank}")
        warnings.warn("everyone warns")
        logging.getLogger("library").warning("everyone logs")
        if rank:
            warnings.warn("few warn")

    def initial_point(self):
        return self.x

    def gradient(self, x, iteration):
        return 0.0, x
"""


@pytest.mark.parametrize("ranks", [1, 3])
def test_stdout_has_the_result_alone(ranks: int, mpisqueeze_run: Callable[..., Finished], tmp_path: Path) -> None:
    """Whatever else is printed there goes to stderr, from every rank; warnings that all have are shown once."""
    (tmp_path / "noisy.py").write_text(NOISY)
    done = mpisqueeze_run(ranks, *SHORT, "--problem", "noisy.py:Noisy", "--json", "-", alone=True).well()
    assert done.json["status"] == "ok"
    said = sorted(re.findall("noise: .*", done.err))
    own = ("Python", "the stream of the beginning", "C", "held back by C", "child")
    everywhere = [f"noise: {what} {rank}" for what in own for rank in range(ranks)]
    assert said == sorted([*everywhere, *["noise: loading", "noise: leaving"] * ranks])
    assert [done.err.count(text) for text in ("UserWarning: everyone warns", "everyone logs")] == [1, 1]
    assert done.err.count("UserWarning: few warn") == (ranks > 1)
    assert ("rank 1 and others of 3: " in done.err) == (ranks > 1)


def test_a_table_is_a_result_too(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    command = [sys.executable, "-m", "mpisqueeze", *SHORT, "--problem", "noisy.py:Noisy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.count("noise")) == (0, 0)
    assert "run folder: run" in done.stdout


@pytest.mark.parametrize("name", streams.STDOUT_PATHS)
def test_stdout_by_its_path(name: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SHORT, "--problem", "quadratic:10", "--json", name]) == 0
    assert json.loads(capsys.readouterr().out)["iterations"] == 3


#: Commands whose output has signs of every kind; one locale gets them all, and the others these.
SOME = """
train --problem quadratic:30 --iterations 3 --out one --checkpoint-every 2
compare sgd doublesqueeze/onebit --problem quadratic:30 --iterations 3 --out both
report one both --plot terminal
info --topology ring -n 5 --dimension 100
predict -n 8 --dimension 1M --latency 20us --bandwidth 1gbit --compute 5ms
bench comm allreduce -m 1Ki --iterations 2 --markdown -
train --help
"""
EVERY = f"""{SOME.strip()}
train --problem quadratic:30 --iterations 3 --out two --algorithm choco --compressor topk:0.1
train --problem quadratic:30 --iterations 3 --dump-config
train --iterations 4 --resume one
report one
report one two both --csv -
report one two --markdown -
info
calibrate --quick --max-size 1Ki
predict -n 8 --dimension 1M --latency 20us --bandwidth 1gbit --compute 5ms --csv -
bench kernels onebit -m 1Ki --iterations 2
bench comm allreduce sharded -m 1Ki --iterations 2
check onebit
reproduce
data list
launch -n 2 --dry-run train
--help
predict --help
bench comm --help
lab --help
--version
"""
RUN_COMMANDS = """
import mmap, os, sys
from mpisqueeze.cli.app import run

# MPI's libraries are looked for among the mapped files.
open("\\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), "wb").write(b"x")
mapped = mmap.mmap(os.open(b"\\xc3\\xa9", os.O_RDONLY), 1, access=mmap.ACCESS_READ)
for line in sys.argv[1:]:
    code = run(line.split())
    sys.stderr.write(f"{code} {line}\\n")
"""


@pytest.mark.parametrize(
    ("locale", "encoding", "commands"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, "ascii", EVERY),
        pytest.param(
            {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii", EVERY, marks=pytest.mark.slow
        ),
        ({"PYTHONIOENCODING": "ascii:strict"}, "ascii", SOME),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1", SOME),
    ],
    ids=["C", "POSIX", "ascii", "latin-1"],
)
def test_every_command_in_every_locale(locale: dict[str, str], encoding: str, commands: str, tmp_path: Path) -> None:
    lines = commands.strip().splitlines()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    command = [sys.executable, "-c", RUN_COMMANDS, *lines]
    done = subprocess.run(command, env=environment | locale, cwd=tmp_path, capture_output=True, timeout=240)
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    codes = re.findall(r"^(\d+) (.*)$", err, re.MULTILINE)
    assert codes == [("0", line) for line in lines], err
    # Signs that other encodings have are spelled.
    assert "\\u" not in out + err
    assert "us |" in out if encoding == "ascii" else "µs |" in out
    assert "spectral gap 1 - rho" in out


CLOSED = ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """What would be shown is lost, and none of it gets into the files that are opened in their place."""
    (tmp_path / "noisy.py").write_text(NOISY)
    train = f"{sys.executable} -m mpisqueeze train --problem noisy.py:Noisy --iterations 3 --out run"
    done = subprocess.run(f"{train} {closed}", shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "run").glob("*.json*"):
        assert "noise" not in path.read_text()
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line)
    assert "noise" not in done.stdout
    assert ("run folder: run" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_an_error_without_stderr_stays_out_of_stdout(tmp_path: Path) -> None:
    command = f"{sys.executable} -m mpisqueeze train --lr nonsense 2>&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("12 µs × 3 — 5…", "12 us x 3 - 5..."),
        ("1 − ρ ≥ 10⁻³, ‖v‖²", "1 - rho >= 10^-3, ||v||^2"),
        ("λ⌈d/8⌉", "lambdaceil(d/8)"),
        ("│⠀⡠╭", "| .+"),
        ("é\udcff", "\\xe9\\udcff"),
    ],
)
def test_spelling(text: str, spelling: str) -> None:
    assert streams.spelled(text) == spelling
    assert text.encode("ascii", streams.SPELLED) == spelling.encode()


def test_what_an_encoding_has_stays() -> None:
    assert "2 µs × ρ…".encode("latin-1", streams.SPELLED) == "2 µs × rho...".encode("latin-1")


def test_columns_stay_in_line() -> None:
    """A sign that takes several characters takes them from the next wide gap of its line."""
    table = Table("a", "b", "c", box=None)
    table.add_row("1 − ρ…", "x", "µs")
    table.add_row("plain words", "y", "×3")
    wide, narrow = io.StringIO(), io.BytesIO()
    stream = streams._Results(narrow, "ascii", streams.SPELLED)
    Console(file=wide, width=40).print(table)
    Console(file=stream, width=40).print(table)
    stream.flush()
    lines = list(zip(wide.getvalue().splitlines(), narrow.getvalue().decode().splitlines(), strict=True))
    assert all(len(before) == len(after) for before, after in lines)
    assert [line.index("x") for line in lines[1]] == [line.index("y") for line in lines[2]]
    assert lines[1][1].split() == ["1", "-", "rho...", "x", "us"]
