"""Jobs on a SLURM of several hosts that lose ranks, daemons, hosts or links: do they end as runs left alone?

    python results/robustness/cluster_points.py -n 1000 --minutes 60 --write results/robustness

A point is a loss at a random moment of a run by jobs/preempt.sbatch on two or three hosts, its start included: SIGKILL
for a rank or for a daemon (prted, slurmstepd, slurmd), a power cut of a host, a cable that is pulled, or preemption by
a job of more importance. What was lost comes back after a while. SLURM or the job file has to start the job again,
until it is COMPLETED, and its model, losses, counts and log must be those of a run of the same settings that nothing
disturbed, to the bit.

The number of a point is its seed, so that it can be had again by itself (`--only 17`). A line for each is added to
cluster_points.jsonl, and all are counted in cluster_points.txt; numbers that are there are left out the next time,
unless they failed. One cluster serves all points. It has several lanes, each with hosts of its own, because most of a
point is waiting: for SLURM, for the heartbeat, for a gradient that sleeps.

Needs root, SLURM, iproute2 and Open MPI; see tests/slurm/nodes.py. Exits with 1 if a point failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests"
sys.path[:0] = [str(TESTS / "slurm"), str(TESTS / "mpi"), str(TESTS)]

import psutil  # noqa: E402
from conftest import start_on_ranks, wait_for  # noqa: E402
from kill_points import FailedError, same  # noqa: E402
from programs import launcher, versions  # noqa: E402
from test_nodes import AS_ONE, SLOW, Nodes, nodes_up  # noqa: E402

#: What may be lost, by launcher.
LOSSES = {
    "srun": ("rank", "rank", "slurmstepd", "slurmd", "host", "cable", "preemption"),
    "mpirun": ("rank", "rank", "prted", "slurmd", "host", "cable", "preemption"),
}
ALGORITHMS = ("doublesqueeze", "memsgd", "sgd", "dpsgd", "choco", "ef21")
#: Hosts of a lane, iterations, seconds of a gradient, of the ranks' start at the most, and that a job has.
HOSTS, ITERATIONS, SLOW_S, START_S, ENOUGH = 3, 80, 0.03, 5.0, 420.0
#: How long srun waits for ranks once one has ended and for its job's nodes, and ranks and PMIx for those that do not
#: come to MPI's start.
PATIENCE = {"SLURM_WAIT": "10", "SLURM_IMMEDIATE": "30", "SLURM_PMIX_TIMEOUT": "20", "MPISQUEEZE_START_S": "60"}
#: A job that did not fail, and has not ended.
GOING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "PREEMPTED", "SIGNALING")


class Lane:
    """The hosts of one point at a time."""

    def __init__(self, cluster: Nodes, number: int) -> None:
        self.cluster = cluster
        self.hosts = [f"n{number * HOSTS + i}" for i in range(1, HOSTS + 1)]

    def submit(self, hosts: list[str], *arguments: str, **variables: str) -> str:
        size = (f"--nodes={len(hosts)}", "--ntasks-per-node=1", f"--nodelist={','.join(hosts)}")
        return self.cluster.run("sbatch", "--parsable", *size, *arguments, **variables).strip()

    def candidates(self, host: str, loss: str) -> list[psutil.Process]:
        """The processes of a host that may be lost so."""
        space = os.readlink(f"/proc/{(self.cluster.folder / host).read_text()}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                words = process.cmdline()
                named = "train" in words and "python" in words[0] if loss == "rank" else loss == process.name()
                if named and os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                    found.append(process)
        return found

    def lose(self, random: Random, hosts: list[str], loss: str) -> str:
        """Have something lost; the host that it was on, or an empty string where it did not come to be in time."""
        hosts = random.sample(hosts, len(hosts))
        host = hosts[0]
        if loss == "host":
            self.cluster.power_cut(host)
        elif loss == "cable":
            self.cluster.cable(host, "down")
        elif loss == "preemption":
            self.submit(hosts, "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 0.2")
        else:
            deadline = time.monotonic() + 10
            while not (found := [(each, process) for each in hosts for process in self.candidates(each, loss)]):
                if time.monotonic() > deadline:
                    return ""
                time.sleep(0.2)
            host, process = found[0]
            process.kill()
        return host

    def point(self, random: Random, drawn: dict[str, Any], options: list[str], whole: Path) -> dict[str, Any]:
        """Carry out one; where it was, and how often the job was started again. Raises FailedError."""
        cluster, hosts = self.cluster, self.hosts[: drawn["ranks"]]
        saving = ("--checkpoint-every", str(random.choice([5, 10, 20])), "--heartbeat", "3s")
        variables = {"LAUNCHER": drawn["by"], "SLOW_S": str(SLOW_S), **PATIENCE}
        job = self.submit(hosts, "jobs/preempt.sbatch", *options, *saving, **variables)
        run = cluster.results(job)
        if drawn["moment"] == "start":
            cluster.wait(lambda: cluster.facts(job)[0]["JobState"] == "RUNNING", f"job {job} to start")
            time.sleep(random.uniform(0, START_S))
        else:
            wait_for(lambda: cluster.logged(run) >= 1, lambda: f"job {job} to begin: {cluster.said(job)}", 120)
            time.sleep(random.uniform(0, 0.9 * ITERATIONS * SLOW_S))
        back = random.uniform(1, 12)
        logged = cluster.logged(run)
        host = self.lose(random, hosts, drawn["loss"])
        since, waiting = time.monotonic(), 0
        while True:
            (facts,) = cluster.facts(job)
            state = facts["JobState"]
            if state == "COMPLETED":
                break
            if state not in GOING or time.monotonic() > since + ENOUGH:
                raise FailedError(f"job {job} is {state}: {cluster.said(job)[-1500:]}")
            # A host takes longer to boot than SLURM to find out that it is lost.
            found_out = drawn["loss"] != "host" or cluster.run("sinfo", "-h", "-n", host, "-o", "%t").startswith("down")
            if found_out and time.monotonic() > since + back:
                cluster.heal(self.hosts)
                # Now and then once more: what is left of a host that is being cut may have looked like the host.
                back += 10
            waiting = waiting + 1 if facts["Reason"] == "BeginTime" else 0
            if waiting == 8:
                # It would wait for minutes, and must for seconds, in which SLURM hears of all that has ended.
                with contextlib.suppress(AssertionError):
                    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)
        same(whole, run)
        shutil.rmtree(run)
        for path in cluster.here.glob(f"*-{job}.out"):
            path.unlink()
        return {"host": host, "logged": logged, "restarts": int(facts["Restarts"])}

    def ready(self) -> None:
        """Have all hosts of the lane up, idle, and with their cables."""
        self.cluster.heal(self.hosts)
        self.cluster.wait(lambda: self.cluster.idle(self.hosts), f"{self.hosts} to be idle", 120)

    def clear(self) -> None:
        """End what a point that failed has left."""
        with contextlib.suppress(AssertionError):
            self.cluster.run("scancel", "--full", f"--nodelist={','.join(self.hosts)}")
            self.cluster.run("scancel", f"--nodelist={','.join(self.hosts)}")


class Points:
    """Carries out points, and keeps their tally.

    Attributes:
        numbers: of the points that are still to be done.
        done: the line of each point in the tally, by its number.
    """

    def __init__(self, numbers: list[int], folder: Path, write: Path | None, minutes: float) -> None:
        self.folder, self.file = folder, write and write / "cluster_points.jsonl"
        self.until = time.monotonic() + 60 * minutes
        self.done: dict[int, dict[str, Any]] = {}
        if self.file and self.file.exists():
            self.done = {line["point"]: line for line in map(json.loads, self.file.read_text().splitlines())}
        self.numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in numbers:
            if not self.done.get(number, {}).get("equal"):
                self.numbers.put(number)
        self.failures, self.carried_out = 0, 0
        self.lock, self.wholes = threading.Lock(), dict[tuple[str, int], Path]()

    def whole(self, algorithm: str, ranks: int, options: list[str]) -> Path:
        """The run of these options that nothing disturbs."""
        with self.lock:
            if (algorithm, ranks) not in self.wholes:
                out = self.folder / f"{algorithm}-{ranks}"
                command = [sys.executable, "-m", "mpisqueeze", "train", *options, "--out", str(out)]
                start_on_ranks(launcher(), ranks, command, self.folder, timeout=180, SLOW_S="0").well()
                self.wholes[algorithm, ranks] = out
            return self.wholes[algorithm, ranks]

    def work(self, lane: Lane) -> None:
        """Carry out points until there are none, or no time."""
        while time.monotonic() < self.until:
            try:
                number = self.numbers.get_nowait()
            except queue.Empty:
                return
            random = Random(number)
            by = random.choice([*LOSSES])
            drawn: dict[str, Any] = {
                "point": number,
                "by": by,
                "loss": random.choice(LOSSES[by]),
                "algorithm": random.choice(ALGORITHMS),
                "ranks": random.choice([2, 2, 3]),
                "moment": random.choice(["start", "training", "training"]),
            }
            options = ["--problem", SLOW, "--algorithm", drawn["algorithm"], "--iterations", str(ITERATIONS)]
            options += ["--lr", "0.05", "--momentum", "0.5", "--per-rank", "--save-model", *AS_ONE]
            began = time.monotonic()
            try:
                whole = self.whole(drawn["algorithm"], drawn["ranks"], options)
                lane.ready()
                began = time.monotonic()
                drawn |= {"equal": True, **lane.point(random, drawn, options, whole)}
            except (FailedError, AssertionError, OSError, subprocess.SubprocessError) as error:
                drawn |= {"equal": False, "error": str(error)}
                lane.clear()
            self.note({**drawn, "seconds": round(time.monotonic() - began, 1)})

    def note(self, line: dict[str, Any]) -> None:
        with self.lock:
            self.done[line["point"]] = line
            self.carried_out += 1
            self.failures += not line["equal"]
            print(json.dumps(line, ensure_ascii=False), flush=True)
            if self.file:
                lines = [json.dumps(self.done[number], ensure_ascii=False) for number in sorted(self.done)]
                self.file.write_text("\n".join(lines) + "\n")

    def tally(self) -> str:
        """All points so far, in lines."""
        equal = [line for line in self.done.values() if line["equal"]]
        of = Counter(f"{line['loss']} under {line['by']}, {line['moment']}" for line in equal)
        again = Counter(line["restarts"] for line in equal)
        return "\n".join(
            [
                f"{len(equal)} of {len(self.done)} points ended as the run that nothing disturbed; {versions()}",
                *(f"{times:5} × {name}" for name, times in sorted(of.items())),
                "started again: " + ", ".join(f"{times} × {count}" for count, times in sorted(again.items())),
            ]
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="the last point's number")
    parser.add_argument("--only", type=int, nargs="*", help="these points instead")
    parser.add_argument("--minutes", type=float, default=1e6, help="no point begins later")
    parser.add_argument("--lanes", type=int, default=4, help="points at a time")
    parser.add_argument("--write", type=Path, help="folder of cluster_points.jsonl and .txt")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cluster_points") as name:
        here = Path(name) / "user"
        here.mkdir()
        points = Points(given.only or [*range(1, given.n + 1)], Path(name), given.write, given.minutes)
        if not points.numbers.empty():
            with nodes_up(here, HOSTS * given.lanes) as cluster, ThreadPoolExecutor(given.lanes) as lanes:
                for future in [lanes.submit(points.work, Lane(cluster, i)) for i in range(given.lanes)]:
                    future.result()
    minutes = (time.monotonic() - began) / 60
    print(f"{points.tally()}\n{points.carried_out} now, in {minutes:.0f} min, {given.lanes} at a time")
    if given.write:
        (given.write / "cluster_points.txt").write_text(points.tally() + "\n")
    return 1 if points.failures else 0


if __name__ == "__main__":
    sys.exit(main())
