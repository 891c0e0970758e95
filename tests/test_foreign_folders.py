"""Somebody else's run folder: what its texts and links cannot do to whoever reads it or goes on with it."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import edit, write_run

from mpisqueeze.cli.app import run
from mpisqueeze.errors import UsageError
from mpisqueeze.files import LONGEST, read_toml
from mpisqueeze.streams import harmless

pytestmark = pytest.mark.usefixtures("empty_folder")

#: A title for the terminal, colours in both alphabets, a formula, a page's script, a link, LaTeX, and a turned order.
POISON = "=\x1b]0;x\x07\x1b[31m\x9b32m|<script>alert(1)</script>[a](javascript:x)\\input{x}\u202e\r\x7f\u2028$x$"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def strings(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all texts in a JSON value."""
    if isinstance(value, str):
        yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from strings(inner, (*at, key))


def poisoned(value: Any, at: tuple[Any, ...]) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = POISON
    return copy


def write_comparison(path: Path) -> Path:
    for name in ("sgd", "qsgd"):
        write_run(path / name, [3.0, 2.0, 1.0], algorithm=name if name == "sgd" else "csgd", compressor="qsgd:4")
    runs = [{"name": name, "folder": name, "pair": name} for name in ("sgd", "qsgd")]
    summaries = [{**json.loads((path / "sgd" / "summary.json").read_text()), "name": "gone", "reason": "why"}]
    about = {"runs": [*runs, {"name": "gone", "folder": "gone"}], "summaries": summaries, "given_target": None}
    (path / "compare.json").write_text(json.dumps(about))
    return path


def report(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """The exit code of `report`, and all that it writes."""
    files = {name: Path(name) for name in ("csv", "markdown", "latex")}
    for file in files.values():
        file.unlink(missing_ok=True)
    code = run(["report", str(path), "--color", "never", *(word for name in files for word in (f"--{name}", name))])
    out, err = capsys.readouterr()
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.exists()}
    return code, {"out": out, "err": err, **texts}


FILES = ("compare.json", "sgd/config.json", "sgd/environment.json", "sgd/summary.json")


@pytest.mark.parametrize("file", FILES)
def test_no_text_of_any_file_acts_on_a_terminal_a_spreadsheet_or_a_page(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_comparison(tmp_path / "theirs")
    sound = json.loads((path / file).read_text())
    shown = 0
    for at in strings(sound):
        (path / file).write_text(json.dumps(poisoned(sound, at)))
        code, texts = report(path, capsys)
        assert code in (0, 2), at
        assert "Traceback" not in texts["err"], (at, texts["err"])
        for name, text in texts.items():
            assert not ACTS.search(text), (file, at, name)
            shown += "]0;x" in text
        assert "<script>" not in texts.get("markdown", ""), at
        assert "[a](" not in texts.get("markdown", ""), at
        lines = [line for line in texts.get("latex", "").splitlines() if not line.startswith("%")]
        assert not any("\\input" in line or "\\x1b" in line for line in lines), at
        for row in csv.reader(texts.get("csv", "").splitlines()):
            assert not any(cell.startswith("=") for cell in row), at
    # The environment's texts are for pages only.
    assert shown or file == "sgd/environment.json"


def test_what_is_harmless_stays() -> None:
    for text in ("doublesqueeze/onebit", "γ = 0.1 × ½\n\tnext — “x”", "✓ 日本語 🙂"):
        assert harmless(text) == text
    assert harmless("a\x1b[31m\x9b\u202e") == "a\\x1b[31m\\x9b\\u202e"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run([*arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", ["config.json", "iterations.jsonl", "summary.json", "evaluations.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_files_of_a_run_are_files(name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link would read what is elsewhere; nobody may ever write to a pipe."""
    path = write_run(tmp_path / "theirs", [2.0, 1.0])
    (path / name).rename(tmp_path / "elsewhere")
    if kind == "link":
        (path / name).symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path / name)
    # A pipe is no file by which a folder would be known as a run's.
    expected = "is a symbolic link" if kind == "link" else "is no"
    assert expected in refused(capsys, "report", str(path))


@pytest.mark.parametrize(
    "leave",
    [
        lambda path: edit_folder(path, str(path.parent / "secret")),
        lambda path: edit_folder(path, "../secret"),
        lambda path: edit_folder(path, "sgd/../../secret"),
        lambda path: (path / "sgd" / "in").symlink_to(path.parent) or edit_folder(path, "sgd/in/secret"),
    ],
)
def test_a_comparison_reads_its_own_runs_only(
    leave: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "secret", [2.0, 1.0])
    path = write_comparison(tmp_path / "theirs")
    leave(path)
    assert "outside of it" in refused(capsys, "report", str(path))


def edit_folder(path: Path, folder: str) -> None:
    edit(path / "compare.json", runs=[{"name": "sgd", "folder": folder}])


@pytest.mark.parametrize("name", ["iterations.jsonl", "checkpoint", "summary.json.part", "checkpoint/00000003/x"])
def test_a_run_that_goes_on_writes_nothing_through_links(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--problem", "quadratic:5", "--iterations", "3", "--checkpoint-every", "3", "--out", "theirs")
    assert run(["train", *options]) == 0
    capsys.readouterr()
    link = tmp_path / "theirs" / name
    if link.exists():
        link.rename(tmp_path / "moved")
    target = tmp_path / "target"
    target.write_text("mine")
    link.symlink_to(target)
    line = refused(capsys, "train", "--resume", "theirs", "--iterations", "6")
    assert "--resume" in line
    assert "is a symbolic link" in line
    assert target.read_text() == "mine"


def test_a_new_run_writes_nothing_through_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("config.json.part", "holder.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).symlink_to(tmp_path / "mine")
        line = refused(capsys, "train", "--problem", "quadratic:5", "--iterations", "1", "--out", str(folder))
        assert "is a symbolic link" in line
    assert (tmp_path / "mine").read_text() == "mine"


def test_toml_is_bounded_before_it_is_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name of n parts takes memory by n²: 60 000 took 14 GB."""
    file = tmp_path / "long.toml"
    for text, says in (
        (f"{'.'.join('a' * 60_000)} = 1", "at most 65536 characters"),
        (f"{'.'.join('a' * 20_000)} = 1", "and 4096 a line"),
        (f"x = {'[' * 4000}", "is not TOML"),
        ("x" * (LONGEST + 1), "is too long"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=says):
            read_toml(file, "--config")
        assert says in refused(capsys, "train", "--config", str(file))
    file.write_text("\n".join(f"{'.'.join('a' * 2000)}.k{i} = {i}" for i in range(16)))
    assert len(read_toml(file, "--config")) == 1


def test_python_m_loads_nothing_else_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("numpy", "typer", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    package = str(Path(sys.modules["mpisqueeze"].__file__ or "").parents[1])
    command = [sys.executable, "-m", "mpisqueeze", "--version"]
    environment = {**os.environ, "PYTHONPATH": package}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("mpisqueeze ")
