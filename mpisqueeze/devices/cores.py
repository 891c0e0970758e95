"""The cores that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def usable_cores() -> int:
    """Number of physical cores that this process may use; threads of one core count once, as in mpirun's slots."""
    try:
        threads = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    cores = set()
    for thread in threads:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list").read_text())
        except OSError:
            return len(threads)
    return len(cores)
