"""`mpisqueeze report` and the arithmetic of comparing runs, on run folders written by hand."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
import pytest
from rich.console import Console

from mpisqueeze.analysis.columns import RECORDED
from mpisqueeze.analysis.evidence import FIGURES
from mpisqueeze.analysis.ranking import Target, curve_of, default_target, rank_runs, reach_of, smooth, verdict
from mpisqueeze.cli.app import run
from mpisqueeze.errors import UsageError
from mpisqueeze.record import types
from mpisqueeze.record.figures import ITERATION_LINE, pace
from mpisqueeze.record.reading import RunLog, read_run
from mpisqueeze.report.claims_view import count_of
from mpisqueeze.report.closing import closing
from mpisqueeze.report.latex_export import write_latex
from mpisqueeze.report.run_charts import loss_chart
from mpisqueeze.report.tables import TableColumn
from mpisqueeze.runs.pairs import expand, parse_pair, parse_sweep
from mpisqueeze.settings import SETTINGS, Settings

pytestmark = pytest.mark.usefixtures("empty_folder")
PLUGINS = Path(__file__).parent / "mpi" / "plugins.py"
TIMES = ("compute_s", "wait_s", "encode_s", "comm_s", "decode_s", "update_s")


def write_run(
    path: Path,
    losses: list[float | None],
    *,
    algorithm: str = "sgd",
    compressor: str = "identity",
    nbytes: int = 100,
    seconds: float = 0.5,
    status: str | None = "ok",
    planned: int | None = None,
    per_epoch: int = 4,
    clock: float | None = None,
) -> Path:
    """A run folder in which every iteration sends `nbytes` and takes `seconds`; no summary where `status` is None.

    With `clock`, elapsed time grows by that in an iteration; else it is of a version that did not record it.
    """
    path.mkdir(parents=True)
    names = {"algorithm": algorithm, "compressor": compressor}
    parts = {kind: {"name": name.partition(":")[0], "origin": "built-in"} for kind, name in names.items()}
    config = {
        "algorithm": algorithm, "compressor": compressor, "dtype": "float32", "warmup": 0, "ranks": 2, "dimension": 10,
        "iterations": planned or len(losses), "iterations_per_epoch": per_epoch, "parts": parts, "server": "root",
        "topology": "ring", "problem": "mlp", "data": "digits", "seed": 12345,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    environment = {
        "started_utc": "2026-01-02T03:04:05+00:00", "command_line": "mpisqueeze train", "mpi_library": "Open MPI, x",
        "link": "real", "versions": {"mpisqueeze": "0.1.0"}, "variables": {"OMP_NUM_THREADS": "1"},
        "hosts": [{"hostname": "node1", "ranks": 2, "cores": 2, "memory_bytes": 10**9, "cpu_model": "a CPU"}],
    }  # fmt: skip
    (path / "environment.json").write_text(json.dumps(environment))
    lines = [
        {"iteration": t, "loss": loss, "bytes_sent": nbytes, "messages": 2, **dict.fromkeys(TIMES, 0.1)}
        | {"iteration_s": seconds, **({} if clock is None else {"elapsed_s": clock * t})}
        for t, loss in enumerate(losses, 1)
    ]
    (path / "iterations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (path / "evaluations.jsonl").write_text(json.dumps({"iteration": 1, "epoch": 0.1, "test_accuracy": 0.75}) + "\n")
    if status:
        rebuilt = read_run(path).summary
        reason = None if status == "ok" else "on purpose"
        summary = {**rebuilt, "status": status, "reason": reason, "run_folder": str(path)}
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("reach", [0, 1, 3, 10, 40])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 50, 333])
def test_smoothing_is_a_centred_mean(size: int, reach: int) -> None:
    """Each window by hand: an eighth of the iterations before at most, and towards the end as many as there are."""
    loss = np.random.default_rng(1).normal(size=size)
    sides = [min(reach, t // 8) for t in range(size)]
    expected = [loss[t - side : t + side + 1].mean() for t, side in enumerate(sides)]
    assert smooth(loss, reach) == pytest.approx(np.array(expected))


def test_smoothing_keeps_spikes_and_breakdowns_where_they_are() -> None:
    spiked = np.array([*[1e17] * 3, *[1.0] * 97])
    assert smooth(spiked, 4)[20:].tolist() == [1.0] * 80, "no rounding error is carried along"
    for broken in (np.nan, np.inf):
        loss = np.array([*np.linspace(4, 2, 60), broken, 9.0])
        smoothed = smooth(loss, 5)
        assert smoothed[:60].tolist() == smooth(loss[:60], 5).tolist(), "the last windows end before it"
        assert smoothed[60:] == pytest.approx(loss[60:], nan_ok=True)
    assert reach_of(planned=220, per_epoch=11) == 11
    assert reach_of(planned=110, per_epoch=11) == 5
    assert reach_of(planned=19, per_epoch=100) == 0


def decay(size: int, scale: float, noise: float = 0.0) -> np.ndarray:
    """0.2 + 2·exp(−t/scale), with normal noise of a part of the whole fall."""
    return 0.2 + 2 * np.exp(-np.arange(size) / scale) + 2 * noise * np.random.default_rng(7).standard_normal(size)


@pytest.mark.parametrize(
    ("size", "scale"), [(100, 20), (400, 20), (1000, 150), (1000, 700), (4000, 200), (20_000, 4000)]
)
@pytest.mark.parametrize("part", [0.5, 0.9, 0.95])
def test_a_known_curve_crosses_its_target_where_it_does(size: int, scale: float, part: float) -> None:
    """Within 2 % of the true iteration, where a trailing mean is 5 to 70 % late."""
    true = decay(size, scale)
    target = true[0] - part * (true[0] - true[-1])
    where = int(np.flatnonzero(true <= target)[0])
    for noise in (0.0, 0.002 * np.sqrt(scale / 150)):
        smoothed = smooth(decay(size, scale, noise), reach_of(size, size))
        found = int(np.flatnonzero(smoothed <= target)[0])
        assert abs(found - where) <= max(1, 0.02 * where)


def test_the_default_target_of_a_known_curve(tmp_path: Path) -> None:
    """From the run's folder on: 95 % of the whole fall, bytes and seconds up to there."""
    losses = decay(1000, 150, 0.002)
    run_log = read_run(write_run(tmp_path / "a", losses.tolist(), per_epoch=1000))
    row = rank_runs([run_log]).rows[0]
    true = decay(1000, 150)
    where = int(np.flatnonzero(true <= true[-1] + 0.05 * (true[0] - true[-1]))[0]) + 1
    assert row["iterations_to_target"] == pytest.approx(where, rel=0.02)
    assert row["bytes_to_target"] == 100 * row["iterations_to_target"]
    assert row["time_to_target_s"] == pytest.approx(0.5 * row["iterations_to_target"])


@pytest.mark.parametrize(("size", "scale"), [(1000, 150), (4000, 200)])
def test_a_smoothed_curve_has_no_knee(size: int, scale: float) -> None:
    """The smoothed logarithm of an exponential is as straight as its own everywhere but in the last half window."""
    reach = reach_of(size, size)
    slope = np.diff(np.log(smooth(decay(size, scale) - 0.2, reach)))
    inner = slope[8 : size - reach - 1]
    assert inner * scale == pytest.approx(-1, abs=0.5), "windows grow by two iterations at once"
    wide = np.convolve(inner, np.ones(50) / 50, "valid")
    assert wide * scale == pytest.approx(-1, abs=0.06)
    last = smooth(decay(size, scale), reach)[-1]
    assert last == pytest.approx(decay(size, scale)[-reach - 1 :].mean()), "the end is the mean of the last ones"


def test_evaluations_count_from_the_first_that_meets_the_target() -> None:
    def evaluated(name: str, accuracies: list[float], losses: list[float]) -> RunLog:
        path = write_run(Path(name), [4.0] * 100)
        lines = [
            {"iteration": 10 * i, "epoch": i, "test_accuracy": accuracy, "test_loss": loss, "score": accuracy}
            for i, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
        ]
        (path / "evaluations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return read_run(path, name)

    runs = [evaluated("a", [0.1, 0.7, 0.5, 0.9], [4, 2, 3, 1]), evaluated("b", [0.8, 0.6, 0.6, 0.6], [1, 1, 1, 1])]

    def hits(name: str, value: float) -> list[int | None]:
        ranking = rank_runs(runs, Target(name, value))
        return [ranking.row(name)["iterations_to_target"] for name in "ab"]

    assert hits("test_accuracy", 0.6) == [10, 0]
    assert hits("test_accuracy", 0.85) == [30, None]
    assert hits("test_loss", 2.5) == [10, 0]
    assert hits("score", 0.85) == [30, None], "it rises from where it starts"
    row = rank_runs(runs, Target("test_accuracy", 0.6)).row("b")
    assert (row["bytes_to_target"], row["time_to_target_s"]) == (0, 0.0)
    # Four evaluations would round costs to a quarter of the run; a hundred do not.
    assert default_target(runs, {run.name: curve_of(run) for run in runs}).name == ""  # type: ignore[union-attr]
    fine = evaluated("c", [0.0] * 101, np.linspace(5, 1, 101).tolist())
    fine.evaluations[:] = [{**line, "iteration": i} for i, line in enumerate(fine.evaluations)]
    ranking = rank_runs([fine])
    assert ranking.target == Target("test_loss", pytest.approx(1.2), "95 % of the progress of c, on evaluations")  # type: ignore[arg-type]
    assert ranking.rows[0]["iterations_to_target"] == 95


@pytest.mark.parametrize("pair", [["--target", "bleu=3"], ["--target", "test_accuracy"], ["--target", "=3"],
                                  ["--target", "test_accuracy=0.5", "--target-loss", "3"]])  # fmt: skip
def test_targets_that_are_none(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), [4.0, 2.0])
    assert run(["report", "a", *pair]) == 2
    assert "--target" in capsys.readouterr().err


def test_what_is_shown_to_fail_has_no_fastest_iteration() -> None:
    write_run(Path("a"), [4.0, 2.0])
    naive = write_run(Path("b"), [4.0, 3.0], algorithm="dpsgd-naive", compressor="qsgd:8", nbytes=1, seconds=0.1)
    edit(naive / "summary.json", shown_to_fail=True)
    ranking = rank_runs([read_run(Path(name)) for name in "ab"], Target("", 3.0))
    assert RECORDED["elapsed_s"].best_of(ranking.rows) == []
    write_run(Path("c"), [4.0, 3.0], algorithm="csgd", compressor="qsgd:8", seconds=0.2)
    ranking = rank_runs([read_run(Path(name)) for name in "abc"], Target("", 3.0))
    assert RECORDED["elapsed_s"].best_of(ranking.rows) == ["csgd/qsgd:8"]
    # What was measured to a target is a fact.
    assert "Least time to the target loss 3.000: dpsgd-naive/qsgd:8" in " ".join(verdict(ranking))


def test_costs_are_counted_up_to_the_first_iteration_at_the_target() -> None:
    """Ten iterations and a window of one, so that the numbers can be read off."""
    full = write_run(Path("full"), [10.0, 8, 6, 5, 4, 3, 2, 2, 1, 0], nbytes=100, seconds=0.5)
    small = write_run(Path("small"), [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1], algorithm="csgd", nbytes=10, seconds=0.4)
    never = write_run(Path("never"), [10.0] * 10, algorithm="memsgd", nbytes=10)
    ranking = rank_runs([read_run(path) for path in (full, small, never)], Target("", 4.0))
    rows = {row["name"]: row for row in ranking.rows}
    assert [row["name"] for row in ranking.rows] == ["sgd", "csgd", "memsgd"]
    assert rows["sgd"]["iterations_to_target"] == 5
    assert rows["sgd"]["bytes_to_target"] == 500
    assert rows["sgd"]["time_to_target_s"] == pytest.approx(2.5)
    assert rows["csgd"]["bytes_to_target"] == 70
    assert rows["csgd"]["time_to_target_s"] == pytest.approx(2.8)
    assert rows["csgd"]["relative"]["bytes_to_target"] == pytest.approx(0.14)
    assert rows["csgd"]["relative"]["elapsed_s_per_iteration"] == pytest.approx(0.8)
    assert rows["csgd"]["relative"]["smoothed_loss"] is None, "the first run's loss is 0"
    assert rows["memsgd"]["bytes_to_target"] is None
    assert rows["memsgd"]["relative"]["time_to_target_s"] is None


def test_costs_in_time_are_by_the_clock_and_not_by_sums(capsys: pytest.CaptureFixture[str]) -> None:
    """Gossip whose ranks overlap: its iterations add up to more than those of sgd, and it is there first."""
    losses: list[float | None] = [10.0, 8, 6, 5, 4, 3, 2, 2, 1, 0]
    write_run(Path("a"), losses, seconds=0.5, clock=0.45)
    write_run(Path("b"), losses, algorithm="dpsgd", seconds=0.7, clock=0.4)
    runs = [read_run(Path(name)) for name in "ab"]
    ranking = rank_runs(runs, Target("", 4.0))
    found = {row["name"]: (row["time_to_target_s"], row["elapsed_s_per_iteration"]) for row in ranking.rows}
    assert found == {"sgd": pytest.approx((2.25, 0.45)), "dpsgd": pytest.approx((2.0, 0.4))}
    assert [run.summary["elapsed_s"] for run in runs] == pytest.approx([4.5, 4.0])
    assert FIGURES["epoch_s"].of(runs[1]) == pytest.approx(4 * 0.4)
    assert loss_chart(runs, ranking, "time").series[1].x == pytest.approx(0.4 * np.arange(1, 11))
    assert run(["report", "a", "b", "--target-loss", "4"]) == 0
    out = capsys.readouterr().out
    assert "Least time to the target loss 4.000: dpsgd, 2.00 s" in out
    assert "No elapsed time" not in out

    # An older version's logs have sums alone, which is said.
    for name, algorithm, seconds in (("c", "sgd", 0.5), ("d", "dpsgd", 0.7)):
        write_run(Path(name), losses, algorithm=algorithm, seconds=seconds)
    assert run(["report", "c", "d", "--target-loss", "4", "--html", "page.html"]) == 0
    out = capsys.readouterr().out
    assert "Least time to the target loss 4.000: sgd, 2.50 s" in out
    for text in (out, Path("page.html").read_text()):
        assert "No elapsed time was recorded, and times are sums of the slowest rank's: sgd, dpsgd." in " ".join(
            text.replace("&#39;", "'").split()
        )


def test_the_pace_leaves_out_the_warm_up_and_a_stall() -> None:
    seconds = np.array([9.0, *[1.0, 3.0] * 10])
    elapsed = np.cumsum(seconds)
    assert pace(elapsed, 1) == 2.0
    elapsed[15:] += 100
    assert pace(elapsed, 1) == 2.0
    assert pace(elapsed[:3], 0) == 3.0
    assert pace(elapsed[:1], 1) is None


def test_the_default_target_is_95_percent_of_the_first_good_runs_progress() -> None:
    write_run(Path("a"), [3.0] * 5, status="diverged")
    write_run(Path("b"), [10.0] * 4 + [2.0] * 6, algorithm="csgd")
    runs = [read_run(Path(name)) for name in "ab"]
    ranking = rank_runs(runs)
    assert ranking.target
    assert ranking.target.value == pytest.approx(2.0 + 0.05 * 8.0)
    assert ranking.reference == "sgd"
    assert "95 %" in ranking.target.source
    assert "csgd" in ranking.target.source
    uphill = rank_runs([read_run(write_run(Path("c"), [1.0, 2.0]))]).target
    assert uphill
    assert uphill.value == 2.0


def test_bytes_by_definition_are_marked_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    """A run says what its bytes are; by versions that did not, `allreduce` counted its messages on emulated links."""
    write_run(Path("a"), [10.0, 1.0], algorithm="allreduce")
    write_run(Path("b"), [10.0, 1.0], algorithm="csgd", nbytes=123_000)
    write_run(Path("c"), [10.0, 1.0], algorithm="mine")
    edit(Path("c/config.json"), bytes="by definition")
    edit(Path("c/summary.json"), bytes="by definition")
    write_run(Path("d"), [10.0, 1.0], algorithm="allreduce", nbytes=456)
    edit(Path("d/config.json"), link="latency=1ms,bandwidth=1gbit")
    Path("d/summary.json").unlink()
    rows = {run.path: run.summary["bytes"] for run in map(read_run, map(Path, "abcd"))}
    assert [*rows.values()] == ["by definition", "counted", "by definition", "counted"]
    command = ["report", "a", "b", "c", "d"]
    exports = ["--markdown", "t.md", "--csv", "t.csv", "--json", "t.json", "--html", "t.html"]
    assert run([*command, *exports]) == 0
    for text in (capsys.readouterr().out, Path("t.md").read_text(), Path("t.html").read_text()):
        assert "200 B†" in text
        assert "246 kB" in text
        assert "246 kB†" not in text
        assert "912 B†" not in text
        assert re.search("† Bytes of (allreduce.*, mine|mine, allreduce.*): by definition", " ".join(text.split()))
    rows_of_csv = csv.DictReader(io.StringIO(Path("t.csv").read_text()))
    assert [row["bytes"] for row in rows_of_csv].count("by definition") == 2
    assert [entry["bytes"] for entry in json.loads(Path("t.json").read_text())] == [*rows.values()]
    assert "bytes by definition" in shown_alone("a", capsys)
    assert "bytes handed to MPI" in shown_alone("b", capsys)


def shown_alone(path: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The closing tables of a run."""

    Console(width=100).print(closing(read_run(Path(path)).summary))
    return capsys.readouterr().out


def test_broken_runs_come_last_and_win_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), [9.0] * 9 + [5.0])
    write_run(Path("b"), [1.0, 1.0], algorithm="csgd", nbytes=1, seconds=0.01, status="diverged")
    write_run(Path("c"), [], algorithm="memsgd", status="failed", planned=10)
    assert run(["report", "b", "a", "c"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^ +\d+ +(\w+)", out, re.M)[:3] == ["sgd", "csgd", "memsgd"]
    assert re.search("csgd +diverged +—", out)
    assert "csgd diverged: on purpose" in out
    assert "Fewest bytes to the target loss 5.2: sgd, 1.00 kB" in out.replace("5.200", "5.2")
    assert "\x1b" not in out


def test_exports_hold_what_the_folders_hold(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), [10.0, 8, 6, 5, 4, 3, 2, 2, 1, 0.5])
    write_run(Path("b"), [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1], algorithm="csgd", compressor="qsgd:4", nbytes=10)
    options = ["--target-loss", "4", "--csv", "t.csv", "--markdown", "t.md", "--latex", "t.tex", "--json", "-"]
    assert run(["report", "a", "b", *options]) == 0
    out, err = capsys.readouterr()
    summaries = json.loads(out)
    assert "qsgd" in err
    for folder, summary in zip("ab", summaries, strict=True):
        written = json.loads(Path(folder, "summary.json").read_text())
        assert {key: summary[key] for key in written} == written
    assert [summary["name"] for summary in summaries] == ["sgd", "csgd/qsgd:4"]
    assert [summary["bytes_to_target"] for summary in summaries] == [500, 70]
    assert [summary["time_to_target_s"] for summary in summaries] == pytest.approx([2.5, 3.5])
    assert [summary["smoothed_loss"] for summary in summaries] == [0.5, 1.0]

    lines = list(csv.DictReader(io.StringIO(Path("t.csv").read_text())))
    assert [line["name"] for line in lines] == ["sgd", "csgd/qsgd:4"]
    assert [int(line["bytes_sent"]) for line in lines] == [1000, 100]
    assert [float(line["relative_bytes_to_target"]) for line in lines] == [1, 0.14]
    assert [line["test_accuracy"] for line in lines] == ["0.75", "0.75"]

    table = [line for line in Path("t.md").read_text().splitlines() if line.startswith("|")]
    assert [line.count("|") for line in table] == [table[0].count("|")] * 4
    assert "| csgd/qsgd:4 | 1.000 | 2.00× |" in table[3]
    assert "70 B | 0.14×" in table[3]

    content = Path("t.tex").read_text()
    assert content.index(r"\begin{tabular}{r") < content.index(r"\midrule") < content.index(r"\end{tabular}")
    body = [line for line in content.splitlines() if not line.startswith("%")]
    columns = re.fullmatch(r"\\begin{tabular}{([lr]+)}", body[0])[1]
    rows = [line.removesuffix(r" \\").split(" & ") for line in body if line.endswith(r" \\")]
    assert [len(row) for row in rows] == [len(columns)] * 3
    assert rows[2][:4] == ["2", "csgd/qsgd:4", "1.000", r"2.00$\times$"]
    assert content.isascii() or all(line.startswith("%") for line in content.splitlines() if not line.isascii())


def test_every_setting_is_a_column_of_csv() -> None:
    """Parameters of parts too, whichever run has them; where a run has no folder, what its summary tells."""
    for name, algorithm, parameters in (("a", "choco", {"eta": 0.3}), ("b", "memsgd", {"lr": "inside"})):
        write_run(Path(name), [2.0, 1.0], algorithm=algorithm)
        config = {setting.name: setting.default for setting in SETTINGS.values()}
        part = {"name": algorithm, "origin": "built-in", "parameters": parameters}
        edit(Path(name, "config.json"), **{**config, "lr": 0.5, "algorithm": algorithm, "parts": {"algorithm": part},
             "compressor": "topk:0.1", "iterations": 2})  # fmt: skip
    write_run(Path("old"), [2.0, 1.0])
    assert run(["report", "a", "b", "old", "--csv", "t.csv"]) == 0
    rows = {row["run_folder"]: row for row in csv.DictReader(io.StringIO(Path("t.csv").read_text()))}
    assert {*SETTINGS} - {"out"} <= rows["a"].keys()
    found = [(row["algorithm_eta"], row["algorithm_lr"], row["lr"]) for row in map(rows.get, ("a", "b", "old")) if row]
    assert found == [("0.3", "", "0.5"), ("", "inside", "0.5"), ("", "", "")]
    assert [row["batch_size"] for row in rows.values()].count("16") == 2
    explained = set(re.findall(r"\w+", (Path(__file__).parents[1] / "docs" / "files.md").read_text())) | {*SETTINGS}
    names = {name for name in rows["a"] if not re.match("(algorithm|compressor|problem|relative)_", name)}
    assert not names - explained


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (
            "50 % & $x_1^2$ #{a}~b\\c",
            r"50 \% \& \$x\_1\textasciicircum{}2\$ \#\{a\}\textasciitilde{}b\textbackslash{}c",
        ),
        ("1 µs ≤ ‖x‖² × γ — −2 †", r"1 $\mu$s $\leq$ $\|$x$\|$$^2$ $\times$ $\gamma$ --- $-$2 $\dagger$"),
    ],
)
def test_latex_takes_no_cell_for_a_command(text: str, latex: str) -> None:
    write_latex([TableColumn(text, str)], [text], [], "t.tex")
    lines = Path("t.tex").read_text().splitlines()
    assert lines[3] == lines[5] == rf"{latex} \\"


def test_one_run_is_shown_with_its_closing_tables_and_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), [2.0, 1.0])
    assert run(["report", "a", "--json", "one.json"]) == 0
    out = capsys.readouterr().out
    for text in ("bytes handed to MPI", "time of the slowest rank", "finished", "method"):
        assert text in out
    assert json.loads(Path("one.json").read_text()) == json.loads(Path("a/summary.json").read_text())


def test_a_killed_run_is_read_up_to_its_last_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), [3.0, 2.0, 1.0], status=None)
    log = Path("a/iterations.jsonl")
    log.write_text(log.read_text()[:-20])
    assert run(["report", "a", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert summary["status"] == "killed"
    assert "summary.json" in summary["reason"]
    assert (summary["iterations"], summary["bytes_sent"], summary["final_loss"]) == (2, 200, 2.0)
    assert summary["sgd_bytes_sent"] == 2 * 2 * 40
    assert summary["test_accuracy"] == 0.75
    assert "killed" in err


def spoiled(old: str, new: str, file: str = "iterations.jsonl") -> Callable[[Path], Any]:
    """Damages a file of a run folder in one place."""
    return lambda folder: (folder / file).write_text((folder / file).read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), ["config.json", "not there"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "not JSON"]),
        (lambda folder: (folder / "config.json").write_text("[]"), ["config.json", "object"]),
        (lambda folder: (folder / "config.json").write_text("{}"), ["config.json", "'algorithm'"]),
        (lambda folder: (folder / "summary.json").write_text('{"stat'), ["summary.json", "not JSON"]),
        (lambda folder: (folder / "summary.json").write_text('{"status": "fine"}'), ["summary.json", "fine"]),
        (spoiled("\n", "\nx\n"), ["iterations.jsonl", "line 2 is not JSON: Expecting value"]),
        (spoiled("\n", "\n\n"), ["iterations.jsonl", "line 2 is not JSON"]),
        (spoiled("\n", ""), ["iterations.jsonl", "line 1 is not JSON"]),
        (spoiled("{", "[{"), ["iterations.jsonl", "line 1 is not JSON"]),
        (spoiled('{"', '[]\n{"'), ["iterations.jsonl", "line 1 does not hold a JSON object"]),
        (spoiled('"bytes_sent": 100', '"b": 1'), ["iterations.jsonl", "line 1 has no 'bytes_sent'"]),
        (spoiled("100", "true"), ["iterations.jsonl", "line 1 has True as 'bytes_sent', not a number"]),
        (spoiled("100", "-1"), ["iterations.jsonl", "line 1 has -1 as 'bytes_sent', not a number from 0"]),
        (spoiled("100", "1e400"), ["iterations.jsonl", "line 1 has inf as 'bytes_sent', not a number from 0 to 1e+30"]),
        (spoiled("100", "NaN"), ["iterations.jsonl", "line 1 is not JSON"]),
        (spoiled("100", '"' + "x" * 99 + '"'), ["line 1 has 'xxx", "… as 'bytes_sent', not a number"]),
        (lambda folder: (folder / "iterations.jsonl").write_bytes(b"\xff\xfe\n"), ["iterations.jsonl", "line 1"]),
        (lambda folder: (folder / "evaluations.jsonl").write_text('{"a": 1}\n{"a": []}\n'), ["line 2", "a number"]),
        (
            spoiled('"ranks": 2', '"ranks": 0', "config.json"),
            ["has 0 as 'ranks', not a whole number from 1 to 1000000"],
        ),
        (spoiled('"ranks": 2', '"ranks": 2.5', "config.json"), ["has 2.5 as 'ranks', not a whole number"]),
        (spoiled("float32", "float16", "config.json"), ["has 'float16' as 'dtype', not one of float32, float64"]),
        (spoiled('"parts": {', '"parts": [], "x": {', "config.json"), ["has [] as 'parts', not an object"]),
        (lambda folder: (folder / "environment.json").write_text('{"hosts": [null]}'), ["has None as 'hosts[0]'"]),
        (lambda folder: (folder / "environment.json").write_text('{"lab": {}}'), ["has no 'lab.rate'"]),
        (spoiled('"comm_s": {"median"', '"comm_s": {"m"', "summary.json"), ["has no 'times.comm_s.median'"]),
        (spoiled('"test_accuracy": 0.75', '"a": "x"', "summary.json"), ["has 'x' as 'evaluation.a', not a number"]),
        (spoiled('"wall_s": null', '"wall_s": NaN', "summary.json"), ["summary.json is not JSON: it holds NaN"]),
        (
            spoiled('"wall_s": null', '"wall_s": "x"', "summary.json"),
            ["has 'x' as 'wall_s', not a number from 0 to 1e+12 or null"],
        ),
    ],
)
def test_a_damaged_folder_is_refused_by_file(damage: Any, says: list[str], refused: Callable[..., str]) -> None:
    damage(write_run(Path("a"), [2.0, 1.0]))
    line = refused("report", "a")
    assert all(text in line for text in ["RUN:", *says])


@pytest.mark.parametrize(("key", "what"), [("found", "text"), ("passed", "true or false"), ("text", "text")])
def test_a_decision_that_was_tested_has_what_was_found(key: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    decision = {"text": "d", "holds": "a.loss < 1", "found": "0.1 < 1", "passed": True, key: None}
    words = dict.fromkeys(("claim", "title", "says", "source"), "x")
    claim = {**words, "note": None, "sweep": None, "reason": None, "figure": None, "verdict": "PASS", "runs": []}
    about = {"claims": [{**claim, "decisions": [decision]}], "scale": "laptop", "ranks": 4, "status": "done"}
    Path("r").mkdir()
    Path("r/claims.json").write_text(json.dumps(about))
    assert run(["report", "r"]) == 2
    assert f"r/claims.json has None as 'claims[0].decisions[0].{key}', not {what}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["nowhere"], "nowhere is not there"),
        (["a", "--json", "-", "--csv", "-"], "--csv"),
        (["a", "--markdown", "no/such/folder.md"], "--markdown"),
        (["a", "--plot", "loss.gif"], "--plot"),
        (["a", "--target-loss", "inf"], "--target-loss"),
        (["a", "--color", "red"], "--color"),
        ([], "RUN"),
    ],
)
def test_bad_options_of_report_are_refused(options: list[str], says: str, refused: Callable[..., str]) -> None:
    write_run(Path("a"), [2.0, 1.0])
    assert says in refused("report", *options)


def test_report_loads_neither_mpi_nor_what_draws() -> None:
    write_run(Path("a"), [2.0, 1.0])
    code = (
        "import sys; from mpisqueeze.cli.app import run; assert run(['report', 'a', '--csv', 'x.csv']) == 0;"
        "print([m for m in ('mpi4py.MPI', 'vl_convert', 'jinja2', 'altair') if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"


def test_pairs_part_at_the_compressor(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "alg.py").write_text("")
    for text, algorithm, compressor in (
        ("sgd", "sgd", None),
        ("csgd/qsgd:2,bucket=0", "csgd", "qsgd:2,bucket=0"),
        (f"csgd/{PLUGINS}:Halves", "csgd", f"{PLUGINS}:Halves"),
        ("csgd/dir/alg.py:C", "csgd", "dir/alg.py:C"),
        ("dir/alg.py:A", "dir/alg.py:A", None),
        ("dir/alg.py:A/onebit", "dir/alg.py:A", "onebit"),
        (f"{PLUGINS}:A/dir/alg.py:C", f"{PLUGINS}:A", "dir/alg.py:C"),
        ("csdg/dir/alg.py:C", "csdg", "dir/alg.py:C"),
    ):
        pair = parse_pair(text)
        assert (pair.algorithm, pair.compressor) == (algorithm, compressor), text
    for text in ("", "/", "sgd/", "/onebit"):
        with pytest.raises(UsageError, match="PAIR"):
            parse_pair(text)


def test_a_swept_server_or_graph_leaves_those_without_one_alone() -> None:
    pairs = [parse_pair(text) for text in ("sgd", "allreduce", "dpsgd")]
    servers = expand(pairs, [parse_sweep("server=root,sharded")], Settings())
    assert [entry.name for entry in servers] == ["sgd server=root", "sgd server=sharded", "allreduce", "dpsgd"]
    graphs = expand(pairs, [parse_sweep("topology=ring,star")], Settings())
    assert [entry.name for entry in graphs] == ["sgd", "allreduce", "dpsgd topology=ring", "dpsgd topology=star"]
    told = [(entry.plan.as_json()["server"], entry.plan.as_json()["topology"]) for entry in servers[1:]]
    assert told == [("sharded", None), (None, None), (None, "ring")]


def test_sweeps_make_a_grid_with_names_and_folders_of_their_own() -> None:
    pairs = [parse_pair(text) for text in ("sgd", "memsgd/onebit", "sgd")]
    sweeps = [parse_sweep("lr=0.1,0.2"), parse_sweep("--batch-size=4,1k")]
    entries = expand(pairs, sweeps, Settings(seed=7))
    assert [(entry.plan.config.lr, entry.plan.config.batch_size) for entry in entries] == [
        (0.1, 4), (0.1, 1000), (0.2, 4), (0.2, 1000),
    ] * 3  # fmt: skip
    assert {entry.plan.config.seed for entry in entries} == {7}
    assert entries[5].name == "memsgd/onebit lr=0.1 batch-size=1k"
    assert entries[5].folder == "06-memsgd-onebit-lr-0.1-batch-size-1k"
    assert entries[8].name == "sgd lr=0.1 batch-size=4 #2"
    for names in ([entry.name for entry in entries], [entry.folder for entry in entries]):
        assert len(set(names)) == 12


def test_a_swept_compressor_leaves_full_vectors_alone() -> None:
    pairs = [parse_pair(text) for text in ("sgd", "memsgd")]
    entries = expand(pairs, [parse_sweep("compressor=onebit;qsgd:2,bucket=64")], Settings())
    assert [entry.name for entry in entries] == ["sgd", "memsgd/onebit", "memsgd/qsgd:2,bucket=64"]


def undeclared(value: Any, kind: Any, where: str) -> list[str]:
    """Keys that a value has beyond those of its typed dictionary, whose types it fits."""
    msgspec.convert(value, kind)
    known = get_type_hints(kind)
    return [f"{where}.{key}" for key in value if key not in known]


def test_what_is_written_is_what_is_declared() -> None:
    length = ["--problem", "quadratic:20", "--iterations", "6"]
    assert run(["compare", "sgd", "csgd/qsgd:4", *length, "--seed", "3", "--out", "c"]) == 0
    folder = Path("c/02-csgd-qsgd-4")
    config, environment, summary = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "environment", "summary")
    )
    msgspec.convert(config, types.Config)
    assert undeclared(environment, types.Environment, "environment") == []
    assert undeclared(environment["hosts"][0], types.HostFacts, "host") == []
    assert undeclared(summary, types.Summary, "summary") == []
    assert types.Summary.__annotations__.keys() <= summary.keys()
    msgspec.convert(json.loads(Path("c/compare.json").read_text()), types.ComparisonFile)
    for line in (folder / "iterations.jsonl").read_text().splitlines():
        assert [*json.loads(line)] == [*ITERATION_LINE.__struct_fields__]


def test_a_long_log_is_read_in_little_memory(tmp_path: Path) -> None:
    """A hundred thousand lines of 300 bytes, none of which stays an object."""
    folder = write_run(tmp_path / "long", [2.0, 1.0], status=None)
    line = (folder / "iterations.jsonl").read_text().splitlines()[0]
    (folder / "iterations.jsonl").write_text(f"{line}\n" * 100_000)
    code = (
        "import sys; from pathlib import Path; from resource import RUSAGE_SELF, getrusage;"
        "from mpisqueeze.record.reading import read_run; before = getrusage(RUSAGE_SELF).ru_maxrss;"
        "assert read_run(Path(sys.argv[1])).columns['loss'].size == 100_000;"
        "print((getrusage(RUSAGE_SELF).ru_maxrss - before) << 10)"
    )
    finished = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 48 << 20


@pytest.mark.parametrize("status", ["ok", "interrupted", "failed", "diverged"])
def test_a_stopped_run_says_how_to_go_on(status: str) -> None:
    for name in ("a b", "c"):
        write_run(Path(name), [2.0, 1.0], status=status)
    Path("a b/checkpoint").mkdir()
    summaries = [{**read_run(Path(name)).summary, "ranks": 4, "run_folder": name} for name in ("a b", "c")]
    screen = io.StringIO()
    for summary in [*summaries, {**summaries[0], "ranks": 1}]:
        Console(width=30, file=screen).print(closing(summary), crop=False)
    said, stopped = screen.getvalue(), status in ("interrupted", "failed")
    assert ("to go on: mpisqueeze launch -n 4 train --resume 'a b'" in said) is stopped
    assert ("to go on: mpisqueeze train --resume 'a b'" in said) is stopped
    assert said.count("--checkpoint-every saves them") == stopped


def test_warnings_of_all_runs_stand_below_the_ranking_once() -> None:
    runs = [read_run(write_run(Path(name), [2.0, 1.0]), name) for name in ("a", "b")]
    for run_log, more in zip(runs, ([], ["one of them"]), strict=True):
        run_log.summary["warnings"] = ["both", *more]
    assert rank_runs(runs).warnings == ["both", "b: one of them"]


def test_an_interrupted_reproduction_counts_what_was_asked_for() -> None:
    verdicts = [{"verdict": "PASS"}]
    assert count_of(verdicts, 1) == "1 of 1 claim holds."
    assert count_of(verdicts, 3) == "1 of 3 claims hold, 2 not tested: interrupted."
    assert count_of([], 1) == "0 of 1 claim holds, 1 not tested: interrupted."
