"""PowerGossip on real ranks: its equations with NumPy's QR, the mean of its models, and its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parts import gradient_at, make_algorithm, run_steps, start_at, step_at
from test_powersgd import LR, MATRICES, REST, SHAPES, D, some_ranks

from mpisqueeze.comm.exchange import HaltError
from mpisqueeze.comm.world import World
from mpisqueeze.modelling.methods import Method
from mpisqueeze.parts import registry
from mpisqueeze.topology import Topology


def powergossip(rank: int, world: World, graph: str, dtype: Any = np.float64, **more: Any) -> Any:
    topology = Topology(graph, world.size)
    return make_algorithm(f"powergossip:{rank}", "identity", D, dtype, world, topology=topology, shapes=SHAPES, **more)


class Serial:
    """The equations for all ranks in one loop, with NumPy's QR."""

    def __init__(self, algorithms: list[Any], topology: Topology) -> None:
        self.x, self.W = np.tile(start_at(D, np.float64), (topology.ranks, 1)), topology.matrix()
        self.sides: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}
        for i, (p, q) in enumerate(algorithms):
            for index, j in enumerate(topology.neighbours(i)):
                cuts = [np.cumsum([shape[side] for _, shape in MATRICES])[:-1] for side in (0, 1)]
                pairs = zip(np.split(p[index], cuts[0], axis=1), np.split(q[index], cuts[1], axis=1), strict=True)
                for k, (mine_p, mine_q) in enumerate(pairs):
                    edge = (min(i, j), max(i, j), k)
                    if edge in self.sides:
                        assert np.array_equal(self.sides[edge][1], mine_q.T)
                    self.sides[edge] = mine_p.T, mine_q.T

    def step(self, t: int) -> None:
        x = np.array([own - LR * gradient_at(own, i, t) for i, own in enumerate(self.x)])
        self.x = x.copy()
        self.x[:, REST] = (self.W @ x)[:, REST]
        for (low, high, k), (p, q) in self.sides.items():
            span, shape = MATRICES[k]
            apart = (x[high, span] - x[low, span]).reshape(shape)
            if t % 2:
                q = np.linalg.qr(q)[0]
                p = apart @ q
            else:
                p = np.linalg.qr(p)[0]
                q = apart.T @ p
            moved = self.W[low, high] * (p @ q.T).ravel()
            self.x[high, span] -= moved
            self.x[low, span] += moved
            self.sides[low, high, k] = p, q


def models_are_those_of_the_equations() -> None:
    for world in some_ranks():
        for graph in ("ring", "star"):
            for rank in (1, 3):
                algorithm, topology = powergossip(rank, world, graph), Topology(graph, world.size)
                serial = Serial(world.comm.allgather((algorithm.p, algorithm.q)), topology)
                x = start_at(D, np.float64)
                for t in range(1, 6):
                    before = np.mean(world.comm.allgather(x), axis=0)
                    g = step_at(algorithm, x, t, LR)
                    serial.step(t)
                    np.testing.assert_allclose(x, serial.x[world.rank], rtol=0, atol=1e-11)
                    moved = before - LR * np.mean(world.comm.allgather(g), axis=0)
                    np.testing.assert_allclose(np.mean(world.comm.allgather(x), axis=0), moved, rtol=0, atol=1e-13)
                algorithm.close()


def differences_go_away() -> None:
    """Gossip alone brings models together, also those whose differences have more than r directions."""
    world = World()
    algorithm = powergossip(1, world, "ring")
    x = np.random.default_rng([8, world.rank]).standard_normal(D)
    mean = np.mean(world.comm.allgather(x), axis=0)
    apart = np.linalg.norm(x - mean)
    for t in range(1, 120):
        algorithm.setup.network.iteration = t
        algorithm.step(x, np.zeros_like, LR)
    assert np.linalg.norm(x - mean) < 0.01 * apart
    algorithm.close()


def what_does_not_get_shorter_is_dpsgd() -> None:
    for world in some_ranks():
        algorithm = powergossip(7, world, "ring", np.float32)
        expected = run_steps(make_algorithm("dpsgd", "identity", D, np.float32, world), start_at(D, np.float32), 4)
        np.testing.assert_allclose(run_steps(algorithm, start_at(D, np.float32), 4), expected, rtol=0, atol=1e-6)
        told = "no parameter gets shorter as a product, so that powergossip:7 sends everything in full, as dpsgd does"
        assert algorithm.doubts() == [told]


def bytes_alternate() -> None:
    """P has 7 + 5 rows and Q 9 + 8, beside 8 elements in full."""
    for world in some_ranks():
        for rank in (1, 2):
            algorithm = powergossip(rank, world, "ring", np.float32)
            counter, x = algorithm.setup.network.counter, start_at(D, np.float32)
            degree = Topology("ring", world.size).degree(world.rank)
            for t in range(1, 5):
                counter.reset()
                step_at(algorithm, x, t)
                sent = 4 * degree * (rank * (12 if t % 2 else 17) + 8)
                assert (counter.bytes_sent, counter.bytes_received, counter.messages) == (sent, sent, degree)
            method = Method.of(registry.algorithms.find(f"powergossip:{rank}"), registry.compressors.find("identity"),
                               "root", "ring")  # fmt: skip
            total = method.traffic(world.size, D, "float32", SHAPES).total
            assert algorithm.bytes_per_iteration() == total == degree * world.size * 4 * (rank * 29 + 16) // 2
            algorithm.close()


def a_nan_is_told() -> None:
    for world in some_ranks():
        for place in (5, 64):
            algorithm, x = powergossip(2, world, "ring"), start_at(D, np.float64)
            x[place] = np.nan if world.rank == 0 else x[place]
            if world.size == 1:
                step_at(algorithm, x, 1)
                continue
            with pytest.raises(HaltError):
                step_at(algorithm, x, 1)
            if world.rank == 0:
                assert "NaN" in algorithm.setup.network.trouble.message
            algorithm.close()


@pytest.mark.parametrize(
    "work",
    [
        models_are_those_of_the_equations,
        differences_go_away,
        what_does_not_get_shorter_is_dpsgd,
        bytes_alternate,
        a_nan_is_told,
    ],
)
def test_powergossip(on_ranks: Callable[..., None], work: Callable[[], None]) -> None:
    on_ranks(4, work)
