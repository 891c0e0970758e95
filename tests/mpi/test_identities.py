"""The identities of the centralized algorithms, on real ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parts import (
    CENTRALIZED,
    COMPRESSORS,
    DIMENSIONS,
    EXAMPLES,
    gradient_at,
    make_algorithm,
    make_compressor,
    payload_bytes,
    run_steps,
    start_at,
)

from mpisqueeze.comm.world import World
from mpisqueeze.costs.exchanges import Tree
from mpisqueeze.kernels.random import derive_key

STEPS = 5
RANKS = [1, pytest.param(2, marks=pytest.mark.slow), 3, 4]
SERVERS = ["root", "sharded"]


@pytest.mark.parametrize("n", RANKS)
def test_identity_compression_gives_the_iterates_of_sgd(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, uncompressed_iterates)


def uncompressed_iterates() -> None:
    world = World()
    for dtype in (np.float32, np.float64):
        for d in DIMENSIONS:
            expected = run_steps(make_algorithm("sgd", "identity", d, dtype, world), start_at(d, dtype), STEPS)
            for name in CENTRALIZED:
                for server in SERVERS:
                    algorithm = make_algorithm(name, "identity", d, dtype, world, server=server)
                    assert np.array_equal(run_steps(algorithm, start_at(d, dtype), STEPS), expected), (name, d, server)
            for name in ("allreduce", "memsgd:lr=inside"):
                algorithm = make_algorithm(name, "identity", d, dtype, world)
                x = run_steps(algorithm, start_at(d, dtype), STEPS)
                np.testing.assert_allclose(x, expected, rtol=100 * np.finfo(dtype).eps, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("n", RANKS)
def test_every_algorithm_follows_its_equations(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, distributed_equals_serial)


def distributed_equals_serial() -> None:
    world = World()
    for spec in COMPRESSORS:
        for d in DIMENSIONS:
            for server in SERVERS:
                for name in [*CENTRALIZED, "memsgd:lr=inside"]:
                    compressor = "identity" if name == "sgd" else spec
                    algorithm = make_algorithm(name, compressor, d, np.float32, world, server=server)
                    x = run_steps(algorithm, start_at(d, np.float32), STEPS)
                    expected = serially(name, compressor, d, world.size, server)
                    assert np.array_equal(x, expected), (name, spec, d, server)


def serially(name: str, spec: str, d: int, size: int, where: str = "root", lr: float = 0.1) -> np.ndarray:
    """The equations of the algorithms for all ranks in one loop, by plain encodes and decodes, part by part."""
    make = make_compressor(spec, np.float32)
    parts = [part for part in np.array_split(np.arange(d), size if where == "sharded" else 1) if part.size]
    workers = [
        [make(part.size, derive_key(3, 1, r, *([s] if s else []))) for s, part in enumerate(parts)] for r in range(size)
    ]
    server = [make(part.size, derive_key(3, 2, s)) for s, part in enumerate(parts)]
    x, gamma = start_at(d, np.float32), np.float32(lr)
    name, inside, _ = name.partition(":lr=inside")
    delta, delta_bar = np.zeros((size, d), np.float32), np.zeros(d, np.float32)

    def compressed(compressors: list[Any], v: np.ndarray, t: int) -> np.ndarray:
        result = np.empty_like(v)
        for compressor, part in zip(compressors, parts, strict=True):
            payload, out = np.empty(compressor.payload_bytes, np.uint8), np.empty(part.size, v.dtype)
            compressor.iteration = t
            compressor.encode(v[part], payload)
            compressor.decode(payload, out)
            result[part] = out
        return result

    for t in range(1, STEPS + 1):
        total = np.zeros(d, np.float32)
        for r in range(size):
            g = gradient_at(x, r, t)
            if name in ("memsgd", "doublesqueeze"):
                v = (gamma * g if inside else g) + delta[r]
                q = compressed(workers[r], v, t)
                delta[r] = v - q
            else:
                q = compressed(workers[r], g, t)
            total = total + q if r else q
        mean = total / np.float32(size)
        if name == "csgd-double":
            mean = compressed(server, mean, t)
        elif name == "doublesqueeze":
            v_bar = mean + delta_bar
            mean = compressed(server, v_bar, t)
            delta_bar = v_bar - mean
        x = x - (mean if inside else gamma * mean)
    return x


@pytest.mark.parametrize("n", RANKS)
def test_the_server_of_ef21_keeps_the_mean(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, server_keeps_the_mean)


def server_keeps_the_mean() -> None:
    """EF21's g is mean g_i after every iteration, to rounding, whatever C is."""
    world, d = World(), 1031
    for spec in ("identity", "onebit", "qsgd:4,bucket=0", "topk:0.01", "fp16"):
        for server in SERVERS:
            for start in ("full", "compressed"):
                name = f"{EXAMPLES}/ef21.py:EF21,start={start}"
                algorithm: Any = make_algorithm(name, spec, d, np.float64, world, server=server, chunk=1024)
                run_steps(algorithm, start_at(d, np.float64), 4)
                mean = np.mean(world.comm.allgather(algorithm.g_i), axis=0)
                mine = mean[algorithm.setup.served]
                if not mine.size:
                    assert algorithm.g_mean is None
                    continue
                assert np.abs(algorithm.g_mean - mine).max() < 1e-12 * (1 + np.abs(mean).max()), (spec, server, start)


@pytest.mark.parametrize("n", RANKS)
def test_sections_change_no_bit(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, sectioned_equals_whole)


def sectioned_equals_whole() -> None:
    """Cut as finely as each payload can be, the counts add up to the same bytes and the iterates are the same."""
    world = World()
    d = 4500
    for spec in COMPRESSORS:
        full_down = spec in ("identity", "onebit:0", "uniform:8", "topk:0.01")
        for name in ("csgd", "doublesqueeze") if full_down else ("doublesqueeze",):
            compressor = spec
            for server in SERVERS:
                whole: Any = make_algorithm(name, compressor, d, np.float32, world, server=server, chunk=10**6)
                assert all(len(part) == 1 for part in whole.exchange.up)
                expected, nbytes = run_steps(whole, start_at(d, np.float32), STEPS), whole.bytes_per_iteration()
                for tree in ("flat", "chain", "binary", "binomial") if server == "root" else [None]:
                    cut: Any = make_algorithm(name, compressor, d, np.float32, world, server=server, chunk=1, tree=tree)
                    sections = len(cut.exchange.up[0])
                    if compressor in ("identity", "onebit", "uniform:8", "clip:21"):
                        assert sections > 1
                    if compressor.startswith(("topk", "randomk")) or compressor in ("onebit:0", "qsgd:8,bucket=33"):
                        assert sections == 1
                    if name == "csgd" and server == "root":
                        # The answer is cut, be the payloads or not.
                        assert len(cut.exchange.down[0]) > 1
                    assert cut.bytes_per_iteration() == nbytes, (name, spec, server)
                    counter = cut.setup.network.counter
                    x = run_steps(cut, start_at(d, np.float32), STEPS)
                    assert np.array_equal(x, expected), (name, spec, server, tree)
                    assert sum(world.comm.allgather(counter.bytes_sent)) == nbytes * STEPS


@pytest.mark.parametrize("n", RANKS)
def test_doublesqueeze_moves_by_what_the_gradients_say(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, doublesqueeze_telescopes)


def doublesqueeze_telescopes() -> None:
    """Σ mean g = Σ p + Ω_T, and y_t = x_t − γΩ_{t−1} makes exact SGD steps, in double precision."""
    world = World()
    comm, lr = world.comm, 0.1
    for spec in COMPRESSORS:
        for d in DIMENSIONS:
            algorithm: Any = make_algorithm("doublesqueeze", spec, d, np.float64, world)
            x = start_at(d, np.float64)
            omega, sum_g, sum_p = np.zeros(d), np.zeros(d), np.zeros(d)
            for t in range(1, 9):
                gradients: list[np.ndarray] = []

                def gradient(point: np.ndarray, t: int = t, seen: list[np.ndarray] = gradients) -> np.ndarray:
                    g = gradient_at(point, world.rank, t)
                    seen.append(g.copy())
                    return g

                before, y = x.copy(), x - lr * omega
                algorithm.setup.network.iteration = t
                algorithm.step(x, gradient, lr)
                mean_g = sum(comm.allgather(gradients[0])) / world.size
                omega = comm.bcast(algorithm.delta_bar) + sum(comm.allgather(algorithm.delta)) / world.size
                np.testing.assert_allclose(
                    x - lr * omega, y - lr * mean_g, rtol=0, atol=1e-12 * (1 + np.abs(omega).max())
                )
                sum_g += mean_g
                sum_p += (before - x) / lr
            np.testing.assert_allclose(sum_g, sum_p + omega, rtol=0, atol=1e-11 * (1 + np.abs(omega).max()))
            algorithm.close()


@pytest.mark.parametrize("n", RANKS)
def test_residuals_hold_what_the_payload_does_not(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, residuals_of_payloads)


def residuals_of_payloads() -> None:
    world = World()
    for dtype in (np.float32, np.float64):
        for spec in COMPRESSORS:
            for d in DIMENSIONS:
                for name in ("memsgd", "doublesqueeze"):
                    algorithm: Any = make_algorithm(name, spec, d, dtype, world)
                    receiver = make_compressor(spec, dtype)(d, 12345)
                    x, decoded = start_at(d, dtype), np.empty(d, dtype)
                    for t in range(1, 4):
                        g = gradient_at(x, world.rank, t)
                        v = g + algorithm.delta
                        algorithm.setup.network.iteration = t
                        algorithm.step(x, lambda _, g=g: g, 0.1)
                        receiver.decode(algorithm.exchange.up[0][0].payload, decoded)
                        assert np.array_equal(algorithm.delta, v - decoded), (name, spec, d, t)
                    algorithm.close()


class SpyRequest:
    def __init__(self, request: Any, log: list[int], nbytes: int) -> None:
        self.request, self.log, self.nbytes = request, log, nbytes

    def Start(self) -> None:  # noqa: N802
        self.log.append(self.nbytes)
        self.request.Start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.request, name)


class Spy:
    """A communicator that notes the bytes of every message that it is handed to send."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.sent: list[int] = []

    def Send_init(self, buffer: Any, dest: int, tag: int) -> SpyRequest:  # noqa: N802
        assert dest != self.comm.rank
        assert memoryview(buffer[0]).nbytes == buffer[1]
        return SpyRequest(self.comm.Send_init(buffer, dest, tag), self.sent, buffer[1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)


@pytest.mark.parametrize("n", RANKS)
def test_counted_bytes_are_the_bytes_handed_to_mpi(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, counted_bytes)


def counted_bytes() -> None:
    world = World()
    spy = Spy(world.comm)
    world.comm = spy  # type: ignore[assignment]
    for dtype in (np.float32, np.float64):
        itemsize = np.dtype(dtype).itemsize
        for spec in COMPRESSORS:
            for d in DIMENSIONS:
                c, full = payload_bytes(spec, d, itemsize), itemsize * d
                sizes = {
                    "sgd": (full, full),
                    "csgd": (c, full),
                    "csgd-double": (c, c),
                    "memsgd": (c, full),
                    "doublesqueeze": (c, c),
                }
                for name, (up, down) in sizes.items():
                    compressor = "identity" if name == "sgd" else spec
                    algorithm: Any = make_algorithm(name, compressor, d, dtype, world)
                    counter = algorithm.setup.network.counter
                    counter.reset()
                    spy.sent.clear()
                    run_steps(algorithm, start_at(d, dtype), 1)
                    children = Tree(algorithm.schedule.way, world.size).children(world.rank)
                    expected = [up] * (not world.is_root) + [down] * len(children)
                    assert spy.sent == expected, (name, spec, d)
                    assert (counter.bytes_sent, counter.messages) == (sum(spy.sent), len(spy.sent))
                    assert counter.bytes_received == ((world.size - 1) * up if world.is_root else down) * (
                        world.size > 1
                    )
                    total = sum(spy.comm.allgather(counter.bytes_sent))
                    assert total == (world.size - 1) * (up + down) == algorithm.bytes_per_iteration()


@pytest.mark.parametrize("n", RANKS)
def test_sharded_servers_send_what_their_shards_take(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, sharded_bytes)


def sharded_bytes() -> None:
    world = World()
    spy, size = Spy(world.comm), world.size
    world.comm = spy  # type: ignore[assignment]
    for spec in COMPRESSORS:
        for d in [*DIMENSIONS, 1030]:
            shards = [part.size for part in np.array_split(np.arange(d), size)]
            compressed = [payload_bytes(spec, n, 4) if n else 0 for n in shards]
            full = [4 * n for n in shards]
            sizes = {"sgd": (full, full), "csgd": (compressed, full), "doublesqueeze": (compressed, compressed)}
            for name, (up, down) in sizes.items():
                compressor = "identity" if name == "sgd" else spec
                algorithm = make_algorithm(name, compressor, d, np.float32, world, server="sharded")
                counter = algorithm.setup.network.counter
                counter.reset()
                spy.sent.clear()
                run_steps(algorithm, start_at(d, np.float32), 1)
                me, others = world.rank, [r for r in range(size) if r != world.rank]
                expected = [up[s] for s in others if up[s]] + [down[me] for _ in others if down[me]]
                assert sorted(spy.sent) == sorted(expected), (name, spec, d)
                assert (counter.bytes_sent, counter.messages) == (sum(expected), len(expected))
                assert counter.bytes_received == len(others) * up[me] + sum(down[s] for s in others)
                total = sum(spy.comm.allgather(counter.bytes_sent))
                assert total == (size - 1) * (sum(up) + sum(down)) == algorithm.bytes_per_iteration()


@pytest.mark.parametrize("n", RANKS)
def test_allreduce_counts_its_definition(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, allreduce_bytes)


def allreduce_bytes() -> None:
    world = World()
    for d in DIMENSIONS:
        algorithm = make_algorithm("allreduce", "identity", d, np.float32, world)
        counter = algorithm.setup.network.counter
        counter.reset()
        run_steps(algorithm, start_at(d, np.float32), 1)
        assert abs(counter.bytes_sent - 2 * (world.size - 1) / world.size * 4 * d) < 1
        assert sum(world.comm.allgather(counter.bytes_sent)) == 2 * (world.size - 1) * 4 * d
