"""Jobs on a SLURM of three hosts that lose ranks, daemons, hosts or links: do they end as runs that were left alone?

    python results/robustness/cluster_points.py -n 40 --seed 1 --write results/robustness

A point is a loss at a random moment of a run by jobs/preempt.sbatch, under srun or mpirun: SIGKILL for a rank or for a
daemon (prted, slurmstepd), a power cut of a host, a cable that is pulled, or preemption by a job of more importance.
What was lost comes back after a while. SLURM or the job file has to start the job again, until it is COMPLETED, and its
model, losses, counts and log must be those of a run of the same settings that nothing disturbed, to the bit.

Needs root, SLURM, iproute2 and Open MPI; see tests/slurm/nodes.py. Exits with 1 if a point failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests"
sys.path[:0] = [str(TESTS / "slurm"), str(TESTS / "mpi"), str(TESTS)]

import psutil  # noqa: E402
from conftest import start_on_ranks, wait_for  # noqa: E402
from kill_points import FailedError, same  # noqa: E402
from programs import launcher, versions  # noqa: E402
from test_nodes import SLOW, Nodes, nodes_up  # noqa: E402

#: What may be lost, by launcher.
LOSSES = {
    "srun": ("rank", "rank", "slurmstepd", "host", "cable", "preemption"),
    "mpirun": ("rank", "rank", "prted", "host", "cable", "preemption"),
}
ALGORITHMS = ("doublesqueeze", "memsgd", "sgd", "dpsgd", "choco", "ef21")
#: Seconds that a job has, and those until what was lost is back.
ENOUGH, BACK = 240.0, 12.0


def on_host(cluster: Nodes, host: str, loss: str) -> list[psutil.Process]:
    """The processes of a host that may be lost so."""
    space = os.readlink(f"/proc/{(cluster.folder / host).read_text()}/ns/pid")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            words = process.cmdline()
            named = "train" in words and "python" in words[0] if loss == "rank" else loss in process.name()
            if named and os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                found.append(process)
    return found


def lose(cluster: Nodes, random: Random, loss: str) -> str:
    """Have something lost; what it was, or an empty string where there was nothing of the kind."""
    host = f"n{random.randint(1, 3)}"
    if loss == "host":
        cluster.power_cut(host)
    elif loss == "cable":
        cluster.cable(host, "down")
    elif loss == "preemption":
        urgent = ("--partition=high", "--exclusive", "--nodes=3", "--ntasks-per-node=1", "--wrap=sleep 0.2")
        cluster.run("sbatch", *urgent)
    else:
        candidates = on_host(cluster, host, loss)
        if not candidates:
            return ""
        random.choice(candidates).kill()
    return f"{loss} on {host}" if loss != "preemption" else loss


def point(cluster: Nodes, random: Random, by: str, loss: str, options: list[str], whole: Path) -> tuple[str, int]:
    """Carry out one; what was lost, and how often the job was started again. Raises FailedError."""
    saving = ("--checkpoint-every", str(random.choice([5, 10, 20])), "--heartbeat", "5s")
    job = cluster.on_three("jobs/preempt.sbatch", *options, *saving, LAUNCHER=by, SLOW_S="0.05")
    run = cluster.results(job)
    wait_for(lambda: cluster.logged(run) >= 1, f"job {job} to begin: {cluster.said(job)}", 120)
    time.sleep(random.uniform(0, 4))
    lost = lose(cluster, random, loss)
    since, deadline = time.monotonic(), time.monotonic() + ENOUGH
    healed, waiting = False, 0
    while True:
        (facts,) = cluster.facts(job)
        state = facts["JobState"]
        if state == "COMPLETED":
            break
        if state in ("FAILED", "NODE_FAIL", "CANCELLED", "TIMEOUT") or time.monotonic() > deadline:
            raise FailedError(f"{lost} under {by}: job {job} is {state}: {cluster.said(job)[-1500:]}")
        if not healed and time.monotonic() - since > BACK:
            cluster.heal()
            healed = True
        waiting = waiting + 1 if facts["Reason"] == "BeginTime" else 0
        if waiting == 3:
            # It would wait for two minutes, and must for one second: what slurmd has just ended is told by the second.
            with contextlib.suppress(AssertionError):
                cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        time.sleep(1)
    same(whole, run)
    return lost, int(facts["Restarts"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=40, help="points")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="folder for cluster_points.json")
    given = parser.parse_args()
    random, failures = Random(given.seed), []
    tally: Counter[str] = Counter()
    restarts: Counter[int] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cluster_points") as name:
        here = Path(name) / "user"
        here.mkdir()
        with nodes_up(here) as cluster:
            wholes: dict[str, Path] = {}
            for number in range(1, given.n + 1):
                algorithm, by = random.choice(ALGORITHMS), random.choice([*LOSSES])
                loss = random.choice(LOSSES[by])
                options = ["--problem", SLOW, "--algorithm", algorithm, "--iterations", "120", "--lr", "0.05"]
                options += ["--momentum", "0.5", "--per-rank", "--save-model", "--tree", "flat"]
                if algorithm not in wholes:
                    command = [sys.executable, "-m", "mpisqueeze", "train", *options, "--out", algorithm]
                    start_on_ranks(launcher(), 3, command, Path(name), timeout=180, SLOW_S="0").well()
                    wholes[algorithm] = Path(name) / algorithm
                cluster.heal()
                wait_for(cluster.idle, "all nodes to be idle", 120)
                try:
                    lost, again = point(cluster, random, by, loss, options, wholes[algorithm])
                    tally[f"{loss} under {by}"] += 1
                    restarts[again] += 1
                    told = f"{lost or 'nothing'} under {by}, {algorithm}: same bits after {again} restarts"
                except (FailedError, AssertionError, subprocess.SubprocessError) as error:
                    failures.append(f"{loss} under {by}, {algorithm}: {error}")
                    told = f"FAILED: {failures[-1]}"
                    cluster.run("scancel", "--full", "--partition=low")
                print(f"[{number}/{given.n}] {told}", flush=True)
                facts = {
                    "versions": versions(),
                    "seed": given.seed,
                    "points": number,
                    "equal": number - len(failures),
                    "failed": failures,
                    "losses": dict(sorted(tally.items())),
                    "restarts": {str(count): times for count, times in sorted(restarts.items())},
                    "minutes": round((time.monotonic() - began) / 60, 1),
                }
                if given.write:
                    (given.write / "cluster_points.json").write_text(json.dumps(facts, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
