"""The identities of the gossip algorithms, on real ranks and several graphs."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parts import (
    COMPRESSORS,
    EACH_KIND,
    GOSSIP,
    SEED,
    compressed_by,
    each_on_a_rank,
    gradient_at,
    make_algorithm,
    make_compressor,
    payload_bytes,
    run_steps,
    start_at,
    step_at,
)
from random_numbers import SHARED, WORKER, key_of, stream

from mpisqueeze.comm.world import World
from mpisqueeze.topology import Topology

RANKS = [1, 2, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 6))]
GRAPHS = ["ring", "torus", "complete", "exponential", "star"]
DIMENSIONS = [1, 37]
UNCOMPRESSED = ("dpsgd", "d2")
LR = 0.1


def cases(graphs: Sequence[str], methods: Sequence[str], world: World) -> Iterator[tuple[Topology, str, str]]:
    """(graph, compressor, method): full vectors for those that send them; with all compressors on the first graph."""
    for graph, spec, name in product(graphs, COMPRESSORS, methods):
        if graph != graphs[0] and spec not in EACH_KIND:
            continue
        if spec == "identity" or name.partition(":")[0] not in UNCOMPRESSED:
            yield Topology(graph, world.size), spec, name


def close(actual: Any, expected: Any, scale: float = 1.0) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * (1 + scale))


def without_compression_they_are_dpsgd() -> None:
    world = World()
    d, steps = 37, 6
    for graph in GRAPHS:
        topology = Topology(graph, world.size)

        def x_of(name: str, topology: Topology = topology, **options: Any) -> np.ndarray:
            algorithm = make_algorithm(name, "identity", d, np.float64, world, topology=topology, **options)
            return run_steps(algorithm, start_at(d, np.float64), steps)

        awc = x_of("dpsgd:order=awc")
        for name in ("dcd", "ecd", "dpsgd-naive"):
            close(x_of(name), awc)
        close(x_of("deepsqueeze:eta=1"), x_of("dpsgd"))
        close(x_of("choco:1"), x_of("dpsgd"))
        close(x_of("deepsqueeze:eta=0.3"), with_lazy_mixing(topology, 0.3, d, steps)[world.rank])
        close(x_of("beer:eta=0.6"), with_gradient_tracking(topology, 0.6, d, steps)[world.rank])


def with_lazy_mixing(topology: Topology, eta: float, d: int, steps: int) -> np.ndarray:
    """ATC with (1 − η)I + ηW, for all ranks in one array (ranks, d)."""
    n = topology.ranks
    W = (1 - eta) * np.eye(n) + eta * topology.matrix()
    X = np.tile(start_at(d, np.float64), (n, 1))
    for t in range(1, steps + 1):
        X = W @ (X - LR * np.array([gradient_at(X[i], i, t) for i in range(n)]))
    return X


def with_gradient_tracking(topology: Topology, eta: float, d: int, steps: int) -> np.ndarray:
    """The same mixing for models and for directions, which follow the mean gradient."""
    n = topology.ranks
    W = (1 - eta) * np.eye(n) + eta * topology.matrix()
    X, V, before = np.tile(start_at(d, np.float64), (n, 1)), np.zeros((n, d)), np.zeros((n, d))
    for t in range(1, steps + 1):
        G = np.array([gradient_at(X[i], i, t) for i in range(n)])
        V = W @ V + G - before
        X, before = W @ X - LR * V, G
    return X


def every_algorithm_follows_its_equations() -> None:
    world = World()
    methods = cases(("ring", "star", "torus"), [*GOSSIP, "dpsgd:order=awc"], world)
    found, works = [], []
    for d, (topology, spec, method) in product(DIMENSIONS, methods):
        name, _, order = method.partition(":order=")
        algorithm: Any = make_algorithm(method, spec, d, np.float64, world, topology=topology)
        eta = getattr(algorithm, "eta", 1.0)
        found.append((run_steps(algorithm, start_at(d, np.float64), 4), f"{method} {spec} {topology} {d}"))
        works.append(partial(serially, name, order or "atc", spec, topology, d, 4, eta))
    for (x, case), expected in zip(found, each_on_a_rank(world, works), strict=True):
        atol = 1e-9 * (1 + np.abs(expected).max())
        np.testing.assert_allclose(x, expected[world.rank], rtol=0, atol=atol, err_msg=case)


def serially(name: str, order: str, spec: str, topology: Topology, d: int, steps: int, eta: float) -> np.ndarray:
    """The equations of the gossip algorithms, for all ranks in one array (ranks, d)."""
    n = topology.ranks
    W = topology.matrix()
    compressor = make_compressor(spec, np.float64)(d, 0)

    def C(V: np.ndarray, t: int, *part: int) -> np.ndarray:  # noqa: N802
        seeds = [stream(SEED, SHARED if compressor.linear else WORKER, i, *part) for i in range(n)]
        return np.array([compressed_by(compressor, v, key_of(seed, t)) for seed, v in zip(seeds, V, strict=True)])

    X = np.tile(start_at(d, np.float64), (n, 1))
    Y, delta, x_hat, S = X.copy(), np.zeros((n, d)), np.zeros((n, d)), np.zeros((n, d))
    V, R, g_hat, before = (np.zeros((n, d)) for _ in range(4))
    previous: tuple[np.ndarray, np.ndarray] | None = None
    for t in range(1, steps + 1):
        G = LR * np.array([gradient_at(X[i], i, t) for i in range(n)])
        if name == "dpsgd":
            X = W @ (X - G) if order == "atc" else W @ X - G
        elif name == "dpsgd-naive":
            X = W @ C(X, t) - G
        elif name == "dcd":
            X = X + C(W @ X - G - X, t)
        elif name == "ecd":
            ahead = W @ Y - G
            Y = (1 - 2 / t) * Y + (2 / t) * C((1 - t / 2) * X + (t / 2) * ahead, t)
            X = ahead
        elif name == "deepsqueeze":
            H = X - G
            Q = C(H + delta, t)
            delta = H + delta - Q
            X = H + eta * (W - np.eye(n)) @ Q
        elif name == "beer":
            V = V + eta * (R - g_hat) + G / LR - before
            before = G / LR
            X = X + eta * (S - x_hat) - LR * V
            Q, tracked = C(X - x_hat, t), C(V - g_hat, t, 1)
            x_hat, S, g_hat, R = x_hat + Q, S + W @ Q, g_hat + tracked, R + W @ tracked
        elif name == "choco":
            H = X - G
            Q = C(H - x_hat, t)
            x_hat = x_hat + Q
            S = S + W @ Q
            X = H + eta * (S - x_hat)
        else:
            assert name == "d2"
            before = X
            X = W @ (X - G) if previous is None else W @ (2 * X - previous[0] - G + previous[1])
            previous = (before, G)
    return X


def the_mean_moves_by_the_mean_gradient() -> None:
    """dpsgd, d2, deepsqueeze, choco, beer: x̄ moves by −γ mean g; dcd: by −γ mean g + mean(C(z) − z)."""
    world = World()
    comm = world.comm

    def mean(v: np.ndarray) -> np.ndarray:
        return sum(comm.allgather(v)) / world.size

    d, methods = 37, ("dpsgd", "d2", "deepsqueeze", "choco", "beer", "dcd")
    for topology, spec, name in cases(("ring", "star", "exponential"), methods, world):
        algorithm: Any = make_algorithm(name, spec, d, np.float64, world, topology=topology)
        x = start_at(d, np.float64)
        lost = np.zeros(d)
        if name == "dcd":
            encode, decode = algorithm.codec.encode, algorithm.codec.compressor.decode

            def noting(
                z: np.ndarray, payload: np.ndarray, encode: Any = encode, decode: Any = decode, lost: Any = lost
            ) -> None:
                encode(z, payload)
                decode(payload, lost)
                lost -= z

            algorithm.codec = SimpleNamespace(encode=noting, decode_add=algorithm.codec.decode_add)
        for t in range(1, 6):
            before = mean(x)
            expected = before - LR * mean(step_at(algorithm, x, t)) + mean(lost)
            if name == "beer":
                close(mean(algorithm.v), mean(algorithm.g_prev), max(comm.allgather(float(np.abs(algorithm.v).max()))))
            scale = max(comm.allgather(float(np.abs(x).max())))
            close(mean(x), expected, scale)
        algorithm.close()


def replicas_equal_their_owners_to_the_bit() -> None:
    world = World()
    comm = world.comm
    for d, (topology, spec, _) in product(DIMENSIONS, cases(("ring", "star", "torus"), ["dcd"], world)):
        dcd: Any = make_algorithm("dcd", spec, d, np.float32, world, topology=topology)
        choco: Any = make_algorithm("choco", spec, d, np.float64, world, topology=topology)
        x, z = start_at(d, np.float32), start_at(d, np.float64)
        for t in range(1, 5):
            step_at(dcd, x, t)
            step_at(choco, z, t)
            models = comm.allgather(x)
            for index, neighbour in enumerate(dcd.exchange.neighbours):
                assert np.array_equal(dcd.x_hat[index], models[neighbour]), (topology, spec, d, t)
            estimates = np.array(comm.allgather(choco.x_hat))
            close(choco.s, topology.matrix()[world.rank] @ estimates, np.abs(estimates).max())
        dcd.close()
        choco.close()


def each_neighbour_gets_one_payload() -> None:
    world = World()
    for topology, spec, name in cases(GRAPHS, GOSSIP, world):
        algorithm = make_algorithm(name, spec, 37, np.float32, world, topology=topology)
        counter = algorithm.setup.network.counter
        counter.reset()
        run_steps(algorithm, start_at(37, np.float32), 1)
        c, degree = payload_bytes(spec, 37, 4) * (1 + (name == "beer")), topology.degree(world.rank)
        assert (counter.bytes_sent, counter.bytes_received) == (degree * c, degree * c)
        assert counter.messages == (2 if name == "beer" else 1) * degree
        assert sum(world.comm.allgather(counter.bytes_sent)) == algorithm.bytes_per_iteration()
    if world.size >= 3:
        assert Topology("ring", world.size).degree(world.rank) == 2


def a_complete_graph_without_compression_averages_as_sgd() -> None:
    world = World()
    expected = run_steps(make_algorithm("sgd", "identity", 37, np.float64, world), start_at(37, np.float64), 5)
    graph = Topology("complete", world.size)
    x = run_steps(
        make_algorithm("dpsgd", "identity", 37, np.float64, world, topology=graph), start_at(37, np.float64), 5
    )
    close(x, expected)


def one_peer_comes_to_the_exact_mean() -> None:
    """Each W(t) in its turn, which for a power of two leave all ranks with the mean, to the bit; a payload a rank."""
    world, d = World(), 37
    topology, n = Topology("one-peer", world.size), world.size
    whole = np.random.default_rng(5).integers(-9, 9, (n, d)) * 2.0**8
    for method in ("dpsgd", "dpsgd:order=awc"):
        algorithm = make_algorithm(method, "identity", d, np.float64, world, topology=topology)
        network, X = algorithm.setup.network, whole
        x = X[world.rank].copy()
        for t in range(1, topology.rounds + 1):
            network.iteration = t
            network.counter.reset()
            algorithm.step(x, np.zeros_like, LR)
            X = topology.matrix(t % topology.rounds) @ X
            assert np.array_equal(x, X[world.rank]), (method, t)
            assert (network.counter.messages, network.counter.bytes_sent) == ((1, 8 * d) if n > 1 else (0, 0))
        assert np.array_equal(x, whole.mean(axis=0)) == (n & (n - 1) == 0)
        assert algorithm.bytes_per_iteration() == (n * 8 * d if n > 1 else 0)
        algorithm.close()


def memory_a_rank_is_the_state_of_the_table() -> None:
    """Vectors of d that an algorithm on a ring of 3 holds, beside payloads; two have one more, for a difference."""
    world, d = World(), 1 << 18
    states = {"dpsgd": 0, "dpsgd-naive": 0, "dcd": 2, "ecd": 3, "deepsqueeze": 1, "choco": 2, "d2": 2, "beer": 6}
    for name, vectors in states.items():
        spec = "identity" if name in UNCOMPRESSED else "onebit"
        payload = payload_bytes(spec, d, 4) * (1 + (name == "beer"))
        name += ":eta=0.5" if name in ("deepsqueeze", "choco", "beer") else ""
        make_algorithm(name, spec, d, np.float32, world).close()
        tracemalloc.start()
        algorithm = make_algorithm(name, spec, d, np.float32, world)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        expected = (vectors + (name.split(":")[0] in ("d2", "beer"))) * 4 * d + 3 * payload
        assert abs(held - expected) < 0.05 * 4 * d, (name, held / (4 * d), expected / (4 * d))
        algorithm.close()


def awc_exchanges_while_the_gradient_is_computed() -> None:
    """A message far above the eager limit has arrived when a gradient that never enters MPI is done."""
    world, d = World(), 1 << 20
    for order, early in (("awc", True), ("atc", False)):
        algorithm: Any = make_algorithm(f"dpsgd:order={order}", "identity", d, np.float32, world)
        x = start_at(d, np.float32)

        def slow(point: np.ndarray) -> np.ndarray:
            time.sleep(0.5)
            return np.zeros_like(point)

        for t in (1, 2):
            algorithm.setup.network.iteration = t
            algorithm.step(x, slow, LR)
            assert algorithm.exchange.progress.early is early, (order, t)
        algorithm.close()


@pytest.mark.parametrize("n", RANKS)
@pytest.mark.parametrize(
    "identity",
    [
        without_compression_they_are_dpsgd,
        every_algorithm_follows_its_equations,
        the_mean_moves_by_the_mean_gradient,
        replicas_equal_their_owners_to_the_bit,
        each_neighbour_gets_one_payload,
        one_peer_comes_to_the_exact_mean,
    ],
)
def test_identities(on_ranks: Callable[..., None], identity: Callable[[], None], n: int) -> None:
    on_ranks(n, identity)


@pytest.mark.parametrize(
    ("identity", "n"),
    [
        *((a_complete_graph_without_compression_averages_as_sgd, n) for n in [2, 3, 6]),
        (memory_a_rank_is_the_state_of_the_table, 3),
        *((awc_exchanges_while_the_gradient_is_computed, n) for n in [2, 3]),
    ],
)
def test_identities_on_some_graphs(on_ranks: Callable[..., None], identity: Callable[[], None], n: int) -> None:
    on_ranks(n, identity)
