"""Ranks of uneven speed, and a clock outside of the run that times them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from mpisqueeze.comm.consensus import Consensus
from mpisqueeze.comm.world import World
from mpisqueeze.record.iterations import Recorder
from mpisqueeze.runs.checkpointing import Checkpointer
from mpisqueeze.runs.plan import plan
from mpisqueeze.runs.training import Loop, train
from mpisqueeze.runs.view import View
from mpisqueeze.settings import Settings

D = 64
#: A pause of the run: an evaluation, a checkpoint or a measurement of the consensus distance takes at least so long.
PAUSE_S = 0.03
#: Iterations between measurements of the consensus distance and evaluations, and between checkpoints.
EVALUATED, SAVED = 8, 11
TRIES = 6
#: Moments of `time.perf_counter`, which the ranks of a host share: this rank's gradients begin, and iterations end.
begun: list[float] = []
ended: list[float] = []


class Jitter:
    """x ↦ x − r, in 3 ms, and 20 ms more on a rank in three, at random."""

    dimension, iterations_per_epoch = D, 4
    slow_s = 0.02

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.rank, self.size, self.dtype = rank, size, dtype

    def initial_point(self) -> Any:
        return np.zeros(D, self.dtype)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        begun.append(time.perf_counter())
        time.sleep(0.003 + self.slow_s * self.is_slow(iteration))
        return float(x @ x), (x - self.rank).astype(self.dtype)

    def is_slow(self, iteration: int) -> bool:
        return bool(np.random.default_rng([self.rank, iteration]).random() < 0.3)

    def evaluate(self, x: Any) -> dict[str, float]:
        return {"norm": float(x @ x)}


class InTurn(Jitter):
    """One rank after another is slow, which hinders gossip most, and then opposite ranks, which hinders it least."""

    slow_s = 0.05

    def is_slow(self, iteration: int) -> bool:
        return self.rank == (iteration if iteration <= 16 else iteration * self.size // 2) % self.size


def paused(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, in which this rank rests from training for a while."""

    def call(*arguments: Any) -> Any:
        time.sleep(PAUSE_S)
        return function(*arguments)

    return call


def noted(add: Callable[..., Any]) -> Callable[..., Any]:
    """`Recorder.add`, which follows an iteration at once, noting when."""

    def call(*arguments: Any) -> Any:
        ended.append(time.perf_counter())
        return add(*arguments)

    return call


def outer_clock(methods: list[str]) -> None:
    """Train by each, with and without a barrier, and hold `elapsed_s` against a clock of this module."""
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "add", noted(Recorder.add))
        for owner, function in ((Loop, "_evaluate_here"), (Consensus, "distance"), (Checkpointer, "take")):
            patch.setattr(owner, function, paused(getattr(owner, function)))
        for method in methods:
            for barrier in (True, False):
                tries = [deviation(world, method, barrier)]
                # Where ranks share cores, one may be kept from one between two moments.
                while abs(tries[-1]) > 0.03 and len(tries) < TRIES:
                    tries.append(deviation(world, method, barrier))
                assert abs(tries[-1]) <= 0.03, (method, barrier, tries)


def deviation(world: World, method: str, barrier: bool) -> float:
    """By how much `elapsed_s` is off, in a run with pauses of all kinds; its median over iterations."""
    begun.clear()
    ended.clear()
    name, _, server = method.partition(" ")
    with TemporaryDirectory() as folder:
        config = Settings(
            algorithm=name, problem=f"{__file__}:Jitter", iterations=16, lr=0.01, barrier=barrier,
            server=server or "root", checkpoint_every=f"{SAVED}", consensus_every=EVALUATED, eval_every=EVALUATED,
            self_weight=0.5,
            out=Path(world.comm.bcast(folder)) / "run",
        )  # fmt: skip
        made = plan(config)
        # The class of this module, and not of the one that a path stands for.
        train(replace(made, problem=replace(made.problem, cls=Jitter)), world, View())
        # Before the first iteration gradients are computed to see whether they repeat.
        everyone = world.comm.gather((begun[-len(ended) :], ended))
        return world.comm.bcast(compare(config.out, everyone, method, barrier) if everyone else None)


def compare(folder: Path, ranks: Sequence[Any], method: str, barrier: bool) -> float:
    """Hold the log against the moments at which ranks began gradients and ended iterations.

    A pause lasts from when the last rank has come to it, to when the first one trains again.
    """
    log = [json.loads(line) for line in (folder / "iterations.jsonl").read_text().splitlines()]
    starts, ends = (np.array([rank[i] for rank in ranks]) for i in range(2))
    paused_s = sum(starts[:, t].min() - ends[:, t - 1].max() for t in (EVALUATED, SAVED))
    outer = ends[:, SAVED:].max(axis=0) - starts[:, 0].min() - paused_s
    found = median(line["elapsed_s"] for line in log[SAVED:]) / median(outer) - 1
    print(f"{method}, barrier {barrier}: {found:+.4f} of {median(outer):.2f} s, and {paused_s:.2f} s of pauses")
    return found
