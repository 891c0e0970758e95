"""Limits that control groups of versions 1 and 2 set this process, as batch systems and containers use them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path

import psutil

ROOT = Path("/")


def total_memory(root: Path = ROOT) -> int:
    """Bytes that this process may use at most: the machine's, or the least limit of a control group around it.

    Args:
        root: folder of `proc` and `sys`.
    """
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits(root))])


def free_memory(root: Path = ROOT) -> int:
    """Bytes that are free, on the machine and below the limit of each control group around this process."""
    return min([psutil.virtual_memory().available, *(max(0, limit - used) for limit, used in _memory_limits(root))])


def claimed_memory() -> tuple[int, int]:
    """(bytes that this process has asked for, bytes of these that it has written to), without what others share.

    The system grants memory when it is asked, and finds a place for it when it is written to. (0, 0) where it does not
    tell.
    """
    used = psutil.Process().memory_info()
    return (used.data, used.rss - used.shared) if hasattr(used, "data") else (0, 0)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, use) of each group's memory in bytes. Files that were read lately are no use: they make room."""
    for folder in control_groups("memory", root):
        try:
            if (folder / "memory.max").exists():
                names, cached = ("memory.max", "memory.current"), "inactive_file"
            else:
                names, cached = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
            limit, used = (int((folder / name).read_text()) for name in names)
            found = re.search(rf"^{cached} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        except (OSError, ValueError):
            # A limit of "max" is none.
            continue
        yield limit, used - int(found[1] if found else 0)


def control_groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the groups by which a controller (`cpu`, `memory`) may limit this process, from each mount down."""
    try:
        groups = (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        # No Linux, or no /proc.
        return
    own: dict[str, str] = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            own["cgroup" if controllers else "cgroup2"] = path
    for line in mounts:
        place, _, about = line.partition(" - ")
        kind, _, options = about.split(" ", 2)
        if kind not in own or (kind == "cgroup" and controller not in options.split(",")):
            continue
        # A container may see its own group as the root of the mount.
        top, point = (re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), text) for text in place.split()[3:5])
        inside = relpath(own.pop(kind), top)
        folder = root / point.lstrip("/")
        yield folder
        for name in Path("" if inside.startswith("..") else inside).parts:
            folder /= name
            yield folder
