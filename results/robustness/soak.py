"""Random runs with random faults, for an hour: what breaks?

    python results/robustness/soak.py --minutes 60 --seed 1 --write results/robustness

Each draw is `mpisqueeze launch -n N train` with random valid settings, two thirds of them with a fault: a signal to a
rank, to mpirun or to `launch`, a plug-in that fails (tests/mpi/faulty.py), a full disk, a run folder that is removed.
Held against what was promised: the exit code; the end of all processes, 15 s after the fault at most (of a rank that
hangs: after --timeout; of one that is stopped when the run is complete: after it goes on); at most one message, and no
traceback but a plug-in's; a log whose lines are JSON, numbered without a gap, with the bytes that the payloads'
definitions add up to; and a killed run that had a checkpoint goes on.

    python results/robustness/soak.py --seed 1 --draw 17

makes one draw again. Needs Linux; a disk is filled where tmpfs can be mounted. Exits with 1 if something broke.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import mpi4py

# Nothing here is a rank.
mpi4py.rc.initialize = False

import settings  # noqa: E402
from programs import LAB, NOT_STARTED, Started, kill, parent, versions  # noqa: E402

from mpisqueeze.topology import Topology  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FAULTY = ROOT / "tests" / "mpi" / "faulty.py"
sys.path.insert(0, str(FAULTY.parent))

from parts import payload_bytes  # noqa: E402

#: Seconds from a fault to the end of the last process.
LIMIT = 15.0
#: Seconds within which a run that is done has written what it gave.
AT_ONCE = 0.3
#: Seconds for a run without a fault, and until a plug-in's fault.
ENOUGH = 200.0
TIMEOUT = 4
#: Classes of faulty.py, the exit codes that they may lead to, and options that they need.
PLUG_INS: dict[str, tuple[set[int], list[str]]] = {
    "Raises": ({4}, []),
    "NotANumber": ({3}, []),
    "Dies": ({4}, []),
    "Sleeps": ({4}, ["--timeout", f"{TIMEOUT}s"]),
    "Stops": ({4}, ["--timeout", f"{TIMEOUT}s"]),
    "RootStops": ({4}, ["--timeout", f"{TIMEOUT}s"]),
    "FullDisk": ({4}, []),
    "FolderGone": ({4}, []),
    "Damages": ({4}, ["--checksum"]),
    "LauncherDies": ({4}, []),
}
SIGNALS = {
    "KILL rank": {4},
    "KILL mpirun": {4},
    "KILL launch": {-9},
    "STOP rank": {4},
    "TERM launch": {143},
    "INT launch": {130},
    "USR1 launch": {143},
    "TERM rank": {143},
    "INT rank": {130},
    "USR1 rank": {143},
}
OTHERS = ("folder removed", "disk full")
#: What our messages begin with.
OURS = ("mpisqueeze: ", "mpisqueeze lab: ", "mpisqueeze error")


@dataclass
class Draw:
    """A run and what is done to it.

    Attributes:
        fault: empty for none.
        early: the fault comes so many seconds after the start; None: `late` seconds after the first file is there.
        codes: what the run may end with.
        bytes: what all ranks send in an iteration, without checksums.
        by: the command of ours that starts the ranks, with its options.
    """

    number: int
    ranks: int
    options: list[str]
    fault: str
    early: float | None
    late: float
    victim: int
    codes: set[int]
    bytes: int
    edges: str
    by: tuple[str, ...]

    @property
    def command(self) -> str:
        text = shlex.join(["mpisqueeze", *self.by, "-n", str(self.ranks), "train", *self.options])
        return text.replace(f"{ROOT}/", "")


@dataclass
class Outcome:
    """What became of a draw.

    Attributes:
        waited: for a rank that was stopped after the run was complete, until it went on.
    """

    code: int | None
    broken: list[str] = field(default_factory=list)
    slow: bool = False
    phase: str = ""
    resumed: bool = False
    waited: bool = False


def draw(seed: int, number: int, by: tuple[str, ...]) -> Draw:
    """The number-th draw of a seed."""
    random = Random(f"{seed}/{number}")
    algorithm = random.choice(settings.ALGORITHMS)
    fault = ""
    if random.random() < 0.67:
        fault = random.choice([*PLUG_INS, *SIGNALS, *SIGNALS, *OTHERS, *OTHERS])
    plug_in = PLUG_INS.get(fault)
    ranks = random.choice([2, 2, 2, 3, 3, 4, 5] if plug_in or random.random() < 0.9 else [1])
    d, problem, neural = 1000, f"{FAULTY}:{fault}", False
    kind = random.choice(["quadratic", "quadratic", "logistic", "mlp", "synthetic"])
    options: list[str] = []
    if not plug_in:
        if kind == "quadratic":
            d = int(10 ** random.uniform(0, 6)) if random.random() < 0.8 else random.randint(1, 5)
            problem = f"quadratic:{d}"
        elif kind == "synthetic":
            features = random.choice([1, 7, 300])
            problem, d = "logistic", 0
            options += ["--data", f"synthetic:{features}x400"]
        else:
            problem, neural = kind, kind == "mlp"
            d = 0
    options += ["--problem", problem]
    options += settings.method(random, algorithm, ranks)
    options += settings.training(random, algorithm, neural)
    edges = ""
    if "--topology" in options and "--self-weight" not in options and random.random() < 0.2 and ranks > 1:
        options[options.index("--topology") + 1] = "file:edges.txt"
        tree = [(random.randrange(i), i) for i in range(1, ranks)]
        more = [(i, j) for i in range(ranks) for j in range(i) if random.random() < 0.3]
        edges = "".join(f"{i} {j}\n" for i, j in tree + more)
    lr = "0.3" if random.random() < 0.2 else "0.02"
    long = bool(fault) and not plug_in
    count = 1000 if plug_in else max(3, min(400 if long else 100, int((2e7 if long else 3e6) / max(d, 1))))
    if fault == "disk full":
        count = 3000
    options += ["--lr", lr, "--iterations", str(count), "--eval-every", random.choice(["0", "7", "50"])]
    if random.random() < 0.5:
        options += ["--checkpoint-every", random.choice(["1", "3", "20", "100ms", "1s"])]
    if random.random() < 0.3:
        options += ["--save-model"]
    if plug_in:
        options += [option for option in plug_in[1] if option not in options]
    elif fault == "STOP rank":
        options += ["--timeout", f"{TIMEOUT}s"]
    elif random.random() < 0.2:
        options += ["--timeout", random.choice(["0", "5min"])]
    # The hosts of a lab have a network, and need none that is emulated.
    if random.random() < 0.1 and d <= 10_000 and by != LAB:
        options += [
            "--link",
            random.choice(["latency=200us,bandwidth=1gbit", "latency=1ms,bandwidth=100mbit,gap=20us"]),
        ]
    options += ["--out", "disk/run" if fault == "disk full" else "run"]
    codes = set(plug_in[0]) if plug_in else SIGNALS.get(fault, {0, 3})
    if fault in OTHERS:
        codes = {0, 3, 4}
    early = random.uniform(0, 3) if random.random() < 0.25 else None
    return Draw(
        number,
        ranks,
        options,
        fault,
        # A rank that is stopped before all are set up is waited for five minutes.
        None if fault == "STOP rank" else early,
        random.uniform(0, 1.5),
        random.randrange(ranks),
        codes,
        0,
        edges,
        by,
    )


def unchecked(given: Draw) -> bool:
    """MPI_Allreduce has no checksums, as the run says beforehand; over an emulated link it is not MPI's."""
    return option(given, "--algorithm") == "allreduce" and "--link" not in given.options


def option(given: Draw, name: str, default: str = "") -> str:
    """The value of an option that was given."""
    return given.options[given.options.index(name) + 1] if name in given.options else default


def bytes_of(given: Draw, d: int, folder: Path) -> int:
    """What all ranks send in an iteration, by the definitions of algorithms and payloads, without checksums."""
    algorithm, ranks = option(given, "--algorithm").partition(":")[0], given.ranks
    itemsize = 8 if option(given, "--dtype") == "float64" else 4
    spec = option(given, "--compressor", "identity")
    # As `payload_bytes` reads it: NAME:ARGUMENT, with nothing for none.
    spec = spec if ":" in spec else spec.replace(",", ":,", 1)
    if algorithm == "allreduce":
        return 2 * (ranks - 1) * itemsize * d
    if algorithm in settings.CENTRALIZED:
        share, rest = divmod(d, ranks)
        sharded = option(given, "--server") == "sharded"
        parts = [share + (s < rest) for s in range(ranks)] if sharded else [d]
        up = "identity" if algorithm == "sgd" else spec
        down = spec if algorithm in ("csgd-double", "doublesqueeze") else "identity"
        return (ranks - 1) * sum(payload_bytes(each, n, itemsize) for n in parts if n for each in (up, down))
    topology = Topology(option(given, "--topology").replace("edges.txt", str(folder / "edges.txt")), ranks)
    return sum(topology.degree(rank) for rank in range(ranks)) * payload_bytes(spec, d, itemsize)


def phase_of(run: Path) -> str:
    """Where a run is, by its files."""
    if not (run / "environment.json").exists():
        return "start-up"
    return "end" if (run / "summary.json").exists() else "training"


def strike(started: Started, given: Draw, run: Path) -> tuple[str, bool]:
    """Do what is to be done to the run, in its time: (its phase, whether it was over before)."""
    if given.early is not None:
        over = started.wait(given.early)
    else:
        over = started.wait(ENOUGH, (run / "environment.json").exists) or started.wait(given.late)
    kind, _, whom = given.fault.partition(" ")
    if given.fault == "folder removed":
        phase = phase_of(run)
        shutil.rmtree(run, ignore_errors=True)
        return phase, over
    if over:
        return phase_of(run), True
    number = signal.Signals[f"SIG{kind}"]
    pid = started.process.pid
    while whom != "launch":
        there = started.ranks()
        if whom == "rank" and given.victim in there:
            pid = there[given.victim]
            break
        if whom == "mpirun" and there:
            # What `launch` asks beforehand which mpirun there is has the run's mark, but no ranks.
            pid = parent(next(iter(there.values())))
            break
        if started.process.poll() is not None:
            return phase_of(run), True
        time.sleep(0.005)
    phase = phase_of(run)
    kill(pid, number)
    killed = time.time()
    if phase == "training":
        # The iterations may have been done just then.
        started.wait(AT_ONCE)
        summary = run / "summary.json"
        with contextlib.suppress(OSError):
            done = json.loads(summary.read_text())["status"] in ("ok", "diverged")
            phase = "end" if done and summary.stat().st_mtime < killed + AT_ONCE else phase
    return phase, False


def allowed(given: Draw, phase: str, over: bool) -> set[int]:
    """The exit codes that fit."""
    codes = {0} if given.fault == "Damages" and unchecked(given) else set(given.codes)
    if given.fault in SIGNALS:
        if over:
            return {0, 3}
        if phase == "end":
            # The run is done, whatever comes behind it.
            codes |= {0, 3}
        if given.fault == "INT rank" and phase == "start-up":
            codes |= {1}
        if given.fault.endswith("launch") and phase != "training":
            # Before `launch` itself listens, or when it has; a shell makes 130, 143 and 138 of it.
            codes |= {-signal.Signals[f"SIG{given.fault.split()[0]}"]}
        if given.fault.startswith("USR1") and phase != "training":
            # Nobody listens yet, or any more.
            codes |= {0, 3, 4}
    return codes


def carry_out(given: Draw, folder: Path) -> Outcome:
    """Run a draw in an empty folder, and judge it."""
    run = folder / option(given, "--out")
    if given.edges:
        (folder / "edges.txt").write_text(given.edges)
    mounted = False
    if given.fault == "disk full":
        (folder / "disk").mkdir()
        size = f"{16 + 16 * given.victim + int(100 * given.late)}k"
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder / "disk")]
        mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        return _carry_out(given, folder, run)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder / "disk")], check=False)


def _carry_out(given: Draw, folder: Path, run: Path) -> Outcome:
    started = Started(given.ranks, ["train", *given.options], folder, given.by)
    outcome = Outcome(None)
    over, limit = False, ENOUGH
    if given.fault in SIGNALS or given.fault == "folder removed":
        outcome.phase, over = strike(started, given, run)
        # A folder that is gone is found at the next line of the log.
        if given.fault in SIGNALS and not (given.fault.startswith("USR1") and outcome.phase != "training"):
            limit = LIMIT + (TIMEOUT if given.fault == "STOP rank" else 0)
    ended = started.gone(limit)
    if ended is None and given.fault == "STOP rank" and phase_of(run) == "end":
        # The run is complete, and the others wait for this rank to leave MPI with them, for five minutes; it may go on.
        outcome.phase, outcome.waited = "end", True
        for pid in started.ranks().values():
            kill(pid, signal.SIGCONT)
        ended = started.gone(LIMIT)
    if ended is None:
        outcome.slow = True
        ended = started.gone(2 * LIMIT)
        left = "and never" if ended is None else f"but {limit + ended:.0f} s"
        states = {rank: state(pid) for rank, pid in started.ranks().items()}
        outcome.broken.append(f"did not end within {limit:g} s, {left}; ranks left: {states}")
        started.clear()
    outcome.code = started.code
    codes = allowed(given, outcome.phase, over)
    if outcome.code not in codes and not outcome.slow:
        outcome.broken.append(f"exit code {outcome.code}, not {' or '.join(map(str, sorted(codes)))}")
    outcome.broken += said(given, started, outcome)
    if run.is_dir():
        outcome.broken += written(given, run, outcome, folder)
    if outcome.broken:
        outcome.broken.append("stderr: " + " / ".join(started.err.strip().splitlines()[-6:])[-900:])
        return outcome
    if given.fault in SIGNALS and "--checkpoint-every" in given.options:
        resume(given, run, folder, outcome)
    return outcome


def state(pid: int) -> str:
    """A process's state letter in /proc."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "gone"


def said(given: Draw, started: Started, outcome: Outcome) -> list[str]:
    """What is wrong with what the run said."""
    found, err = [], started.err
    # Ctrl-C for a rank whose Python has only begun is shown by that.
    own = given.fault == "Raises" or (given.fault == "INT rank" and outcome.phase == "start-up")
    if "Traceback" in err and not own:
        found.append("a traceback: " + " / ".join(err[err.index("Traceback") :].splitlines()[:12]))
    for word in ("Warning:", "Segmentation", "corrupt", "free():", "Assertion"):
        if word in err:
            found.append(f"{word!r} on stderr")
    messages = [line for line in err.splitlines() if line.startswith(OURS)]
    if len(messages) > 1:
        found.append(f"{len(messages)} messages")
    if outcome.code in (2, 4) and not messages and "a rank was ended by" not in err:
        found.append("no message")
    return found


def written(given: Draw, run: Path, outcome: Outcome, folder: Path) -> list[str]:
    """What is wrong with what the run wrote."""
    found = []
    settings_of: dict[str, Any] = {}
    for name in ("config.json", "environment.json", "summary.json"):
        with contextlib.suppress(FileNotFoundError):
            try:
                value = json.loads((run / name).read_text())
                settings_of = value if name == "config.json" else settings_of
            except ValueError:
                found.append(f"{name} is not JSON")
    full = given.fault in ("disk full", "FullDisk")
    try:
        text = (run / "iterations.jsonl").read_text() if (run / "iterations.jsonl").exists() else ""
    except OSError:
        return found
    log = []
    whole, _, rest = text.rpartition("\n")
    # What follows the last newline was being written.
    if rest and not full and given.fault not in SIGNALS and given.fault not in ("Dies", "LauncherDies"):
        found.append("the log's last line is cut")
    for line in whole.splitlines():
        try:
            log.append(json.loads(line))
        except ValueError:
            found.append(f"a line of the log is not JSON: {line[:60]!r}")
            return found
    if [line["iteration"] for line in log] != list(range(1, len(log) + 1)):
        found.append("the log's iterations are not 1, 2, 3, …")
    if log and settings_of:
        expected = bytes_of(given, settings_of["dimension"], folder)
        # 4 bytes behind each message, in a message of its own.
        checked = 2 if "--checksum" in given.options and not unchecked(given) else 0
        wrong = [line for line in log if line["bytes_sent"] != expected + checked * line["messages"]]
        # In an iteration that was ended on the way, not all had been sent.
        if wrong and not (outcome.code in (3, 4) and wrong == log[-1:]):
            one = wrong[0]
            found.append(f"iteration {one['iteration']} sent {one['bytes_sent']} bytes, not {expected} and checksums")
    if outcome.code in (0, 3, 130, 143) and (run / "summary.json").exists():
        summary = json.loads((run / "summary.json").read_text())
        status = {0: "ok", 3: "diverged"}.get(outcome.code, "interrupted")
        # A signal may have come when the last iteration was done.
        late = status == "interrupted" and summary["iterations"] == settings_of.get("iterations")
        if summary["status"] != status and outcome.phase != "end" and not late:
            found.append(f"status {summary['status']} with exit code {outcome.code}")
        if summary["iterations"] != len(log):
            found.append(f"{len(log)} lines for {summary['iterations']} iterations")
        if outcome.code == 0 and len(log) != settings_of["iterations"]:
            found.append(f"{len(log)} of {settings_of['iterations']} iterations, and exit code 0")
    elif outcome.code in (0, 3) and given.fault != "folder removed":
        found.append(f"exit code {outcome.code} without summary.json")
    return found


def resume(given: Draw, run: Path, folder: Path, outcome: Outcome) -> None:
    """Take the run up again; what is wrong then goes to the outcome."""
    if not (run / "config.json").exists():
        return
    total = json.loads((run / "config.json").read_text())["iterations"]
    again = ["train", "--resume", str(run.relative_to(folder)), "--timeout", "0"]
    started = Started(given.ranks, again, folder, given.by)
    ended = started.gone(ENOUGH)
    outcome.resumed = True
    if ended is None:
        started.clear()
        outcome.broken.append("--resume did not end")
    elif started.code not in (0, 3):
        outcome.broken.append(f"--resume: exit code {started.code}: {started.err.strip()[-600:]}")
    else:
        outcome.broken += [f"after --resume: {what}" for what in written(given, run, Outcome(started.code), folder)]
        log = (run / "iterations.jsonl").read_text().splitlines()
        if started.code == 0 and len(log) != total:
            outcome.broken.append(f"after --resume: {len(log)} of {total} iterations")


def judged(given: Draw) -> Outcome:
    """Carry out a draw; where it was too slow, or mpirun did not start, once more: the machine may have been busy."""
    outcome = Outcome(None)
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="soak") as name:
            try:
                outcome, before = carry_out(given, Path(name)), outcome
            except Exception as error:
                # Judging failed: the draw is to be looked at, and the others go on.
                return Outcome(None, [f"could not be judged: {error!r}", traceback.format_exc()])
        if not outcome.slow and not any(NOT_STARTED in what for what in outcome.broken):
            outcome.slow = before.slow
            break
    return outcome


class Report:
    """What came out, for soak.txt."""

    def __init__(self, seed: int, minutes: float, lab: bool) -> None:
        self.lab, self.seed, self.minutes, self.began = lab, seed, minutes, time.monotonic()
        self.codes: Counter[tuple[str, int | None]] = Counter()
        self.broken: list[str] = []
        self.algorithms: Counter[str] = Counter()
        self.draws = self.slow = self.resumed = self.waited = 0

    def add(self, given: Draw, outcome: Outcome) -> str:
        """Count a draw; a line about it."""
        self.draws += 1
        self.codes[given.fault or "none", outcome.code] += 1
        self.algorithms[option(given, "--algorithm")] += 1
        self.slow += outcome.slow and not outcome.broken
        self.resumed += outcome.resumed
        self.waited += outcome.waited
        how = f"{given.fault or 'no fault'}{f' ({outcome.phase})' if outcome.phase else ''}: exit code {outcome.code}"
        line = f"draw {given.number}: {how}{', resumed' if outcome.resumed else ''}"
        if outcome.broken:
            when = f"{given.early:.2f} s after the start" if given.early is not None else f"{given.late:.2f} s in"
            where = f"; {when}, rank {given.victim}" if given.fault in SIGNALS else ""
            edges = f"\n    edges.txt: {given.edges!r}" if given.edges else ""
            line += "\n    BROKEN: " + "\n    ".join(outcome.broken) + f"\n    {given.command}{where}{edges}"
            self.broken.append(line)
        return line

    def text(self) -> str:
        rows = [
            f"$ python results/robustness/soak.py --minutes {self.minutes:g} --seed {self.seed}{' --lab' * self.lab}",
            versions(),
            "",
            f"{self.draws} draws in {(time.monotonic() - self.began) / 60:.0f} min: {len(self.broken)} broken. "
            f"{self.resumed} killed or interrupted runs were resumed; {self.slow} were slow to end once, "
            f"and in time when tried again; {self.waited} waited for a rank that was stopped when all was written.",
            "",
            f"{'fault':18}exit codes",
        ]
        for fault in ["none", *PLUG_INS, *SIGNALS, *OTHERS]:
            found = sorted((str(code), n) for (name, code), n in self.codes.items() if name == fault)
            if found:
                rows.append(f"{fault:18}{', '.join(f'{n} × {code}' for code, n in found)}")
        rows += ["", ", ".join(f"{name} {n}" for name, n in sorted(self.algorithms.items())), *self.broken]
        return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draw", type=int, help="make this draw alone")
    parser.add_argument("--lab", action="store_true", help="on hosts of `mpisqueeze lab`; soak-lab.txt")
    parser.add_argument("--write", type=Path, help="folder for soak.txt")
    given = parser.parse_args()
    report = Report(given.seed, given.minutes, given.lab)
    by, file = (LAB, "soak-lab.txt") if given.lab else (("launch",), "soak.txt")
    number = given.draw or 1
    while report.draws == 0 or (given.draw is None and time.monotonic() - report.began < 60 * given.minutes):
        drawn = draw(given.seed, number, by)
        print(report.add(drawn, judged(drawn)), flush=True)
        number += 1
        if given.write:
            (given.write / file).write_text(f"{report.text()}\n")
    print(f"\n{report.text()}")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
