"""The cores that this process may use: those it is bound to, and the CPU time that control groups grant."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import psutil

from mpisqueeze.control_groups import ROOT, control_groups


@dataclass(frozen=True, order=True)
class Quota:
    """A control group's limit on the CPU time of all processes in it.

    Attributes:
        group: device and inode of its folder, the same for all its processes.
        cores: seconds of CPU time that they may use in a second.
    """

    group: tuple[int, int]
    cores: float


def logical_cores() -> set[int]:
    """The logical cores; macOS binds no process, which may then use all."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """Number of physical cores; threads of one core count once, as in mpirun's slots."""
    if not hasattr(os, "sched_getaffinity"):
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    threads = logical_cores()
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(topology.format(thread)).read_text() for thread in threads})
    except OSError:
        return len(threads)


def usable_cores() -> int:
    """Number of physical cores, as far as quotas grant this process their time."""
    return whole_cores(physical_cores(), granted([cpu_quotas()]))


def whole_cores(cores: int, quota: float) -> int:
    """The number of cores, or of whole ones that a quota is worth, whichever is less; at least 1."""
    return max(1, int(min(cores, quota)))


def granted(processes: Sequence[tuple[Quota, ...]]) -> float:
    """The CPU time a second (s) that processes may use together; infinite where one has no quota.

    Args:
        processes: `cpu_quotas()` of each.
    """
    if not all(processes):
        return math.inf
    outermost = groupby(sorted(processes), key=lambda quotas: quotas[0])
    return sum(min(quota.cores, granted([quotas[1:] for quotas in inside])) for quota, inside in outermost)


def cpu_quotas(root: Path = ROOT) -> tuple[Quota, ...]:
    """The quotas that hold for this process, the outermost first, of control groups of versions 1 and 2.

    Args:
        root: folder of `proc` and `sys`.
    """
    return tuple(quota for folder in control_groups("cpu", root) if (quota := _quota(folder)))


def _quota(folder: Path) -> Quota | None:
    """The limit of one control group; None where it has none, or does not count CPU time."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        about = folder.stat()
        cores = float(quota) / float(period)
    except (OSError, ValueError):
        # A limit of "max" is none.
        return None
    return Quota((about.st_dev, about.st_ino), cores) if cores > 0 else None
