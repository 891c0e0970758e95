"""What the three scripts print: a header that says on what, then plain columns."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from mpisqueeze.record.environment import local_environment

PACKAGES = ("mpisqueeze", "numpy", "mpi4py", "torch")


class Others:
    """What other processes take of the cores meanwhile: the truth about figures from a shared machine."""

    def __init__(self) -> None:
        self._busy, self._mine, self._began = _busy(), _mine(), time.monotonic()

    def mine(self) -> float:
        """Seconds that this process has computed since."""
        return _mine() - self._mine

    def line(self, ours: float) -> str:
        """A sentence for the table, where this program's processes have computed for `ours` seconds since."""
        share = (_busy() - self._busy - ours) / (time.monotonic() - self._began)
        return f"# meanwhile other processes took {max(0.0, share):.2f} of {os.cpu_count()} cores"


def _busy() -> float:
    """Seconds that all cores have spent in programs and for them, interrupts aside."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def _mine() -> float:
    spent = os.times()
    return spent.user + spent.system


def command(ranks: int | None) -> str:
    """The command as it is typed from the root of the repository; the launcher by what it told this process."""
    words = ["python", f"results/peers/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    if "MPISQUEEZE_LAB" in os.environ:
        rate = json.loads(os.environ["MPISQUEEZE_LAB"])["rate"]
        words = ["mpisqueeze", "lab", "-n", str(ranks), "--rate", f"{rate / 1e6:g}mbit", "--exec", "--", *words]
    elif ranks is not None:
        words = ["mpirun", "-n", str(ranks), *words]
    return shlex.join(words)


def header(ranks: int | None = None, library: str | None = None) -> list[str]:
    """Command, machine, versions, and how busy the machine was before.

    Args:
        ranks: of MPI; None without it.
        library: what MPI calls itself.
    """
    host: dict[str, Any] = local_environment()["hosts"][0]
    versions = [f"{package} {metadata.version(package)}" for package in PACKAGES]
    one, five, _ = os.getloadavg()
    return [
        f"$ {command(ranks)}",
        f"# machine: {host['cpu_model']}, {host['cores']} cores, {host['system']}",
        "# " + ", ".join([*([library] if library else []), f"Python {platform.python_version()}", *versions]),
        f"# float32, 1 thread a process; load before: {one:.2f} (1 min), {five:.2f} (5 min)",
    ]


def show(titles: list[str], rows: list[list[str]], left: int = 1) -> None:
    """Print columns, the first `left` of them flush left."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for row in [["# " + titles[0], *titles[1:]], *([f"  {row[0]}", *row[1:]] for row in rows)]:
        cells = []
        for i, (text, width) in enumerate(zip(row, widths, strict=True)):
            width += 2 if i == 0 else 0
            cells.append(text.ljust(width) if i < left else text.rjust(width))
        print("  ".join(cells).rstrip(), flush=True)
