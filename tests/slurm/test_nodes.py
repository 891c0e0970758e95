"""The job files, signals and faults on a SLURM of three hosts: nodes that die, cables that are pulled, preemption."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nodes
import one_node
import pytest
from conftest import start_on_ranks, wait_for
from test_checkpoint import same_runs
from test_job_files import HERE, JOBS, Cluster, environment_of_users, lines, read

from mpisqueeze.launch import Flavour, Launcher

pytestmark = pytest.mark.slow

COUNT = 3
SLOW = f"{HERE / 'slow_gradient.py'}:Slow"
LONG = ("--problem", SLOW, "--iterations", "200", "--lr", "0.1", "--save-model")
ON_THREE = ("--nodes=3", "--ntasks-per-node=1")


@dataclass
class Nodes(Cluster):
    """A cluster of `count` hosts, and its keeper."""

    keeper: subprocess.Popen[bytes] | None = None
    count: int = COUNT

    @property
    def hosts(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.count + 1)]

    def on_three(self, *arguments: str, **variables: str) -> str:
        return self.run("sbatch", "--parsable", *ON_THREE, *arguments, **variables).strip()

    def power_cut(self, host: str) -> None:
        os.kill(int((self.folder / host).read_text()), signal.SIGKILL)

    def up(self, host: str) -> None:
        before = (self.folder / host).read_text()
        assert self.keeper is not None
        assert self.keeper.stdin is not None
        self.keeper.stdin.write(f"up {host[1:]}\n".encode())
        self.keeper.stdin.flush()
        wait_for(lambda: (self.folder / host).read_text() != before, f"{host} to be there")

    def cable(self, host: str, state: str) -> None:
        self.run("ip", "link", "set", f"v{host[1:]}", state)

    def heal(self, hosts: list[str] | None = None) -> None:
        """Have these hosts, or all, up with their cables."""
        for host in hosts or self.hosts:
            if Path("/proc", (self.folder / host).read_text()).exists():
                self.cable(host, "up")
            else:
                self.up(host)

    def idle(self, hosts: list[str] | None = None) -> bool:
        """Whether these hosts, or all, have no job and can have one."""
        names = hosts or self.hosts
        states = self.run("sinfo", "-h", "-p", "low", "-N", "-n", ",".join(names), "-o", "%T").split()
        return states == ["idle"] * len(names)

    def logged(self, run: Path) -> int:
        log = run / "iterations.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def reaches(self, run: Path, iteration: int) -> None:
        try:
            wait_for(lambda: self.logged(run) >= iteration, f"{run} to come to {iteration}", 40)
        except AssertionError:
            pytest.fail(f"{run} did not come to {iteration}: {self.said(run.name)}{self.run('squeue')}")


def lacking() -> str:
    """What this machine lacks for hosts of its own, or an empty string."""
    if absent := [*one_node.missing(), *(name for name in ("ip", "unshare", "nsenter") if not shutil.which(name))]:
        return f"there is no {', '.join(absent)}"
    if os.geteuid() or subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"]).returncode:
        return "hosts need root, and a machine that grants namespaces"
    return ""


@contextlib.contextmanager
def nodes_up(here: Path, count: int = COUNT) -> Iterator[Nodes]:
    """A cluster whose user works in the folder `here`."""
    (here / "jobs").symlink_to(JOBS)
    folder = Path(tempfile.mkdtemp(prefix="mpisqueeze-nodes-", dir="/tmp"))
    seen = {here, *(path for path in (JOBS.parent, Path(sys.prefix)) if path.is_relative_to("/tmp"))}
    keeper = subprocess.Popen(
        [sys.executable, nodes.__file__, str(folder), str(count), *map(str, seen)], stdin=subprocess.PIPE
    )
    try:
        wait_for((folder / "head").exists, "the head")
        pid = (folder / "head").read_text()
        enter = ("nsenter", "-t", pid, "-m", "-u", "-n", f"--wd={here}", "--")
        cluster = Nodes(folder, here, environment_of_users(folder), enter, keeper, count)
        wait_for(cluster.idle, "the nodes to be idle")
        yield cluster
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(timeout=30)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher) -> Iterator[Nodes]:
    if lacks := lacking():
        pytest.skip(lacks)
    if launcher.flavour is not Flavour.OPEN_MPI:
        pytest.skip("this is for Open MPI")
    with nodes_up(tmp_path_factory.mktemp("user")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Nodes) -> Iterator[Nodes]:
    """The cluster with all nodes idle, whatever the test before has done to them."""
    running.heal()
    wait_for(running.idle, "all nodes to be idle", 90)
    yield running
    running.run("scancel", "--full", "--partition=low")
    running.run("scancel", "--full", "--partition=high")


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-m", "mpisqueeze", "train", *LONG, "--out", "run"]
    start_on_ranks(launcher, COUNT, command, folder, timeout=120, SLOW_S="0").well()
    return folder / "run"


LAUNCHERS = ("srun", "mpirun")


@pytest.mark.parametrize("by", LAUNCHERS)
def test_a_job_that_loses_a_node_is_not_done(cluster: Nodes, by: str) -> None:
    """Open MPI's mpirun ends with 0 then."""
    job = cluster.on_three("jobs/train.sbatch", *LONG, LAUNCHER=by)
    cluster.reaches(cluster.results(job), 20)
    cluster.power_cut("n3")
    (facts,) = cluster.ended(job)
    assert facts["JobState"] in ("FAILED", "NODE_FAIL"), cluster.said(job)
    assert cluster.logged(cluster.results(job)) < 200
    if by == "mpirun" and facts["JobState"] == "FAILED":
        assert facts["ExitCode"] == "4:0"
        assert "does not say that all is done: a node was lost" in cluster.said(job)


@pytest.mark.parametrize("by", LAUNCHERS)
@pytest.mark.parametrize("what", ["node", "cable", "preemption"])
def test_a_preemptible_job_ends_as_one_that_was_never_disturbed(
    cluster: Nodes, by: str, what: str, whole: Path
) -> None:
    options = ("--checkpoint-every", "10", "--heartbeat", "4s")
    job = cluster.on_three("jobs/preempt.sbatch", *LONG, *options, LAUNCHER=by)
    run = cluster.results(job)
    wait_for(lambda: [*run.glob("checkpoint/*[0-9]/manifest.json")], "a checkpoint")
    if what == "node":
        cluster.power_cut("n3")
    elif what == "cable":
        cluster.cable("n3", "down")
    else:
        cluster.run("sbatch", *ON_THREE, "--partition=high", "--exclusive", "--wrap=sleep 0.2")
    wait_for(lambda: cluster.facts(job)[0]["Restarts"] != "0", f"job {job} to be requeued: {cluster.said(job)}", 90)
    if what == "node":
        cluster.up("n3")
    elif what == "cable":
        cluster.cable("n3", "up")
    cluster.completed(job, 120)
    same_runs(whole, run)
    assert [line["iteration"] for line in lines(run / "iterations.jsonl")] == [*range(1, 201)]


def test_a_pulled_cable_is_found_out_within_the_heartbeat(cluster: Nodes) -> None:
    """Under srun: the peer is named, with what it did last; a cable that comes back in time is none."""
    command = "mpisqueeze launch --launcher srun -n 3 train --heartbeat 12s --out run-$SLURM_JOB_ID"
    job = cluster.on_three("--output=%j.out", f"--wrap={command} --problem {SLOW} --iterations 4000")
    run = cluster.here / f"run-{job}"
    cluster.reaches(run, 20)
    cluster.cable("n3", "down")
    begun = cluster.logged(run)
    time.sleep(5)
    cluster.cable("n3", "up")
    cluster.reaches(run, begun + 40)
    cluster.cable("n3", "down")
    (facts,) = cluster.ended(job, 90)
    said = (cluster.here / f"{job}.out").read_text()
    assert facts["JobState"] != "COMPLETED", said
    assert re.search(
        r"mpisqueeze: rank 2 on n3 cannot be reached: nothing was acknowledged for --heartbeat 12 s; "
        r"\d+ s ago it was (computing the gradient|exchanging) in iteration \d+",
        said,
    ), said
    assert "Traceback" not in said


SAVED = (143, True, 0)
#: By launcher and signal: the exit code, whether there is a summary, and iterations that are lost.
SIGNALS = {
    "mpirun": {**dict.fromkeys(("SIGINT", "SIGTERM", "SIGHUP"), (1, True, 0)), "SIGUSR1": SAVED},
    "launch": {"SIGINT": (130, True, 0), "SIGTERM": SAVED, "SIGHUP": SAVED, "SIGUSR1": SAVED},
    # One SIGINT is answered by a question.
    "srun": {**dict.fromkeys(("SIGTERM", "SIGHUP"), (137, False, 2)), "SIGUSR1": SAVED},
    "launch-srun": {"SIGINT": (130, True, 0), "SIGTERM": SAVED, "SIGHUP": SAVED, "SIGUSR1": SAVED},
    "scancel": {"SIGINT": (130, True, 0), "SIGTERM": SAVED, "SIGHUP": SAVED, "SIGUSR1": SAVED},
}


@pytest.mark.parametrize(("how", "name"), [(how, name) for how, cells in SIGNALS.items() for name in cells])
def test_what_signals_do(cluster: Nodes, how: str, name: str) -> None:
    """With a gradient of more than a second: the table of docs/clusters.md."""
    folder, result = (cluster.here / f"{how}-{name}{end}" for end in ("", ".json"))
    program = shutil.which("python", path=cluster.environment["PATH"])
    command = f"{program} {HERE / 'signalled.py'} {how} {name} {folder} {result}"
    job = cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", f"--output={folder}.out", f"--wrap={command}"),
        SLOW_S="1.5",
    ).strip()
    cluster.ended(job)
    found = json.loads(result.read_text())
    code, summary, lost = SIGNALS[how][name]
    assert found["code"] == code
    assert found["status"] == ("interrupted" if summary else None)
    assert found["lost"] == lost


def test_ranks_see_the_gpus_that_slurm_gives_them(cluster: Nodes) -> None:
    command = "srun --gpus-per-task=1 --ntasks-per-node=2 sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    job = cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-task=1", "--output=%j.out"),
        f"--wrap={command}",
    ).strip()
    cluster.completed(job)
    seen = sorted((cluster.here / f"{job}.out").read_text().split("\n")[:-1])
    assert [line.split()[0] for line in seen] == ["n1", "n1", "n2", "n2"]
    assert all(re.fullmatch(r"n\d [01]", line) for line in seen), seen


@pytest.mark.parametrize("where", ["--host n2,n3", "--hostfile hosts", "--mpi-args '--host n2,n3'"])
def test_launch_on_hosts_that_are_named(cluster: Nodes, where: str) -> None:
    (cluster.here / "hosts").write_text("n2 slots=1\nn3 slots=1\n")
    job = cluster.on_three("--output=%j.out", f"--wrap=mpisqueeze launch -n 2 {where} info --json -")
    cluster.completed(job)
    facts = json.loads((cluster.here / f"{job}.out").read_text())
    assert [host["hostname"] for host in facts["environment"]["hosts"]] == ["n2", "n3"]


def test_a_sweep_and_a_comparison_over_hosts(cluster: Nodes) -> None:
    short = ("--problem", "quadratic:101", "--iterations", "5")
    sweep = cluster.on_three(
        "--array=0-1", "jobs/sweep.sbatch", *short, PAIRS="sgd dcd/qsgd:8", RATES="0.01", LAUNCHER="srun"
    )
    compare = cluster.on_three("jobs/compare.sbatch", "sgd", "doublesqueeze/onebit", *short, LAUNCHER="srun")
    assert [facts["JobState"] for facts in cluster.ended(sweep)] == ["COMPLETED"] * 2, cluster.said(sweep)
    cluster.completed(compare)
    assert read(cluster.results(compare) / "compare.json")["status"] == "done"
    hosts = read(cluster.results(f"{sweep}_1") / "environment.json")["hosts"]
    assert [host["hostname"] for host in hosts] == ["n1", "n2", "n3"]
