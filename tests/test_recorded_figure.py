"""A newly recorded figure, as a contributor adds it: a declaration in record/figures.py, and nothing else."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import logged

DECLARED = """
    Figure("coding_s", "encode and decode", "s", np.max,
           lambda loop: loop.clock.seconds[Phase.ENCODE] + loop.clock.seconds[Phase.DECODE], "spread", "coding"),
    Figure("x_norm", "norm of x", "", np.mean, lambda loop: float(np.linalg.norm(loop.x)), "last", "‖x‖"),
"""
#: Runs commands with the declarations at the end of FIGURES.
PROGRAM = """
import importlib.util, sys, types
name = "mpisqueeze.record.figures"
path = importlib.util.find_spec(name).origin
figures, end, derived = open(path, encoding="utf-8").read().partition("\\n)\\n\\n#: The figures of iterations.jsonl")
assert end
module = sys.modules[name] = types.ModuleType(name)
exec(compile(figures + sys.argv[1] + end + derived, path, "exec"), vars(module))
from mpisqueeze.cli.app import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.usefixtures("empty_folder")
def test_a_new_figure_is_logged_summed_up_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def mpisqueeze(*arguments: str, declared: str = DECLARED) -> str:
        command = [sys.executable, "-c", PROGRAM, declared, *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    method = ("--algorithm", "csgd", "--compressor", "qsgd:4", "--problem", "quadratic:50", "--iterations", "9")
    closing = mpisqueeze("train", *method, "--per-rank", "--out", "new")
    mpisqueeze("train", *method, "--out", "old", declared="")

    log = logged(Path("new/iterations.jsonl"))
    for line in log:
        assert line["coding_s"] == pytest.approx(line["encode_s"] + line["decode_s"], abs=2e-9)
    assert [line["x_norm"] for line in logged(Path("new/ranks.jsonl"))] == [line["x_norm"] for line in log]
    summary = json.loads(Path("new/summary.json").read_text())
    median = np.median([line["coding_s"] for line in log[3:]])
    assert summary["times"]["coding_s"]["median"] == pytest.approx(median, abs=2e-9)
    assert summary["x_norm"] == log[-1]["x_norm"]
    assert "encode and decode" in closing

    # Beside a run of a version that did not know it.
    shown = mpisqueeze("report", "new", "old", "--csv", "t.csv", "--markdown", "t.md", "--html", "t.html")
    heading = next(line for line in shown.splitlines() if "method" in line)
    assert {"coding", "‖x‖"} <= {*heading.split()}
    assert "‖x‖" in Path("t.md").read_text()
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    known = {row["run_folder"]: (row["median_coding_s"], row["x_norm"]) for row in rows}
    assert float(known["new"][0]) == summary["times"]["coding_s"]["median"]
    assert (float(known["new"][1]), known["old"]) == (summary["x_norm"], ("", ""))
    page = Path("t.html").read_text()
    assert ">encode and decode<" in page
    assert ">norm of x<" in page or ">‖x‖<" in page
    assert "encode and decode" in mpisqueeze("report", "old")
