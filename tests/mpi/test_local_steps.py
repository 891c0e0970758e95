"""Local steps on real ranks: what they come to, what is sent, and how they are taken up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, logged
from test_checkpoint import same_runs, whole_and_part

from mpisqueeze.parts import registry

Run = Callable[..., Finished]
PROBLEM = "quadratic:9,noise=0.3"
QUIET = ("--problem", PROBLEM, "--dtype", "float64", "--lr", "0.05", "--save-model")


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_local_steps_on_equal_hessians_are_steps_along_the_mean(mpisqueeze_run: Run, tmp_path: Path, n: int) -> None:
    """The mean of the models takes the step of the mean gradient there, whatever H is, and without compression."""
    mpisqueeze_run(
        n, "compare", "sgd", "allreduce", "doublesqueeze/identity", "--sweep", "local-steps=1,2,5", *QUIET,
        "--iterations", "10", "--weight-decay", "0.1", "--out", "all",
    ).well()  # fmt: skip
    models = [np.load(path)["x"] for path in sorted((tmp_path / "all").glob("*/model.npz"))]
    assert len(models) == 9
    for x in models:
        assert (x == x[0]).all()
        np.testing.assert_allclose(x, models[0], rtol=1e-10)


def test_diloco(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """AdamW on each rank, and Nesterov's momentum on the mean of how far they went, followed in NumPy; bytes too."""
    mpisqueeze_run(
        3, "train", "sgd", "--local-steps", "4", "--optimizer", "adamw", "--weight-decay", "0.2", "--outer-lr", "0.7",
        "--outer-momentum", "0.9", "--outer-nesterov", *QUIET, "--iterations", "14", "--consensus-every", "1",
        "--out", "run",
    ).well()  # fmt: skip
    part = registry.problems.find(PROBLEM)
    ranks = [part.cls(rank, 3, 1, np, np.dtype(np.float64), **part.options) for rank in range(3)]
    start = ranks[0].initial_point()
    x = np.tile(start, (3, 1))
    m, v, u = np.zeros_like(x), np.zeros_like(x), np.zeros_like(start)
    apart = []
    for t in range(1, 15):
        g = np.stack([rank.gradient(own, t)[1] for rank, own in zip(ranks, x, strict=True)])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - 0.05 * 0.2 * x - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        if t % 4 == 0:
            delta = start - x.mean(axis=0)
            u = 0.9 * u + delta
            start = start - 0.7 * (delta + 0.9 * u)
            x = np.tile(start, (3, 1))
        apart.append(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    np.testing.assert_allclose(np.load(tmp_path / "run" / "model.npz")["x"], x, rtol=1e-9)
    lines = logged(tmp_path / "run" / "iterations.jsonl")
    assert [line["bytes_sent"] for line in lines] == [2 * 2 * 9 * 8 if t % 4 == 0 else 0 for t in range(1, 15)]
    assert [line["consensus"] for line in lines] == pytest.approx(apart, rel=1e-6, abs=1e-20)
    assert "the last 2 iterations end without an exchange" in (tmp_path / "run" / "summary.json").read_text()


def test_local_steps_go_on_as_if_nothing_had_been(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """A checkpoint amid local steps has each rank's model, the one that they began with, and all momenta."""
    options = (
        *("--algorithm", "doublesqueeze", "--local-steps", "4", "--outer-momentum", "0.5", "--momentum", "0.9"),
        *("--problem", "mlp:32", "--lr", "0.05", "--eval-every", "7"),
    )
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 3, *options, last=20, saved=18))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--local-steps", "0"), "--local-steps"),
        (("--local-steps", "4", "--algorithm", "dpsgd"), "is for centralized algorithms, and dpsgd gossips"),
        (("--local-steps", "4", "--overlap"), "--overlap"),
        (("--local-steps", "30"), "30 steps are more than the 20 iterations of the run"),
        (("--outer-nesterov",), "needs --outer-momentum above 0"),
        (("--local-steps", "4", "--momentum", "0.9", "--momentum-at", "update"), "update is --outer-momentum"),
        (
            ("--local-steps", "4", "--algorithm", "onebit-adam:freeze=2", "--outer-momentum", "0.9"),
            "--outer-momentum: onebit-adam has a momentum of its own",
        ),
    ],
)
def test_mistakes(mpisqueeze_run: Run, options: tuple[str, ...], told: str) -> None:
    finished = mpisqueeze_run(1, "train", *options, "--iterations", "20")
    assert (finished.code, told in finished.err) == (2, True), finished.err
