"""Whatever goes wrong on one rank ends all of them soon, with a word about it and a log that holds up to there."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import Finished, logged, start, start_on_ranks, wait_for
from faulty import WHEN

from mpisqueeze.launch import Launcher

pytestmark = pytest.mark.slow

Run = Callable[..., Finished]
FAULTY = Path(__file__).with_name("faulty.py")
#: Seconds from a fault on that all ranks have to end.
LIMIT = 15.0
QUICK = "--problem quadratic:50 --lr 0.05 --iterations 20"


@pytest.mark.parametrize(
    ("fault", "options", "codes", "expected"),
    [
        # The code is the launcher's: 128 more in Open MPI's.
        ("Dies", (), (4, 9, 137), "signal 9"),
        ("Raises", (), (4,), f"rank 1, iteration {WHEN}: RuntimeError('out of luck')"),
        ("NotANumber", (), (3,), f"rank 1, iteration {WHEN}"),
        ("Sleeps", ("--timeout", "2s"), (4,), f"rank 1 did not come to the end of the gradient; iteration {WHEN}"),
        ("Stops", ("--timeout", "2s"), (4,), f"rank 1 gave no sign of life; iteration {WHEN} takes longer"),
        ("RootStops", ("--timeout", "2s"), (4,), f"rank 0 gave no sign of life; iteration {WHEN} takes longer"),
        ("FullDisk", (), (4,), "File too large"),
        ("FullDisk", ("--checkpoint-every", "35"), (4,), "File too large"),
        ("FolderGone", (), (4,), "the run folder was removed"),
        ("FolderTaken", (), (4,), "another process has taken the run folder over"),
        ("Damages", ("--checksum",), (4,), "from rank 1 was damaged on the way"),
        # Gossip has no barrier.
        ("Dies", ("--algorithm", "dpsgd"), (4, 9, 137), "signal 9"),
        ("Raises", ("--algorithm", "choco"), (4,), f"rank 1, iteration {WHEN}: RuntimeError('out of luck')"),
        ("NotANumber", ("--algorithm", "dpsgd"), (3,), f"rank 1, iteration {WHEN}"),
        ("Stops", ("--algorithm", "dpsgd", "--timeout", "2s"), (4,), "rank 1 gave no sign of life; iteration"),
        # Found by two ranks at once.
        pytest.param(
            *("Damages", ("--checksum", "--algorithm", "dpsgd"), (4,)),
            "from rank 1 was damaged on the way",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_ends_all_ranks(
    mpisqueeze_run: Run, tmp_path: Path, fault: str, options: tuple[str, ...], codes: tuple[int, ...], expected: str
) -> None:
    command = ("train", "--problem", f"{FAULTY}:{fault}", "--iterations", "1000", "--out", "run")
    finished = mpisqueeze_run(3, *command, *options, alone=True)
    took = time.time() - float((tmp_path / "fault").read_text())
    print(f"{took:.1f} s: {fault} {' '.join(options)}")  # pytest -rP shows it
    assert finished.code in codes, finished.err
    assert expected in finished.err + finished.out
    assert finished.err.count("mpisqueeze: rank") <= 1
    assert ("Traceback" in finished.err) == (fault == "Raises")
    assert took < LIMIT + (2 if "--timeout" in options else 0)
    # Without a barrier, lines are gathered every 32 iterations only.
    if fault == "FolderGone" or "--algorithm" in options:
        return
    lines = (tmp_path / "run" / "iterations.jsonl").read_text().splitlines()
    # The last one may be cut where the disk was full.
    logged = [json.loads(line)["iteration"] for line in lines[: -1 if fault == "FullDisk" else None]]
    assert logged == list(range(1, len(logged) + 1))
    assert WHEN - 20 <= len(logged) <= WHEN + 20


def test_ranks_do_not_outlive_their_launcher(mpisqueeze_run: Run, tmp_path: Path) -> None:
    command = ("train", "--problem", f"{FAULTY}:LauncherDies", "--iterations", "1000", "--out", "run")
    mpisqueeze_run(2, *command, alone=True)
    left = int((tmp_path / "pid-1").read_text())
    wait_for(lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE, "the rank")


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        # Five minutes, half an hour and five minutes are two seconds here.
        ("train --timeout 1s --problem FILE:StopsBefore", 4, "rank 1 gave no sign of life; setting up takes longer"),
        ("bench comm root -m 64 -i 1000 --compressor FILE:StopsEncoding", 4, "a round of the benchmark takes longer"),
        pytest.param(
            *("calibrate --quick --out c.json --compressor FILE:StopsEncoding", 4, "a stage of the calibration takes"),
            marks=pytest.mark.slow,
        ),
        (f"train {QUICK} --timeout 2s --algorithm FILE:StopsAtTheEnd", 4, "rank 1 gave no sign of life; iteration 20"),
        ("train --iterations 3 --out run --problem FILE:StopsAfter", 128 + signal.SIGALRM, ""),
    ],
)
def test_a_rank_that_stops_outside_of_the_iterations(
    mpisqueeze_run: Run, tmp_path: Path, command: str, code: int, says: str
) -> None:
    finished = mpisqueeze_run(2, *command.replace("FILE", str(FAULTY)).split(), timeout=3 + 2 * LIMIT, alone=True)
    assert finished.code == code, finished.err
    assert says in finished.err
    assert finished.err.count("mpisqueeze:") == (code == 4)
    if code != 4:
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "ok"


@pytest.mark.parametrize("first", ["import os", "import mpisqueeze.mpi"])
def test_a_rank_that_stops_before_the_world_is_there(launcher: Launcher, tmp_path: Path, first: str) -> None:
    """The others wait for it in MPI's start, or in the first collective, where no line of Python runs."""
    program = (
        f"import os, signal\n{first}",
        "try:",
        "    os.close(os.open('first', os.O_CREAT | os.O_EXCL))",
        "    os.kill(os.getpid(), signal.SIGSTOP)",
        "except FileExistsError:",
        "    pass",
        "from mpisqueeze.cli.ranks import join",
        "join()",
        "print('started')",
    )
    done = start_on_ranks(
        launcher, 2, [sys.executable, "-c", "\n".join(program)], tmp_path, 2 * LIMIT, MPISQUEEZE_START_S="2"
    )
    assert done.code
    assert "started" not in done.out


def test_a_time_for_the_start_of_mpi_that_is_none(mpisqueeze_run: Run) -> None:
    refused = mpisqueeze_run(2, "train", alone=True, MPISQUEEZE_START_S="5min")
    assert refused.code == 2
    assert refused.err.count("MPISQUEEZE_START_S: 5min is no number of seconds; accepted: a whole number") == 1


def test_a_signal_when_all_is_done_keeps_nothing_from_being_written(mpisqueeze_run: Run, tmp_path: Path) -> None:
    command = ("train", *QUICK.split(), "--algorithm", f"{FAULTY}:ToldAtTheEnd", "--out", "run")
    mpisqueeze_run(2, *command, alone=True).well()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["iterations"]) == ("ok", 20)


@pytest.mark.slow
def test_a_job_that_was_suspended_goes_on(launcher: Launcher, tmp_path: Path) -> None:
    """It was suspended for longer than --timeout, and no rank blames another."""
    command = [sys.executable, "-m", "mpisqueeze", "train", "--problem", f"{FAULTY}:AllStop", "--iterations", "40"]
    process = start(launcher, 2, [*command, "--timeout", "3s"], tmp_path, None, None)
    try:
        wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == 2, "both ranks")
        time.sleep(6)
        for rank in range(2):
            os.kill(int((tmp_path / f"pid-{rank}").read_text()), signal.SIGCONT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("server", ["root", "sharded"])
def test_checksums_change_nothing_but_the_count(mpisqueeze_run: Run, tmp_path: Path, server: str) -> None:
    """4 bytes and a message more for each message, and the same losses."""
    options = ("train", "--problem", "quadratic:1031", "--iterations", "6", "--server", server)
    for name, more in (("plain", ()), ("checked", ("--checksum",))):
        mpisqueeze_run(3, *options, *more, "--out", name).well()
    logs = [logged(tmp_path / name / "iterations.jsonl") for name in ("plain", "checked")]
    for plain, checked in zip(*logs, strict=True):
        assert plain["loss"] == checked["loss"]
        assert checked["messages"] == 2 * plain["messages"]
        assert checked["bytes_sent"] == plain["bytes_sent"] + 4 * plain["messages"]


def test_allreduce_says_that_it_has_no_checksums(mpisqueeze_run: Run) -> None:
    options = ("train", "--problem", "quadratic:5", "--iterations", "2", "--checksum", "--algorithm")
    says = "warning: --checksum checks nothing here"
    assert says in mpisqueeze_run(2, *options, "allreduce", "--out", "a").out
    assert says not in mpisqueeze_run(2, *options, "sgd", "--out", "b").out
    linked = mpisqueeze_run(2, *options, "allreduce", "--link", "latency=50us,bandwidth=1gbit", "--out", "c")
    assert says not in linked.out
