"""`report --plot`: every kind of plot, as a file and in the terminal, and the times that are modelled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import logged
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from test_report import edit, write_run

from mpisqueeze.analysis.ranking import rank_runs
from mpisqueeze.cli.app import run
from mpisqueeze.costs.link import Link
from mpisqueeze.modelling.bandwidth import times_by_bandwidth
from mpisqueeze.modelling.methods import Method
from mpisqueeze.modelling.predict import Work, predict, terms_of
from mpisqueeze.parts.registry import algorithms, compressors
from mpisqueeze.record.reading import read_run, read_runs
from mpisqueeze.report.charts import Axis, Bar, BarChart, LineChart, Series
from mpisqueeze.report.plot import draw
from mpisqueeze.report.run_charts import KINDS, PARETO, bandwidth_chart, charts_of, phase_chart
from mpisqueeze.report.scales import Unit
from mpisqueeze.report.terminal_plot import terminal_plot
from mpisqueeze.report.vega import PAPER, chart_spec, panels_spec

pytestmark = pytest.mark.usefixtures("empty_folder")


def two_runs() -> list[str]:
    for name, algorithm, compressor in (("a", "sgd", "identity"), ("b", "doublesqueeze", "onebit")):
        path = write_run(Path(name), [9.0, 5.0, 2.0], algorithm=algorithm, compressor=compressor)
        lines = [{"iteration": t, "epoch": t / 4, "test_accuracy": 0.5 + t / 10} for t in (0, 2, 3)]
        (path / "evaluations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return ["a", "b"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != PARETO])
def test_every_kind_is_drawn_in_the_terminal_and_in_files(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    two_runs()
    options = ["report", "a", "b", "--plot-kind", kind]
    assert run([*options, "--plot", "terminal"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    plot = out[max(out.rindex(title) for title in ("Training", "Test", "Where", "Time of") if title in out) :]
    assert max(map(cell_len, plot.splitlines())) <= 64
    assert "doublesqueeze/onebit" in plot
    formats = (("p.svg", b"<svg"), ("p.png", b"\x89PNG"), ("p.pdf", b"%PDF"))
    # Every kind is a specification, which one of them shows to become a file of any format.
    for name, begins in formats if kind == "loss" else formats[:1]:
        assert run([*options, "--plot", name]) == 0
        assert Path(name).read_bytes().startswith(begins)
        assert Path(name).stat().st_size > 5000
    assert "doublesqueeze/onebit" in Path("p.svg").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a", "--plot", "p.png", "--plot-kind", "loss-by-byte"], "did you mean 'loss-by-bytes'?"),
        (["bare", "--plot", "terminal", "--plot-kind", "test-by-time"], "no run has an evaluation"),
        (["none", "--plot", "terminal"], "no run has an iteration"),
        (["alone", "--plot", "terminal", "--plot-kind", "time-by-bandwidth"], "one rank sends nothing"),
        (["silent", "--plot", "terminal", "--plot-kind", "loss-by-bytes"], "to draw that sent bytes"),
        (["a", "--html", "p.html", "--calibration", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_anything_is_shown(
    options: list[str], says: str, refused: Callable[..., str]
) -> None:
    two_runs()
    (write_run(Path("bare"), [2.0, 1.0]) / "evaluations.jsonl").unlink()
    write_run(Path("none"), [], planned=3)
    write_run(Path("silent"), [2.0, 1.0], nbytes=0)
    alone = write_run(Path("alone"), [2.0, 1.0])
    edit(alone / "config.json", ranks=1)
    edit(alone / "summary.json", ranks=1)
    assert says in refused("report", *options)


@pytest.mark.parametrize("kind", ["loss", "phases", "time-by-bandwidth"])
def test_specifications_are_vega_lite(kind: str) -> None:
    import altair  # takes a second, and each worker of pytest-xdist reads all files

    runs, _ = read_runs([Path(name) for name in two_runs()])
    charts = charts_of(kind, runs, rank_runs(runs))
    specs = [chart_spec(chart, look, 400) for chart in charts for look in (PAPER, replace(PAPER, interactive=True))]
    # Altair holds them against the schema.
    for spec in [panels_spec(charts, PAPER, 300), *specs]:
        altair.Chart.from_dict(spec)
        data = [values for values in walk(spec) if values.get("name", "").endswith("line")]
        assert len(data) == (0 if kind == "phases" else len(spec.get("hconcat", [1])))
        for values in data:
            assert [row["i"] for row in values["values"]] == [0, 1]


@pytest.mark.parametrize(
    ("low", "high", "log", "unit", "expected", "title"),
    [
        (1, 66_000, False, Unit.COUNT, ["10 000", "60 000"], "x"),
        (1, 3, False, Unit.COUNT, ["1", "2", "3"], "x"),
        (0.0, 1.7e-3, False, Unit.SECONDS, ["0.2", "1.6"], "x (ms)"),
        (7e3, 6e7, True, Unit.BYTES, ["10 kB", "30 kB", "1 MB"], "x"),
        (2e-4, 0.12, True, Unit.SECONDS, ["300 µs", "1 ms", "100 ms"], "x"),
        (1e7, 1e11, True, Unit.RATE, ["10 Mbit/s", "1 Gbit/s"], "x"),
        (0.03, 4.2, True, Unit.NUMBER, ["0.05", "0.1", "2"], "x"),
        (1e-9, 1e3, True, Unit.NUMBER, ["10⁻⁹", "0.1", "10"], "x"),
        (2e-6, 3e-5, True, Unit.NUMBER, ["2·10⁻⁶", "10⁻⁵", "2·10⁻⁵"], "x"),
    ],
)
def test_axes_say_their_numbers_with_units(
    low: float, high: float, log: bool, unit: Unit, expected: list[str], title: str
) -> None:
    line = Series("a", np.array([low, high]), np.array([0.0, 1.0]), 0)
    draw([LineChart("t", Axis("x", unit, log), Axis("y"), [line])], "p.svg")
    texts = [text.replace("\u202f", " ") for text in re.findall(">([^<>]+)</text>", Path("p.svg").read_text())]
    assert set(expected) <= set(texts), texts
    assert title in texts


@given(
    y=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30),
    x_log=st.booleans(),
    y_log=st.booleans(),
    level=st.none() | st.floats(-1e9, 1e9),
    interactive=st.booleans(),
)
def test_any_numbers_make_a_specification(
    y: list[float], x_log: bool, y_log: bool, level: float | None, interactive: bool
) -> None:
    x = np.arange(float(len(y)))
    series = [Series("a", x, np.array(y), 0), Series("a", x, np.array(y), 0, "points"), Series("b\udcff\x00", x, x, 1)]
    levels = [] if level is None else [(level, "level")]
    chart = LineChart("t", Axis("x", log=x_log), Axis("y", log=y_log), series, levels)
    text = json.dumps(chart_spec(chart, replace(PAPER, interactive=interactive), 400), allow_nan=False)
    assert "\\udcff" not in text


def walk(spec: Any) -> Iterator[dict[str, Any]]:
    """All objects within a specification."""
    if isinstance(spec, dict):
        yield spec
    for inner in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from walk(inner)


@pytest.mark.parametrize(("option", "module"), [("--plot=p.png", "vl_convert"), ("--html=p.html", "jinja2")])
def test_a_missing_library_is_said_with_its_cure(
    option: str, module: str, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    two_runs()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else name)
    assert f"{option[:6]}: needs {module}: pip install 'mpisqueeze[report]'" in refused("report", "a", option)
    assert run(["report", "a", "--plot", "terminal", "--csv", "a.csv", "--markdown", "a.md"]) == 0


def in_terminal(width: int, *charts: LineChart | BarChart, color: bool = False) -> list[str]:
    console = Console(width=width, color_system="standard" if color else None, no_color=not color, force_terminal=color)
    with console.capture() as captured:
        console.print(terminal_plot(charts, console), soft_wrap=True)
    return captured.get().splitlines()


def test_lines_in_the_terminal_lie_where_their_numbers_are() -> None:
    x = np.arange(11.0)
    rises = Series("rises", x, x, 0)
    falls = Series("falls", x, 10 - x, 1)
    lines = in_terminal(80, LineChart("title", Axis("step"), Axis("value", limits=(0, 10)), [falls, rises]))
    assert lines[1:3] == ["title", "value"]
    frame = [line.partition("┤")[2] or line.partition("│")[2] for line in lines if "┤" in line or "│" in line]
    assert frame[0].rstrip()[-1] == "a", "the one that ends at the top is named first"
    assert frame[-1].rstrip()[-1] == "b"
    # A diagonal: every row has its dots further right than the row above it, for the line that falls.
    left_most = [min(row.find(c) for c in row if c != " ") for row in frame if row.strip()]
    upper = left_most[: len(left_most) // 2]
    assert upper == sorted(upper)
    assert [line.split() for line in lines[-2:]] == [["a", "rises", "10.00"], ["b", "falls", "0"]]


def test_letters_tell_lines_apart_without_colours_and_measured_points_are_capitals() -> None:
    x = np.linspace(0, 1, 50)
    series = [Series(f"line{i}", x, np.full(50, float(i)), i) for i in range(5)]
    series.append(Series("line2", np.array([0.33]), np.array([0.5]), 2, "points"))
    lines = in_terminal(90, LineChart("t", Axis("x"), Axis("y"), series, measured="by hand"))
    frame = "".join(line for line in lines if "┤" in line or "│" in line)
    for letter in "abcde":
        assert frame.count(letter) >= 3, letter
    assert frame.count("C") == 1
    assert "  C  measured: by hand" in lines


def test_colours_come_with_colour_alone() -> None:
    x = np.arange(3.0)
    chart = LineChart("t", Axis("x"), Axis("y"), [Series("a", x, x, 1)])
    bars = BarChart("b", Axis("time"), ["one", "two"], [Bar("run", [1.0, 1.0], 1.5)], "whole")
    assert not any("\x1b" in line for line in in_terminal(60, chart, bars))
    assert any("\x1b[" in line for line in in_terminal(60, chart, bars, color=True))


def test_bars_in_the_terminal_are_as_long_as_their_parts() -> None:
    bars = [Bar("long", [2.0, 1.0], 3.0), Bar("short", [1.0, 0.0])]
    lines = in_terminal(70, BarChart("b", Axis("time"), ["one", "two"], bars, "whole"))
    long, short = (next(line for line in lines if name in line) for name in ("long │", "short │"))
    assert long.count("█") == pytest.approx(2 * long.count("░"), abs=2)
    assert short.count("█") == pytest.approx(long.count("█") / 2, abs=1)
    assert long.count("┃") == 1
    assert "┃ whole" in lines[-1]


def test_phases_are_of_usual_iterations_without_the_warm_up() -> None:
    path = write_run(Path("a"), [1.0] * 12)
    lines = logged(path / "iterations.jsonl")
    for t, line in enumerate(lines):
        line["iteration_s"] = 50.0 if t < 2 else float(t)
        line["comm_s"] = line["iteration_s"] / 2
    (path / "iterations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    edit(path / "summary.json", warmup=2)
    log = read_run(path)
    (bar,) = phase_chart([log], rank_runs([log])).bars
    # Of 2 to 11 the half around the median is 5 to 8.
    assert bar.mark == pytest.approx(6.5)
    assert bar.parts[3] == pytest.approx(3.25)
    assert bar.parts[0] == pytest.approx(0.1)


def linked(name: str, algorithm: str, link: str | None, iteration_s: float, compute_s: float = 0.1) -> Path:
    path = write_run(Path(name), [2.0, 1.0, 0.5], algorithm=algorithm, seconds=iteration_s)
    edit(path / "config.json", link=link)
    edit(path / "environment.json", link="emulated" if link else "real")
    summary = json.loads((path / "summary.json").read_text())
    summary["times"]["compute_s"]["median"] = compute_s
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def test_times_by_bandwidth_are_the_cost_models_with_what_was_measured_beside() -> None:
    paths = [
        linked("s10", "sgd", "latency=1ms,bandwidth=10mbit", 0.9, compute_s=0.2),
        linked("s100", "sgd", "latency=1ms,bandwidth=100mbit", 0.7, compute_s=0.1),
        linked("d10", "dpsgd", "latency=1ms,bandwidth=10mbit", 0.8, compute_s=0.1),
        linked("far", "dpsgd", "latency=9ms,bandwidth=10mbit", 0.8, compute_s=0.1),
    ]
    runs, _ = read_runs(paths)
    modelled = times_by_bandwidth(runs)
    assert modelled.left_out == []
    chart = bandwidth_chart(modelled, len(runs))
    assert "1.00 ms latency (emulated)" in chart.caption
    assert "Not shown: 1 run on links of another latency" in chart.caption
    lines = {series.name: series for series in chart.lines}
    points = {series.name: series for series in chart.series if series.kind == "points"}
    assert set(lines) == set(points) == {"sgd", "dpsgd"}
    assert points["sgd"].x.tolist() == pytest.approx([1e7, 1e8])
    assert points["sgd"].y.tolist() == [0.9, 0.7]
    assert points["dpsgd"].y.tolist() == [0.8]
    method = Method.of(algorithms.find("sgd"), compressors.find("identity"), "root", "ring")
    link = Link.hockney(1e-3, float(lines["sgd"].x[7]))
    # The median gradient of all runs; 0.1 s for every other phase.
    work = Work(0.1, 0.1, 0.0, 0.1)
    expected = predict(method, method.traffic(2, 10, "float32"), work, terms_of(2, link), 0.1)
    assert lines["sgd"].y[7] == pytest.approx(expected.iteration_s)
    assert (np.diff(lines["sgd"].y) <= 0).all(), "more bandwidth costs nothing"


def test_a_report_loads_no_program_of_a_users_own() -> None:
    Path("mine.py").write_text("raise SystemExit('this must not run')")
    path = write_run(Path("a"), [2.0, 1.0], compressor="mine.py:C")
    parts = {"algorithm": {"name": "sgd", "origin": "built-in"}, "compressor": {"name": "C", "origin": "mine.py"}}
    edit(path / "config.json", parts=parts)
    runs, _ = read_runs([path])
    assert times_by_bandwidth(runs).left_out == ["sgd/C: its compressor is not built in"]


def test_a_calibration_sets_the_latency() -> None:
    link = {"alpha_s": 3e-3, "gap_s": 1e-3, "bandwidth": 1e9}
    about = {
        "schema_version": 1, "ranks": 2, "link": link, "dtype": "float32", "kernels": [],
        "memory": {"add_s_per_element": 1e-9},
    }  # fmt: skip
    Path("calibration.json").write_text(json.dumps(about))
    two_runs()
    assert run(["report", "a", "b", "--html", "p.html", "--calibration", "calibration.json"]) == 0
    assert "for messages of 3.00 ms latency (calibration.json)" in Path("p.html").read_text()


def test_runs_of_one_name_are_told_apart_by_what_differs_in_their_folders() -> None:
    for rate in ("1gbit", "100mbit"):
        write_run(Path("lab", rate, "01-sgd"), [2.0, 1.0])
    runs, _ = read_runs([Path("lab/1gbit/01-sgd"), Path("lab/100mbit/01-sgd")])
    assert [log.name for log in runs] == ["sgd (1gbit)", "sgd (100mbit)"]
    write_run(Path("x"), [1.0])
    write_run(Path("x/x"), [1.0])
    runs, _ = read_runs([Path("x"), Path("x/x")])
    assert [log.name for log in runs] == ["sgd (x)", "sgd (x/x)"]


def test_evaluations_are_drawn_at_what_was_spent_until_then() -> None:
    two_runs()
    runs, _ = read_runs([Path("a"), Path("b")])
    ranking = rank_runs(runs)
    (chart,) = charts_of("test-by-bytes", runs, ranking)
    assert isinstance(chart, LineChart)
    assert chart.lines[0].x.tolist() == [0, 200, 300]
    assert chart.lines[0].y.tolist() == pytest.approx([0.5, 0.7, 0.8])
    (chart,) = charts_of("test-by-time", runs, ranking)
    assert isinstance(chart, LineChart)
    assert chart.lines[0].x.tolist() == pytest.approx([0, 1.0, 1.5])


def test_runs_that_send_nothing_are_not_drawn_by_bytes() -> None:
    write_run(Path("a"), [2.0, 1.0])
    write_run(Path("b"), [2.0, 1.0], algorithm="csgd", nbytes=0)
    runs, _ = read_runs([Path("a"), Path("b")])
    charts = charts_of("loss", runs, rank_runs(runs))
    assert [len(chart.series) for chart in charts if isinstance(chart, LineChart)] == [2, 1, 2]


def test_what_diverged_is_cut_off_above_what_did_not() -> None:
    write_run(Path("a"), [5.0, 4.0, 3.0, 2.0])
    write_run(Path("b"), [5.0, 1e20, None], algorithm="csgd", status="diverged")
    runs, _ = read_runs([Path("a"), Path("b")])
    (chart,) = charts_of("loss-by-iteration", runs, rank_runs(runs))
    assert isinstance(chart, LineChart)
    _, scale = chart.scales()
    assert 5 < scale.high < 10
    assert not scale.log
    (alone,) = charts_of("loss-by-iteration", runs[1:], rank_runs(runs[1:]))
    assert isinstance(alone, LineChart)
    assert alone.scales()[1].high >= 1e20
    assert alone.y.log
