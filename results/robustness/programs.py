"""Runs that are started to be killed: what they have left, where they are, and whether all of them have ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from mpisqueeze.comm.launched import RANK_VARIABLES
from mpisqueeze.launch import Launcher, find_launcher, make_plan, program

#: What each process of a run has in its environment, so that those are found whose parents are gone.
MARK = "ROBUSTNESS_RUN"
#: What Open MPI says where a network interface comes or goes while it looks at them: nothing was started.
NOT_STARTED = "The PMIx server's listener thread failed to start"
PAUSE = 0.02
#: Starts ranks on hosts of their own.
LAB = ("lab", "--rate", "1gbit")

# What a shell starts with & ignores Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Clock:
    """Seconds since it was made, of which no step counts more than half a second.

    Where the whole machine, or everything on it, was stopped meanwhile, that is nobody's hang.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last = time.monotonic()

    def tick(self) -> float:
        now = time.monotonic()
        self.seconds += min(now - self._last, 0.5)
        self._last = now
        return self.seconds


class Started:
    """A command on `ranks` ranks, with its output in files below `folder`.

    Args:
        by: the launcher, or the command of ours that starts the ranks, with its options.
    """

    def __init__(self, ranks: int, arguments: list[str], folder: Path, by: Launcher | tuple[str, ...]) -> None:
        self.mark = uuid.uuid4().hex
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MPISQUEEZE_")}
        if isinstance(by, tuple):
            command = [*program(), *by, "-n", str(ranks), *arguments]
        else:
            plan = make_plan(by, ranks, [*program(), *arguments], variables)
            command, variables = plan.arguments, {**variables, **plan.settings}
        # Open MPI's launcher cannot start where one with the same pid was killed and left its sockets.
        self._scratch = tempfile.mkdtemp(prefix="killed-")
        self._files = (folder / f"{self.mark}.out", folder / f"{self.mark}.err")
        self.clock = Clock()
        with open(self._files[0], "wb") as out, open(self._files[1], "wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**variables, MARK: self.mark, "TMPDIR": self._scratch},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def _marked(self) -> Iterator[tuple[int, bytes]]:
        """(pid, environment) of all processes of this run that are alive, in the order of pids."""
        mark = f"{MARK}={self.mark}".encode()
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:
                    # A process that has ended but was not waited for has no environment.
                    environment = stream.read()
                    if mark in environment:
                        yield int(name), environment

    def pids(self) -> list[int]:
        """All processes of this run that are alive."""
        return [pid for pid, _ in self._marked()]

    def ranks(self) -> dict[int, int]:
        """The pid of each rank that is there."""
        found: dict[int, int] = {}
        names = [f"{name}=".encode() for name in RANK_VARIABLES]
        ranks: dict[int, int] = {}
        for pid, environment in self._marked():
            for variable in environment.split(b"\0"):
                key, _, value = variable.partition(b"=")
                if key + b"=" in names and value.isdigit():
                    ranks[pid] = int(value)
                    break
        for pid, rank in ranks.items():
            # What a rank itself has started has its environment, too.
            if parent(pid) not in ranks:
                found[rank] = pid
        return found

    def launchers(self) -> list[int]:
        """Processes that are no ranks, the outermost first."""
        ranks = set(self.ranks().values())
        return sorted(pid for pid in self.pids() if pid not in ranks and parent(pid) not in ranks)

    def host_of(self, pid: int) -> int:
        """Process 1 of the namespace that a process is in, which ends with it."""
        space = os.readlink(f"/proc/{pid}/ns/pid")
        for each in self.pids():
            with contextlib.suppress(OSError):
                inside = Path(f"/proc/{each}/status").read_text().partition("NSpid:")[2].splitlines()[0].split()[-1]
                if inside == "1" and os.readlink(f"/proc/{each}/ns/pid") == space:
                    return each
        return pid

    def wait(self, limit_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the command itself has ended (True), or until then or so long (False)."""
        clock = Clock()
        while self.process.poll() is None:
            if until() or clock.tick() > limit_s:
                return False
            time.sleep(PAUSE if limit_s > 1 else 0.001)
        return True

    def gone(self, limit_s: float) -> float | None:
        """Seconds until no process of this run is left; None if some are left after `limit_s`."""
        clock = Clock()
        while True:
            # To look through all processes takes a while, and as long as the command runs it tells nothing.
            if self.process.poll() is not None and not self.pids():
                return clock.tick()
            if clock.tick() > limit_s:
                return None
            time.sleep(PAUSE if self.process.returncode is None else 5 * PAUSE)

    def clear(self) -> None:
        """Kill whatever is left."""
        for _ in range(100):
            pids = self.pids()
            if not pids:
                break
            for pid in pids:
                kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def code(self) -> int | None:
        return self.process.returncode

    @property
    def out(self) -> str:
        return self._files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        # Open MPI 5 may put a NUL before what it forwards.
        return self._files[1].read_text(errors="replace").replace("\0", "")


def parent(pid: int) -> int:
    """The parent's pid, 0 for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return int(stream.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def launcher() -> Launcher:
    """The launcher of this environment."""
    return find_launcher(None)


def versions() -> str:
    """A line of what ran, without where."""
    from importlib.metadata import version

    found = subprocess.run(
        [sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version().split(',')[0].strip())"],
        capture_output=True,
        text=True,
        check=False,
    )
    library = found.stdout.strip().splitlines()[0] if found.stdout.strip() else "MPI unknown"
    parts = [f"{name} {version(name)}" for name in ("mpisqueeze", "numpy", "mpi4py")]
    return ", ".join([*parts, library, f"Python {sys.version.split()[0]}", f"{os.cpu_count()} cores"])
