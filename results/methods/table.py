"""Hold the methods of the field against what they must do: `python results/methods/table.py`, about four minutes.

For each method, on four ranks: a run with which it agrees by its equations; bytes counted beside those of `predict`'s
formulas; a run that is resumed beside one that was not, to the bit; and, with `--lab`, `predict --check` of a lab at
100 Mbit/s from a calibration there, which takes five minutes more, root, and an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpisqueeze.modelling.methods import Method

RANKS, STEPS = 4, 12
#: Problems with parameters' shapes, and with one Hessian on all ranks, where the mean of the models follows sgd.
SHAPED, EQUAL = "mlp:32", "quadratic:101,noise=0.3"
#: Per cent that a prediction may be off.
MOST = 15.0
RATE, LAB_DIMENSION = "100mbit", 300_000
COMMON = ("--iterations", str(STEPS), "--lr", "0.05", "--dtype", "float64", "--save-model", "--eval-every", "0")


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        options: of `train`.
        like: options of two runs, the means of whose models must agree; empty where the identity is a test's alone.
        words: the identity.
        problem: of these two runs.
        full: first exchanges, in full.
    """

    options: str
    like: tuple[str, str] | None
    words: str
    problem: str = EQUAL
    full: int = 0


GOSSIP = "the mean of the models follows sgd where Hessians are equal"
ROWS = (
    Row("powersgd:2", ("powersgd:999", "allreduce"), "of full rank it is allreduce", SHAPED),
    Row("ef21/topk:0.1", ("ef21/identity", "sgd"), "with identity it is sgd", full=1),
    Row("ef21-bc/topk:0.1", ("ef21-bc/identity", "sgd"), "with identity it is sgd", full=1),
    Row("dgc/topk:0.1 --momentum 0.9", ("dgc/topk:1 --momentum 0.9", "sgd"), "with topk:1 it is sgd"),
    Row("signum", None, "on one rank it is signSGD with momentum (tests/mpi/test_field.py)"),
    Row(
        "onebit-adam:freeze=5",
        (f"onebit-adam:freeze={STEPS}", "sgd --optimizer adam"),
        "frozen never, it is Adam",
        full=5,
    ),
    Row("sgd --server allreduce", ("sgd --server allreduce", "allreduce"), "it is allreduce"),
    Row(
        "memsgd/randomk:0.1,shared --server allreduce",
        ("memsgd/randomk:1,shared --server allreduce", "allreduce"),
        "with randomk:1,shared it is allreduce",
    ),
    Row("doublesqueeze/natural", None, "E C(v) = v (tests/test_kernels.py)"),
    Row("doublesqueeze/fp8", None, "C(v) is e4m3 of v (tests/test_kernels.py)"),
    Row("doublesqueeze/onebit:0,scale=two", None, "C(v) is the nearest of its kind (tests/test_kernels.py)"),
    Row("doublesqueeze/onebit --local-steps 3", ("sgd --local-steps 3", "sgd"), "sgd's mean where Hessians are equal"),
    Row("doublesqueeze/onebit --group 2", (f"sgd --group {RANKS}", "allreduce"), "a group of all ranks is allreduce"),
    Row(
        "doublesqueeze/onebit --group 2 --local-steps 3 --outer-momentum 0.5",
        ("sgd --group 2 --local-steps 3", "sgd"),
        "sgd's mean where Hessians are equal",
    ),
    Row("dpsgd --topology one-peer", ("dpsgd --topology one-peer", "sgd"), GOSSIP),
    Row("beer/topk:0.1", ("beer/topk:0.1", "sgd"), GOSSIP),
    Row("beer/onebit", ("beer/onebit", "sgd"), GOSSIP),
    Row("powergossip:2", ("powergossip:999", "dpsgd"), "of full rank it is dpsgd", SHAPED),
)


def mpisqueeze(*arguments: str) -> str:
    """Run a command and give what it prints."""
    done = subprocess.run([sys.executable, "-m", "mpisqueeze", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mpisqueeze {' '.join(arguments)}: {done.returncode}\n{done.stderr}")
    return done.stdout


def trained(options: str, problem: str, out: Path, *more: str) -> Path:
    """The folder of a run on all ranks."""
    mpisqueeze(
        "launch", "-n", str(RANKS), "train", *options.split(), "--problem", problem, *COMMON, *more, "--out", str(out)
    )
    return out


def model(folder: Path) -> np.ndarray:
    """Each rank's parameters (ranks, d)."""
    return np.load(folder / "model.npz")["x"]


def holds(row: Row, folder: Path) -> str:
    """Whether the row's two runs have the same mean of the models."""
    if row.like is None:
        return "tested"
    means = [model(trained(text, row.problem, folder / f"like{i}")).mean(axis=0) for i, text in enumerate(row.like)]
    return mark(bool(np.allclose(*means, rtol=1e-8, atol=1e-10)))


def bytes_agree(row: Row, run: Path) -> str:
    """Whether the run sent what the formulas say."""
    config, summary = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "summary"))
    method = Method.ran(config)
    traffic = method.traffic(RANKS, config["dimension"], config["dtype"], config["shapes"])
    whole = 2 * (traffic.ranks - 1) * 8 * config["dimension"]
    exchanges = STEPS // method.every
    inside = 2 * (RANKS - traffic.ranks) * 8 * config["dimension"] * exchanges if method.group > 1 else 0
    sent = row.full * whole + (exchanges - row.full) * traffic.total
    return mark(abs(summary["bytes_sent"] - sent) < 1 and summary["bytes_local"] == inside)


def resumes(row: Row, run: Path, folder: Path) -> str:
    """Whether a run that goes on from a checkpoint ends with the same bits."""
    part = trained(row.options, SHAPED, folder / "part", "--checkpoint-every", "7")
    shutil.rmtree(part / "checkpoint" / f"{STEPS:08}")
    mpisqueeze("launch", "-n", str(RANKS), "train", "--resume", str(part))
    lines = [(where / "iterations.jsonl").read_text().splitlines() for where in (run, part)]
    losses = [[json.loads(line)["loss"] for line in each] for each in lines]
    return mark(model(run).tobytes() == model(part).tobytes() and losses[0] == losses[1])


def mark(fine: bool) -> str:
    return "yes" if fine else "NO"


def predicted(rows: Sequence[Row], folder: Path) -> list[str]:
    """Per cent by which communication and iteration are off in a lab, and whether both are within MOST."""
    start = ["lab", "-n", str(RANKS), "--rate", RATE]
    calibration = folder / "calibration.json"
    specs = {row.options.split()[0].partition("/")[2] for row in rows} | {"topk:0.01", "onebit:scale=none", "onebit"}
    chosen = [word for spec in sorted(filter(None, specs)) for word in ("--compressor", spec)]
    mpisqueeze(*start, "calibrate", *chosen, "--out", str(calibration))
    found = []
    for number, row in enumerate(rows):
        out = folder / f"lab{number}"
        shape = f"mlp:{LAB_DIMENSION // 75}" if "power" in row.options else f"quadratic:{LAB_DIMENSION}"
        mpisqueeze(*start, "train", *row.options.split(), "--problem", shape, "--iterations", "24", "--eval-every", "0",
                   "--consensus-every", "0", "--lr", "1e-4", "--out", str(out))  # fmt: skip
        checked = mpisqueeze("predict", "--check", str(out), "--calibration", str(calibration), "--json", "-")
        (result,) = json.loads(checked)["results"]
        found.append(off([result[f"{name}_difference_percent"] for name in ("comm", "iteration")]))
    return found


def off(errors: Sequence[float | None]) -> str:
    known = [error for error in errors if error is not None]
    verdict = mark(all(abs(error) <= MOST for error in known))
    return f"{verdict} ({', '.join(f'{error:+.0f} %' for error in known)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--lab", action="store_true", help="also hold predictions against a lab")
    arguments: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        errors = predicted(ROWS, folder) if arguments.lab else ["not measured"] * len(ROWS)
        print(
            "| method | identity | holds | bytes exact | resumes to the bit | predicted within 15 % (comm, iteration) |"
        )
        print("|---|---|---|---|---|---|")
        for number, (row, error) in enumerate(zip(ROWS, errors, strict=True)):
            here = folder / str(number)
            run = trained(row.options, SHAPED, here / "whole")
            cells = [holds(row, here), bytes_agree(row, run), resumes(row, run, here), error]
            print(f"| `{row.options}` | {row.words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
