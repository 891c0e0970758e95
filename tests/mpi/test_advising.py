"""`mpisqueeze advise` as a user runs it: its verdicts where the answer is known, its time, its folder, its ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, start, wait_for

from mpisqueeze.launch import Launcher

Run = Callable[..., Finished]
#: Parts of a user's own: a gradient that takes its time, and DoubleSqueeze whose workers forget what they did not send.
PARTS = '''
import time
from mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze
from mpisqueeze.problems.mlp import MLP


class SlowMLP(MLP):
    def gradient(self, x, iteration):
        time.sleep(0.02)
        return super().gradient(x, iteration)


class Forgets(DoubleSqueeze):
    """Neither worker nor server feeds its error back."""

    name = "forgets"

    def send(self, section):
        section.encode(section.g)

    def answer(self, section):
        section.encode(section.mean)
'''
#: Fields of advice.json that others rely on.
FIELDS = {
    "schema_version", "pays_off", "baseline", "best", "target", "ratio", "final", "break_even_bandwidth", "network",
    "virtual", "sentences", "candidates", "budget_s", "spent_s",
}  # fmt: skip


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_short_advice(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """It keeps its time, has every run, says the same in words and in JSON, and its commands are complete."""
    began = time.monotonic()
    finished = mpisqueeze_run(
        2, "advise", "doublesqueeze/onebit", "memsgd/topk:0.1", "--problem", "quadratic:500", "--iterations", "32",
        "--budget", "60s", "--seeds", "3", "--link", "latency=1ms,bandwidth=10mbit", "--out", "advice", "--json", "-",
        alone=True,
    ).well()  # fmt: skip
    took = time.monotonic() - began
    advice = finished.json
    assert not FIELDS - advice.keys()
    assert advice == read(tmp_path / "advice" / "advice.json")
    assert advice["spent_s"] < min(took, 66), "three seeds take less than the budget"
    assert advice["budget_s"] == 60
    assert advice["virtual"] is False
    assert "emulated" in advice["network"]
    assert advice["sentences"][0] in " ".join(finished.err.split())
    names = [candidate["name"] for candidate in advice["candidates"]]
    assert names[0] == advice["baseline"] == "allreduce"
    assert sorted(names[1:]) == [
        "doublesqueeze/onebit",
        "memsgd/topk:0.1",
    ]
    for candidate in advice["candidates"]:
        assert {"name", "settings", "seeds", "dropped_because"} <= candidate.keys()
        for folder in candidate["runs"]:
            config = read(tmp_path / "advice" / folder / "config.json")
            assert config["algorithm"] == candidate["settings"]["algorithm"]
            assert config["link"] == "latency=1ms,bandwidth=10mbit"
        assert "--link latency=1ms,bandwidth=10mbit" in candidate["command"]
    ratio = advice["ratio"]["time"]
    assert advice["pays_off"] is None or (advice["pays_off"] == (ratio["high"] is not None and ratio["high"] < 1))
    page = tmp_path / "advice" / "report.html"
    assert page.is_file()
    assert advice["sentences"][0][:20] in page.read_text()


@pytest.mark.slow
def test_what_is_too_short_and_what_is_interrupted(mpisqueeze_run: Run, launcher: Launcher, tmp_path: Path) -> None:
    """A budget too short for a run says how long one takes; a signal leaves a verdict, and --resume goes on."""
    options = ("--problem", "quadratic:500", "--iterations", "60", "--link", "latency=20ms,bandwidth=10mbit")
    short = mpisqueeze_run(2, "advise", *options, "--budget", "2s", "--out", "short", alone=True)
    assert short.code == 2
    (line,) = [line for line in short.err.splitlines() if line.startswith("mpisqueeze: error")]
    assert "--budget: is too short: one run takes " in line
    words = ("advise", "memsgd/onebit", *options[:4], "--link", "latency=2ms,bandwidth=10mbit", "--budget", "60s")
    with open(tmp_path / "said", "w") as said:
        process = start(
            launcher,
            2,
            [sys.executable, "-m", "mpisqueeze", *words, "--out", "cut"],
            tmp_path,
            stdout=said,
            stderr=said,
        )
    race = tmp_path / "cut" / "race.json"
    wait_for(lambda: race.is_file() and len(read(race)["booked"]) >= 2, "two runs")
    os.kill(read(tmp_path / "cut" / "holder.json")["pid"], signal.SIGINT)
    assert process.wait(30) == 130
    cut = read(tmp_path / "cut" / "advice.json")
    assert cut["status"] == "interrupted"
    assert any("interrupted" in text for text in cut["sentences"])
    booked = [entry["folder"] for entry in read(race)["booked"]]
    kept = {folder: os.stat(tmp_path / "cut" / folder / "summary.json").st_mtime_ns for folder in booked}
    budget = f"{cut['spent_s'] + 8:.1f}s"
    resumed = mpisqueeze_run(2, "advise", "--resume", "cut", "--budget", budget, "--json", "-", alone=True).well().json
    assert [entry["folder"] for entry in read(race)["booked"]][: len(booked)] == booked
    assert kept == {folder: os.stat(tmp_path / "cut" / folder / "summary.json").st_mtime_ns for folder in booked}
    assert resumed["status"] == "done"
    assert resumed["spent_s"] > cut["spent_s"]


@pytest.mark.slow
def test_compression_pays_off_on_a_slow_link(mpisqueeze_run: Run) -> None:
    advice = mpisqueeze_run(
        4, "advise", "--link", "latency=5ms,bandwidth=50mbit", "--budget", "60s", "--json", "-",
        timeout=100, alone=True,
    ).well().json  # fmt: skip
    assert advice["pays_off"] is True, advice["sentences"]
    assert advice["ratio"]["time"]["high"] < 1
    assert advice["sentences"][0].startswith("Pays off: ")


@pytest.mark.slow
def test_nothing_pays_off_where_gradients_take_the_time(mpisqueeze_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PARTS)
    advice = mpisqueeze_run(
        2, "advise", "--problem", "mine.py:SlowMLP", "--epochs", "2", "--budget", "60s", "--json", "-",
        timeout=100, alone=True,
    ).well().json  # fmt: skip
    assert advice["pays_off"] is not True, advice["sentences"]


@pytest.mark.slow
def test_a_broken_method_is_not_recommended(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """One without error feedback at 1 bit is as fast as DoubleSqueeze, and does not get there."""
    (tmp_path / "mine.py").write_text(PARTS)
    advice = mpisqueeze_run(
        4, "advise", "mine.py:Forgets/onebit", "--link", "latency=5ms,bandwidth=50mbit", "--budget", "60s",
        "--json", "-", timeout=100, alone=True,
    ).well().json  # fmt: skip
    assert advice["pays_off"] is not True, advice["sentences"]
    assert any(text.startswith(("Not recommended: forgets", "Not raced: forgets")) for text in advice["sentences"])
