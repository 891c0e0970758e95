"""jobs/preempt.sbatch after each way in which its ranks can end. SLURM and mpisqueeze are stand-ins here."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import wait_for

JOBS = Path(__file__).parents[2] / "jobs"
#: The ranks: they note their arguments, save a checkpoint if told to, wait for a signal if told to, and exit.
MPISQUEEZE = """
echo "$@" >> called
mkdir -p results/7/checkpoint/00000012
touch results/7/config.json
[ "$CODE" != 0 ] || [ -n "$LOST" ] || printf '{\n  "status": "ok"\n}\n' > results/7/summary.json
[ -z "$SAVES" ] || { mkdir -p results/7/checkpoint/00000024; touch results/7/checkpoint/00000024/manifest.json; }
if [ -n "$WAITS" ]; then
    trap 'echo USR1 >> signals; exit '"$CODE" USR1
    trap 'exit '"$CODE" TERM
    touch ready
    while :; do sleep 0.02; done
fi
exit "$CODE"
"""
FAKES = {
    "srun": 'case $1 in --mpi=list) echo "none pmix" ;; *) shift; exec "$@" ;; esac',  # --immediate=TIME
    "scontrol": 'echo "$@" >> requeued',
    "mpisqueeze": MPISQUEEZE,
}


def start(folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """A start of job 7."""
    programs = folder / "bin"
    if not programs.exists():
        programs.mkdir()
        (folder / "jobs").symlink_to(JOBS)
        for name, body in FAKES.items():
            (programs / name).write_text(f"#!/bin/bash\n{body}\n")
            (programs / name).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}", "SAVES": "", "WAITS": "", "LOST": ""}
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(folder), "SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "1"}
    command = ["bash", "jobs/preempt.sbatch", "--iterations", "100"]
    return subprocess.Popen(command, cwd=folder, env=environment | job | variables)


@pytest.mark.parametrize(
    ("code", "saves", "restarts", "again"),
    [
        (0, True, 0, False),
        (2, True, 0, False),
        (3, True, 0, False),
        # A rank fails, or is killed for its memory: again, if that came further than the time before,
        (4, True, 0, True),
        (137, True, 99, True),
        (4, False, 0, True),
        # and not for ever.
        (4, True, 100, False),
        # The ranks did not start, as on a node that is gone; not for ever, either.
        (1, False, 0, True),
        (137, False, 100, False),
        # Somebody else interrupts the ranks.
        (143, True, 0, False),
        (130, True, 0, False),
    ],
)
def test_exit_codes(tmp_path: Path, code: int, saves: bool, restarts: int, again: bool) -> None:
    variables = {"CODE": str(code), "SAVES": "yes" if saves else "", "SLURM_RESTART_COUNT": str(restarts)}
    assert start(tmp_path, **variables).wait(timeout=30) == (0 if again else code)
    assert (tmp_path / "requeued").exists() == again
    if again:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_failure_without_progress_is_tried_once_more(tmp_path: Path) -> None:
    assert [start(tmp_path, CODE="4").wait(timeout=30) for _ in range(2)] == [0, 4]


def test_a_launcher_that_ends_with_0_without_the_ranks_has_lost_a_node(tmp_path: Path) -> None:
    """It is tried again a few times in a row, whether or not there is a checkpoint, and counted anew after one."""
    for saves, code in (("", 0), ("", 0), ("", 0), ("", 0), ("yes", 0), ("", 0)):
        assert start(tmp_path, CODE="0", LOST="yes", SAVES=saves).wait(timeout=30) == code
    for _ in range(3):
        assert start(tmp_path, CODE="0", LOST="yes").wait(timeout=30) == 0
    assert start(tmp_path, CODE="0", LOST="yes").wait(timeout=30) == 4
    assert start(tmp_path, CODE="0").wait(timeout=30) == 0
    assert not (tmp_path / "results" / ".tries-7").exists()


@pytest.mark.parametrize(
    ("sent", "code", "saves", "again"),
    [
        (signal.SIGUSR1, 143, True, True),
        (signal.SIGUSR1, 143, False, False),
        # The last iteration was done when the signal came.
        (signal.SIGUSR1, 0, True, False),
        # SLURM ends the job, and knows itself whether to start it again.
        (signal.SIGTERM, 143, True, False),
        (signal.SIGTERM, 137, True, False),
    ],
)
def test_signals(tmp_path: Path, sent: signal.Signals, code: int, saves: bool, again: bool) -> None:
    job = start(tmp_path, CODE=str(code), SAVES="yes" if saves else "", WAITS="yes")
    try:
        wait_for((tmp_path / "ready").exists, "the job to start")
        job.send_signal(sent)
        if sent is signal.SIGTERM:
            # The script does not pass this one on: SLURM sends it to all.
            time.sleep(0.2)
            assert not (tmp_path / "signals").exists()
            subprocess.run(["pkill", "-TERM", "-P", str(job.pid)], check=True)
        assert job.wait(timeout=30) == (0 if again else code)
    finally:
        job.kill()
    assert (tmp_path / "requeued").exists() == again
    assert (tmp_path / "signals").exists() == (sent is signal.SIGUSR1)


def test_the_first_start_and_the_others(tmp_path: Path) -> None:
    assert start(tmp_path, CODE="4", SAVES="yes").wait(timeout=30) == 0
    assert start(tmp_path, CODE="0", SLURM_RESTART_COUNT="1").wait(timeout=30) == 0
    first = "train --out results/7 --checkpoint-every 10min --save-model --iterations 100"
    assert (tmp_path / "called").read_text().splitlines() == [first, "train --resume results/7"]
