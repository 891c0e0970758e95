"""A signal by which a process has moments left: what it saves, and what a repeated one means."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_for
from test_checkpoint import same_runs

from mpisqueeze.cli.app import run
from mpisqueeze.comm.signals import SAME_S, Signal
from mpisqueeze.errors import UsageError
from mpisqueeze.record.checkpoint import (
    EarlyWriter,
    Past,
    checkpoints,
    complete,
    complete_early,
    discard_unfinished,
    read_arrays,
    read_manifest,
)
from mpisqueeze.runs import checkpointing, training
from mpisqueeze.runs.interrupts import Interrupts, at_once

SLOW = Path(__file__).parent / "slurm" / "slow_gradient.py"


def written(folder: Path, rank: int, iteration: int = 7) -> Path | None:
    writer = EarlyWriter(folder, rank)
    writer.copy(iteration, {"x": np.arange(3.0) + rank})
    return writer.write({"lr": 0.1}, {"iterations.jsonl": 30}, Past(1.0, [], [(1, 2), (3, 4)]), 2)


def test_an_early_checkpoint_is_valid_once_all_ranks_have_written_theirs(tmp_path: Path) -> None:
    """Whoever finds them all may complete it, although no rank is alive."""
    part = written(tmp_path, 1)
    assert part is not None
    assert not complete(part), "rank 0 has written nothing"
    written(tmp_path, 0)
    complete_early(tmp_path)
    (folder,) = checkpoints(tmp_path)
    manifest = read_manifest(folder)
    assert (manifest.iteration, manifest.ranks, manifest.log) == (7, 2, {"iterations.jsonl": 30})
    for rank in range(2):
        assert read_arrays(manifest, rank)["x"].tolist() == [rank, 1 + rank, 2 + rank]
    assert written(tmp_path, 0) is None, "there is one"


def test_an_early_checkpoint_that_is_not_whole_or_damaged_is_discarded(tmp_path: Path) -> None:
    part = written(tmp_path, 0)
    assert part is not None
    complete_early(tmp_path)
    assert part.is_dir()
    written(tmp_path, 1)
    (part / "draft.json").write_text('{"ranks": "many"}')
    with pytest.raises(UsageError):
        complete(part)
    complete_early(tmp_path)
    discard_unfinished(tmp_path)
    assert not part.exists()
    assert checkpoints(tmp_path) == []


def test_a_signal_that_comes_again_at_once_is_the_same_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM sends SIGTERM twice within milliseconds."""
    ended: list[tuple[int, Any]] = []
    with Interrupts() as interrupts:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert (interrupts.number, interrupts.wish) == (signal.SIGTERM, Signal.TERMINATE)
        monkeypatch.setattr(signal, "signal", lambda *given: ended.append(given))
        monkeypatch.setattr(os, "kill", lambda *given: ended.append(given))
        interrupts._noted -= SAME_S
        interrupts._note(signal.SIGTERM, None)
        assert ended == [(signal.SIGTERM, signal.SIG_DFL), (os.getpid(), signal.SIGTERM)]
        monkeypatch.undo()
    assert interrupts._before[signal.SIGTERM] == signal.getsignal(signal.SIGTERM)


def test_nohup_keeps_its_promise() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_hears_the_first_signal() -> None:
    heard: list[tuple[int, bool]] = []

    def work(number: int, over: threading.Event) -> None:
        heard.append((number, threading.current_thread() is threading.main_thread()))
        assert over.wait(10)

    with Interrupts(), at_once(work):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: heard, "the thread")
    assert len(heard) == 1
    assert not heard[0][1]


def test_a_process_that_is_killed_right_after_a_signal_has_saved_its_last_iteration(tmp_path: Path) -> None:
    """As Open MPI's mpirun kills ranks: the summary and a checkpoint are there, and the run ends with the same bits."""
    options = ["--problem", f"{SLOW}:Slow", "--iterations", "6", "--save-model", "--eval-every", "2"]
    program = [sys.executable, "-m", "mpisqueeze", "train"]

    def start(*more: str, slow_s: str = "0") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*program, *more], env={**os.environ, "SLOW_S": slow_s}, cwd=tmp_path, stdout=subprocess.DEVNULL
        )

    assert start(*options, "--out", "whole").wait(timeout=60) == 0
    saving = ("--checkpoint-every", "10min", "--out", "part")
    process = start(*options, *saving, slow_s="1.5")
    log = tmp_path / "part" / "iterations.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 1, "an iteration")
    # The log is written just before the state is copied.
    time.sleep(0.3)
    done = log.read_text().count("\n")
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: [*tmp_path.glob("part/checkpoint/*[0-9]")], "the checkpoint")
    process.kill()
    process.wait()
    summary = json.loads((tmp_path / "part" / "summary.json").read_text())
    assert (summary["status"], summary["signal"], summary["iterations"]) == ("interrupted", "SIGTERM", done)
    assert start("--resume", "part").wait(timeout=60) == 0
    same_runs(tmp_path / "whole", tmp_path / "part")
    assert json.loads((tmp_path / "part" / "summary.json").read_text())["resumed_after"] == [done]


STOPPED = '''
import os, signal, time
from pathlib import Path
import numpy as np


class Stopped:
    """STOP=NUMBER:RANK:ITERATION:PATH: a signal comes in a gradient, which goes on once the path is there."""

    dimension = 101

    def __init__(self, rank, size, seed, xp, dtype):
        self.rank, self.dtype = rank, dtype

    def initial_point(self):
        return np.ones(self.dimension, self.dtype)

    def gradient(self, x, iteration):
        number, *place, path = os.environ.get("STOP", ":::").split(":")
        if place == [str(self.rank), str(iteration)]:
            os.kill(os.getpid(), int(number))
            deadline = time.monotonic() + 60
            while not Path(path).exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        time.sleep(float(os.environ.get("SLOW_S", "0")))
        return float(x @ x) / 2, x + self.dtype.type(0.01 * self.rank)
'''


def ended(*words: str) -> int:
    """The exit code of a run of virtual workers with that problem."""
    Path("stopped.py").write_text(STOPPED)
    return run(["train", "--problem", "stopped.py:Stopped", "--eval-every", "0", *words])


def test_virtual_workers_are_saved_in_the_course_of_an_iteration(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ranks are, each of which has a thread for it: the third worker waits for the checkpoint of all."""
    monkeypatch.setattr(training, "LONG_S", 0)
    monkeypatch.setattr(checkpointing, "LONG_S", 0)
    monkeypatch.setattr(checkpointing, "COPY_SHARE", 0)
    options = ("--algorithm", "memsgd", "--compressor", "onebit", "--workers", "4", "--iterations", "7", "--save-model")
    assert ended(*options, "--out", "whole") == 0
    saved = Path("part/checkpoint/00000003")
    monkeypatch.setenv("STOP", f"{signal.SIGTERM:d}:2:4:{saved}")
    assert ended(*options, "--checkpoint-every", "10min", "--out", "part") == 143
    summary = json.loads(Path("part/summary.json").read_text())
    assert (summary["status"], summary["signal"]) == ("interrupted", "SIGTERM")
    # Whether the signal comes before the first worker's iteration or after is a matter of turns.
    assert summary["iterations"] in (4, 5)
    last = saved.with_name(f"{summary['iterations']:08}")
    assert {*saved.parent.iterdir()} == {saved, last}
    shutil.rmtree(last)
    monkeypatch.delenv("STOP")
    assert run(["train", "--resume", "part"]) == 0
    same_runs(Path("whole"), Path("part"))


@pytest.mark.parametrize(
    ("words", "slow_s"), [(("--link", "latency=1ms,bandwidth=1gbit", "--compute", "1ms"), "0"), ((), "0.01")]
)
def test_virtual_workers_without_a_barrier_stop_soon(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], slow_s: str
) -> None:
    """By their own clocks the next agreement is 20 iterations away, and more."""
    monkeypatch.setenv("STOP", f"{signal.SIGINT:d}:3:8:.")
    monkeypatch.setenv("SLOW_S", slow_s)
    assert ended("--algorithm", "dpsgd", "--workers", "6", "--iterations", "99", *words, "--out", "run") == 130
    assert 8 <= json.loads(Path("run/summary.json").read_text())["iterations"] <= 12
