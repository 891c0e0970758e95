"""`mpisqueeze compare` as a user runs it: the same start and data for all, its folder, exit codes and output."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, logged, start, wait_for
from parts import payload_bytes

from mpisqueeze.cli.app import run
from mpisqueeze.launch import Launcher
from mpisqueeze.runs.presets import PRESETS

Run = Callable[..., Finished]
SMALL = ("--problem", "quadratic:101", "--iterations", "12")
PLUGINS = Path(__file__).with_name("plugins.py")


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in logged(folder / "iterations.jsonl")]


def test_all_pairs_share_start_data_and_seed(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """sgd twice is one run twice, doublesqueeze without compression is sgd, and train alone gives the same again."""
    options = ("--epochs", "1", "--batch-size", "7", "--seed", "5", "--save-model")
    pairs = ("sgd", "memsgd/qsgd:2", "sgd", "doublesqueeze/identity", f"memsgd/{PLUGINS}:Halves")
    finished = mpisqueeze_run(3, "compare", *pairs, *options, "--out", "all", "--json", "all.json").well()
    folders = ["01-sgd", "02-memsgd-qsgd-2", "03-sgd", "04-doublesqueeze-identity", "05-memsgd-Halves"]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [*folders, "compare.json"]
    logs = [losses(tmp_path / "all" / folder) for folder in folders]
    models = [np.load(tmp_path / "all" / folder / "model.npz")["x"] for folder in folders]
    assert len(logs[0]) > 30
    for other in (2, 3):
        assert logs[other] == logs[0]
        assert np.array_equal(models[other], models[0])
    assert logs[1][0] == logs[0][0], "the first loss is that of the common start and batch"
    assert logs[1] != logs[0]

    mpisqueeze_run(3, "train", *options, "--algorithm", "memsgd", "--compressor", "qsgd:2", "--out", "alone").well()
    assert losses(tmp_path / "alone") == logs[1]
    assert np.array_equal(np.load(tmp_path / "alone" / "model.npz")["x"], models[1])

    assert "\x1b" not in finished.out + finished.err
    assert max(len(line) for line in finished.out.splitlines() if "warning" not in line) <= 120
    assert len(re.findall(r"^\[\d/5\] .*: \d+ iterations$", finished.out, re.M)) == 5
    assert len(re.findall(r"^\[\d/5\] .*: ok ", finished.out, re.M)) == 5
    summaries = json.loads((tmp_path / "all.json").read_text())
    assert [summary["name"] for summary in summaries] == [
        "sgd", "memsgd/qsgd:2", "sgd #2", "doublesqueeze/identity", "memsgd/Halves",
    ]  # fmt: skip
    for summary, folder, log in zip(summaries, folders, logs, strict=True):
        written = json.loads((tmp_path / "all" / folder / "summary.json").read_text())
        assert {key: summary[key] for key in written} == written
        reach = min(written["iterations"] // 20, round(written["iterations"] / written["epochs"]))
        assert summary["smoothed_loss"] == pytest.approx(np.mean(log[-reach - 1 :]))


def test_sweeps_divergence_and_exports(
    mpisqueeze_run: Run, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = mpisqueeze_run(
        2, "compare", "sgd", "csgd/topk:0.1", *SMALL, "--sweep", "lr=0.5,1e12", "--sweep", "warmup=0,2",
        "--out", "grid", "--json", "-", "--target-loss", "40",
    )  # fmt: skip
    summaries = finished.well().json
    names = [f"{pair} lr={lr} warmup={w}" for pair in ("sgd", "csgd/topk:0.1") for lr in ("0.5", "1e12") for w in "02"]
    assert [summary["name"] for summary in summaries] == names
    assert [summary["status"] for summary in summaries] == ["ok", "ok", "diverged", "diverged"] * 2
    assert [summary["warmup"] for summary in summaries[:2]] == [0, 2]
    folder = empty_folder / "grid"
    for summary, path in zip(summaries, sorted(folder.glob("0*")), strict=True):
        log = logged(path / "iterations.jsonl")
        config = json.loads((path / "config.json").read_text())
        assert f"lr={config['lr']:g}".replace("e+", "e") in summary["name"]
        hits = [i for i, line in enumerate(log) if line["loss"] <= 40]
        expected = sum(line["bytes_sent"] for line in log[: hits[0] + 1]) if hits else None
        assert summary["bytes_to_target"] == expected
    about = json.loads((folder / "compare.json").read_text())
    assert about["status"] == "done"
    assert about["summaries"] == summaries
    assert [row["status"] for row in about["ranking"]] == ["ok"] * 4 + ["diverged"] * 4
    assert about["reference"] == names[0]
    per_iteration = {"sgd": 2 * 4 * 101, "csgd/topk:0.1": payload_bytes("topk:0.1", 101, 4) + 4 * 101}
    for row in about["ranking"]:
        assert row["bytes_sent"] == row["iterations"] * per_iteration[row["name"].partition(" ")[0]]

    assert run(["report", "grid", "--csv", "-", "--markdown", "grid.md"]) == 0
    out, err = capsys.readouterr()
    table = list(csv.DictReader(io.StringIO(out)))
    assert [line["name"] for line in table] == [row["name"] for row in about["ranking"]]
    assert [(line["target_name"], float(line["target_value"])) for line in table] == [("smoothed_loss", 40.0)] * 8
    for line, row in zip(table, about["ranking"], strict=True):
        assert line["bytes_to_target"] == str(row["bytes_to_target"] or "")
    assert (empty_folder / "grid.md").read_text().count("| diverged |") == 4
    assert "Fewest bytes to the target loss 40.00" in err


def test_a_target_is_counted_on_evaluations(mpisqueeze_run: Run, tmp_path: Path) -> None:
    options = (*SMALL, "--eval-every", "2", "--out", "c", "--json", "-")
    finished = mpisqueeze_run(2, "compare", "sgd", "csgd/topk:0.1", "csgd/qsgd:4", *options, "--target", "distance=7")
    summaries = finished.well().json
    for summary, path in zip(summaries, sorted((tmp_path / "c").glob("0*")), strict=True):
        met = [line["iteration"] for line in logged(path / "evaluations.jsonl") if line["distance"] <= 7]
        assert met[:1] != [0], "the start is not there yet"
        log = logged(path / "iterations.jsonl")
        assert summary["bytes_to_target"] == (sum(line["bytes_sent"] for line in log[: met[0]]) if met else None)
    assert summaries[0]["bytes_to_target"]
    assert [summary["shown_to_fail"] for summary in summaries] == [False, True, False]
    about = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert about["given_target"] == {"name": "distance", "value": 7.0}
    assert run(["report", str(tmp_path / "c"), "--json", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == summaries


def test_a_metric_that_the_problem_does_not_have_is_told_before_training(mpisqueeze_run: Run, tmp_path: Path) -> None:
    finished = mpisqueeze_run(2, "compare", "sgd", *SMALL, "--out", "c", "--target", "test_accuracy=0.9")
    assert finished.code == 2
    assert "--target: quadratic:101 evaluates distance, objective, not 'test_accuracy'" in finished.err
    assert not (tmp_path / "c").exists()


def test_seeds_in_turns_tuned_and_stopped_at_the_target(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """Every pair takes every seed, tries as many settings on another one, and stops where `train` stops."""
    options = ("--problem", "quadratic:101", "--iterations", "60", "--eval-every", "2")
    finished = mpisqueeze_run(
        2, "compare", *("sgd", "csgd/topk:0.9", "sgd"), *options, "--seeds", "3", "--seed", "4",
        "--tune", "lr=0.02:0.08:3", "--target", "distance=7", "--stop-at-target", "--out", "c", "--json", "-",
    ).well()  # fmt: skip
    folder, pairs = tmp_path / "c", ["sgd", "csgd/topk:0.9", "sgd #2"]
    about = json.loads((folder / "compare.json").read_text())
    assert about["status"] == "done"
    raced = [(entry["pair"], entry["seed"]) for entry in about["runs"] if entry["phase"] == "race"]
    assert raced == [(p, 4) for p in pairs] + [(p, 5) for p in pairs[::-1]] + [(p, 6) for p in pairs]
    trials = [entry for entry in about["runs"] if entry["phase"] == "tune"]
    assert {entry["seed"] for entry in trials} == {0}
    assert [entry["pair"] for entry in trials[:9]] == [*pairs, *pairs[::-1], *pairs]
    assert {path.name for path in folder.iterdir()} == {entry["folder"] for entry in about["runs"]} | {"compare.json"}
    assert all(f"-seed-{entry['seed']}" in entry["folder"] for entry in about["runs"] if entry["phase"] == "race")

    for entry in about["runs"]:
        path = folder / entry["folder"]
        summary = json.loads((path / "summary.json").read_text())
        distances = [line["distance"] for line in logged(path / "evaluations.jsonl")]
        assert [distance <= 7 for distance in distances] == [False] * (len(distances) - 1) + [True]
        assert summary["iterations"] == len(logged(path / "iterations.jsonl")) == 2 * (len(distances) - 1)
        assert (summary["status"], summary["stopped_at_target"]) == ("ok", True)
        config = json.loads((path / "config.json").read_text())
        assert (config["iterations"], config["seed"]) == (60, entry["seed"])
        # The largest rate is the fastest, so that the grid is widened by a step, its factor of 2.
        assert entry["phase"] == "tune" or config["lr"] == pytest.approx(0.16)
    assert [(one["pair"], one["trials"], one["at_edge"]) for one in about["tuned"]] == [(p, 4, ["lr"]) for p in pairs]
    assert finished.err.count("warning: lr 0.16 of") == 3

    found = {row["name"]: row for row in finished.json}
    assert found.keys() == {*pairs}
    assert {row["settings"]["lr"] for row in found.values()} == {0.16}
    first, again = found["sgd"], found["sgd #2"]
    assert first["seeds"] == [4, 5, 6]
    assert again["iterations_to_target"] == first["iterations_to_target"]
    same = again["relative"]["iterations_to_target"]
    assert (same["ratio"], same["distinguishable"]) == (1, False)
    assert again["bytes_to_target"]["each"] == [count * 2 * 4 * 101 for count in first["iterations_to_target"]["each"]]

    # `train` stops there as well, and has nothing to go on with.
    alone = ("--seed", "5", "--lr", "0.16", "--stop-at", "distance=7", "--checkpoint-every", "3", "--out", "alone")
    mpisqueeze_run(2, "train", "sgd", *options, *alone).well()
    before = logged(tmp_path / "alone" / "iterations.jsonl")
    assert [line["loss"] for line in before] == losses(folder / "01-sgd-seed-5")
    mpisqueeze_run(2, "train", "--resume", "alone").well()
    assert logged(tmp_path / "alone" / "iterations.jsonl") == before
    wrong = mpisqueeze_run(2, "train", *options, "--stop-at", "bleu=3", "--out", "wrong")
    assert wrong.code == 2
    assert "--stop-at: quadratic:101 evaluates distance, objective, not 'bleu'" in wrong.err
    assert not (tmp_path / "wrong").exists()


def test_a_failing_run_leaves_the_others_alone(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """The problem raises on rank 1 in iteration 7: a failure that all ranks learn of."""
    plugin = f"{PLUGINS}:RaisesLater"
    finished = mpisqueeze_run(
        3, "compare", "dpsgd", "memsgd/topk:0.5", "--problem", plugin, "--sweep", "iterations=5,20", "--out", "c"
    ).well()
    about = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert [summary["status"] for summary in about["summaries"]] == ["ok", "failed"] * 2
    # Gossip has no barrier, and the others learn of it when they meet next.
    done = [summary["iterations"] for summary in about["summaries"]]
    assert done == [5, done[1], 5, 6]
    assert 6 <= done[1] <= 20
    assert "ValueError('on purpose')" in finished.out
    assert finished.err.count("Traceback") == 2
    diverged = mpisqueeze_run(2, "compare", "sgd", "csgd", *SMALL, "--lr", "1e12")
    assert diverged.code == 3


def test_a_wrong_pair_is_refused_before_any_run(mpisqueeze_run: Run, tmp_path: Path) -> None:
    for pair, says in (
        ("memsdg/onebit", ("PAIR memsdg/onebit", "did you mean 'memsgd'")),
        (f"memsgd/{PLUGINS}:WrongPayload", ("PAIR memsgd/WrongPayload", "encode")),
    ):
        finished = mpisqueeze_run(2, "compare", "sgd", pair, timeout=30)
        assert finished.code == 2
        (line,) = [line for line in finished.err.splitlines() if line.startswith("mpisqueeze: error:")]
        assert all(text in line for text in says), line
    assert not list(tmp_path.glob("results/*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sgd", "sgd/onebit"], ["PAIR sgd/onebit", "takes no compressor"]),
        (["memsgd/qsgd:9"], ["PAIR memsgd/qsgd:9", "2 to 8"]),
        (["sgd/"], ["PAIR", "ALGORITHM/COMPRESSOR"]),
        ([], ["PAIR", "--preset"]),
        (["--preset", "centralised"], ["--preset", "did you mean 'centralized'"]),
        (["sgd", "--sweep", "batch-sise=1"], ["--sweep", "did you mean 'batch-size'"]),
        (["sgd", "--sweep", "lr=0.1,fast"], ["--sweep", "--lr", "fast"]),
        (["sgd", "--sweep", "lr=0.1,-1"], ["--sweep", "--lr -1", "positive"]),
        (["sgd", "--sweep", "lr"], ["--sweep", "OPTION=V1,V2"]),
        (["sgd", "--sweep", "lr=1,1"], ["--sweep", "twice"]),
        (["sgd", "--sweep", "lr=1", "--sweep", "lr=2"], ["--sweep", "twice"]),
        (["sgd", "--sweep", "algorithm=csgd"], ["--sweep", "pairs"]),
        (["sgd", "--sweep", "seed=1,2"], ["--sweep", "--seeds"]),
        (["sgd", "--seeds", "1"], ["--seeds", "one seed", "no interval"]),
        (["sgd", "--seeds", "0"], ["--seeds", "such as 3,5,8"]),
        (["sgd", "--seeds", "3,5,x"], ["--seeds", "'3,5,x'", "such as 3,5,8"]),
        (["sgd", "--seeds", "3,5,3"], ["--seeds", "seed 3 twice"]),
        (["sgd", "--seeds", "3,5", "--seed", "3"], ["--seed", "list of seeds"]),
        (["sgd", "--tune", "lr=1:0.1:5"], ["--tune", "1 is not below 0.1"]),
        (["sgd", "--tune", "lr=0.1:1:1"], ["--tune", "2 values at least"]),
        (["sgd", "--tune", "lr=0:1:3"], ["--tune", "above 0"]),
        (["sgd", "--tune", "lr=0.1,1"], ["--tune", "LOW:HIGH:COUNT"]),
        (["sgd", "--tune", "server=1:2:3"], ["--tune", "no number"]),
        (["sgd", "--tune", "momentum=0.1:2:3"], ["--tune", "--momentum 2", "below 1"]),
        (["sgd", "--tune", "eta=0.1:1:3"], ["--tune", "eta", "known"]),
        (["sgd", "--tune", "lr=0.1:1:3", "--tune", "lr=1:2:3"], ["--tune", "twice"]),
        (["sgd", "--tune", "lr=0.1:1:3", "--sweep", "lr=1,2"], ["--tune", "swept"]),
        (["sgd", "--stop-at-target"], ["--stop-at-target", "--target"]),
        (["sgd", "--stop-at-target", "--target-loss", "1"], ["--stop-at-target", "smoothed"]),
        (["choco:eta=0.5", "--sweep", "eta=0.1,0.2"], ["PAIR choco:eta=0.5", "eta"]),
        (["choco", "--sweep", "eta=0.1,fast"], ["PAIR choco", "eta", "fast"]),
        (["dpsgd", "--sweep", "eta=0.1,0.2"], ["--sweep", "eta", "choco"]),
        (["memsgd/onebit", "--sweep", "compressor=ternary"], ["PAIR memsgd/onebit", "--sweep"]),
        (["sgd", "--algorithm", "csgd"], ["--algorithm"]),
        (["sgd", "--data", "mnist", "--data-dir", "nowhere"], ["--data-dir", "nowhere"]),
        (["sgd", "--batch-size", "none"], ["--batch-size", "size"]),
        (["sgd", "--target-loss", "nan"], ["--target-loss"]),
        (["sgd", "--json", "no/such/folder.json"], ["--json"]),
        (["sgd", "--out", "/proc/mpisqueeze"], ["--out"]),
    ],
)
def test_bad_input_names_the_argument(
    arguments: list[str], says: list[str], empty_folder: Path, refused: Callable[..., str]
) -> None:
    line = refused("compare", *arguments)
    assert all(text in line for text in says), line
    assert not list(empty_folder.iterdir()), "nothing was written"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run(name: str, mpisqueeze_run: Run, tmp_path: Path) -> None:
    finished = mpisqueeze_run(2, "compare", "--preset", name, "--epochs", "0.2", "--out", "c", "--json", "-").well()
    assert [summary["status"] for summary in finished.json] == ["ok"] * len(PRESETS[name])
    gossips = any(summary["algorithm"] == "dpsgd" for summary in finished.json)
    assert ("its own model" in finished.err) == gossips


def test_a_signal_ends_the_run_and_skips_the_rest(
    launcher: Launcher, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "mpisqueeze", "compare", "sgd", "memsgd", "--problem", f"{PLUGINS}:Slow"]
    options = ["--iterations", "100k", "--out", "c"]
    process = start(launcher, 2, [*command, *options], empty_folder, subprocess.PIPE, None)
    try:
        log = empty_folder / "c" / "01-sgd" / "iterations.jsonl"
        wait_for(lambda: log.exists() and log.stat().st_size, "iterations")
        # While it runs, or if it is killed now, the folder can be read.
        assert run(["report", "c"]) == 0
        assert "killed" in capsys.readouterr().out
        os.kill(int((empty_folder / "pid.1").read_text()), signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 130
    finally:
        process.kill()
    about = json.loads((empty_folder / "c" / "compare.json").read_text())
    assert about["status"] == "interrupted"
    assert [summary["status"] for summary in about["summaries"]] == ["interrupted", "skipped"]
    assert re.search("memsgd/onebit +skipped", out)
    assert not (empty_folder / "c" / "02-memsgd-onebit").exists()


def test_a_report_of_nothing_ends_on_every_rank(mpisqueeze_run: Callable[..., Any]) -> None:
    finished = mpisqueeze_run(2, "report", "nowhere", timeout=30)
    assert finished.code == 2
    assert finished.err.count("mpisqueeze: error: RUN: nowhere is not there") == 1


def test_a_report_under_a_launcher_writes_once_and_fails_together(
    mpisqueeze_run: Callable[..., Any], tmp_path: Path
) -> None:
    """The page loads MPI's library for the model without starting it."""
    (tmp_path / "plain.py").write_text(
        "class P:\n    dimension = 2\n    def __init__(self, rank, size, seed, xp, dtype): self.xp = xp\n"
        "    def initial_point(self): return self.xp.zeros(2)\n"
        "    def gradient(self, x, iteration): return float(x @ x), x + 1\n"
    )
    mpisqueeze_run(2, "train", "--problem", "plain.py:P", "--iterations", "5", "--out", "a").well()
    finished = mpisqueeze_run(2, "report", "a", "--html", "a.html", "--plot", "terminal", timeout=30).well()
    assert finished.out.count("Training loss by bytes") == 1
    assert "by bandwidth" in (tmp_path / "a.html").read_text()
    options = ["--html", "b.html", "--plot", "terminal", "--plot-kind", "test-by-time"]
    finished = mpisqueeze_run(2, "report", "a", *options, timeout=30)
    assert finished.code == 2, finished.err
    assert finished.out == ""
    assert finished.err.count("mpisqueeze: error: --plot-kind: no run has an evaluation to draw") == 1
    assert not (tmp_path / "b.html").exists()
