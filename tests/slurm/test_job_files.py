"""The job files as they are, on a real SLURM: what a user submits, and what is there afterwards."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import one_node
import pytest
from conftest import logged, start_on_ranks, wait_for
from test_checkpoint import same_runs

from mpisqueeze.launch import Flavour, Launcher

HERE = Path(__file__).parent
JOBS = HERE.parents[1] / "jobs"
SHORT = ("--problem", "quadratic:101", "--iterations", "5")
LONG = (
    *("--problem", "quadratic:101", "--iterations", "300", "--eval-every", "70"),
    *("--link", "latency=6ms,bandwidth=1gbit", "--momentum", "0.5", "--lr", "0.05"),
    *("--algorithm", "doublesqueeze", "--compressor", "onebit"),
)


@dataclass
class Cluster:
    """SLURM, and a folder to submit from, in which `jobs` is the repository's.

    Attributes:
        environment: what jobs get from their user.
        enter: what has a command run on the head of a cluster of several hosts.
    """

    folder: Path
    here: Path
    environment: dict[str, str]
    enter: tuple[str, ...] = ()

    def run(self, *command: str, **variables: str) -> str:
        done = subprocess.run(
            [*self.enter, *command],
            env=self.environment | variables,
            cwd=self.here,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """As `wait_for`, for what a program of SLURM has to be asked."""
        return wait_for(condition, lambda: f"{what}: {self.run('squeue')}", seconds, pause=0.25)

    def submit(self, *arguments: str, **variables: str) -> str:
        """A job's number; the ranks are two on one node, where `arguments` do not say otherwise."""
        size = ("--nodes=1", "--ntasks-per-node=2")
        return self.run("sbatch", "--parsable", *size, *arguments, **variables).strip()

    def facts(self, job: str) -> list[dict[str, str]]:
        """SLURM's facts about a job, or about each task of an array."""
        lines = self.run("scontrol", "--oneliner", "show", "job", job).splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]

    def ended(self, job: str, seconds: float = 60) -> list[dict[str, str]]:
        def over() -> list[dict[str, str]]:
            found = self.facts(job)
            going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SIGNALING")
            return [] if any(facts["JobState"] in going for facts in found) else found

        return wait_for(over, lambda: f"job {job} to end, which said: {self.said(job)}", seconds, pause=0.25)

    def completed(self, job: str, seconds: float = 60) -> dict[str, str]:
        """The facts of a job that ends well."""
        (facts,) = self.ended(job, seconds)
        assert facts["JobState"] == "COMPLETED", self.said(job)
        return facts

    def said(self, job: str) -> str:
        own = [path for each in ("", "_*") for path in self.here.glob(f"*-{job}{each}.out")]
        return "".join(path.read_text() for path in sorted(own))

    def results(self, name: str) -> Path:
        return self.here / "results" / name


def environment_of_users(folder: Path) -> dict[str, str]:
    """What jobs get from whoever submits them to the cluster in this folder."""
    foreign = ("SLURM", "SBATCH_", "MPISQUEEZE_", "PMI", "PRTE_", "OMPI_COMM_", "LAUNCHER", "PAIRS", "RATES")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    program = Path(sys.executable).with_name("mpisqueeze")
    return environment | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": os.pathsep.join([str(program.parent), environment.get("PATH", os.defpath)]),
        "OPENBLAS_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster, as long as this module's tests run."""
    program = Path(sys.executable).with_name("mpisqueeze")
    if absent := one_node.missing():
        pytest.skip(f"SLURM is not installed: there is no {', '.join(absent)}")
    if not program.is_file():
        pytest.skip("mpisqueeze is not installed as a script here")
    here = tmp_path_factory.mktemp("user")
    (here / "jobs").symlink_to(JOBS)
    # A socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="mpisqueeze-slurm-", dir="/tmp"))
    # The node claims more cores than the machine has, which Open MPI's mpirun looks at.
    crowded = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    environment = environment_of_users(folder) | crowded
    keeper = subprocess.Popen([sys.executable, one_node.__file__, str(folder)], stdin=subprocess.PIPE)
    cluster = Cluster(folder, here, environment)
    try:

        def idle() -> bool:
            assert keeper.poll() is None
            asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            return "idle" in asked.stdout

        try:
            wait_for(idle, "the node to be idle", pause=0.25)
        except AssertionError:
            logs = "".join(path.read_text(errors="replace") for path in folder.glob("*.out"))
            pytest.fail(f"SLURM did not start:\n{logs}")
        yield cluster
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(timeout=30)
        assert not folder.exists()


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """The cluster, without the results of others."""
    yield running
    running.run("scancel", "--full", "--partition=low")
    running.run("scancel", "--full", "--partition=high")


@pytest.fixture(params=["srun", pytest.param("mpirun", marks=pytest.mark.slow)])
def started_by(request: pytest.FixtureRequest, running: Cluster, launcher: Launcher) -> dict[str, str]:
    """The variables by which a job file starts the ranks so."""
    if request.param == "mpirun":
        return {"LAUNCHER": "mpirun"}
    if launcher.flavour is Flavour.HYDRA:
        return {"SLURM_MPI_TYPE": "pmi2"}
    # Debian's plug-in loads a file that libpmix-dev has.
    command = ["srun", "--mpi=pmix", "true"]
    tried = subprocess.run(command, env=running.environment, capture_output=True, text=True, timeout=60)
    if tried.returncode:
        pytest.skip(f"this SLURM has no PMIx: {tried.stderr.splitlines()[0]}")
    return {}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_train(cluster: Cluster, started_by: dict[str, str], tmp_path: Path) -> None:
    """A complete run folder named by the job; data from the node's own disk, where nothing is left."""
    data, scratch = tmp_path / "data", tmp_path / "scratch"
    (data / "deep").mkdir(parents=True)
    scratch.mkdir()
    np.save(data / "deep" / "target.npy", np.arange(7.0))
    job = cluster.submit(
        "--cpus-per-task=2",
        *("jobs/train.sbatch", "--problem", f"{HERE / 'staged.py'}:Staged", "--lr", "1", "--iterations", "5"),
        *("--algorithm", "sgd"),
        MPISQUEEZE_DATA=str(data),
        SLURM_TMPDIR=str(scratch),
        **started_by,
    )
    cluster.completed(job)
    run = cluster.results(job)
    summary, variables = read(run / "summary.json"), read(run / "environment.json")["variables"]
    assert (summary["status"], summary["ranks"]) == ("ok", 2)
    # Half the square of the target's norm, and the target reached.
    assert [line["loss"] for line in logged(run / "iterations.jsonl")] == [45.5, 0, 0, 0, 0]
    assert (variables["SLURM_JOB_ID"], variables["OMP_NUM_THREADS"]) == (job, "2")
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("by", ["srun", "launch"])
def test_a_job_without_the_users_variables(
    by: str, cluster: Cluster, started_by: dict[str, str], tmp_path: Path
) -> None:
    """With `--export=NONE`, ranks get what the job file sets up for them all the same."""
    site = Cluster(cluster.folder, tmp_path, cluster.environment)
    shutil.copytree(JOBS, tmp_path / "jobs")
    shared = tmp_path / "jobs" / "slurm.sh"
    wanted = {**cluster.environment, **started_by, "MPISQUEEZE_ITERATIONS": "7"}
    set_up = [f"export {name}={shlex.quote(wanted[name])}" for name in wanted if name.isidentifier()]
    shared.write_text("\n".join([*set_up, shared.read_text()]))
    job_file = tmp_path / "jobs" / "train.sbatch"
    text = job_file.read_text().replace("#SBATCH --job-name", "#SBATCH --export=NONE\n#SBATCH --job-name")
    if by == "launch":
        text = text.replace('source "$SLURM_SUBMIT_DIR/jobs/slurm.sh"', "\n".join(set_up))
        text = text.replace("ranks train", "mpisqueeze launch --launcher srun -n 2 train")
    job_file.write_text(text)
    job = site.submit("jobs/train.sbatch", *SHORT[:2])
    site.completed(job)
    summary = read(site.results(job) / "summary.json")
    assert (summary["ranks"], summary["iterations"]) == (2, 7)


@pytest.mark.slow
def test_compare(cluster: Cluster) -> None:
    job = cluster.submit("jobs/compare.sbatch", "sgd", "doublesqueeze/onebit", *SHORT, LAUNCHER="mpirun")
    cluster.completed(job)
    table = cluster.said(job).partition("to target")[2]
    assert sorted(re.findall(r"^ [12]  (\S+) ", table, re.MULTILINE)) == ["doublesqueeze/onebit", "sgd"]
    assert len(list(cluster.results(job).glob("*/summary.json"))) == 2


@pytest.mark.slow
def test_advise(cluster: Cluster) -> None:
    """It has a verdict in its folder, in words and in JSON, and keeps its time."""
    options = ("--problem", "quadratic:101", "--iterations", "40", "doublesqueeze/onebit")
    job = cluster.submit("jobs/advise.sbatch", *options, "--budget", "40s", LAUNCHER="mpirun")
    cluster.completed(job)
    advice = read(cluster.results(job) / "advice.json")
    assert advice["sentences"][0] in " ".join(cluster.said(job).split())
    assert advice["spent_s"] < 1.1 * advice["budget_s"]


@pytest.mark.slow
def test_sweep(cluster: Cluster) -> None:
    """Each task of the array has its own settings and folder; one beyond the settings is refused."""
    lists = {"PAIRS": "sgd dcd/qsgd:8", "RATES": "0.01 0.02"}
    job = cluster.submit("--array=1,2,4", "jobs/sweep.sbatch", *SHORT, "--seed", "5", LAUNCHER="mpirun", **lists)
    ends = {facts["ArrayTaskId"]: (facts["JobState"], facts["ExitCode"]) for facts in cluster.ended(job)}
    done = ("COMPLETED", "0:0")
    assert ends == {"1": done, "2": done, "4": ("FAILED", "2:0")}, cluster.said(job)
    assert "there is no task 4" in cluster.said(job)
    runs = [cluster.results(f"{job}_{task}") for task in (1, 2)]
    settings = [read(run / "config.json") for run in runs]
    assert [(own["algorithm"], own["compressor"], own["lr"], own["seed"]) for own in settings] == [
        ("sgd", "identity", 0.02, 5),
        ("dcd", "qsgd:8", 0.01, 5),
    ]
    assert len(json.loads(cluster.run("mpisqueeze", "report", *map(str, runs), "--json", "-"))) == 2


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-m", "mpisqueeze", "train", *LONG, "--save-model", "--out", "run"]
    start_on_ranks(launcher, 2, command, folder, timeout=120).well()
    return folder / "run"


@pytest.mark.slow
def test_a_run_in_pieces_ends_as_one_that_was_never_stopped(
    cluster: Cluster, started_by: dict[str, str], whole: Path
) -> None:
    """Requeued by hand, preempted by a more important job, and near its time limit, one after the other."""
    # By its link an iteration takes its time, and no core.
    slowly = ("--link", "latency=6ms,bandwidth=1gbit", "--checkpoint-every", "10")
    job = cluster.submit("jobs/preempt.sbatch", *LONG, *slowly, **started_by)
    run = cluster.results(job)

    def reaches(iteration: int) -> None:
        wait_for(
            lambda: any(int(path.name) >= iteration for path in run.glob("checkpoint/*[0-9]")), f"{run} {iteration}"
        )

    def starts_again(times: int) -> None:
        def waits() -> bool:
            (facts,) = cluster.facts(job)
            return (facts["JobState"], facts["Reason"], facts["Restarts"]) == ("PENDING", "BeginTime", str(times))

        cluster.wait(waits, f"job {job} to be requeued")
        # It would wait for 5 s, and must for one: what slurmd has just ended is told by the second.
        time.sleep(1.2)
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    reaches(50)
    cluster.run("scontrol", "requeue", job)
    starts_again(1)

    reaches(110)
    urgent = cluster.submit("--partition=high", "--exclusive", "--wrap=sleep 0.2")
    starts_again(2)

    reaches(170)
    # What --signal=B:USR1@60 does, without the minute for which a time limit has to be.
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    starts_again(3)
    cluster.completed(urgent)

    assert cluster.completed(job)["Restarts"] == "3"
    same_runs(whole, run)
    assert [line["iteration"] for line in logged(run / "iterations.jsonl")] == list(range(1, 301))
    resumed = read(run / "summary.json")["resumed_after"]
    assert len(resumed) == 3
    assert all(after >= least for after, least in zip(resumed, (50, 110, 170), strict=True)), resumed
    # The signal's checkpoint is of its own iteration, so that nothing was computed twice.
    assert resumed[2] % 10 or resumed[2] > 170


@pytest.mark.slow
def test_launch_within_a_job(cluster: Cluster, started_by: dict[str, str]) -> None:
    """`launch` finds mpirun, and tells srun how to connect the ranks."""
    named = "mpirun" if "LAUNCHER" in started_by else "srun"
    job = cluster.submit("--output=launch-%j.out", f"--wrap=mpisqueeze launch --launcher {named} -n 2 info --json -")
    cluster.completed(job)
    assert json.loads(cluster.said(job))["environment"]["ranks"] == 2


@pytest.mark.slow
def test_srun_that_connects_no_ranks_is_refused(cluster: Cluster) -> None:
    """Each task would train for itself, all in the same folder."""
    job = cluster.submit("jobs/train.sbatch", *SHORT, SLURM_MPI_TYPE="none")
    (facts,) = cluster.ended(job)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "2:0")
    assert cluster.said(job).count("srun started 2 ranks, but the MPI that mpi4py loads") == 1
    assert not cluster.results(job).exists()


@pytest.mark.slow
def test_a_step_does_not_wait_for_ever_for_the_nodes_of_its_job(cluster: Cluster) -> None:
    """SLURM may hold them for busy when a job is started again after it has lost one."""
    script = cluster.here / "busy.sh"
    script.write_text(
        "#!/bin/bash\n. jobs/slurm.sh\nsrun --exclusive --ntasks=2 sleep 40 &\nsleep 2\n"
        'start+=(--exclusive)\nranks info || echo "code $? lost $lost"\nkill %1\n'
    )
    job = cluster.submit("--output=busy-%j.out", str(script), SLURM_IMMEDIATE="3", SLURM_MPI_TYPE="none")
    cluster.ended(job)
    assert "code 1 lost yes" in cluster.said(job)
