"""A run folder has one writer, whatever becomes of it and wherever the next one is. Real processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, logged, start, wait_for

from mpisqueeze import holder
from mpisqueeze.errors import UsageError
from mpisqueeze.launch import Launcher
from mpisqueeze.record.folder import check_path, timed_path

pytestmark = pytest.mark.slow

Run = Callable[..., Finished]
LONG = ("train", "--problem", "quadratic:101", "--iterations", "1000000", "--lr", "0.01", "--eval-every", "0")
SAVED = (*LONG, "--checkpoint-every", "100", "--out", "run")


@contextmanager
def running(launcher: Launcher, folder: Path, *arguments: str, n: int = 2, **variables: str) -> Iterator[Any]:
    """The program on n ranks, which writes to `folder`/run; ended by SIGKILL if it has not ended yet."""
    command = [sys.executable, "-m", "mpisqueeze", *(arguments or SAVED)]
    process = start(launcher, n, command, folder, subprocess.PIPE, subprocess.PIPE, **variables)
    try:
        wait_for(lambda: process.poll() is not None or saved(folder / "run"), "a checkpoint", 120)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for path in folder.glob(f"**/{holder.NAME}"):
            wait_for(lambda path=path: holder._started(json.loads(path.read_text())["pid"]) is None, "rank 0 to end")


def saved(run: Path) -> bool:
    return any(run.glob("checkpoint/*/manifest.json"))


def held(run: Path) -> dict[str, Any]:
    return json.loads((run / holder.NAME).read_text())


def whole(run: Path) -> list[int]:
    """The iterations of the log, of which none is missing or there twice."""
    found = [line["iteration"] for line in logged(run / "iterations.jsonl")]
    assert found == list(range(1, len(found) + 1))
    return found


def test_a_run_that_goes_on_has_its_folder_to_itself(launcher: Launcher, mpisqueeze_run: Run, tmp_path: Path) -> None:
    """Neither resuming it nor a second run gets in; both name the holder. It ends well, and the folder is free."""
    with running(launcher, tmp_path) as process:
        found = held(tmp_path / "run")
        for arguments in (("train", "--resume", "run"), (*LONG, "--out", "run"), ("compare", "sgd", "--out", "run")):
            refused = mpisqueeze_run(2, *arguments)
            assert refused.code == 2
            assert refused.err.count("mpisqueeze: error:") == 1
            assert f"run is being written by process {found['pid']} on {found['host']}" in refused.err
        # Reading is for all.
        assert mpisqueeze_run(1, "report", "run").code == 0
        os.kill(found["pid"], signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    assert not (tmp_path / "run" / holder.NAME).exists()
    done = whole(tmp_path / "run")[-1]
    rest = mpisqueeze_run(2, "train", "--resume", "run", "--iterations", str(done + 5)).well()
    assert f"resumed after iteration {done}" in rest.out
    assert whole(tmp_path / "run")[-1] == done + 5


def test_a_run_that_was_killed_is_taken_over_by_one_of_several(launcher: Launcher, tmp_path: Path) -> None:
    with running(launcher, tmp_path):
        found = held(tmp_path / "run")
    assert held(tmp_path / "run") == found
    command = [sys.executable, "-m", "mpisqueeze", "train", "--resume", "run"]
    ranks = [start(launcher, 2, command, tmp_path, subprocess.PIPE, subprocess.PIPE) for _ in range(2)]
    refused = wait_for(lambda: next((one for one in ranks if one.poll() is not None), None), "one to be refused", 120)
    (other,) = (one for one in ranks if one is not refused)
    assert refused.returncode == 2
    assert "run is being written by process" in refused.communicate()[1]
    wait_for(lambda: (tmp_path / "run" / holder.NAME).exists() and held(tmp_path / "run") != found, "a new holder", 120)
    os.kill(held(tmp_path / "run")["pid"], signal.SIGINT)
    out, err = other.communicate(timeout=120)
    assert other.returncode == 130, err
    assert f"run was left behind by process {found['pid']} on {found['host']}" in out
    whole(tmp_path / "run")
    assert not list((tmp_path / "run").glob("holder*"))


def test_runs_that_begin_at_once_do_not_share_a_folder(launcher: Launcher, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mpisqueeze", *LONG, "--iterations", "30000", "--out", "run"]
    ranks = [start(launcher, 1, command, tmp_path, subprocess.PIPE, subprocess.PIPE) for _ in range(2)]
    ended = [(one.communicate(timeout=120), one.returncode) for one in ranks]
    assert sorted(code for _, code in ended) == [0, 2], ended
    assert whole(tmp_path / "run")[-1] == 30000
    for (_, err), code in ended:
        assert code == 0 or "run is being written by process" in err or "run is not empty" in err


FAULTS = """
import os, signal
from mpisqueeze.problems.quadratic import Quadratic
class Faulty(Quadratic):
    def __init__(self, rank, *others, **options):
        super().__init__(rank, *others, dimension=11, **options)
        self.faulty = rank == int(os.environ["AT"])
    def gradient(self, x, iteration):
        if self.faulty and iteration == 5:
            if os.environ["FAULT"] == "raise":
                raise ValueError("bad luck")
            if os.environ["FAULT"] == "nan":
                return float("nan"), x
            if os.environ["FAULT"] == "leave":
                from mpisqueeze.comm.launched import abort_others
                abort_others(4)
            if os.environ["FAULT"] == "twice":
                os.kill(os.getpid(), signal.SIGTERM), os.kill(os.getpid(), signal.SIGTERM)
            while True:
                pass
        return super().gradient(x, iteration)
"""


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("raise", 0), ("nan", 1), ("leave", 0), ("hang", 0))
        ),
        *(("leave", 1), ("twice", 0), ("hang", 1)),
    ],
)
def test_however_a_run_ends_it_gives_its_folder_up(mpisqueeze_run: Run, tmp_path: Path, fault: str, at: int) -> None:
    """An error, a divergence, ranks that end all of them, a second signal, the watchdog."""
    (tmp_path / "mine.py").write_text(FAULTS)
    options = ("train", "--problem", "mine.py:Faulty", "--iterations", "9", "--out", "run", "--timeout", "2s")
    finished = mpisqueeze_run(2, *options, alone=True, FAULT=fault, AT=str(at))
    assert finished.code not in (0, 2)
    assert (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / holder.NAME).exists()


@pytest.mark.parametrize("command", ["compare", pytest.param("reproduce", marks=pytest.mark.slow)])
def test_a_folder_of_folders_is_held_too(launcher: Launcher, mpisqueeze_run: Run, tmp_path: Path, command: str) -> None:
    pairs = ("sgd", "dpsgd", *LONG[1:]) if command == "compare" else ("all",)
    arguments = (command, *pairs, "--out", "run")
    program = [sys.executable, "-m", "mpisqueeze", *arguments]
    process = start(launcher, 2, program, tmp_path, subprocess.PIPE, subprocess.PIPE)
    try:
        wait_for(lambda: list(tmp_path.glob("run/**/iterations.jsonl")), "a run")
        found = held(tmp_path / "run")
        for again in (arguments, (*LONG, "--out", "run")):
            refused = mpisqueeze_run(2, *again)
            assert refused.code == 2
            assert f"run is being written by process {found['pid']} on" in refused.err
        os.kill(found["pid"], signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not list(tmp_path.glob(f"run/**/{holder.NAME}"))


# -- a holder on another host


@contextmanager
def elsewhere(folder: Path, beats: bool, age: float = 0.0, **fields: Any) -> Iterator[None]:
    """A holder's file as another host's process writes it; with `beats`, a thread gives its signs of life."""
    mine = json.loads(holder.msgspec.json.encode(holder.Holder.here({})))
    path = folder / holder.NAME
    path.write_text(json.dumps({**mine, "host": "elsewhere", "place": "elsewhere", "pid": 7, **fields}))
    os.utime(path, (time.time() - age,) * 2)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.3):
            os.utime(path)

    thread = threading.Thread(target=beat if beats else lambda: None)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_holder_elsewhere_that_gives_signs_of_life_is_at_work(tmp_path: Path, capfd: Any) -> None:
    for age in (0.0, holder.STALE_S - 1.5):
        with (
            elsewhere(tmp_path, beats=True, age=age, job="42"),
            pytest.raises(UsageError, match="process 7 on elsewhere, job 42, since"),
        ):
            holder.take(tmp_path, "--out")
    assert "waiting at most 60 s for a sign of life" in capfd.readouterr().err


def test_a_holder_elsewhere_without_them_is_gone(tmp_path: Path) -> None:
    """Also one whose last sign is not old enough yet: it becomes so."""
    for age in (holder.STALE_S + 1, holder.STALE_S - 0.5):
        with elsewhere(tmp_path, beats=False, age=age):
            hold = holder.take(tmp_path, "--out")
        assert "left behind by process 7 on elsewhere" in hold.note
        assert "no sign for 6" in hold.note
        hold.release()


def test_one_whose_clock_is_ahead_is_gone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "STALE_S", 0.5)
    with elsewhere(tmp_path, beats=False, age=-1000.0):
        assert "no sign for" in holder.take(tmp_path, "--out").note
    holder.release_all()


def test_a_job_that_was_requeued_takes_its_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes of before are gone; those of the same start, as of other steps, are not."""
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for job, requeued, ours in (("42", 0, True), ("42", 1, False), ("41", 0, False)):
        with elsewhere(tmp_path, beats=not ours, job=job, requeued=requeued):
            if ours:
                hold = holder.take(tmp_path, "--resume")
                assert "the job was requeued" in hold.note
                assert held(tmp_path)["requeued"] == 1
                hold.release()
            else:
                with pytest.raises(UsageError, match=f"job {job}"):
                    holder.take(tmp_path, "--resume")


# -- on this host


def test_a_process_is_told_from_a_later_one_of_its_number(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        here = json.loads(holder.msgspec.json.encode(holder.Holder.here({})))
        alive = here | {"pid": child.pid, "started": holder._started(child.pid)}
        path = tmp_path / holder.NAME
        path.write_text(json.dumps(alive))
        # However long it has been silent: it may be stopped.
        os.utime(path, (0, 0))
        with pytest.raises(UsageError, match=f"process {child.pid} on"):
            holder.check_free(tmp_path, "--out")
        path.write_text(json.dumps(alive | {"started": "1"}))
        holder.check_free(tmp_path, "--out")
        path.write_text(json.dumps(alive))
        child.kill()
        # A process that nobody has waited for is gone, too.
        wait_for(lambda: holder._started(child.pid) is None, "it to be gone")
        assert child.returncode is None
        holder.take(tmp_path, "--out").release()
        assert not list(tmp_path.iterdir())
    finally:
        child.kill()
        child.communicate()


def test_what_holds_no_holder_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be being written."""
    path = tmp_path / holder.NAME
    path.write_text("")
    here = holder.msgspec.json.encode(holder.Holder.here({}))
    timer = threading.Timer(0.4, lambda: path.write_bytes(here))
    timer.start()
    with pytest.raises(UsageError, match=f"process {os.getpid()} on"):
        holder.check_free(tmp_path, "--out")
    path.write_text("{")
    monkeypatch.setattr(holder, "STALE_S", 0.5)
    holder.check_free(tmp_path, "--out")


def test_one_of_many_takes_what_is_left_behind(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for _ in range(10):
        begin, end, outcomes = fork.Barrier(6), fork.Event(), fork.Queue()

        def take(begin: Any = begin, end: Any = end, outcomes: Any = outcomes) -> None:
            begin.wait()
            try:
                hold = holder.take(tmp_path, "--out")
            except UsageError as error:
                outcomes.put(str(error))
            else:
                outcomes.put(hold.note)
                end.wait()

        with elsewhere(tmp_path, beats=False, age=1000.0):
            many = [fork.Process(target=take) for _ in range(6)]
            for one in many:
                one.start()
            found = [outcomes.get(timeout=30) for _ in many]
            end.set()
            for one in many:
                one.join()
        # Whoever comes when another has removed the file finds nothing left behind.
        assert sum("is being written by process" in text for text in found) == 5, found
        assert {path.name for path in tmp_path.iterdir()} == {holder.NAME}


def test_a_holder_that_lost_its_folder_finds_out(tmp_path: Path) -> None:
    hold = holder.take(tmp_path, "--out")
    hold.check()
    (tmp_path / holder.NAME).unlink()
    with pytest.raises(OSError, match="given up, since another rank"):
        hold.check()
    other = tmp_path / holder.NAME
    other.write_text("another's")
    with pytest.raises(OSError, match="taken the run folder over"):
        hold.check()
    hold.release()
    assert other.read_text() == "another's"


def test_signs_of_life_come_by_themselves(launcher: Launcher, tmp_path: Path) -> None:
    """While one iteration takes longer than they are apart."""
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "from mpisqueeze.problems.quadratic import Quadratic\n"
        "class Slow(Quadratic):\n"
        "    def __init__(self, *others, **options):\n"
        "        super().__init__(*others, dimension=11, **options)\n"
        "    def gradient(self, x, iteration):\n"
        "        time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "mpisqueeze", "train", "--problem", "mine.py:Slow", "--out", "run"]
    process = start(launcher, 1, command, tmp_path, subprocess.PIPE, subprocess.PIPE)
    path = tmp_path / "run" / holder.NAME
    try:
        wait_for((tmp_path / "run" / "config.json").exists, "the run to start")
        first = path.stat().st_mtime
        wait_for(lambda: path.stat().st_mtime > first + holder.BEAT_S, "two signs of life", 30)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_default_folders_of_the_same_second_differ(empty_folder: Path) -> None:
    made = {timed_path("sgd", 2) for _ in range(5)}
    assert len(made) == 5
    for path in made:
        check_path(path)
