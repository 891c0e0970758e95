"""`mpisqueeze train` as a user runs it: on ranks, with its run folder, its exit codes and its output."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, logged, start, wait_for
from parts import payload_bytes
from problem_cases import make

from mpisqueeze.data import load_dataset
from mpisqueeze.data.partition import parse_partition, partition_indices
from mpisqueeze.launch import Launcher
from mpisqueeze.parts import registry
from mpisqueeze.runs.training import MEET_EVERY

Run = Callable[..., Finished]
SMALL = ("--problem", "quadratic:101", "--iterations", "12", "--lr", "0.5")
PLUGINS = Path(__file__).with_name("plugins.py")
ITERATION_FIELDS = [
    "iteration", "epoch", "loss", "lr", "bytes_sent", "bytes_local", "messages", "compute_s", "wait_s", "encode_s",
    "comm_s", "decode_s", "update_s", "iteration_s", "elapsed_s", "residual_norm", "consensus",
]  # fmt: skip


def test_the_main_job_learns_and_counts(mpisqueeze_run: Run) -> None:
    """The README's run: accuracy on digits, within 0.02 of sgd's, and exactly the bytes of docs/methods.md."""
    options = ("train", "--epochs", "10", "--json", "-")
    squeezed = mpisqueeze_run(8, *options, "--algorithm", "doublesqueeze", "--compressor", "onebit")
    plain = mpisqueeze_run(8, *options, "--algorithm", "sgd")
    assert (squeezed.code, plain.code) == (0, 0), squeezed.err
    one, full = squeezed.json, plain.json
    assert one["test_accuracy"] >= 0.95
    assert abs(one["test_accuracy"] - full["test_accuracy"]) <= 0.02
    d, iterations = one["dimension"], one["iterations"]
    assert one["bytes_sent"] == iterations * 2 * 7 * payload_bytes("onebit", d, 4)
    assert full["bytes_sent"] == iterations * 2 * 7 * 4 * d == one["sgd_bytes_sent"]
    assert one["bytes_saved_vs_sgd"] == full["bytes_sent"] - one["bytes_sent"]


@pytest.mark.parametrize("n", [1, 3])
def test_the_run_folder_holds_what_it_should(mpisqueeze_run: Run, tmp_path: Path, n: int) -> None:
    finished = mpisqueeze_run(
        n,
        "train", *SMALL, "--algorithm", "memsgd", "--compressor", "topk:0.1",
        "--out", "run", "--per-rank", "--save-model", "--eval-every", "5", "--json", "summary.json", "--threads", "2",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "ok"
    log = logged(folder / "iterations.jsonl")
    assert [line["iteration"] for line in log] == list(range(1, 13))
    up, down = payload_bytes("topk:0.1", 101, 4), 4 * 101
    for line in log:
        assert list(line) == ITERATION_FIELDS
        assert line["bytes_sent"] == (n - 1) * (up + down)
        assert line["messages"] == 2 * (n - 1)
        assert line["consensus"] is None
        assert line["residual_norm"] > 0
    assert sum(line["bytes_sent"] for line in log) == summary["bytes_sent"]
    elapsed = [line["elapsed_s"] for line in log]
    assert elapsed == sorted(elapsed)
    assert summary["elapsed_s"] == pytest.approx(elapsed[-1])
    assert summary["elapsed_s_per_iteration"] == pytest.approx(np.median(np.diff(elapsed)[2:]))
    ranks = logged(folder / "ranks.jsonl")
    assert [(line["iteration"], line["rank"]) for line in ranks] == [(t, r) for t in range(1, 13) for r in range(n)]
    for t in range(12):
        rows = ranks[t * n : (t + 1) * n]
        assert (
            sum(row["bytes_sent"] for row in rows) == sum(row["bytes_received"] for row in rows) == log[t]["bytes_sent"]
        )
        for name in ("iteration_s", "elapsed_s"):
            assert max(row[name] for row in rows) == pytest.approx(log[t][name])
        assert np.mean([row["loss"] for row in rows]) == pytest.approx(log[t]["loss"])
    assert [line["iteration"] for line in logged(folder / "evaluations.jsonl")] == [0, 5, 10, 12]
    config = json.loads((folder / "config.json").read_text())
    found = [config[name] for name in ("iterations", "ranks", "dimension", "compressor")]
    assert found == [12, n, 101, "topk:0.1"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["buffers"] == "HOST"
    assert config["threads"] == 2
    assert environment["threads"] == (2 if environment["kernels"] == "native" else 1)
    assert environment["mpi_library"]
    x = np.load(folder / "model.npz", allow_pickle=False)["x"]
    assert x.shape == (n, 101)
    assert (x == x[0]).all()


def test_a_run_is_reproducible_and_ranks_share_its_start(mpisqueeze_run: Run, tmp_path: Path) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        options = ("--compressor", "qsgd:2", "--seed", seed, "--epochs", "1", "--out", name, "--save-model")
        assert mpisqueeze_run(2, "train", *options).code == 0
    a, b, c = (np.load(tmp_path / name / "model.npz")["x"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def torch_trained(problem: Any, rates: list[float]) -> np.ndarray:
    """x after torch's clipping and SGD with weight decay and momentum, a step for each rate."""
    import torch

    x = torch.nn.Parameter(torch.from_numpy(problem.initial_point().copy()))
    optimizer = torch.optim.SGD([x], lr=1, momentum=0.9, weight_decay=0.1)
    for t, optimizer.param_groups[0]["lr"] in enumerate(rates, 1):
        x.grad = torch.from_numpy(problem.gradient(x.detach().numpy(), t)[1].copy())
        torch.nn.utils.clip_grad_norm_([x], 0.5)
        optimizer.step()
    return x.detach().numpy()


def test_regularisation_and_schedules_reach_the_update(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """m ← βm + clip(g) + λx, x ← x − γ_t m on one rank, followed in NumPy, and by torch's optimizer where that is."""
    options = ("--weight-decay", "0.1", "--clip-norm", "0.5", "--lr-schedule", "step:0.05:0.5", "--dtype", "float64")
    options += ("--momentum", "0.9")
    finished = mpisqueeze_run(
        1, "train", "--problem", "quadratic:9", "--iterations", "11", "--algorithm", "sgd", "--lr", "0.2",
        "--out", "run", "--save-model", *options,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    part = registry.problems.find("quadratic:9")
    problem = part.cls(0, 1, 1, np, np.dtype(np.float64), **part.options)
    x = problem.initial_point()
    rates = [0.2 * 0.5 ** ((t - 1) // 5) for t in range(1, 12)]
    m = np.zeros_like(x)
    clipped = 0
    for t, lr in enumerate(rates, 1):
        g = problem.gradient(x, t)[1]
        clipped += np.linalg.norm(g) > 0.5
        m = 0.9 * m + g * min(1, 0.5 / np.linalg.norm(g)) + 0.1 * x
        x = x - lr * m
    assert 0 < clipped < len(rates)
    found = np.load(tmp_path / "run" / "model.npz")["x"][0]
    assert found == pytest.approx(x, rel=1e-12)
    if find_spec("torch"):
        assert found == pytest.approx(torch_trained(problem, rates), rel=1e-5)
    assert [line["lr"] for line in logged(tmp_path / "run" / "iterations.jsonl")] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("partition", "options"),
    [
        ("dirichlet:0.3", ("sgd",)),
        ("dirichlet:0.3", ("sgd", "--overlap")),
        ("dirichlet:0.3", ("dpsgd",)),
        ("dirichlet:0.3,balanced", ("sgd",)),
        ("iid", ("sgd",)),
    ],
)
def test_the_mean_over_ranks_is_that_over_all_samples(
    mpisqueeze_run: Run, tmp_path: Path, partition: str, options: tuple[str, ...]
) -> None:
    """x₀ − x̄₁ = γ∇f and the loss are those of one rank that has every sample, however unequal the shares are.

    A batch takes each sample of a rank equally often, so that nothing is left to chance.
    """

    def counts(seed: int) -> list[int]:
        labels = load_dataset("synthetic:5x50", None, seed).train_labels
        return [len(part) for part in partition_indices(labels, 3, parse_partition(partition), seed)]

    seeds = (s for s in range(100) if math.lcm(*counts(s)) < 20_000)
    seed = next(s for s in seeds if max(counts(s)) > 2 * min(counts(s)) or partition != "dirichlet:0.3")
    data = load_dataset("synthetic:5x50", None, seed)
    finished = mpisqueeze_run(
        3, "train", "--problem", "mlp:4", "--data", "synthetic:5x50", "--partition", partition, "--seed", str(seed),
        "--iterations", "1", "--batch-size", str(math.lcm(*counts(seed))), "--lr", "0.5", "--dtype", "float64",
        "--save-model", "--out", "run", "--algorithm", *options,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    shares = f"{min(counts(seed))} to {max(counts(seed))} samples a rank"
    assert (shares in " ".join(finished.out.split())) == (partition == "dirichlet:0.3")
    alone = make("mlp:4", seed=seed, dataset=data, batch_size=50)
    x = alone.initial_point()
    loss, gradient = alone.gradient(x, 1)
    moved = np.load(tmp_path / "run" / "model.npz")["x"].mean(axis=0)
    assert (x - moved) / 0.5 == pytest.approx(gradient, abs=1e-12)
    assert logged(tmp_path / "run" / "iterations.jsonl")[0]["loss"] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("options", [("sgd",), ("allreduce",), ("sgd", "--server", "sharded"), ("dpsgd",)])
def test_momentum_of_all_ranks_is_momentum_of_the_mean_gradient(
    mpisqueeze_run: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """m ← βm + (mean g + λx), x ← x − γm, followed in NumPy; gossip on a complete graph is the same method."""
    finished = mpisqueeze_run(
        3, "train", "--problem", "quadratic:9,noise=0.3", "--iterations", "15", "--lr", "0.2", "--momentum", "0.9",
        "--weight-decay", "0.1", "--dtype", "float64", "--topology", "complete", "--out", "run", "--save-model",
        "--algorithm", *options,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    part = registry.problems.find("quadratic:9,noise=0.3")
    ranks = [part.cls(rank, 3, 1, np, np.dtype(np.float64), **part.options) for rank in range(3)]
    x = ranks[0].initial_point()
    m = np.zeros_like(x)
    for t in range(1, 16):
        m = 0.9 * m + np.mean([rank.gradient(x, t)[1] for rank in ranks], axis=0) + 0.1 * x
        x = x - 0.2 * m
    found = np.load(tmp_path / "run" / "model.npz")["x"]
    assert found == pytest.approx(np.tile(x, (3, 1)), rel=1e-10)


def test_samples_are_a_seeded_part_of_the_training_set(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """An epoch of all ranks is --samples long, and --test-samples is what the accuracy is a fraction of."""
    finished = mpisqueeze_run(
        2, "train", "--problem", "logistic", "--samples", "320", "--test-samples", "7", "--epochs", "2", "--out", "run",
        "--json", "-",
    )  # fmt: skip
    assert finished.well().json["iterations"] == 2 * 320 // (2 * 16)
    assert finished.json["test_accuracy"] * 7 == pytest.approx(round(finished.json["test_accuracy"] * 7))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["samples"], config["test_samples"]) == (320, 7)


def test_captured_output_is_plain_and_json_stands_alone(mpisqueeze_run: Run) -> None:
    finished = mpisqueeze_run(2, "train", *SMALL, TERM="xterm-256color").well()
    assert "\x1b" not in finished.out + finished.err
    assert "\r" not in finished.out
    assert "fewer" in finished.out
    assert "2cN" in finished.out
    assert max(map(len, finished.out.splitlines())) <= 120
    alone = mpisqueeze_run(2, "train", *SMALL, "--json", "-", TERM="xterm-256color")
    assert json.loads(alone.out)["status"] == "ok"
    assert "\x1b" not in alone.err
    colored = mpisqueeze_run(2, "train", *SMALL, "--color", "always")
    assert "\x1b[" in colored.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--algorithm", "doublesqueze"], ["--algorithm", "did you mean 'doublesqueeze'", "memsgd"]),
        (["--problem", f"{PLUGINS}:WrongShape"], ["--problem", "WrongShape", "shape (3,)", "(7,)"]),
        (["--problem", f"{PLUGINS}:DifferentStarts"], ["--problem", "initial_point differs"]),
        (["--problem", f"{PLUGINS}:RaisesOnRank1"], ["--problem", "KeyError"]),
    ],
)
def test_bad_input_is_said_once_and_ends_with_2(mpisqueeze_run: Run, options: list[str], says: list[str]) -> None:
    finished = mpisqueeze_run(2, "train", *options, timeout=30)
    assert finished.code == 2, finished.out + finished.err
    errors = [line for line in finished.err.splitlines() if line.startswith("mpisqueeze: error:")]
    assert len(errors) == 1, finished.err
    for text in says:
        assert text in errors[0]
    assert "Traceback" not in finished.err


def test_an_out_folder_in_use_or_not_writable_is_refused(mpisqueeze_run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep").write_text("x")
    (tmp_path / "file").write_text("x")
    for out in ("full", "file", "file/below", "/proc/mpisqueeze"):
        finished = mpisqueeze_run(2, "train", *SMALL, "--out", out, timeout=30)
        assert finished.code == 2, out
        assert finished.err.count("mpisqueeze: error: --out") == 1
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["keep"]


def test_divergence_ends_with_3_and_a_log_up_to_there(mpisqueeze_run: Run, tmp_path: Path) -> None:
    finished = mpisqueeze_run(
        2, "train", "--problem", "quadratic:50", "--lr", "1e9", "--iterations", "500", "--out", "run"
    )
    assert finished.code == 3, finished.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    log = logged(tmp_path / "run" / "iterations.jsonl")
    assert summary["status"] == "diverged"
    assert "iteration" in summary["reason"]
    assert 0 < summary["iterations"] == len(log) < 500
    assert all(line["loss"] is not None for line in log)


def test_a_diverged_run_with_an_infinite_metric_gives_valid_json(mpisqueeze_run: Run) -> None:
    options = ("--algorithm", "dcd", "--compressor", "qsgd:2,bucket=0", "--epochs", "20", "--eval-every", "1")
    finished = mpisqueeze_run(3, "train", *options, "--json", "-")
    assert finished.code == 3, finished.err
    assert finished.json["status"] == "diverged"
    assert None in (finished.json["final_loss"], finished.json["test_loss"])


def test_a_nan_on_one_rank_is_a_divergence_that_names_it(mpisqueeze_run: Run) -> None:
    gossip = ("--algorithm", "dpsgd:order=awc")
    for options in ((), ("--no-barrier",), gossip):
        finished = mpisqueeze_run(
            3, "train", "--problem", f"{PLUGINS}:NaNLater", "--iterations", "90", "--json", "-", *options
        )
        assert finished.code == 3, finished.err
        assert "rank 2, iteration 30" in finished.json["reason"]


@pytest.mark.parametrize("options", [(), ("--no-barrier",), ("--link", "latency=50us,bandwidth=1gbit")])
def test_a_nan_in_the_sum_of_an_allreduce_is_found_in_its_iteration(mpisqueeze_run: Run, options: Any) -> None:
    finished = mpisqueeze_run(
        3, "train", "--algorithm", "allreduce", "--problem", f"{PLUGINS}:NaNLater", "--iterations", "90",
        "--json", "-", *options,
    )  # fmt: skip
    assert finished.code == 3, finished.err
    assert "iteration 30: the sum of all ranks' gradients holds a NaN or an infinity" in finished.json["reason"]


def test_an_exception_on_one_rank_ends_all_with_4(mpisqueeze_run: Run, tmp_path: Path) -> None:
    for i, options in enumerate(((), ("--no-barrier",), ("--algorithm", "dpsgd:order=awc"))):
        began = time.monotonic()
        problem = ("--problem", f"{PLUGINS}:RaisesLater", "--iterations", "90", "--out", f"run{i}")
        finished = mpisqueeze_run(3, "train", *problem, *options, "--checkpoint-every", "9", timeout=30)
        assert finished.code == 4, finished.err
        assert time.monotonic() - began < 15
        assert finished.err.count("Traceback") == 1
        assert finished.err.count("ValueError: on purpose") >= 1
        summary = json.loads((tmp_path / f"run{i}" / "summary.json").read_text())
        assert summary["status"] == "failed"
        assert "rank 1, iteration 7" in summary["reason"]
        assert summary["iterations"] == len(logged(tmp_path / f"run{i}" / "iterations.jsonl")) >= 6
        assert not list((tmp_path / f"run{i}" / "checkpoint").glob("*[0-9]"))
        # Without a barrier, the others hear of it when they meet next.
        assert summary["iterations"] <= 6 + (MEET_EVERY if options else 0)


def test_gossip_measures_consensus_and_keeps_every_model(mpisqueeze_run: Run, tmp_path: Path) -> None:
    options = ("--algorithm", "dcd", "--compressor", "uniform:8", "--consensus-every", "3", "--out", "run")
    finished = mpisqueeze_run(4, "train", *SMALL, *options, "--save-model", "--per-rank", "--json", "-").well()
    x = np.load(tmp_path / "run" / "model.npz")["x"].astype(np.float64)
    assert x.shape == (4, 101)
    assert not (x == x[0]).all()
    log = logged(tmp_path / "run" / "iterations.jsonl")
    assert [line["consensus"] is not None for line in log] == [t % 3 == 0 for t in range(1, 13)]
    consensus = np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1))
    assert log[-1]["consensus"] == pytest.approx(consensus, rel=1e-4)
    assert all(line["bytes_sent"] == 4 * 2 * payload_bytes("uniform:8", 101, 4) for line in log)
    last = [line for line in logged(tmp_path / "run" / "ranks.jsonl") if line["iteration"] == 12]
    assert len({line["loss"] for line in last}) == 4
    part = registry.problems.find("quadratic:101")
    problem = part.cls(0, 4, 1, np, np.dtype(np.float32), **part.options)
    evaluated = logged(tmp_path / "run" / "evaluations.jsonl")[-1]
    assert evaluated["distance"] == pytest.approx(
        problem.evaluate(x.mean(axis=0).astype(np.float32))["distance"], rel=1e-4
    )
    assert [text for text in finished.json["warnings"] if "ranks share" not in text] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--algorithm", "csgd", "--compressor", "topk:0.1"), "unbiased"),
        (("--algorithm", "dcd", "--compressor", "onebit"), "unbiased"),
        (("--algorithm", "dcd", "--compressor", "qsgd:2"), "(1 − ρ)² > 4μ²α²"),
        (("--algorithm", "ecd", "--compressor", "topk:0.1"), "unbiased"),
        (("--algorithm", "d2"), "--self-weight 0.5"),
        (("--algorithm", "deepsqueeze", "--compressor", "qsgd:2"), "error"),
    ],
)
def test_doubtful_choices_are_warned_of_above_and_below(
    mpisqueeze_run: Run, options: tuple[str, ...], says: str
) -> None:
    finished = mpisqueeze_run(4, "train", "--problem", "quadratic:2000", "--iterations", "2", *options)
    warnings = [line for line in finished.out.splitlines() if line.startswith("warning: ")]
    above, below = (number for number, line in enumerate(warnings) if says in line)
    assert above < below
    assert len(set(warnings)) == len(warnings) / 2, finished.out


def test_a_compressor_that_fails_in_training_ends_all_with_4(mpisqueeze_run: Run) -> None:
    finished = mpisqueeze_run(3, "train", *SMALL, "--compressor", f"{PLUGINS}:FailsLater", timeout=30)
    assert finished.code == 4, finished.err
    assert "on purpose" in finished.err


def test_own_problem_and_compressor_in_double_precision(mpisqueeze_run: Run, tmp_path: Path) -> None:
    finished = mpisqueeze_run(
        3, "train", "--problem", f"{PLUGINS}:Quadratic", "--compressor", f"{PLUGINS}:Halves", "--dtype", "float64",
        "--iterations", "200", "--lr", "0.3", "--json", "-", "--save-model", "--out", "run",
    )  # fmt: skip
    assert finished.well().json["bytes_sent"] == 200 * 2 * 2 * 4 * 7
    x = np.load(tmp_path / "run" / "model.npz")["x"]
    assert x.dtype == np.float64
    assert x[0] == pytest.approx(np.arange(7) + 1, abs=1e-4)


def test_own_algorithms_run_and_their_failures_are_shared(mpisqueeze_run: Run, tmp_path: Path) -> None:
    problem = ("--problem", f"{PLUGINS}:Quadratic", "--iterations", "60", "--lr", "0.3", "--save-model", "--json", "-")
    apart = ("--algorithm", f"{PLUGINS}:Alone", "--consensus-every", "1")
    alone = mpisqueeze_run(3, "train", *apart, *problem, "--out", "alone")
    summed = mpisqueeze_run(3, "train", "--algorithm", f"{PLUGINS}:Summed", *problem, "--out", "summed")
    assert (alone.code, summed.code) == (0, 0), alone.err + summed.err
    assert (alone.json["bytes_sent"], summed.json["bytes_sent"]) == (0, 60 * 2 * 2 * 4 * 7)
    x = np.load(tmp_path / "alone" / "model.npz")["x"]
    assert [row[0] for row in x] == pytest.approx([0, 1, 2], abs=1e-4)
    assert logged(tmp_path / "alone" / "iterations.jsonl")[-1]["consensus"] > 1
    assert np.load(tmp_path / "summed" / "model.npz")["x"][2] == pytest.approx(np.arange(7) + 1, abs=1e-4)
    failing = ("--algorithm", f"{PLUGINS}:Alone", "--problem", f"{PLUGINS}:RaisesLater", "--iterations", "90")
    finished = mpisqueeze_run(3, "train", *failing, timeout=30)
    assert finished.code == 4
    assert "rank 1, iteration 7" in finished.err


@pytest.mark.parametrize(
    ("number", "code", "algorithm"), [(signal.SIGINT, 130, "doublesqueeze"), (signal.SIGTERM, 143, "dpsgd")]
)
def test_a_signal_to_a_rank_stops_all_after_the_iteration(
    launcher: Launcher, tmp_path: Path, number: int, code: int, algorithm: str
) -> None:
    """The ranks are told, as by `launch` and SLURM, finish their iteration and close the log."""
    command = [sys.executable, "-m", "mpisqueeze", "train", "--problem", f"{PLUGINS}:Slow", "--iterations", "100k"]
    process = start(
        launcher, 2, [*command, "--out", "run", "--algorithm", algorithm], tmp_path, subprocess.DEVNULL, subprocess.PIPE
    )
    try:
        log = tmp_path / "run" / "iterations.jsonl"
        wait_for(lambda: log.exists() and log.stat().st_size, "iterations")
        rank = int((tmp_path / "pid.1").read_text())
        os.kill(rank, number)
        assert process.wait(timeout=20) == code
    finally:
        process.kill()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["iterations"] == len(logged(log))


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_scheduler_s_word_while_a_run_is_set_up(mpisqueeze_run: Run, tmp_path: Path, command: str) -> None:
    """The signal of SLURM's --signal reaches a rank before it listens: the run saves its first iteration, and ends."""
    (tmp_path / "mine.py").write_text(
        "import os, signal\n"
        "from plugins import Quadratic\n"
        "class Told(Quadratic):\n"
        "    def __init__(self, rank, *more):\n"
        "        super().__init__(rank, *more)\n"
        "        if rank == 1 and not os.path.exists('told'):\n"
        "            open('told', 'w').close()\n"
        "            os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    methods = ("sgd", "csgd/fp16") if command == "compare" else ("--checkpoint-every", "1000")
    arguments = (command, *methods, "--problem", "mine.py:Told", "--iterations", "9", "--out", "run")
    finished = mpisqueeze_run(2, *arguments, alone=True, PYTHONPATH=str(PLUGINS.parent))
    assert finished.code == 143, finished.err
    if command == "train":
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["iterations"] == 1
        mpisqueeze_run(2, "train", "--resume", "run", alone=True, PYTHONPATH=str(PLUGINS.parent)).well()
        assert len(logged(tmp_path / "run" / "iterations.jsonl")) == 9


def test_help_is_said_once_under_mpirun(mpisqueeze_run: Run) -> None:
    finished = mpisqueeze_run(3, "--help").well()
    assert len(re.findall("Usage:", finished.out)) == 1
