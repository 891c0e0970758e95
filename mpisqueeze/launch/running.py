"""Run a planned launch: pass the user's signals to the ranks, and see to it that nothing stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mpisqueeze.comm.launched import TELLS
from mpisqueeze.comm.signals import SAME_S
from mpisqueeze.errors import ExitCode
from mpisqueeze.launch.finding import Flavour
from mpisqueeze.launch.noise import Noise
from mpisqueeze.launch.planning import LaunchPlan
from mpisqueeze.streams import results_descriptor, say

GRACE_S = 10.0  # for ranks to finish an iteration and write a checkpoint
END_S = 30.0  # for the other ranks and the launcher to end, once rank 0 has
KILL_S = 5.0  # for the launcher to end after SIGTERM
_PR_SET_PDEATHSIG = 1
#: The settings that let Open MPI start more ranks than it has slots for.
OVERSUBSCRIBE = "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe (before 5.0: OMPI_MCA_rmaps_base_oversubscribe=1)"
#: Codes that are a launcher's own, and their meaning: those of Open MPI 5.
_LAUNCHERS_CODES = {
    14: "a rank lost its connection to another one",
    186: "a host or its daemon was lost",
    230: "a host or its daemon was lost",
}
#: Bytes from the end of a log that hold its last line.
_LAST = 1 << 16
#: Name the folder in which Open MPI 5 makes its session's folder: on this machine, and on all.
_SESSIONS = ("PRTE_MCA_prte_local_tmpdir_base", "PRTE_MCA_prte_tmpdir_base")


@dataclass
class Supervisor:
    """Runs a plan and stands between the user's signals and the launcher.

    SIGINT, SIGTERM and SIGHUP (as SIGTERM) go to the ranks of this machine once; a second one, or `grace_s`
    seconds without an exit, ends the launcher, and `kill_s` seconds later everything it started is killed. The same
    signal within SAME_S seconds is no second one. Before the ranks are prepared for it, SIGINT ends the launcher at
    once. SIGUSR1 is passed on each time and ends nothing by itself.

    Attributes:
        started: the ranks' command line, by which they are found among the launcher's descendants.
        name: the user's name for this command.
        tells: rank 0 tells how it ended.
        ours: the ranks are of this program, whose exit codes are those of ExitCode.
        death_signal: sent to the launcher, on Linux, if this process is killed.
        ended_by: the signal that asked for the end.
        deadline: of the present stage, on the monotonic clock.
        family: all that the launcher started, kept because a dead launcher has no descendants.
        noise: takes out of stderr what the launcher adds to errors that ranks have reported.
    """

    plan: LaunchPlan
    started: Sequence[str]
    grace_s: float = GRACE_S
    kill_s: float = KILL_S
    name: str = "launch"
    tells: bool = False
    ours: bool = False
    death_signal: signal.Signals = signal.SIGTERM
    popen: Mapping[str, Any] = field(default_factory=dict)

    ended_by: int | None = field(default=None, init=False)
    ended_at: float = field(default=0.0, init=False)
    deadline: float | None = field(default=None, init=False)
    terminating: bool = field(default=False, init=False)
    family: set[psutil.Process] = field(default_factory=set, init=False)
    noise: Noise = field(default_factory=Noise, init=False)

    def run(self) -> int:
        """Run the plan to its end.

        The exit code is 130 after SIGINT and 143 after another signal, 4 where a rank died of one, 128 plus the
        number where the launcher did, and the launcher's own otherwise. With `tells` 4 stands for 0, too, unless
        rank 0 has told of its end, and for codes of the launcher's own; with `ours` for all but those of ExitCode.
        """
        told = {TELLS: "1"} if self.tells else {}
        # Open MPI hands only its own variables to other hosts, unless told by name.
        passed = ["-x", TELLS] if self.tells and self.plan.flavour is Flavour.OPEN_MPI else []
        launcher, *rest = self.plan.arguments
        with self._signals() as wake, session_folder(self.plan) as settings:
            process = subprocess.Popen(
                [launcher, *passed, *rest],
                env={**os.environ, **self.plan.settings, **settings, **told},
                # A terminal may be read by its own session only; a pipe or a file is passed on.
                stdin=subprocess.DEVNULL if os.isatty(0) else None,
                start_new_session=True,
                preexec_fn=_in_child(self.death_signal),
                stderr=subprocess.PIPE,
                **{"stdout": results_descriptor(), **self.popen},
            )
            assert process.stderr is not None
            listened: list[Any] = [wake, process.stderr]
            os.set_blocking(process.stderr.fileno(), False)
            try:
                while process.poll() is None:
                    timeout = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
                    ready = select.select(listened, [], [], timeout)[0]
                    if process.stderr in ready and not self._hear(process.stderr):
                        listened.remove(process.stderr)
                    if self.deadline is None and self.noise.told.keys() & {"lost", "code"}:
                        # The launcher may wait for ever for a host that does not answer, or a rank that does not end.
                        self.deadline = time.monotonic() + (self.grace_s if "lost" in self.noise.told else END_S)
                    for number in wake.recv(4096) if wake in ready else b"":
                        self._handle(process, number)
                    if self.deadline is not None and time.monotonic() >= self.deadline:
                        self._escalate(process)
            finally:
                if process.poll() is None or process.returncode < 0:
                    self._kill(process)
                    process.wait()
                while self._hear(process.stderr):
                    pass
                _write(self.noise.flush())
                process.stderr.close()
        if self.noise.no_slots:
            self._say(f"Open MPI has fewer slots here: start fewer ranks, ask for more tasks, or set {OVERSUBSCRIBE}")
            return ExitCode.USAGE
        if self.ended_by is not None:
            return ExitCode.INTERRUPTED if self.ended_by == signal.SIGINT else ExitCode.TERMINATED
        return self._named(process.returncode if process.returncode >= 0 else 128 - process.returncode)

    def _hear(self, stderr: Any) -> bool:
        """Pass on what the ranks and the launcher have written to stderr by now; False if there was nothing."""
        try:
            data = os.read(stderr.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        _write(self.noise.feed(data))
        return bool(data)

    def _named(self, code: int) -> int:
        """The exit code for a launcher's: FAILED, with a word about it, where a rank or a host was lost."""
        ended = self.noise.told.get("code")
        if "lost" in self.noise.told:
            # This process may have ended the launcher.
            return ExitCode.FAILED
        if self.tells and ended:
            # The launcher's own may be of what the ranks' end did to each other.
            return ended
        if self.tells and self.terminating and self.ended_by is None:
            self._say(f"rank 0 has ended, and others had not {END_S:g} s later{self._last_known()}")
            return ExitCode.FAILED
        if self.tells and code == ExitCode.OK and ended is None:
            host = self.noise.lost
            what = f"host {host} was lost" if host else "a host or rank 0 was lost"
            self._say(f"{what}: the launcher ended with 0, and rank 0 has not ended{self._last_known()}")
            return ExitCode.FAILED
        if code in set(ExitCode):
            if code == ExitCode.FAILED and self.noise.silent:
                self._say(f"the ranks ended with {code}, and none has said why on stderr")
            return code
        flavour = self.plan.flavour
        # Hydra ends with the signal's number, or with those of several ranks in one, bit by bit; Intel's with 255.
        if (flavour is Flavour.HYDRA and 1 < code < signal.NSIG) or (flavour is Flavour.INTEL and code == 255):
            self._say(f"a rank was ended by a signal; the launcher's code is {code}")
        elif code - 128 in set(signal.Signals):
            self._say(f"a rank was ended by {signal.Signals(code - 128).name}")
        elif self.ours or code in _LAUNCHERS_CODES:
            what = _LAUNCHERS_CODES.get(code, "the ranks did not end by themselves")
            self._say(f"{what}; the launcher's code is {code}{self._last_known()}")
        else:
            return code
        return ExitCode.FAILED

    def _last_known(self) -> str:
        """The run folder and the last iteration in its log, as the end of a sentence."""
        folder = self.noise.told.get("folder")
        if not folder:
            return ""
        from mpisqueeze.record.figures import BINARY_LOG, rows_in

        with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, BINARY_LOG), "rb") as log:
            return f"; the last iteration in {folder} is {rows_in(log)[1]}"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(os.path.join(folder, "iterations.jsonl"), "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LAST))
                line = log.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
            return f"; the last iteration in {folder} is {json.loads(line)['iteration']}"
        return f"; the log in {folder} has no iteration"

    def _say(self, text: str) -> None:
        say(f"mpisqueeze {self.name}: {text}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """A socket that receives the number of each signal, a byte; SIGCHLD, too, which ends a wait for others."""
        # SIGINT is taken even where a shell's `&` had it ignored: mpirun itself does so, and the signal was
        # sent on purpose. An ignored SIGHUP is nohup's promise and stays ignored.
        caught = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            caught.append(signal.SIGHUP)

        read_end, write_end = socket.socketpair()
        with read_end, write_end:
            read_end.setblocking(False)
            write_end.setblocking(False)
            old_wake = signal.set_wakeup_fd(write_end.fileno(), warn_on_full_buffer=False)
            old = {number: signal.signal(number, lambda *_: None) for number in caught}
            try:
                yield read_end
            finally:
                for number, handler in old.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(old_wake)

    def _handle(self, process: subprocess.Popen[bytes], number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGUSR1:
            self._pass_on(process, number)
        elif self.ended_by is not None:
            if number != self.ended_by or time.monotonic() - self.ended_at >= SAME_S:
                self._escalate(process)
        else:
            self._begin_the_end(process, number)

    def _begin_the_end(self, process: subprocess.Popen[bytes], number: int) -> None:
        self.ended_by, self.ended_at = number, time.monotonic()
        if self._pass_on(process, signal.SIGTERM if number == signal.SIGHUP else number):
            self.deadline = time.monotonic() + self.grace_s
            name = signal.Signals(number).name
            self._say(f"{name} passed on to the ranks; again, or in {self.grace_s:g} s, ends them at once")
        else:
            self._escalate(process)

    def _pass_on(self, process: subprocess.Popen[bytes], number: int) -> bool:
        """Send a signal to the ranks of this machine; False if there are none yet, or none that it would not end."""
        if self.plan.flavour is Flavour.SRUN:
            # Ranks are no descendants of srun, which answers SIGINT and SIGTERM by killing them all at once.
            process.send_signal(signal.SIGUSR1)
            return True
        ranks = self._ranks(process)
        if number == signal.SIGINT and not any(_prepared(rank.pid) for rank in ranks):
            # While it starts, each rank's Python would show a traceback.
            return False
        for rank in ranks:
            with contextlib.suppress(psutil.Error):
                rank.send_signal(number)
        return bool(ranks)

    def _ranks(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The outermost descendants of the launcher that run the started command."""
        ranks: list[psutil.Process] = []
        pending = _children(process.pid)
        while pending:
            child = pending.pop()
            try:
                # Without the first word, which a launcher may have resolved to another path.
                is_rank = child.cmdline()[1:] == [*self.started[1:]]
                pending += [] if is_rank else child.children()
            except psutil.Error:
                continue
            if is_rank:
                ranks.append(child)
        return ranks

    def _escalate(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the launcher to end; once it had `kill_s` seconds for that, kill all it started."""
        if not self.terminating:
            self.terminating = True
            self.family.update(_children(process.pid, recursive=True))
            process.terminate()
            self.deadline = time.monotonic() + self.kill_s
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            self._kill(process)
            self.deadline = None

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the launcher, its session, and what Hydra moved to other sessions."""
        self.family.update(_children(process.pid, recursive=True))
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(pid) == process.pid != pid:
                    self.family.add(psutil.Process(pid))
        if process.poll() is None:
            process.kill()
        for member in self.family:
            with contextlib.suppress(psutil.Error):
                member.kill()


def _write(data: bytes) -> None:
    """Write to stderr, whoever may be reading."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(2, data) :]


@contextlib.contextmanager
def session_folder(plan: LaunchPlan) -> Iterator[dict[str, str]]:
    """Variables that give a launch by Open MPI a folder of its own for its session, which is removed at the end.

    By default mpirun makes /tmp/ompi.PID. A killed mpirun leaves it there, and a later one that gets the same PID
    does not start.
    """
    if plan.flavour is not Flavour.OPEN_MPI or any(name in os.environ for name in _SESSIONS):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mpisqueeze-", ignore_cleanup_errors=True) as folder:
        yield {_SESSIONS[0]: folder}


def _prepared(pid: int) -> bool:
    """True if a process handles SIGTERM, so that it can stop in good order, or where that cannot be known."""
    bit = 1 << (signal.SIGTERM - 1)
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("SigCgt:", "SigIgn:")) and int(line.split()[1], 16) & bit:
                return True
        return False
    return not Path("/proc/self/status").exists()


def _children(pid: int, recursive: bool = False) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.Error:
        return []


def _in_child(death_signal: signal.Signals) -> Callable[[], None] | None:
    """A function for the child to call before it becomes the launcher; on Linux it ties its life to this process."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # died between fork and prctl
            os._exit(ExitCode.TERMINATED)

    return prepare
