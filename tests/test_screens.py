"""Screens of every width: no number is cut, no word is broken, and what is shown says what it is."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text
from test_report import edit, write_run

from mpisqueeze.analysis.columns import SORTS
from mpisqueeze.analysis.differences import differences, emulated
from mpisqueeze.analysis.ranking import rank_runs
from mpisqueeze.cli.app import run
from mpisqueeze.record.reading import RunLog, read_run
from mpisqueeze.report import bench_view, compare_view, live, terminal
from mpisqueeze.report.comparison_table import notes
from mpisqueeze.report.tables import Fitting, TableColumn
from mpisqueeze.report.terminal import TerminalChoice, make_console
from mpisqueeze.runs.pairs import expand, parse_pair, parse_sweep
from mpisqueeze.settings import Settings

pytestmark = pytest.mark.usefixtures("empty_folder")
WIDTHS = (80, 120, 200)
COMMANDS = (
    "", "train", "compare", "reproduce", "report", "calibrate", "predict", "info", "check", "launch", "lab", "bench",
    "bench kernels", "bench comm", "data", "data get", "data list",
)  # fmt: skip


def shown(what: Any, width: int, on_terminal: bool = True, **about: Any) -> list[str]:
    """The lines that a console of this width gets, without the blanks that end them."""
    console = make_console(TerminalChoice(color=False, live=on_terminal, width=width))
    console.file = io.StringIO()
    console.print(what, **about)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def words(lines: list[str]) -> set[str]:
    return set(re.findall(r"[^\s│╭╮╰╯─]+", " ".join(lines)))


@pytest.mark.parametrize("width", [44, 60, *WIDTHS])
def test_a_table_that_is_too_wide_is_parted_and_not_cut(width: int) -> None:
    rows = [{"name": name, "key": key} for key, name in enumerate(["sgd seed=1", "doublesqueeze/onebit seed=2", "é"])]

    def figure(part: str, index: int, joined: bool) -> TableColumn:
        cell = (lambda row: f"{row['key']}{index}×") if joined else (lambda row: f"{part}{row['key']}{index}000 MB")
        return TableColumn("×" if joined else f"column {part}{index}", cell, part=part, joined=joined)

    figures = [figure(part, index, joined) for part in "ab" for index in range(4) for joined in (False, True)]
    columns = [TableColumn("method", lambda row: row["name"], 20, left=True, folds=True), *figures]
    lines = shown(Fitting(columns, rows), width)
    assert max(map(len, lines)) <= width
    missing = {word for column in columns for row in rows for word in str(column.cell(row)).split()} - words(lines)
    assert not missing
    # A factor stands beside its figure, and each table names its rows.
    heads = [line for line in lines if "method" in line]
    assert all(head.split()[1] == "column" for head in heads)
    assert sum(head.count("column") for head in heads) == sum(head.count("×") for head in heads) == 8
    assert sum(line.lstrip().startswith("é") for line in lines) == len(heads)
    assert (len(heads) == 1) == (width == 200)


@pytest.mark.parametrize("width", [50, 60, 100, *WIDTHS])
def test_a_progress_bar_keeps_its_width_and_its_numbers(width: int) -> None:
    texts = ["1500/1500", "loss 0.00409", "test_loss 0.0686", "test_accuracy 0.981", "2.33 MB sent", "7.95 ms/it"]
    lines = shown(live.bar(700, 1500, *texts, Text("ETA 0:12")), width)
    assert max(map(len, lines)) <= width
    assert lines[0].index(texts[0]) >= 24, "the bar is before it"
    assert all(any(text in line for line in lines) for text in [*texts, "ETA 0:12"])
    assert len(lines) == 1 if width == 200 else len(lines) > 1


def test_lines_are_broken_at_blanks_on_a_terminal_and_left_whole_in_a_log() -> None:
    path = "/a/very/long/path" * 6
    text = f"warning: the samples of a rank are fewer than its batch, and {path} is longer than the terminal is wide"
    lines = shown(Text(text), 80, soft_wrap=True)
    assert " ".join(lines) == text
    assert all(len(line) <= 80 or line == path for line in lines)
    assert shown(Text(text), 80, on_terminal=False, soft_wrap=True) == [text]


def test_errors_are_broken_at_blanks_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "mpisqueeze: error: --link: '1gbit': it accepts latency=TIME,bandwidth=RATE[,gap=TIME], e.g. latency=5ms\nTry"
    )
    monkeypatch.delenv("COLUMNS", raising=False)
    for terminal_size, most in ((SimpleNamespace(columns=60, lines=20), 60), (None, len(text))):
        monkeypatch.setattr(terminal, "_terminal", lambda _, size=terminal_size: size)
        lines = terminal.broken(text).split("\n")
        assert max(map(len, lines)) <= most
        assert " ".join(lines) == text.replace("\n", " ")
        assert lines[-1] == "Try"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_no_types_and_cuts_no_word(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for width in (400, 80):
        monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
        assert run([*command.split(), "--help"]) == 0
        found.append(words(capsys.readouterr().out.splitlines()))
    wide, narrow = found
    assert not {word for word in wide if re.fullmatch(r"<(bool|int|str|path|float|list.*)>(\.\.\.)?", word)}
    assert not wide - narrow


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_a_comparison_that_runs_cuts_nothing(width: int) -> None:
    sweeps = [parse_sweep("warmup=1,2"), parse_sweep("lr=0.1,0.3")]
    entries = expand([parse_pair("sgd"), parse_pair("doublesqueeze/onebit")], sweeps, Settings())
    console = make_console(TerminalChoice(color=False, live=False, width=width))
    view = compare_view.CompareView(console, False, entries, "folder", lambda: None)
    view._planned, view._row.state = 12000, "interrupted"
    empty = shown(view._table(), width)
    view.evaluation({"iteration": 3, "epoch": 1.0, "test_accuracy": 0.975})
    row = view._row
    row.iterations, row.loss, row.sent, row.pace = "11999/12000", "0.000123", "123 MB", "0.0123"
    lines = shown(view._table(), width)
    assert max(map(len, lines)) <= width
    known = {"interrupted", "11999/12000", "0.000123", "0.975", "doublesqueeze/onebit", "acc"}
    assert known | ({"123", "MB", "0.0123"} if width > 80 else set()) <= words(lines)
    # Columns do not come and go with their first figures.
    assert len(empty[0].replace("test", "test acc").split()) == len(lines[0].split())


def header_of(pairs: list[str], sweeps: list[str], link: str = "") -> str:
    entries = expand([parse_pair(pair) for pair in pairs], [parse_sweep(sweep) for sweep in sweeps], Settings())
    plan = replace(entries[0].plan, config=replace(entries[0].plan.config, link=link or None))
    made = SimpleNamespace(
        plan=plan, dimension=9610, world=SimpleNamespace(size=2), device=SimpleNamespace(label="CPU", buffers="HOST")
    )
    environment = {
        "mpi_library": "Open MPI", "ranks": 2, "hosts": [{"cpu_quota": None}],
        "kernels": "native", "link": "emulated" if link else "real",
    }  # fmt: skip
    return " ".join(shown(compare_view.header(made, environment, entries, "folder"), 120))  # type: ignore[arg-type]


def test_the_header_of_a_comparison_tells_of_its_link_and_of_what_it_sweeps() -> None:
    plain = header_of(["sgd", "dpsgd"], [])
    assert "same start, data order and seed 1" in plain
    assert "sweep" not in plain
    assert "link" not in plain
    swept = header_of(["sgd"], ["momentum=0,0.9", "lr=0.1,0.3"], "latency=1ms,bandwidth=1gbit")
    assert "momentum = 0 or 0.9" in swept
    assert "lr = 0.1 or 0.3" in swept
    assert "emulated: latency=1ms,bandwidth=1gbit" in swept
    assert "the first run's" not in swept
    assert "the first run's" in header_of(["sgd"], ["problem=mlp:8,mlp:16"])


def logged(name: str, losses: list[float], link: str = "", about: dict[str, Any] | None = None, **kind: Any) -> RunLog:
    write_run(Path(name), list(losses), **kind)
    edit(Path(name, "config.json"), **(about or {}), link=link or None)
    edit(Path(name, "environment.json"), link="emulated" if link else "real")
    return read_run(Path(name), name)


def test_runs_without_a_common_measure_are_told_apart() -> None:
    link = "latency=1ms,bandwidth=1gbit"
    runs = [logged("a", [3.0, 2.0]), logged("b", [3.0, 1.0])]
    assert differences(runs) == []
    assert differences(runs[:1]) == []
    assert emulated(runs) == ""
    others = {
        "problem (mlp of a and 1 more; logistic of c)": logged("c", [3.0, 2.0], about={"problem": "logistic"}),
        "d (10 of a and 1 more; 20 of d)": logged("d", [3.0, 2.0], about={"dimension": 20}),
        "ranks (2 of a and 1 more; 4 of e)": logged("e", [3.0, 2.0], about={"ranks": 4}),
        f"link (shared memory of one host of a and 1 more; emulated, {link} of f)": logged("f", [3.0, 2.0], link),
    }
    for says, other in others.items():
        (sentence,) = differences([*runs, other])
        assert says in sentence
        assert f"warning: {sentence}" in notes(rank_runs([*runs, other]))
    assert emulated([others[says] for says in others if "link" in says]) == f"emulated, {link}"
    shared = rank_runs([logged(name, [3.0, 2.0], link) for name in "gh"])
    assert f"link: emulated, {link}" in notes(shared)
    assert not shared.differences


def test_a_ranking_says_by_what_it_ranks_and_can_be_sorted_otherwise(
    capsys: pytest.CaptureFixture[str], refused: Any
) -> None:
    runs = [
        logged("a", [4.0, 3.0, 1.0], nbytes=300, seconds=0.1, clock=0.1),
        logged("b", [4.0, 1.0, 0.5], nbytes=200, seconds=0.3, clock=0.3),
        logged("c", [4.0, 3.5, 3.0], nbytes=100, seconds=0.2, clock=0.2),
        logged("d", [4.0, 0.1], nbytes=1, seconds=0.01, clock=0.01, status="diverged"),
    ]
    expected = {
        "loss": "bacd", "bytes": "cbad", "time": "acbd", "given": "abcd", "bytes-to-target": "bacd",
        "time-to-target": "abcd", "test": "abcd",
    }  # fmt: skip
    assert expected.keys() == SORTS.keys()
    for sort, order in expected.items():
        ranking = rank_runs(runs, sort=sort)
        assert "".join(row["name"] for row in ranking.rows) == order, sort
        assert [row["position"] for row in ranking.rows] == [1, 2, 3, 4]
        assert ranking.as_json()["order"] == ranking.order
        assert ranking.order in notes(ranking)[0]
    assert rank_runs(runs).order == "by training loss, best first; runs that did not finish come last"
    assert run(["report", "a", "b", "c", "--sort", "bytes"]) == 0
    assert "by bytes sent, best first" in capsys.readouterr().out
    assert "--sort" in refused("report", "a", "--sort", "los")


@pytest.mark.parametrize("width", WIDTHS)
def test_benchmarks_fit_into_the_terminal(width: int) -> None:
    kernels = bench_view.kernel_columns(["topk:0.01", "onebit"])
    exchanges = bench_view.comm_columns([("allreduce", "identity"), ("by-hand", "onebit")])
    for columns in (kernels, exchanges):
        fitting, hidden = bench_view._fitting(columns, width)
        assert sum(1 + bench_view._width(column) for column in fitting) < width
        assert sorted(map(id, itertools.chain(fitting, hidden))) == sorted(map(id, columns))
        assert {"p50 µs", "#wrong"} <= {column.title for column in fitting}
        assert bool(hidden) == (width == 80 or (width == 120 and columns is exchanges))
    console = make_console(TerminalChoice(color=False, live=False, width=width))
    console.file = io.StringIO()
    long = "a word " * 40
    bench_view.BenchView(console, False, kernels, 1).comments([long, f"command: {long}"])
    first, *rest = console.file.getvalue().splitlines()
    assert len(first) <= width
    assert all(line.startswith("# ") for line in [first, *rest])
    assert rest[-1] == f"# command: {long}", "a command can be copied from a log"
