"""Memory of rank 0 as a run goes on: `train sgd --log FORM` of a small problem, and `report` of it afterwards.

    python results/big/long.py RANKS ITERATIONS [binary|jsonl] [ALGORITHM/COMPRESSOR] > results/big/long-RANKS-FORM.txt

Prints, every few seconds, the iteration, resident memory of rank 0 (MB), the log's size and seconds; then what `report`
took.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from mpisqueeze.record.figures import BINARY_HEAD, LOGGED

MB = 1e6
#: Seconds between two looks.
PAUSE = 5
PROGRAM = [sys.executable, "-m", "mpisqueeze"]


def rank_0(started: int) -> psutil.Process | None:
    """The process of rank 0 among the descendants of a process, and itself."""
    process = psutil.Process(started)
    for found in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.Error):
            if "mpirun" not in found.name() and found.environ().get("OMPI_COMM_WORLD_RANK", "0") == "0":
                return found
    return None


def main(ranks: int, iterations: int, form: str, pair: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=".")) / "run"
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    words = ["train", pair, "--problem", "quadratic:16", "--iterations", str(iterations), "--eval-every", "0"]
    command = [*launcher, *PROGRAM, *words, "--log", form, "--out", str(folder), "--color", "never"]
    began = time.monotonic()
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    log = folder / ("iterations.f8" if form == "binary" else "iterations.jsonl")
    print("  iteration   RSS (MB)   of files, shared   log (MB)      s")
    while run.poll() is None:
        time.sleep(PAUSE)
        size = log.stat().st_size if log.exists() else 0
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            found = rank_0(run.pid)
            if found is not None and size:
                used = found.memory_info()
                rows = (size - len(BINARY_HEAD)) // (8 * len(LOGGED))
                done = f"{rows:11,}" if form == "binary" else " " * 11
                figures = (used.rss / MB, used.shared / MB, size / MB, time.monotonic() - began)
                print(f"{done} {figures[0]:10.1f} {figures[1]:18.1f} {figures[2]:10.1f} {figures[3]:6.0f}", flush=True)
    assert run.returncode == 0
    print(f"train: at its peak {children_peak() / MB:.1f} MB")
    began = time.monotonic()
    report = subprocess.Popen([*PROGRAM, "report", str(folder), "--color", "never"], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(report.pid, 0)
    assert status == 0
    cpu, peak = used.ru_utime + used.ru_stime, (used.ru_maxrss << 10) / MB
    print(f"report: {time.monotonic() - began:.1f} s, {cpu:.1f} s of CPU, at its peak {peak:.1f} MB")


def children_peak() -> int:
    """Bytes; of all children that have ended, the largest."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:4] or ["binary"])[0], (sys.argv[4:5] or ["sgd"])[0])
