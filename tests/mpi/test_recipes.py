"""Recipes on real ranks: where the optimizer acts, its steps along compressed answers, how it is taken up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import make_algorithm, start_at

from mpisqueeze.comm.world import World
from mpisqueeze.optimizers.adam import Adam
from mpisqueeze.optimizers.adamw import AdamW
from mpisqueeze.optimizers.base import Optimizer, Recipe
from mpisqueeze.optimizers.decay import Decay
from mpisqueeze.optimizers.sgd import GradientDescent
from mpisqueeze.parts import registry

Run = Callable[..., Any]
STEPS, D = 6, 1031
PLUGIN = """
from mpisqueeze.algorithms.centralized import ServerAlgorithm


class Alone(ServerAlgorithm):
    compresses_up = compresses_down = False

    def apply(self, section):
        section.decode_add(section.x, -self.lr)
"""


def trajectory(name: str, spec: str, server: str, optimizer: Optimizer | None, lr: float) -> list[np.ndarray]:
    """x before each iteration and after the last one; the gradients know nothing of x."""
    world = World()
    options = {} if name == "allreduce" else {"server": server, "chunk": 1024}
    algorithm: Any = make_algorithm(name, spec, D, np.float64, world, optimizer=optimizer, **options)
    x = start_at(D, np.float64)
    found = [x.copy()]
    for t in range(1, STEPS + 1):
        algorithm.setup.network.iteration = t
        if optimizer:
            optimizer.begin()
        g = np.random.default_rng([world.rank, t]).standard_normal(D)
        algorithm.step(x, lambda point, g=g: g, lr)
        assert optimizer is None or optimizer.moved == D
        found.append(x.copy())
    algorithm.close()
    assert algorithm.setup.network.trouble is None
    return found


def optimizers_step_along_the_answers() -> None:
    """Where x ← x − p gives the answers p, an optimizer moves x as it does alone when it is handed these."""
    decay = Decay(0.1, [slice(100, 600)])
    makers = (
        lambda: GradientDescent(D, np, np.float64, Recipe(momentum=0.9, nesterov=True, decay=decay)),
        lambda: AdamW(D, np, np.float64, Recipe(decay=decay)),
        lambda: Adam(D, np, np.float64, Recipe(betas=(0.5, 0.9), decay=decay)),
    )
    shared = "randomk:0.3,shared"
    for name, spec, servers in (
        ("sgd", "identity", ("root", "sharded", "allreduce")), ("allreduce", "identity", ("root",)),
        ("csgd", "qsgd:4", ("root", "sharded")), ("doublesqueeze", "onebit", ("root", "sharded")),
        ("memsgd", "topk:0.1", ("root", "sharded")), ("memsgd", "identity", ("allreduce",)),
        ("memsgd", shared, ("root", "sharded", "allreduce")), ("csgd", "randomk:1,shared", ("allreduce",)),
    ):  # fmt: skip
        for server in servers:
            plain = trajectory(name, spec, server, None, 1.0)
            for make in makers:
                x, alone = plain[0].copy(), make()
                for before, after in pairwise(plain):
                    alone.step(x, before - after, 0.05)
                found = trajectory(name, spec, server, make(), 0.05)[-1]
                np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-9, err_msg=f"{name} {server}")


@pytest.mark.parametrize("n", [1, 3])
def test_optimizers_step_along_the_answers(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, optimizers_step_along_the_answers)


def test_momentum_is_the_same_before_and_after_a_linear_exchange(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """u of the mean gradient is the mean of the ranks' u, with Nesterov and weight decay too; not with a compressor."""
    mpisqueeze_run(
        3, "compare", "sgd", "allreduce", "memsgd/topk:0.3", "--sweep", "momentum-at=gradient,update", "--momentum",
        "0.9", "--nesterov", "--weight-decay", "0.1", "--problem", "quadratic:9,noise=0.3", "--iterations", "12",
        "--lr", "0.05", "--dtype", "float64", "--lr-schedule", "milestones:0.05,0.08:0.5,warmup=0.03", "--out", "both",
        "--save-model",
    ).well()  # fmt: skip
    folders = sorted((tmp_path / "both").glob("*/model.npz"))
    models = [np.load(path)["x"] for path in folders]
    assert len(models) == 6
    for x in models:
        assert (x == x[0]).all()
    np.testing.assert_allclose(models[0], models[1], rtol=1e-10)
    np.testing.assert_allclose(models[2], models[3], rtol=1e-10)
    np.testing.assert_allclose(models[0], models[2], rtol=1e-10)
    assert np.abs(models[4] - models[5]).max() > 1e-6
    config = json.loads((folders[1].parent / "config.json").read_text())
    assert (config["momentum_at"], config["nesterov"], config["optimizer"]) == ("update", True, "sgd")
    rates = [json.loads(line)["lr"] for line in (folders[1].parent / "iterations.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.05 * f for f in (1 / 3, 2 / 3, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25)])


def test_gossip_takes_adam_on_each_ranks_own_gradient(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """x_i ← Σ_j W_ij (x_j − γ(s_j + λx_j)), with s_j of rank j's own moments, followed in NumPy."""
    mpisqueeze_run(
        3, "train", "dpsgd", "--optimizer", "adamw", "--betas", "0.8,0.9", "--eps", "1e-4", "--weight-decay", "0.2",
        "--problem", "quadratic:9,noise=0.3", "--iterations", "10", "--lr", "0.1", "--dtype", "float64", "--out", "run",
        "--save-model",
    ).well()  # fmt: skip
    part = registry.problems.find("quadratic:9,noise=0.3")
    ranks = [part.cls(rank, 3, 1, np, np.dtype(np.float64), **part.options) for rank in range(3)]
    x = np.tile(ranks[0].initial_point(), (3, 1))
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, 11):
        g = np.stack([rank.gradient(own, t)[1] for rank, own in zip(ranks, x, strict=True)])
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        s = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-4)
        x = np.tile(np.mean(x - 0.1 * (s + 0.2 * x), axis=0), (3, 1))
    np.testing.assert_allclose(np.load(tmp_path / "run" / "model.npz")["x"], x, rtol=1e-9)


def test_a_recipe_goes_on_as_if_nothing_had_been(mpisqueeze_run: Run, tmp_path: Path) -> None:
    """AdamW's moments and its count, with sections that leave while the gradient is computed; and nothing changes with
    `--overlap`."""
    from test_checkpoint import same_runs  # it has parts that ranks do not have

    options = (
        *("--algorithm", "doublesqueeze", "--optimizer", "adamw", "--weight-decay", "0.01", "--lr", "0.01"),
        *("--weight-decay-on", "matrices", "--problem", "mlp:32", "--chunk", "1Ki", "--save-model"),
        *("--lr-schedule", "cosine,warmup=0.1", "--eval-every", "7"),
    )
    mpisqueeze_run(3, "train", *options, "--iterations", "20", "--out", "plain").well()
    said = mpisqueeze_run(3, "train", *options, "--iterations", "20", "--overlap", "--out", "whole").well()
    assert "adamw β 0.9,0.999 ε 1e-08, weight decay 0.01 of matrices" in " ".join(said.out.replace("│", " ").split())
    same_runs(tmp_path / "plain", tmp_path / "whole")
    options += ("--overlap", "--iterations", "20", "--checkpoint-every", "6")
    mpisqueeze_run(3, "train", *options, "--out", "part").well()
    shutil.rmtree(tmp_path / "part" / "checkpoint" / "00000020")
    mpisqueeze_run(3, "train", "--resume", "part").well()
    assert json.loads((tmp_path / "part" / "summary.json").read_text())["resumed_after"] == [18]
    same_runs(tmp_path / "whole", tmp_path / "part")
    # Biases begin at 0, and decay would leave no trace on them; on weights it does.
    mpisqueeze_run(3, "train", *options[:-2], "--weight-decay-on", "all", "--out", "all").well()
    x, y = (np.load(tmp_path / name / "model.npz")["x"] for name in ("whole", "all"))
    assert np.abs(x - y).max() > 0


def test_an_algorithm_that_moves_x_by_itself_is_refused_an_optimizer(mpisqueeze_run: Run, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(PLUGIN)
    options = ("--algorithm", "alone.py:Alone", "--problem", "quadratic:9", "--lr", "0.1")
    mpisqueeze_run(2, "train", *options, "--iterations", "3").well()
    finished = mpisqueeze_run(2, "train", *options, "--iterations", "3", "--optimizer", "adam")
    assert finished.code == 2
    says = "iteration {}: alone.py:Alone moves x by itself: in its `apply`, call section.descend"
    assert f"--optimizer: rank 0, {says.format(1)}" in finished.err
    outer = ("--iterations", "5", "--local-steps", "2", "--outer-momentum", "0.9")
    finished = mpisqueeze_run(2, "train", *options, *outer)
    assert finished.code == 2
    assert f"--outer-momentum: rank 0, {says.format(2)}" in finished.err
