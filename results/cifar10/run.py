"""The talks' experiment at its real size: ResNet-20 on all of CIFAR-10, eight workers, one method after the other.

    python results/cifar10/run.py --data DIR --work FOLDER --epochs 15     # goes on where it was stopped
    python results/cifar10/run.py --table --epochs 15                      # the table of the curves that are there
    python results/cifar10/run.py --figure FILE.svg --epochs 15            # and their figure

DIR has CIFAR-10's binary batches. Each method first tunes γ, and some their η, on a short budget (`compare --tune`),
which leaves `tuned/METHOD.json` beside this file, and is then trained. Run folders with checkpoints are kept in FOLDER;
a method that is done leaves its curve in `curves/EPOCHS/`, and is not run again. SIGINT or SIGTERM stops it, with
checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import mpisqueeze
from mpisqueeze.costs.link import Link
from mpisqueeze.modelling.methods import Method
from mpisqueeze.modelling.predict import Work, predict, terms_of
from mpisqueeze.report.charts import Axis, LineChart, Series
from mpisqueeze.report.plot import draw
from mpisqueeze.report.scales import Unit

WORKERS, BATCH, IMAGES = 8, 16, 50_000
#: Tuning: γ, for some methods the gossip step η as well, on so many iterations. A grid goes on where its best is at an
#: end.
GRID, ETAS, TRIAL = "0.1:0.9:3", "0.1:1:3", 130
#: Settings of all runs.
COMMON = (
    *("--problem", "resnet20,compile", "--data", "cifar10", "--workers", str(WORKERS), "--batch-size", str(BATCH)),
    *("--weight-decay", "1e-4", "--timeout", "0", "--consensus-every", "0", "--color", "never"),
)
#: Latency (s) and rates (bit/s) of the networks whose times are modelled, and a gradient's time (s) there.
LATENCY, NETWORKS, COMPUTE = 50e-6, {"10 Gbit/s": 1e10, "1 Gbit/s": 1e9, "100 Mbit/s": 1e8}, 20e-3


@dataclass(frozen=True)
class Entry:
    """A method.

    Attributes:
        words: what tables call it.
        pair: the method, and options of it.
        published: what others found, in words; empty where the sources below have nothing.
        rate: γ, where it is not to be the one that its trials are best at.
        eta: η is tuned; otherwise it is the program's default.
    """

    words: str
    pair: str
    published: str = ""
    rate: str | None = None
    eta: bool = False


DPSGD = Entry("D-PSGD, ring", "dpsgd", "as SGD (1705.09056, Fig. 2)")
DCD = Entry("DCD, 8 bits", "dcd/qsgd:8,bucket=36864", "as D-PSGD (1907.09356, Table 1)")
CHOCO = Entry("CHOCO, sign", "choco/onebit", "holds (1907.09356, Table 1)")
DEEPSQUEEZE = Entry("DeepSqueeze, 2 bits", "deepsqueeze/uniform:2,bucket=8192", "as D-PSGD (1907.07346, Fig. 2)")
QSGD = Entry("QSGD, 2 bits, both ways", "csgd-double/qsgd:2", "behind SGD (1905.05957, Fig. 1)")
#: In the order in which they are run. A bucket of 36 864 elements is as long as the largest layer: published quantizers
#: have a norm for each layer. The `finer` row has the other row's γ and η, and smaller buckets.
ENTRIES = {
    "allreduce": Entry("SGD by all-reduce", "allreduce"),
    "doublesqueeze-onebit": Entry("DoubleSqueeze, 1 bit", "doublesqueeze/onebit", "as SGD (1905.05957, Fig. 1)"),
    "doublesqueeze-topk": Entry("DoubleSqueeze, top-1 %", "doublesqueeze/topk:0.01", "as SGD (1905.05957, Fig. 2)"),
    "topk-sgd": Entry("top-1 % without feedback", "csgd/topk:0.01", "behind SGD (1905.05957, Fig. 2)"),
    "dpsgd": DPSGD,
    "dpsgd-slower": replace(DPSGD, rate="0.1"),
    "dcd-8-bits": DCD,
    "dcd-8-bits-faster": replace(DCD, rate="0.3"),
    "dcd-4-bits": Entry("DCD, 4 bits", "dcd/qsgd:4,bucket=36864", "fails (1907.09356, Table 1)"),
    "choco-sign": CHOCO,
    "choco-sign-faster": replace(CHOCO, rate="0.3"),
    "deepsqueeze-2-bits": DEEPSQUEEZE,
    "deepsqueeze-2-bits-eta": replace(DEEPSQUEEZE, eta=True),
    "deepsqueeze-2-bits-finer": replace(
        DEEPSQUEEZE,
        words="DeepSqueeze, 2 bits, ranges of 256",
        pair="deepsqueeze:eta=0.0316/uniform:2,bucket=256",
        rate="0.3",
    ),
    "deepsqueeze-sign-eta": Entry("DeepSqueeze, sign", "deepsqueeze/onebit", eta=True),
    "memsgd-onebit": Entry("MEM-SGD, 1 bit", "memsgd/onebit", "as SGD (1905.05957, Fig. 1)"),
    "powersgd": Entry("PowerSGD, rank 2", "powersgd:2", "as SGD (1905.13727, Table 3)"),
    "local-steps": Entry("SGD, 8 local steps", "allreduce --local-steps 8"),
    "qsgd": QSGD,
    "qsgd-slower": replace(QSGD, rate="0.0333"),
    "randomk-sgd": Entry("random 1 % without feedback", "csgd/randomk:0.01"),
}
CURVES, TUNED = Path(__file__).with_name("curves"), Path(__file__).with_name("tuned")
_STOP = threading.Event()
_RUNNING: set[subprocess.Popen[bytes]] = set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's binary batches")
    parser.add_argument("--work", type=Path, help="folder of the run folders, with their checkpoints")
    parser.add_argument("--epochs", type=int, default=15, help="length of every run")
    parser.add_argument("--lanes", type=int, default=2, help="methods at a time, each on one thread")
    parser.add_argument("--table", action="store_true", help="show the table of the curves that there are")
    parser.add_argument(
        "--figure", metavar="FILE", help="draw the curves that there are: accuracy by epoch, bytes, time"
    )
    parser.add_argument("methods", nargs="*", help=f"by default all: {', '.join(ENTRIES)}")
    given: Any = parser.parse_args()
    if unknown := [name for name in given.methods if name not in ENTRIES]:
        parser.error(f"no method {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    if given.table:
        print(table(given.epochs))
        return
    if given.figure:
        draw(figure(given.epochs), given.figure)
        return
    if given.data is None or given.work is None:
        parser.error("give --data and --work")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    wanted = [name for name in given.methods or ENTRIES if not curve_path(name, given.epochs).exists()]
    with ThreadPoolExecutor(given.lanes) as lanes:
        list(lanes.map(lambda name: train(name, given), wanted))


def _stop(number: int, frame: Any) -> None:
    _STOP.set()
    for process in list(_RUNNING):
        process.send_signal(signal.SIGTERM)


def curve_path(name: str, epochs: int) -> Path:
    return CURVES / f"{epochs}" / f"{name}.json"


def train(name: str, given: Any) -> None:
    """Train by a method, from its checkpoint if there is one, and leave its curve."""
    folder = given.work / f"{given.epochs}" / name
    entry = ENTRIES[name]
    tuned = {"lr": entry.rate} if entry.rate else tuned_settings(name, given)
    if tuned is None:
        return
    pair = entry.pair.replace("/", f":eta={tuned['eta']}/") if entry.eta else entry.pair
    if list(folder.glob("checkpoint/*/manifest.json")):
        arguments = ["--resume", str(folder)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        arguments = [
            *pair.split(), *COMMON, "--epochs", str(given.epochs), "--lr", str(tuned["lr"]),
            "--lr-schedule", f"cosine,warmup={given.epochs / 10:g}", "--data-dir", str(given.data),
            "--checkpoint-every", "2min", "--out", str(folder),
        ]  # fmt: skip
    # 3: it diverged, which is a result.
    if run(f"train {' '.join(arguments)}", folder, given) in (0, 3):
        leave(curve_path(name, given.epochs), curve(name, folder))


def tuned_settings(name: str, given: Any) -> dict[str, Any] | None:
    """γ, and η, by `compare --tune`, of this sitting or of an earlier one; None where it was stopped.

    Where all trials diverged they are the least that were tried.
    """
    path = TUNED / f"{name}.json"
    if not path.exists():
        folder = given.work / "tuned" / name
        shutil.rmtree(folder, ignore_errors=True)
        schedule = f"cosine,warmup={TRIAL * WORKERS * BATCH / IMAGES / 10:.3g}"
        grids = ["--tune", f"lr={GRID}", *(["--tune", f"eta={ETAS}"] if ENTRIES[name].eta else [])]
        arguments = [
            *ENTRIES[name].pair.split(), *COMMON, "--iterations", str(TRIAL), *grids,
            "--lr-schedule", schedule, "--test-samples", "1000", "--data-dir", str(given.data), "--out", str(folder),
        ]  # fmt: skip
        # 3: the method diverged.
        if run(f"compare {' '.join(arguments)}", folder, given) not in (0, 3):
            return None
        compared = json.loads((folder / "compare.json").read_text())
        trials = [each for each in compared["runs"] if each["phase"] == "tune"]
        # By γ, or by γ and η.
        losses = {", ".join(each["swept"].values()): last_loss(folder / each["folder"]) for each in trials}
        tuned = compared["tuned"][0]
        least = min([*map(float, each["swept"].values())] for each in trials)
        tuned["settings"] = tuned["settings"] or dict(zip(("lr", "eta"), least, strict=False))
        leave(path, {"iterations": TRIAL, **tuned, "last_losses": losses})
    return dict(json.loads(path.read_text())["settings"])


def last_loss(folder: Path) -> float | None:
    """The mean training loss of a run's last tenth; None where it diverged."""
    run = mpisqueeze.load(folder)
    loss = run.columns["loss"][-max(1, TRIAL // 10) :]
    return rounded(float(np.mean(loss))) if run.summary["status"] == "ok" else None


def run(command: str, folder: Path, given: Any) -> int:
    """Run a command of the program, whose output goes to a log beside its folder; its exit code."""
    if _STOP.is_set():
        return 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"mpisqueeze {command}", flush=True)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // given.lanes))}
    log = folder.with_suffix(".log")
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mpisqueeze", *command.split()],
            stdout=output, stderr=output, env={**threads, **os.environ}, start_new_session=True,
        )  # fmt: skip
        _RUNNING.add(process)
        code = process.wait()
        _RUNNING.discard(process)
    if code not in (0, 3):
        print(f"ended with {code}, see {log}", flush=True)
    return code


def leave(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(facts))
    print(path, flush=True)


def curve(name: str, folder: Path) -> dict[str, Any]:
    """What is kept of a run: its settings, its machine, and its course by epochs."""
    run = mpisqueeze.load(folder)
    config, environment = run.settings, run.environment
    loss, sent = run.columns["loss"], np.cumsum(run.columns["bytes_sent"])
    per_epoch, done = config["iterations_per_epoch"], len(loss)
    epochs = []
    for line in run.evaluations:
        at = line["iteration"]
        since = loss[max(0, at - per_epoch) : at]
        epochs.append({
            "epoch": round(line["epoch"], 3),
            "loss": rounded(float(np.mean(since))) if at else None,
            "test_loss": rounded(line["test_loss"]),
            "test_accuracy": line["test_accuracy"],
            "bytes": int(sent[at - 1]) if at else 0,
        })  # fmt: skip
    kept = ("algorithm", "compressor", "local_steps", "problem", "batch_size", "workers", "lr", "lr_schedule",
            "weight_decay", "iterations", "seed", "dimension")  # fmt: skip
    host = environment["hosts"][0]
    return {
        "name": name,
        "status": run.summary["status"],
        "iterations_done": done,
        "settings": {key: config[key] for key in kept},
        "machine": {"cpu": host["cpu_model"], "cores": host["cores"], **environment["versions"]},
        "git_commit": environment["git_commit"],
        "eta": run.summary["eta"],
        "bytes_an_iteration": run.summary["bytes_sent_per_iteration"],
        "modelled_comm_s": modelled(config),
        "epochs": epochs,
    }


def modelled(config: dict[str, Any]) -> dict[str, float]:
    """Seconds of an iteration's exchange on each network by the cost model of `predict`, kernels left out."""
    method = Method.ran(config)
    traffic = method.traffic(config["workers"], config["dimension"], config["dtype"], config["shapes"])
    found = {}
    for words, rate in NETWORKS.items():
        link = Link.hockney(LATENCY, rate)
        prediction = predict(method, traffic, Work(), terms_of(traffic.ranks, link, config), 0.0)
        found[words] = rounded(prediction.iteration_s)
    return found


def rounded(value: float | None) -> float | None:
    """Four digits; None where it is not finite."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


def as_json(facts: dict[str, Any]) -> str:
    """With an epoch a line."""
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    return re.sub(r"\{\s+(\"epoch\"[^}]*?)\s+\}", lambda m: "{" + re.sub(r"\s*\n\s*", " ", m[1]) + "}", text) + "\n"


def curves(epochs: int) -> dict[str, dict[str, Any]]:
    """The curves that there are, in the order of ENTRIES."""
    found = {name: json.loads(path.read_text()) for name in ENTRIES if (path := curve_path(name, epochs)).exists()}
    if not found:
        raise SystemExit(f"{CURVES / str(epochs)} has no curves")
    return found


def epoch_s(facts: dict[str, Any], network: str) -> float:
    """Modelled seconds of an epoch on a network: gradients and exchanges."""
    return float(IMAGES // (WORKERS * BATCH) * (COMPUTE + facts["modelled_comm_s"][network]))


def accuracies(facts: dict[str, Any]) -> np.ndarray:
    return np.array([each["test_accuracy"] for each in facts["epochs"]])


def rates(facts: dict[str, Any]) -> str:
    """γ, and η where there is one."""
    return f"{facts['settings']['lr']:g}" + (f", η {facts['eta']:g}" if facts["eta"] else "")


def figure(epochs: int) -> list[LineChart]:
    """Test accuracy by epoch, by bytes, and by modelled time on two of the networks."""
    found = {name: facts for name, facts in curves(epochs).items() if facts["status"] == "ok"}
    slow, slowest = list(NETWORKS)[1:]
    costs: list[tuple[str, Unit, bool, Callable[[dict[str, Any]], list[float]]]] = [
        ("epoch", Unit.COUNT, False, lambda facts: [e["epoch"] for e in facts["epochs"]]),
        ("bytes sent by all workers", Unit.BYTES, True, lambda facts: [e["bytes"] for e in facts["epochs"]]),
        *(
            (f"time at {network} (modelled)", Unit.SECONDS, False,
             lambda facts, network=network: [e["epoch"] * epoch_s(facts, network) for e in facts["epochs"]])
            for network in (slow, slowest)
        ),
    ]  # fmt: skip
    charts = []
    for label, unit, log, cost in costs:
        series = [
            Series(f"{ENTRIES[name].words}, γ {rates(facts)}", np.array(cost(facts)), accuracies(facts), i)
            for i, (name, facts) in enumerate(found.items())
        ]
        charts.append(LineChart("", Axis(label, unit, log), Axis("test accuracy"), series))
    return charts


def table(epochs: int) -> str:
    """The methods that have a curve, in Markdown."""
    lines = [
        f"| method | γ | loss | test accuracy | bytes | × fewer | epoch at {' | at '.join(NETWORKS)} | published |",
        f"|---|--:|--:|--:|--:|--:|{'--:|' * len(NETWORKS)}---|",
    ]
    found = curves(epochs)
    base = next(iter(found.values()))["bytes_an_iteration"]
    for name, facts in found.items():
        last, entry = facts["epochs"][-1], ENTRIES[name]
        fine = facts["status"] == "ok"
        cells = [
            entry.words,
            rates(facts),
            f"{last['loss']:.3f}" if fine else f"diverged after {facts['iterations_done']} iterations",
            f"{100 * last['test_accuracy']:.1f} %" if fine else "",
            f"{facts['bytes_an_iteration'] * facts['settings']['iterations'] / 1e9:.3g} GB",
            f"{base / facts['bytes_an_iteration']:.3g}",
            *(f"{epoch_s(facts, network):.3g} s" for network in NETWORKS),
            entry.published,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
