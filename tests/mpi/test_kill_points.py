"""Two of the kill points of results/robustness, which has the tally of 200."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mpisqueeze.launch import Launcher

SCRIPT = Path(__file__).parents[2] / "results" / "robustness" / "kill_points.py"


def test_runs_that_were_killed_end_as_those_that_were_not(launcher: Launcher, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "-n", "2", "--shared", "2", "--seed", "4", "--write", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (tally,) = json.loads((tmp_path / "kill_points.json").read_text())
    assert (tally["equal"], tally["failed"]) == (2, [])
    assert tally["slowest_end_s"] <= 15
