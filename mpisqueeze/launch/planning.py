"""Plan a launch: the launcher's command line, and the settings that a laptop, a container or root needs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpisqueeze.devices.cores import usable_cores
from mpisqueeze.errors import UsageError
from mpisqueeze.files import read_text
from mpisqueeze.launch.finding import Flavour, Launcher
from mpisqueeze.streams import results_descriptor

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
_SRUN_EXPORT = "SLURM_EXPORT_ENV"
#: Seconds after a rank's end in which srun ends the others: if it was killed before MPI started, they wait for it.
_SRUN_WAIT = {"SLURM_WAIT": "60"}
_OPEN_MPI_4 = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}
#: Settings for more ranks than cores. Waiting ranks of MPICH and Intel MPI yield by sched_yield, which keeps a core
#: busy; by YIELD they sleep a moment.
_CROWDED = {
    Flavour.OPEN_MPI: {
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    },
    Flavour.HYDRA: {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"},
    Flavour.INTEL: {"I_MPI_PIN": "off", "I_MPI_THREAD_YIELD": "3"},
}


#: The options by which a launcher takes a file of hosts, and their names.
_HOST_OPTIONS = {
    Flavour.HYDRA: ("-f", "-hosts"),
    Flavour.INTEL: ("-f", "-hosts"),
    Flavour.SRUN: ("--nodefile", "--nodelist"),
}
_OTHER_HOST_OPTIONS = ("--hostfile", "--host")


@dataclass(frozen=True)
class Where:
    """The hosts that the user names, in place of the batch system's or of this one.

    Attributes:
        hostfile: a file with a host a line, as the launcher takes it.
        hosts: names, separated by commas, as the launcher takes them.
        more: further words for the launcher.
    """

    hostfile: str | None = None
    hosts: str | None = None
    more: Sequence[str] = ()

    @property
    def count(self) -> int | None:
        """The number of hosts; None where none are named. Raises UsageError for a file that cannot be read."""
        if self.hostfile is not None:
            lines = read_text(Path(self.hostfile), "--hostfile").splitlines()
            names = {re.split(r"[\s:#]", line.strip())[0] for line in lines}
        else:
            names = {name.partition(":")[0] for name in (self.hosts or "").split(",")}
        return len(names - {""}) or None

    def words(self, flavour: Flavour) -> list[str]:
        """The launcher's options."""
        file, names = _HOST_OPTIONS.get(flavour, _OTHER_HOST_OPTIONS)
        given = ((file, self.hostfile), (names, self.hosts))
        return [*(word for option, value in given if value is not None for word in (option, value)), *self.more]


HERE = Where()


@dataclass(frozen=True)
class LaunchPlan:
    """A command line, and the variables set on top of the user's own."""

    flavour: Flavour
    arguments: list[str]
    settings: dict[str, str]

    def shell(self) -> str:
        """The plan as one line for a POSIX shell."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.settings.items()]
        return " ".join([*assignments, shlex.join(self.arguments)])


def make_plan(
    launcher: Launcher, n: int, started: Sequence[str], environment: Mapping[str, str], where: Where = HERE
) -> LaunchPlan:
    """The launcher's command line for `n` ranks of `started`, and the settings that this machine needs.

    A variable that is set in `environment` stays as it is, but for MPISQUEEZE_LAUNCHED_RANKS, which states a fact
    about this launch, and SLURM_EXPORT_ENV where it would keep all others from the ranks.
    """
    hosts = where.count or _hosts(environment)
    crowded = n > usable_cores() * hosts
    wanted = {**dict.fromkeys(THREADS, "1"), "MPISQUEEZE_TERMINAL": own_terminal()}
    flags: list[str] = []
    if launcher.flavour is Flavour.OPEN_MPI and os.geteuid() == 0:
        wanted |= AS_ROOT
    if crowded:
        old = launcher.major is not None and launcher.major < 5
        wanted |= _OPEN_MPI_4 if old else _CROWDED.get(launcher.flavour, {})
    if launcher.flavour is Flavour.SRUN:
        flags += [f"--mpi={launcher.pmi}"] if launcher.pmi else []
        flags += ["--overcommit"] if crowded else []
        wanted |= _SRUN_WAIT
    settings = {name: value for name, value in wanted.items() if name not in environment}
    settings["MPISQUEEZE_LAUNCHED_RANKS"] = str(n)
    # In a job of `--export=NONE`, srun, which mpirun starts its daemons by, would keep the job's variables from ranks.
    if not environment.get(_SRUN_EXPORT, "ALL").startswith("ALL"):
        settings[_SRUN_EXPORT] = "ALL"
    if launcher.flavour is Flavour.OPEN_MPI and hosts > 1:
        # Open MPI hands only its own variables to other hosts, unless told by name.
        theirs = {name for name in environment if name.startswith("MPISQUEEZE_")}
        for name in sorted(theirs | {*THREADS, "MPISQUEEZE_TERMINAL", "MPISQUEEZE_LAUNCHED_RANKS"}):
            flags += ["-x", name]
    return LaunchPlan(
        launcher.flavour, [launcher.path, "-n", str(n), *flags, *where.words(launcher.flavour), *started], settings
    )


def program() -> list[str]:
    """The command that is mpisqueeze here: its script, since `-m` would find a source tree in the current folder."""
    script = Path(sys.executable).with_name("mpisqueeze")
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-m", "mpisqueeze"]


def script(command: Sequence[str]) -> list[str] | None:
    """The program that starts a Python script of the user's own, see `launch.rank`; None if the command is no script.

    Raises UsageError for a script that is not there.
    """
    if not command or not command[0].endswith(".py"):
        return None
    if not os.path.isfile(command[0]):
        raise UsageError(f"{command[0]} is not there", "COMMAND")
    return [sys.executable, str(Path(__file__).with_name("rank.py"))]


def own_terminal() -> str:
    """`COLUMNSxLINES` of the terminal on stdout, or `none`; ranks cannot see it through their own pty."""
    try:
        size = os.get_terminal_size(results_descriptor())
    except OSError:
        return "none"
    return f"{size.columns}x{size.lines}"


def _hosts(environment: Mapping[str, str]) -> int:
    """The number of machines that the batch system gave to this job; 1 outside of a job."""
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"):
        if environment.get(name, "").isdigit():
            return max(1, int(environment[name]))
    if "PBS_NODEFILE" in environment:
        with contextlib.suppress(OSError):
            return max(1, len(set(Path(environment["PBS_NODEFILE"]).read_text().split())))
    return max(1, len(environment.get("LSB_MCPU_HOSTS", "").split()) // 2)
