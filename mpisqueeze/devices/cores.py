"""The cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def logical_cores() -> set[int]:
    """The logical cores; macOS binds no process, which may then use all."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Number of physical cores; threads of one core count once, as in mpirun's slots."""
    if not hasattr(os, "sched_getaffinity"):
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    threads = logical_cores()
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(topology.format(thread)).read_text() for thread in threads})
    except OSError:
        return len(threads)
