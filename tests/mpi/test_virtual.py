"""Virtual workers against real ranks: the same models, losses, norms, bytes and messages, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from parts import CENTRALIZED, EACH_KIND, FIELD, GOSSIP

from mpisqueeze.comm.world import World
from mpisqueeze.runs.plan import plan
from mpisqueeze.runs.training import train
from mpisqueeze.runs.view import View
from mpisqueeze.settings import Settings
from mpisqueeze.virtual.workers import on_workers

ITERATIONS = 6
#: What is not a time, in the lines of a log.
EXACT = ("rank", "loss", "lr", "bytes_sent", "bytes_received", "messages", "residual_norm")
#: Without a compressor of their own choice, or with those that they take.
_ONE = ["sgd", "dpsgd", "dpsgd:order=awc", "d2", "allreduce", "powersgd"]
#: MPI's all-reduce adds in an order of its own on more than three ranks, and its reduce, which groups use, on more than
#: two. Workers add in the order of ranks.
_BY_SUMS = ("allreduce", "powersgd")
#: (settings beside the algorithm) that are a way of their own through the loop or the exchanges.
_WAYS: list[dict[str, Any]] = [
    {"algorithm": "doublesqueeze", "server": "sharded"},
    {"algorithm": "sgd", "server": "sharded", "chunk": 600},
    {"algorithm": "doublesqueeze", "overlap": True, "chunk": 200},
    {"algorithm": "memsgd", "tree": "binary", "chunk": 999, "momentum": 0.9, "momentum_at": "update"},
    {"algorithm": "csgd", "compressor": "topk:0.3", "local_steps": 3, "optimizer": "adamw", "weight_decay": 0.1},
    {"algorithm": "choco", "topology": "torus", "barrier": True, "checksum": True, "momentum": 0.5},
    {"algorithm": "deepsqueeze", "compressor": "uniform:5,bucket=64", "topology": "star"},
    {"algorithm": "dpsgd", "topology": "exponential", "partition": "dirichlet:0.5", "clip_norm": 0.1},
    {"algorithm": "dpsgd", "topology": "one-peer"},
    {"algorithm": "doublesqueeze", "compressor": "onebit", "group": "2"},
    {"algorithm": "csgd", "compressor": "qsgd:4", "server": "sharded", "group": "3"},
]


def ways() -> list[dict[str, Any]]:
    """Every algorithm with each kind of compressor that it takes, and `_WAYS`."""
    found: list[dict[str, Any]] = [{"algorithm": name} for name in _ONE]
    for name in (*CENTRALIZED, *GOSSIP):
        if name not in _ONE:
            found += [{"algorithm": name, "compressor": spec} for spec in EACH_KIND if fits(name, spec)]
    return [*found, *({"algorithm": name, "compressor": spec} for name, spec in FIELD.items()), *_WAYS]


def fits(name: str, spec: str) -> bool:
    """DCD and ECD take unbiased compressors alone, with which they converge."""
    return name not in ("dcd", "ecd") or spec.startswith(("identity", "qsgd"))


def settings(way: dict[str, Any], out: Path) -> Settings:
    """A short run of a small network with an odd number of parameters, which logs every rank."""
    return Settings(
        **{"problem": "mlp:7", "iterations": ITERATIONS, "batch_size": 5, "samples": 150, "lr": 0.05, **way},
        per_rank=True, save_model=True, eval_every=3, out=out,
    )  # fmt: skip


def trained(world: World, way: dict[str, Any], out: Path, workers: int | None) -> None:
    """A run in the folder `out`, on the ranks of `world` or on workers that they host."""
    config = settings({**way, "workers": workers}, out)
    on_workers(world, workers, lambda ranks: train(plan(config), ranks, View()))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(one: Path, other: Path, way: dict[str, Any]) -> None:
    models = [np.load(path / "model.npz")["x"] for path in (one, other)]
    assert models[0].dtype == models[1].dtype
    by_sums = (way["algorithm"] in _BY_SUMS and len(models[0]) > 3) or int(way.get("group", "1")) > 2
    if by_sums:
        np.testing.assert_allclose(*models, rtol=1e-3, atol=1e-5, err_msg=str(way))
    else:
        assert models[0].tobytes() == models[1].tobytes(), way
    exact = [key for key in EXACT if not (by_sums and key in ("loss", "residual_norm"))]
    for name in ("iterations.jsonl", "ranks.jsonl"):
        logs = [[{key: line.get(key) for key in exact} for line in lines(path / name)] for path in (one, other)]
        assert len(logs[0]) == len(logs[1])
        assert logs[0] == logs[1], way


def same_as_ranks(cases: Sequence[dict[str, Any]]) -> None:
    world = World()
    pair = World(world.comm.Split(int(world.rank >= 2), world.rank))
    alone = World(MPI.COMM_SELF)
    for i, way in enumerate(cases):
        trained(world, way, Path(f"{i}-ranks"), None)
        if world.rank < 2:
            trained(pair, way, Path(f"{i}-pair"), world.size)
        if world.is_root:
            trained(alone, way, Path(f"{i}-alone"), world.size)
            for kind in ("pair", "alone"):
                assert_same(Path(f"{i}-ranks"), Path(f"{i}-{kind}"), {**way, "workers in": kind})
                facts = json.loads(Path(f"{i}-{kind}/summary.json").read_text())
                assert (facts["workers"], facts["ranks"], facts["virtual"]) == (world.size, 1 + (kind == "pair"), True)


def networks_of_ranks() -> None:
    """What batch norm carries is each worker's own, though they have one module."""
    small = {"batch_size": 4, "samples": 60, "test_samples": 20, "checkpoint_every": "2"}
    cases = [
        {"algorithm": "choco", "problem": "resnet20", **small},
        {"algorithm": "sgd", "problem": "resnet20", "overlap": True, **small},
        {"algorithm": "doublesqueeze", "problem": "gpt:1x32", **small},
    ]
    same_as_ranks(cases)
    world = World()
    for i in range(len(cases) if world.is_root else 0):
        for rank in range(world.size):
            saved = [
                np.load(f"{i}-{kind}/checkpoint/00000006/rank-{rank:04}.npz") for kind in ("ranks", "pair", "alone")
            ]
            assert saved[0].files == saved[1].files == saved[2].files
            assert all(one[name].tobytes() == saved[0][name].tobytes() for one in saved for name in one.files)


@pytest.mark.slow
def test_workers_take_turns_in_a_network(on_ranks: Callable[..., None]) -> None:
    pytest.importorskip("torch")
    on_ranks(3, networks_of_ranks, timeout=280)


def workers_on_a_gpu() -> None:
    world = World()
    for i, algorithm in enumerate(("doublesqueeze", "choco")):
        for device in ("cpu", "cuda"):
            trained(world, {"algorithm": algorithm, "device": device}, Path(f"{i}-{device}"), 3)
        if world.is_root:
            assert_same(Path(f"{i}-cpu"), Path(f"{i}-cuda"), {"algorithm": algorithm})


def test_workers_share_a_gpu(on_ranks: Callable[..., None], cuda_variables: dict[str, str]) -> None:
    on_ranks(2, workers_on_a_gpu, timeout=280, **cuda_variables)


FEW = [
    {"algorithm": "doublesqueeze"},
    {"algorithm": "choco", "compressor": "qsgd:4,bucket=0"},
    *_WAYS[:1],
    _WAYS[2],
    _WAYS[4],
]


def test_workers_are_ranks_to_the_bit(on_ranks: Callable[..., None]) -> None:
    on_ranks(3, same_as_ranks, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 6])
def test_workers_are_ranks_to_the_bit_in_every_way(on_ranks: Callable[..., None], n: int) -> None:
    cases = [way for way in ways() if n % int(way.get("group", "1")) == 0]
    on_ranks(n, same_as_ranks, cases, timeout=280)
