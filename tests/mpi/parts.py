"""Shared by the tests on ranks: every compressor, and algorithms built without the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np

from mpisqueeze.algorithms.base import Algorithm, Setup
from mpisqueeze.comm.cuda_aware import cuda_awareness
from mpisqueeze.comm.emulated import emulate
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import World
from mpisqueeze.compressors.base import Compressor, adapt
from mpisqueeze.costs.link import parse_link
from mpisqueeze.devices.device import Device
from mpisqueeze.parts import registry
from mpisqueeze.topology import Topology

COMPRESSORS = [
    "identity",
    "onebit",
    "onebit:0",
    "onebit:7,scale=l2",
    "onebit:24,scale=two",
    "onebit:scale=none",
    "qsgd:2",
    "qsgd:4,bucket=0",
    "qsgd:8,bucket=33",
    "uniform:1",
    "uniform:5,bucket=64",
    "uniform:8",
    "ternary",
    "topk:0.01",
    "topk:0.3",
    "randomk:0.1",
    "randomk:0.2,unbiased",
    "randomk:0.3,shared",
    "randomk:0.2,unbiased,shared",
    "clip:9",
    "clip:16",
    "clip:21",
    "fp16",
    "bf16",
    "fp8",
    "fp8:24",
    "natural",
]
GOSSIP = ["dpsgd", "dpsgd-naive", "dcd", "ecd", "deepsqueeze", "choco", "d2", "beer"]
CENTRALIZED = ["sgd", "csgd", "csgd-double", "memsgd", "doublesqueeze"]
#: Those that come out with SGD's iterates in another way, if at all, each with a compressor that it takes.
FIELD = {
    "ef21": "qsgd:4",
    "ef21-bc": "onebit",
    "dgc:warmup=2": "topk:0.01",
    "signum": "onebit:scale=none",
    "onebit-adam:freeze=2": "onebit",
}
EXAMPLES = Path(__file__).parents[1] / "examples"
#: One without error, one with few bits, one with random numbers, and one with positions.
EACH_KIND = ("identity", "onebit:7,scale=l2", "qsgd:4,bucket=0", "topk:0.3")
DIMENSIONS = [1, 7, 1031]
#: The run's seed.
SEED = 3
T = TypeVar("T")


def kinds_of_buffers() -> tuple[bool, ...]:
    """Whether MPI is handed device memory: no, and yes where it can read that; of an emulated device anybody can."""
    import cupy

    return (False, True) if cupy.__version__ == "emulated" or cuda_awareness()[0] else (False,)


def each_on_a_rank(world: World, works: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all functions, on all ranks; each is called on one of them. Collective."""
    found = world.comm.allgather([work() for work in works[world.rank :: world.size]])
    return [found[i % world.size][i // world.size] for i in range(len(works))]


def payload_bytes(spec: str, d: int, itemsize: int) -> int:
    """Sizes of payloads by their layouts, written again."""
    name, _, rest = spec.partition(":")
    argument, *options = rest.split(",")
    keys = dict(option.partition("=")[::2] for option in options)

    def blocks(length: int) -> int:
        return math.ceil(d / length) if length else 1

    bucket = int(keys.get("bucket", 512))
    if name == "identity":
        return itemsize * d
    if name == "onebit":
        if "scale=none" in rest:
            return math.ceil(d / 8)
        return math.ceil(d / 8) + (1 + (keys.get("scale") == "two")) * itemsize * blocks(int(argument or 1024))
    if name == "qsgd":
        return math.ceil(d * int(argument) / 8) + itemsize * blocks(bucket)
    if name == "uniform":
        return math.ceil(d * int(argument) / 8) + 2 * itemsize * blocks(bucket)
    if name == "ternary":
        return math.ceil(d / 4) + itemsize * blocks(bucket)
    if name == "topk":
        return (4 + itemsize) * max(1, math.ceil(float(argument) * d))
    if name == "randomk":
        return itemsize * max(1, math.ceil(float(argument) * d)) + 8 * ("shared" not in options)
    if name == "clip":
        return math.ceil(d * int(argument) / 8)
    if name == "fp8":
        return d + itemsize * blocks(int(argument or 128))
    if name == "natural":
        return d
    assert name in ("fp16", "bf16")
    return 2 * d


@cache
def found(kind: str, text: str) -> registry.Part:
    """A part by its spec, looked for once."""
    return getattr(registry, kind).find(text)


def make_compressor(spec: str, dtype: Any, xp: Any = np) -> Callable[[int, int], Compressor]:
    """(dimension, seed) → a compressor by its spec."""
    part = found("compressors", spec)
    return lambda dimension, seed: adapt(part.cls(dimension, xp, dtype, seed, **part.options), dimension, xp, dtype)


def compressed_by(compressor: Compressor, v: np.ndarray, key: int) -> np.ndarray:
    """D(C(v)) by plain encoding and decoding, with the random numbers of a key from `random_numbers`."""
    payload, out = np.empty(compressor.payload_bytes, np.uint8), np.empty_like(v)
    with patch.object(type(compressor), "key", key):
        compressor.encode(v, payload)
        compressor.decode(payload, out)
    return out


def make_algorithm(
    name: str,
    spec: str,
    dimension: int,
    dtype: Any,
    world: World,
    device: Device | None = None,
    topology: Topology | None = None,
    chunk: int | None = None,
    tree: str | None = None,
    link: str | None = None,
    **options: Any,
) -> Algorithm:
    """An algorithm by its spec, on `world`'s ranks; gossip goes round a ring unless a topology is given."""
    emulated = emulate(world, parse_link(link)) if link else None
    device = device or Device()
    network = Network(world, device, emulated=emulated, chunk_bytes=chunk, tree=tree)
    graph = topology or Topology("ring", world.size)
    setup = Setup(network, dimension, np.dtype(dtype), SEED, make_compressor(spec, dtype, device.xp), graph, **options)
    part = found("algorithms", name)
    return part.cls(setup, **part.options)


def gradient_at(x: np.ndarray, rank: int, t: int) -> np.ndarray:
    """A gradient that depends on where, who and when: x/2 plus noise."""
    return x * x.dtype.type(0.5) + noise_at(rank, t, x.size).astype(x.dtype)


@cache
def noise_at(rank: int, t: int, size: int) -> np.ndarray:
    return np.random.default_rng([rank, t]).standard_normal(size)


def start_at(dimension: int, dtype: Any) -> np.ndarray:
    """The common x₀."""
    return np.random.default_rng(99).standard_normal(dimension).astype(dtype)


def step_at(algorithm: Algorithm, x: np.ndarray, t: int, lr: float = 0.1) -> np.ndarray:
    """Iteration t, which moves x; the gradient that this rank had in it."""
    network, found = algorithm.setup.network, list[np.ndarray]()

    def gradient(point: np.ndarray) -> np.ndarray:
        found.append(gradient_at(point, network.world.rank, t))
        return found[0].copy()

    network.iteration = t
    algorithm.step(x, gradient, lr)
    return found[0]


def run_steps(algorithm: Algorithm, x: Any, steps: int, lr: float = 0.1) -> Any:
    """x, an array of the device, after `steps` iterations, in place; gradients come from the host."""
    network = algorithm.setup.network
    device, rank = network.device, network.world.rank
    for t in range(1, steps + 1):
        network.iteration = t
        algorithm.step(x, lambda point, t=t: device.xp.asarray(gradient_at(device.to_numpy(point), rank, t)), lr)
    algorithm.close()
    assert network.trouble is None, network.trouble
    return x


def stepping(algorithm: Any, dimension: int, dtype: Any) -> Callable[[int], None]:
    """Iteration t of an algorithm, from one point on and with one gradient, which it may overwrite."""
    x, g = start_at(dimension, dtype), start_at(dimension, dtype)
    fresh = np.empty_like(g)

    def gradient(_: np.ndarray) -> np.ndarray:
        np.copyto(fresh, g)
        return fresh

    def step(t: int) -> None:
        algorithm.setup.network.iteration = t
        algorithm.step(x, gradient, 0.1)

    return step


def assert_the_server_keeps_the_mean(algorithm: Any, told: Any, of: str = "g") -> None:
    """A server's g of EF21, or another vector, is mean g_i, to rounding; collective."""
    mean = np.mean(algorithm.setup.network.world.comm.allgather(getattr(algorithm, f"{of}_i")), axis=0)
    mine, kept = mean[algorithm.setup.served], getattr(algorithm, f"{of}_mean")
    if mine.size:
        assert np.abs(kept - mine).max() < 1e-12 * (1 + np.abs(mean).max()), told
    else:
        assert kept is None
