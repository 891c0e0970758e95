"""Runs that are killed at a random moment and taken up again: do they end as runs that were left alone, to the bit?

    python results/robustness/kill_points.py -n 200 --seed 1 --write results/robustness
    python results/robustness/kill_points.py -n 40 --seed 3 --lab --add --write results/robustness

A kill point is SIGKILL for a random rank, for mpirun, or for all of them at once, at a random moment of a run with
checkpoints; with --lab, whose ranks are on hosts of their own, for a host or for `lab` itself as well. All processes
have to be gone within 15 s. Then `train --resume` goes on, in a quarter of the cases to be
killed once more, until the run is done. Its model, losses, counts and evaluations must be those of a run of the same
settings without checkpoints that nobody killed. Where there is no checkpoint yet, --resume has to say so and begin
anew; where there is not even a config.json, it has to say that, and the command itself must work in that folder.

Needs Linux. Exits with 1 if a point failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import settings
from programs import LAB, NOT_STARTED, Clock, Started, kill, launcher, versions

from mpisqueeze.launch import Launcher

#: Seconds from a kill to the end of the last process.
LIMIT = 15.0
#: Seconds for a run that nobody kills.
ENOUGH = 180.0
#: Kill points on the same settings.
SHARED = 5
PHASES = ("start-up", "training", "writing a checkpoint", "end")
MOMENTS = ("start", "training", "training", "checkpoint", "checkpoint", "end")
VICTIMS = ("rank",) * 7 + ("mpirun", "mpirun", "all")
IN_THE_LAB = ("rank",) * 3 + ("host",) * 3 + ("mpirun", "lab", "lab", "all")


class FailedError(Exception):
    """A kill point that did not end as it has to."""


class NotStartedError(Exception):
    """The launcher itself did not start, which says nothing of what it was to start."""


class SlowError(FailedError):
    """Processes were left when all should have been gone."""


@dataclass
class Undisturbed:
    """A run that nobody killed.

    Attributes:
        settings: of `train`, without --out.
        every: iterations between the checkpoints of those that will be killed.
        folder: with its results.
        start_s, training_s: s until its first file, and from there to its end.
    """

    ranks: int
    settings: list[str]
    every: int
    iterations: int
    folder: Path
    start_s: float
    training_s: float


def ended(started: Started, what: str) -> None:
    """Raise for a command that ended with another code than 0: NotStartedError or FailedError."""
    if started.code and NOT_STARTED in started.err:
        raise NotStartedError
    if started.code:
        raise FailedError(f"{what} ended with {started.code}\n{started.err}")


def lines(path: Path) -> list[dict[str, Any]]:
    """Without what the clock says."""
    text = path.read_text().splitlines() if path.exists() else []
    return [{key: value for key, value in json.loads(line).items() if not key.endswith("_s")} for line in text]


def same(one: Path, other: Path) -> None:
    """Raise FailedError for the first difference of two runs."""
    if not np.array_equal(np.load(one / "model.npz")["x"], np.load(other / "model.npz")["x"]):
        raise FailedError("the models differ")
    for name in ("iterations.jsonl", "ranks.jsonl", "evaluations.jsonl"):
        if lines(one / name) != lines(other / name):
            raise FailedError(f"{name} differ")
    numbers = [line["iteration"] for line in lines(other / "iterations.jsonl")]
    if numbers != list(range(1, len(numbers) + 1)):
        raise FailedError("an iteration is missing from the log, or is in it twice")
    summaries = [json.loads((path / "summary.json").read_text()) for path in (one, other)]
    for key in ("bytes_sent", "messages", "bytes_by_rank", "final_loss", "iterations", "evaluation", "status"):
        if summaries[0][key] != summaries[1][key]:
            raise FailedError(f"{key} of summary.json differ: {summaries[0][key]} and {summaries[1][key]}")


def phase_of(folder: Path, iterations: int, again: bool) -> str:
    """Where a run is, by its files."""
    if not (folder / "config.json").exists():
        return "start-up"
    if (folder / "summary.json").exists() and not again:
        return "end"
    if any((folder / "checkpoint").glob("*.part")):
        return "writing a checkpoint"
    if (folder / "checkpoint" / f"{iterations:08}").exists():
        return "end"
    return "training"


class Points:
    """Draws and carries out kill points in a temporary folder."""

    def __init__(self, seed: int, folder: Path, by: Launcher | tuple[str, ...]) -> None:
        self.random, self.folder, self.by = Random(seed), folder, by
        self.victims = IN_THE_LAB if by == LAB else VICTIMS
        self.pending: list[str] = []
        self.tally: dict[str, Counter[str]] = {
            name: Counter() for name in ("algorithm", "phase", "victim", "then", "misses")
        }
        self.matrix: Counter[tuple[str, str]] = Counter()
        self.seconds: list[float] = []
        self.count = 0

    def undisturbed(self) -> Undisturbed:
        """A run of random settings, every algorithm in turn; those that diverge are drawn again."""
        random = self.random
        while True:
            if not self.pending:
                self.pending = list(settings.ALGORITHMS)
                random.shuffle(self.pending)
            algorithm = self.pending.pop()
            ranks = random.choice([2, 2, 2, 3, 3, 4])
            iterations = random.randint(30, 120)
            problem = random.choice(["quadratic", "quadratic", "logistic", "mlp"])
            spec = (
                f"quadratic:{random.choice([1, 7, 101, 1031, 4000])},noise=0.1" if problem == "quadratic" else problem
            )
            options = [
                *settings.method(random, algorithm, ranks),
                *settings.training(random, algorithm, problem == "mlp"),
                *("--problem", spec, "--lr", "0.02", "--iterations", str(iterations), "--save-model"),
                *("--eval-every", str(random.choice([0, 13, 100]))),
            ]
            if self.by == LAB and algorithm != "allreduce":
                # Over a network two runs may measure another latency, and take another tree or other messages.
                fixed = {"--chunk": "4Ki", **({"--tree": "binary"} if algorithm in settings.CENTRALIZED else {})}
                options += [word for item in fixed.items() if item[0] not in options for word in item]
            folder = self.folder / "undisturbed"
            shutil.rmtree(folder, ignore_errors=True)
            started = Started(ranks, ["train", *options, "--out", folder.name], self.folder, self.by)
            started.wait(ENOUGH, (folder / "config.json").exists)
            start_s = started.clock.tick()
            if not started.wait(ENOUGH):
                started.clear()
                raise FailedError(f"the undisturbed run did not end: -n {ranks} train {shlex.join(options)}")
            total_s = started.clock.tick()
            if started.code == 3:
                self.tally["misses"]["diverged, drawn again"] += 1
                continue
            ended(started, f"the undisturbed run, -n {ranks} train {shlex.join(options)},")
            every = random.choice([3, 10, iterations // 3, iterations])
            return Undisturbed(ranks, options, every, iterations, folder, start_s, total_s - start_s)

    def point(self, base: Undisturbed) -> str | None:
        """One kill point; in a line, how it went, or None where the run was over before its moment came."""
        random = self.random
        moment, victim, twice = random.choice(MOMENTS), random.choice(self.victims), random.random() < 0.25
        rank, part, late = random.randrange(base.ranks), random.random(), random.random()
        for attempt in (1, 2, 3):
            try:
                return self._point(base, moment, victim, rank, part, late, twice)
            except SlowError as error:
                if attempt == 3:
                    raise
                # A busy machine is no fault; the same kill again decides.
                self.tally["misses"]["slow to end, tried again"] += 1
                print(f"  {error}: tried again", flush=True)
        return None

    def _point(
        self, base: Undisturbed, moment: str, victim: str, rank: int, part: float, late: float, twice: bool
    ) -> str | None:
        folder = self.folder / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        first = ["train", *base.settings, "--checkpoint-every", str(base.every), "--out", folder.name]
        started = Started(base.ranks, first, self.folder, self.by)
        phase = self._kill(started, base, folder, moment, victim, rank, part, late, again=False)
        if phase is None:
            ended(started, "before it was killed, the run")
            self.tally["misses"]["over before it was killed, drawn again"] += 1
            return None
        then = self._resume(base, folder, first, twice, part, late)
        same(base.folder, folder)
        algorithm = base.settings[1]
        self.count += 1
        for name, value in (("algorithm", algorithm), ("phase", phase), ("victim", victim), ("then", then)):
            self.tally[name][value] += 1
        self.matrix[algorithm, phase] += 1
        return f"{algorithm} on {base.ranks}, {victim} killed, {phase}, {self.seconds[-1]:.1f} s to end, {then}"

    def _kill(
        self,
        started: Started,
        base: Undisturbed,
        folder: Path,
        moment: str,
        victim: str,
        rank: int,
        part: float,
        late: float,
        again: bool,
    ) -> str | None:
        """Kill at the moment, and wait for the end of all; the phase, or None where the run was over."""
        environment, before = folder / "environment.json", None
        if again and environment.exists():
            before = environment.stat().st_ino

        def training() -> bool:
            return environment.exists() and environment.stat().st_ino != before

        if moment == "start":
            over = started.wait(part * base.start_s)
        elif moment == "training":
            over = started.wait(ENOUGH, training) or started.wait(part * base.training_s)
        elif moment == "checkpoint":
            over = self._until_checkpoint(started, folder, 1 + int(part * base.iterations / base.every))
            time.sleep(late * 0.004)
        else:
            last = folder / "checkpoint" / f"{base.iterations:08}"
            over = started.wait(ENOUGH, training) or started.wait(ENOUGH, last.exists) or started.wait(late * 0.2)
        if over:
            return None
        # The ranks may be there in a moment.
        clock = Clock()
        while rank not in (ranks := started.ranks()) and started.process.poll() is None and clock.tick() < 20:
            time.sleep(0.005)
        if rank not in ranks:
            return None
        phase = phase_of(folder, base.iterations, again)
        to_end = {
            "rank": lambda: [ranks[rank]],
            "host": lambda: [started.host_of(ranks[rank])],
            "lab": lambda: [started.process.pid],
            "mpirun": started.launchers,
            "all": lambda: started.launchers() + started.pids(),
        }
        for pid in to_end[victim]():
            kill(pid, signal.SIGKILL)
        seconds = started.gone(3 * LIMIT)
        if seconds is None or seconds > LIMIT:
            left = started.ranks()
            started.clear()
            took = f"more than {3 * LIMIT:g}" if seconds is None else f"{seconds:.1f}"
            raise SlowError(f"{victim} killed ({phase}), rank {rank}: {took} s to end, ranks left: {sorted(left)}")
        self.seconds.append(seconds)
        return phase

    def _until_checkpoint(self, started: Started, folder: Path, number: int) -> bool:
        """Wait for the begin of the number-th checkpoint; whether the run ended meanwhile."""
        seen: set[str] = set()
        while started.process.poll() is None:
            if (folder / "checkpoint").is_dir():
                seen |= {name for name in os.listdir(folder / "checkpoint") if name.endswith(".part")}
            if len(seen) >= number:
                return False
            time.sleep(0.0005)
        return True

    def _resume(self, base: Undisturbed, folder: Path, first: list[str], twice: bool, part: float, late: float) -> str:
        """Take the run up until it is done; how it was taken up first."""
        then, names = "", []
        for launch in range(2):
            saved = sorted(path.name for path in (folder / "checkpoint").glob("*") if path.name.isdecimal())
            known = (folder / "config.json").exists()
            again = ["train", "--resume", folder.name]
            started = Started(base.ranks, again, self.folder, self.by)
            if known and twice and not launch:
                victim, rank = self.random.choice(self.victims), self.random.randrange(base.ranks)
                moment = self.random.choice(MOMENTS)
                if self._kill(started, base, folder, moment, victim, rank, 1 - part, late, again=True):
                    names.append("killed again")
                    continue
            if not started.wait(ENOUGH) or started.gone(LIMIT) is None:
                started.clear()
                raise FailedError("the resumed run did not end")
            if NOT_STARTED in started.err:
                raise NotStartedError
            if not known:
                if started.code != 2 or "config.json is not there" not in started.err or "Traceback" in started.err:
                    raise FailedError(f"--resume without config.json ended with {started.code}\n{started.err}")
                started = Started(base.ranks, first, self.folder, self.by)
                if not started.wait(ENOUGH):
                    started.clear()
                    raise FailedError("the command again in that folder did not end")
                ended(started, "the command again in that folder")
                then = then or "no config.json yet: begun by the command itself"
            elif started.code:
                ended(started, "--resume")
            elif saved:
                if f"resumed after iteration {int(saved[-1])}" not in started.out:
                    raise FailedError(f"--resume did not continue from {saved[-1]}\n{started.out}")
                then = then or "resumed from a checkpoint"
            else:
                if "there was no checkpoint yet: begun anew" not in started.out:
                    raise FailedError(f"--resume did not say that there was no checkpoint\n{started.out}")
                then = then or "no checkpoint yet: said so, begun anew"
            return ", ".join([*names, then])
        raise AssertionError

    def facts(self, given: argparse.Namespace, failures: list[str], minutes: float) -> dict[str, Any]:
        """What kill_points.json has of this run of the script."""
        return {
            "n": given.n,
            "seed": given.seed,
            "lab": given.lab,
            "versions": versions(),
            "minutes": round(minutes),
            "equal": self.count,
            "failed": failures,
            "slowest_end_s": max(self.seconds, default=None),
            **{name: dict(counts) for name, counts in self.tally.items()},
            "algorithm_by_phase": [[*key, n] for key, n in sorted(self.matrix.items())],
        }


def text_of(runs: list[dict[str, Any]]) -> str:
    """kill_points.txt: the tally of one or several runs of the script."""
    lines = []
    for i, run in enumerate(runs):
        more = " --lab" * run.get("lab", False) + " --add" * bool(i)
        lines.append(f"$ python results/robustness/kill_points.py -n {run['n']} --seed {run['seed']}{more}")
        lines.append(f"{run['versions']}; {run['equal'] + len(run['failed'])} points in {run['minutes']} min")
    equal, failures = sum(run["equal"] for run in runs), [failure for run in runs for failure in run["failed"]]
    lines += [
        "",
        f"{equal} kill points ended in the undisturbed run's model, losses, counts and evaluations, to the bit; "
        f"{len(failures)} did not.",
        "",
    ]
    matrix: Counter[tuple[str, str]] = Counter()
    for run in runs:
        matrix.update({(algorithm, phase): n for algorithm, phase, n in run["algorithm_by_phase"]})
    lines.append(f"{'':14}" + "".join(f"{phase:>22}" for phase in PHASES) + f"{'all':>8}")
    for algorithm in (*settings.ALGORITHMS, "all"):
        counts = [
            sum(n for (name, at), n in matrix.items() if at == phase and algorithm in (name, "all")) for phase in PHASES
        ]
        lines.append(f"{algorithm:14}" + "".join(f"{n:>22}" for n in counts) + f"{sum(counts):>8}")
    lines.append("")
    for title, name in (("killed", "victim"), ("then", "then"), ("not counted", "misses")):
        total: Counter[str] = Counter()
        for run in runs:
            total.update(run[name])
        lines += [f"{title}: {n} × {value}" for value, n in total.most_common()]
    slowest = max((run["slowest_end_s"] for run in runs if run["slowest_end_s"] is not None), default=0.0)
    return "\n".join([*lines, "", f"from the kill to the end of the last process: at most {slowest:.1f} s", *failures])


def report(folder: Path | None, facts: dict[str, Any], before: list[dict[str, Any]]) -> str:
    """The tally as text; with a folder, written there with its JSON."""
    runs = [*before, facts]
    text = text_of(runs)
    if folder:
        (folder / "kill_points.txt").write_text(f"{text}\n")
        (folder / "kill_points.json").write_text(json.dumps(runs, indent=2) + "\n")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-n", type=int, default=200, help="kill points")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shared", type=int, default=SHARED, help="kill points on the same settings")
    parser.add_argument("--lab", action="store_true", help="on hosts of `mpisqueeze lab`")
    parser.add_argument("--write", type=Path, help="folder for kill_points.txt and kill_points.json")
    parser.add_argument("--add", action="store_true", help="keep what that folder's files have, and add to it")
    given = parser.parse_args()
    before = json.loads((given.write / "kill_points.json").read_text()) if given.write and given.add else []
    began = time.monotonic()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kill_points") as name:
        points = Points(given.seed, Path(name), LAB if given.lab else launcher())
        base, uses = None, 0
        while points.count + len(failures) < given.n:
            where = ""
            try:
                if base is None or uses >= given.shared:
                    base, uses = None, 0
                    base = points.undisturbed()
                uses += 1
                where = f"-n {base.ranks} train {shlex.join(base.settings)} --checkpoint-every {base.every}"
                done = points.point(base)
            except NotStartedError:
                points.tally["misses"]["mpirun itself did not start, drawn again"] += 1
                done = None
            except FailedError as error:
                failures.append(f"{error}\n    {where}")
                done = f"FAILED: {failures[-1]}"
            if done:
                print(f"[{points.count + len(failures)}/{given.n}] {done}", flush=True)
            if (points.count + len(failures)) % 20 == 0:
                report(given.write, points.facts(given, failures, (time.monotonic() - began) / 60), before)
    print(f"\n{report(given.write, points.facts(given, failures, (time.monotonic() - began) / 60), before)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
