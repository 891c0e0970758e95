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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nodes
import one_node
import pytest
from conftest import logged, start_on_ranks, wait_for
from test_checkpoint import same_runs
from test_job_files import HERE, JOBS, Cluster, environment_of_users, read

from mpisqueeze.launch import Flavour, Launcher

#: Hosts, of which jobs have three, so that several wait for something at the same time.
COUNT, RANKS = 12, 3
SLOW = f"{HERE / 'slow_gradient.py'}:Slow"
#: The network as it is found makes no difference to the messages.
AS_ONE = ("--tree", "flat", "--chunk", "1Mi")
LONG = ("--problem", SLOW, "--iterations", "200", "--lr", "0.1", "--save-model", *AS_ONE)
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

    def hosts_of(self, job: str) -> list[str]:
        """The hosts on which a job runs, in the order of its ranks."""
        return self.run("scontrol", "show", "hostnames", self.facts(job)[0]["NodeList"]).split()

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
                # Another process may have its number since, and then the cable is gone with the host.
                with contextlib.suppress(AssertionError):
                    self.cable(host, "up")
                    continue
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
        def why() -> str:
            return f"{run} to come to {iteration}: {self.said(run.name)}{self.run('squeue')}"

        wait_for(lambda: self.logged(run) >= iteration, why, 200)


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
        cluster.wait(cluster.idle, "the nodes to be idle")
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
    running.wait(running.idle, "all nodes to be idle", 90)
    yield running
    running.run("scancel", "--full", "--partition=low")
    running.run("scancel", "--full", "--partition=high")


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-m", "mpisqueeze", "train", *LONG, "--out", "run"]
    start_on_ranks(launcher, RANKS, command, folder, timeout=120, SLOW_S="0").well()
    return folder / "run"


LAUNCHERS = ("srun", "mpirun")


def together(cases: dict[str, Callable[[], None]]) -> None:
    """Have several things done at the same time, since jobs mostly wait."""
    with ThreadPoolExecutor(len(cases)) as pool:
        failures = {name: future.exception() for name, future in [(k, pool.submit(v)) for k, v in cases.items()]}
    failures = {name: error for name, error in failures.items() if error}
    assert not failures, "\n".join(f"{name}: {error}" for name, error in failures.items())


def interrupt(cluster: Nodes, by: str, what: str, whole: Path) -> None:
    """A job that is interrupted once ends as the one that nothing disturbed."""
    options = ("--checkpoint-every", "10", "--heartbeat", "4s")
    # SLURM looks every half a minute which jobs are near their limit of a minute.
    limit = ("--time=1", "--signal=B:USR1@45") if what == "time limit" else ()
    variables = {"LAUNCHER": by, "SLOW_S": "0.2" if limit else "0.05"}
    job = cluster.on_three("--exclusive", *limit, "jobs/preempt.sbatch", *LONG, *options, **variables)
    run = cluster.results(job)
    wait_for(lambda: [*run.glob("checkpoint/*[0-9]/manifest.json")], lambda: f"a checkpoint: {cluster.said(job)}", 200)
    *_, last = hosts = cluster.hosts_of(job)
    if what == "node":
        cluster.power_cut(last)
    elif what == "cable":
        cluster.cable(last, "down")
    elif what == "preemption":
        urgent = ("--partition=high", "--exclusive", f"--nodelist={','.join(hosts)}", "--wrap=sleep 0.2")
        cluster.run("sbatch", *ON_THREE, *urgent)
    cluster.wait(lambda: cluster.facts(job)[0]["Restarts"] != "0", f"job {job} to be requeued", 120)
    if what in ("node", "cable"):
        cluster.heal([last])
    cluster.completed(job, 200)
    same_runs(whole, run)
    assert [line["iteration"] for line in logged(run / "iterations.jsonl")] == [*range(1, 201)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_preemptible_job_ends_as_one_that_was_never_disturbed(cluster: Nodes, whole: Path) -> None:
    whats = ("time limit", "node", "cable", "preemption")
    together({f"{what}, {by}": partial(interrupt, cluster, by, what, whole) for what in whats for by in LAUNCHERS})


def loses_a_node(cluster: Nodes, by: str) -> None:
    """The job is not done; Open MPI's mpirun ends with 0 then."""
    job = cluster.on_three("--exclusive", "jobs/train.sbatch", *LONG, LAUNCHER=by)
    run = cluster.results(job)
    cluster.reaches(run, 20)
    cluster.power_cut(cluster.hosts_of(job)[-1])
    (facts,) = cluster.ended(job)
    assert facts["JobState"] in ("FAILED", "NODE_FAIL"), cluster.said(job)
    assert cluster.logged(run) < 200
    if by == "mpirun" and facts["JobState"] == "FAILED":
        assert facts["ExitCode"] == "4:0"
        assert "does not say that all is done: a node was lost" in cluster.said(job)


def launch_loses_a_node(cluster: Nodes) -> None:
    """`launch` ends a launcher that does not end by itself, or that ends with 0, and names the host."""
    command = f"mpisqueeze launch --launcher mpirun -n 3 train --problem {SLOW} --iterations 4000 --out run-launch"
    job = cluster.on_three("--exclusive", "--no-kill", "--output=launch.out", f"--wrap={command}; echo code $?")
    cluster.reaches(cluster.here / "run-launch", 20)
    last = cluster.hosts_of(job)[-1]
    cluster.power_cut(last)
    out = cluster.here / "launch.out"
    wait_for(lambda: "code" in out.read_text(), out.read_text, 100)
    assert re.search(rf"{last} (was lost|cannot be reached)", out.read_text())
    assert "code 4" in out.read_text()


def sweeps_compares_advises(cluster: Nodes, by: str) -> None:
    short = ("--problem", "quadratic:101", "--iterations", "20")
    pairs = ("sgd", "doublesqueeze/onebit")
    lists = {"PAIRS": "sgd dcd/qsgd:8", "RATES": "0.01", "LAUNCHER": by}
    advise = cluster.on_three("jobs/advise.sbatch", *short, pairs[1], "--budget", "40s", LAUNCHER=by)
    sweep = cluster.on_three("--array=0-1", "jobs/sweep.sbatch", *short, **lists)
    compare = cluster.on_three("jobs/compare.sbatch", *pairs, *short, LAUNCHER=by)
    ended = cluster.ended(sweep, 200)
    assert [facts["JobState"] for facts in ended] == ["COMPLETED"] * 2, cluster.said(sweep)
    hosts = read(cluster.results(f"{sweep}_1") / "environment.json")["hosts"]
    assert [host["ranks"] for host in hosts] == [1] * RANKS
    cluster.completed(compare, 200)
    assert read(cluster.results(compare) / "compare.json")["status"] == "done"
    cluster.completed(advise, 200)
    assert read(cluster.results(advise) / "advice.json")["sentences"][0] in " ".join(cluster.said(advise).split())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_job_files_on_three_hosts(cluster: Nodes) -> None:
    works = (loses_a_node, sweeps_compares_advises)
    cases = {f"{work.__name__}, {by}": partial(work, cluster, by) for work in works for by in LAUNCHERS}
    together({**cases, "launch": partial(launch_loses_a_node, cluster)})


@pytest.mark.slow
def test_a_pulled_cable_is_found_out_within_the_heartbeat(cluster: Nodes) -> None:
    """Under srun: the peer is named, with what it did last; a cable that comes back in time is none.

    SLURM itself looks for hosts every few seconds, and ends the job after ten.
    """
    command = "mpisqueeze launch --launcher srun -n 3 train --heartbeat 6s --out run-$SLURM_JOB_ID"
    job = cluster.on_three("--no-requeue", "--output=%j.out", f"--wrap={command} --problem {SLOW} --iterations 4000")
    run = cluster.here / f"run-{job}"
    cluster.reaches(run, 20)
    last = cluster.hosts_of(job)[-1]
    cluster.cable(last, "down")
    begun = cluster.logged(run)
    time.sleep(3)
    cluster.cable(last, "up")
    cluster.reaches(run, begun + 40)
    cluster.cable(last, "down")
    (facts,) = cluster.ended(job, 90)
    said = (cluster.here / f"{job}.out").read_text()
    assert facts["JobState"] != "COMPLETED", said
    assert re.search(
        rf"mpisqueeze: rank 2 on {last} cannot be reached: nothing was acknowledged for --heartbeat 6 s; "
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
    "srun": {**dict.fromkeys(("SIGINT+SIGINT", "SIGTERM", "SIGHUP"), (137, False, 2)), "SIGUSR1": SAVED},
    "launch-srun": {"SIGINT": (130, True, 0), "SIGTERM": SAVED, "SIGHUP": SAVED, "SIGUSR1": SAVED},
    "scancel": {"SIGINT": (130, True, 0), "SIGTERM": SAVED, "SIGHUP": SAVED, "SIGUSR1": SAVED},
}


def signalled(cluster: Nodes, how: str, name: str) -> None:
    folder, result = (cluster.here / f"{how}-{name}{end}" for end in ("", ".json"))
    program = shutil.which("python", path=cluster.environment["PATH"])
    command = f"{program} {HERE / 'signalled.py'} {how} {name} {folder} {result}"
    job = cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", f"--output={folder}.out", f"--wrap={command}"),
        SLOW_S="1.5",
    ).strip()
    cluster.ended(job, 120)
    found = json.loads(result.read_text())
    code, summary, lost = SIGNALS[how][name]
    assert found["code"] == code
    assert found["status"] == ("interrupted" if summary else None)
    assert found["lost"] == lost


@pytest.mark.slow
@pytest.mark.parametrize("how", SIGNALS)
def test_what_signals_do(cluster: Nodes, how: str) -> None:
    """With a gradient of more than a second: the table of docs/clusters.md."""
    together({name: partial(signalled, cluster, how, name) for name in SIGNALS[how]})


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


@pytest.mark.slow
@pytest.mark.parametrize("where", ["--host n2,n3", "--hostfile hosts", "--mpi-args '--host n2,n3'"])
def test_launch_on_hosts_that_are_named(cluster: Nodes, where: str) -> None:
    (cluster.here / "hosts").write_text("n2 slots=1\nn3 slots=1\n")
    job = cluster.on_three("--output=%j.out", f"--wrap=mpisqueeze launch -n 2 {where} info --json -")
    cluster.completed(job)
    facts = json.loads((cluster.here / f"{job}.out").read_text())
    assert [host["hostname"] for host in facts["environment"]["hosts"]] == ["n2", "n3"]
