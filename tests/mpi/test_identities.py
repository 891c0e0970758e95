"""The identities of the centralized algorithms, on real ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from parts import (
    CENTRALIZED,
    COMPRESSORS,
    DIMENSIONS,
    EACH_KIND,
    EXAMPLES,
    SEED,
    assert_the_server_keeps_the_mean,
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
from random_numbers import SERVER, SHARED, WORKER, key_of, stream

from mpisqueeze.comm.world import World
from mpisqueeze.costs.exchanges import Tree

STEPS = 5
RANKS = [1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)]
SERVERS = ["root", "sharded"]
#: The tag of payloads to a server.
UP = 1


def identity_compression_gives_the_iterates_of_sgd() -> None:
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


def every_algorithm_follows_its_equations() -> None:
    world = World()
    methods = [("sgd", "identity"), *product([*CENTRALIZED[1:], "memsgd:lr=inside"], COMPRESSORS)]
    cases = [(*method, d, world.size, server) for method, d, server in product(methods, DIMENSIONS, SERVERS)]
    for case, expected in zip(cases, each_on_a_rank(world, [partial(serially, *case) for case in cases]), strict=True):
        name, spec, d, _, server = case
        algorithm = make_algorithm(name, spec, d, np.float32, world, server=server)
        assert np.array_equal(run_steps(algorithm, start_at(d, np.float32), STEPS), expected), case


def serially(name: str, spec: str, d: int, size: int, where: str = "root", lr: float = 0.1) -> np.ndarray:
    """The equations of the algorithms for all ranks in one loop, by plain encodes and decodes, part by part."""
    parts = [part for part in np.array_split(np.arange(d), size if where == "sharded" else 1) if part.size]
    compressors = [make_compressor(spec, np.float32)(part.size, 0) for part in parts]
    x, gamma = start_at(d, np.float32), np.float32(lr)
    name, inside, _ = name.partition(":lr=inside")
    delta, delta_bar = np.zeros((size, d), np.float32), np.zeros(d, np.float32)

    def compressed(v: np.ndarray, role: int, rank: int, t: int) -> np.ndarray:
        result = np.empty_like(v)
        for s, (compressor, part) in enumerate(zip(compressors, parts, strict=True)):
            drawn = SHARED if compressor.linear else role
            result[part] = compressed_by(compressor, v[part], key_of(stream(SEED, drawn, rank, s), t))
        return result

    for t in range(1, STEPS + 1):
        total = np.zeros(d, np.float32)
        for r in range(size):
            g = gradient_at(x, r, t)
            if name in ("memsgd", "doublesqueeze"):
                v = (gamma * g if inside else g) + delta[r]
                q = compressed(v, WORKER, r, t)
                delta[r] = v - q
            else:
                q = compressed(g, WORKER, r, t)
            total = total + q if r else q
        mean = total / np.float32(size)
        if name == "csgd-double":
            mean = compressed(mean, SERVER, 0, t)
        elif name == "doublesqueeze":
            v_bar = mean + delta_bar
            mean = compressed(v_bar, SERVER, 0, t)
            delta_bar = v_bar - mean
        x = x - (mean if inside else gamma * mean)
    return x


def the_server_of_diana_keeps_the_mean() -> None:
    """DIANA's h is mean h_i after every iteration, to rounding, whatever C is."""
    world, d = World(), 1031
    for spec, server in product(("identity", "uniform:8", "qsgd:4", "natural"), SERVERS):
        algorithm: Any = make_algorithm(
            f"{EXAMPLES}/diana.py:Diana", spec, d, np.float64, world, server=server, chunk=1024
        )
        run_steps(algorithm, start_at(d, np.float64), 4)
        assert_the_server_keeps_the_mean(algorithm, (spec, server), "h")


def sections_change_no_bit() -> None:
    """Cut as finely as each payload can be, the counts add up to the same bytes and the iterates are the same."""
    world = World()
    # Residuals and random numbers of the first iteration show in the second.
    d, steps = 4500, 2
    for name, spec, server in product(("csgd", "doublesqueeze"), COMPRESSORS, SERVERS):
        if name == "csgd" and spec not in ("identity", "onebit:0", "uniform:8", "topk:0.01"):
            continue
        whole: Any = make_algorithm(name, spec, d, np.float32, world, server=server, chunk=10**6)
        assert all(len(part) == 1 for part in whole.exchange.up)
        expected, nbytes = run_steps(whole, start_at(d, np.float32), steps), whole.bytes_per_iteration()
        trees = ("flat", "chain", "binary", "binomial") if name == "csgd" or spec in EACH_KIND else ("chain",)
        for tree in trees if server == "root" else [None]:
            cut: Any = make_algorithm(name, spec, d, np.float32, world, server=server, chunk=1, tree=tree)
            sections = len(cut.exchange.up[0])
            if spec in ("identity", "onebit", "uniform:8", "clip:21"):
                assert sections > 1
            if spec.startswith(("topk", "randomk")) or spec in ("onebit:0", "qsgd:8,bucket=33"):
                assert sections == 1
            if name == "csgd" and server == "root":
                # The answer is cut, be the payloads or not.
                assert len(cut.exchange.down[0]) > 1
            assert cut.bytes_per_iteration() == nbytes, (name, spec, server)
            counter = cut.setup.network.counter
            x = run_steps(cut, start_at(d, np.float32), steps)
            assert np.array_equal(x, expected), (name, spec, server, tree)
            assert sum(world.comm.allgather(counter.bytes_sent)) == nbytes * steps


def doublesqueeze_moves_by_what_the_gradients_say() -> None:
    """Σ mean g = Σ p + Ω_T, and y_t = x_t − γΩ_{t−1} makes exact SGD steps, in double precision."""
    world = World()
    comm, lr = world.comm, 0.1
    for spec in COMPRESSORS:
        for d in DIMENSIONS:
            algorithm: Any = make_algorithm("doublesqueeze", spec, d, np.float64, world)
            x = start_at(d, np.float64)
            omega, sum_g, sum_p = np.zeros(d), np.zeros(d), np.zeros(d)
            for t in range(1, 9):
                before, y = x.copy(), x - lr * omega
                mean_g = sum(comm.allgather(step_at(algorithm, x, t, lr))) / world.size
                omega = comm.bcast(algorithm.delta_bar) + sum(comm.allgather(algorithm.delta)) / world.size
                np.testing.assert_allclose(
                    x - lr * omega, y - lr * mean_g, rtol=0, atol=1e-12 * (1 + np.abs(omega).max())
                )
                sum_g += mean_g
                sum_p += (before - x) / lr
            np.testing.assert_allclose(sum_g, sum_p + omega, rtol=0, atol=1e-11 * (1 + np.abs(omega).max()))
            algorithm.close()


def residuals_hold_what_the_payload_does_not() -> None:
    world = World()
    for dtype, spec, d in product((np.float32, np.float64), COMPRESSORS, DIMENSIONS):
        for name in ("memsgd", "doublesqueeze"):
            algorithm: Any = make_algorithm(name, spec, d, dtype, world)
            receiver = make_compressor(spec, dtype)(d, stream(SEED, SHARED) if "shared" in spec else 12345)
            x, decoded = start_at(d, dtype), np.empty(d, dtype)
            for t in range(1, 4):
                g = gradient_at(x, world.rank, t)
                v = g + algorithm.delta
                algorithm.setup.network.iteration = t
                algorithm.step(x, lambda _, g=g: g, 0.1)
                receiver.iteration = t
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
    """A communicator that notes every buffer, and the bytes of every message, that it is handed to send."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.sent: list[int] = []
        self.buffers: list[np.ndarray] = []

    def Allreduce(self, send: Any, receive: Any, op: Any) -> None:  # noqa: N802
        self.buffers.append(receive[0])
        self.comm.Allreduce(send, receive, op)

    def Send_init(self, buffer: Any, dest: int, tag: int) -> SpyRequest:  # noqa: N802
        if tag == UP:
            self.buffers.append(buffer[0])
        assert dest != self.comm.rank
        assert memoryview(buffer[0]).nbytes == buffer[1]
        return SpyRequest(self.comm.Send_init(buffer, dest, tag), self.sent, buffer[1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)


def counted_bytes_are_the_bytes_handed_to_mpi() -> None:
    world = World()
    spy, me, size = Spy(world.comm), world.rank, world.size
    world.comm = spy  # type: ignore[assignment]
    for server, dtype, spec, d in product(SERVERS, (np.float32, np.float64), COMPRESSORS, DIMENSIONS):
        parts = [part.size for part in np.array_split(np.arange(d), size if server == "sharded" else 1)]
        itemsize = np.dtype(dtype).itemsize
        full, c = [itemsize * n for n in parts], [payload_bytes(spec, n, itemsize) if n else 0 for n in parts]
        for name, up, down in (
            ("sgd", full, full),
            ("csgd", c, full),
            ("csgd-double", c, c),
            ("memsgd", c, full),
            ("doublesqueeze", c, c),
        ):
            if server == "sharded" and (dtype == np.float64 or name in ("csgd-double", "memsgd")):
                continue
            compressor = "identity" if name == "sgd" else spec
            algorithm: Any = make_algorithm(name, compressor, d, dtype, world, server=server)
            counter = algorithm.setup.network.counter
            counter.reset()
            spy.sent.clear()
            run_steps(algorithm, start_at(d, dtype), 1)
            tree = Tree(algorithm.schedule.way or "flat", size)
            expected = [up[s] for s in range(len(parts)) if s != me]
            expected += [down[s] for s in range(len(parts)) for _ in tree.children((me - s) % size)]
            assert sorted(spy.sent) == sorted(filter(None, expected)), (name, server, spec, d)
            assert (counter.bytes_sent, counter.messages) == (sum(spy.sent), len(spy.sent))
            received = (size - 1) * up[me] if me < len(parts) else 0
            assert counter.bytes_received == received + sum(down[s] for s in range(len(parts)) if s != me)
            total = sum(spy.comm.allgather(counter.bytes_sent))
            assert total == (size - 1) * (sum(up) + sum(down)) == algorithm.bytes_per_iteration()


def full_vectors_leave_from_the_gradient() -> None:
    """What is sent in full is not copied before, whether a problem has one buffer or a new one each time."""
    world, d, lr = World(), 1031, 0.1
    spy, me = Spy(world.comm), world.rank
    world.comm = spy  # type: ignore[assignment]
    for name, server in (("sgd", "root"), ("sgd", "sharded"), ("allreduce", "root"), ("csgd", "allreduce")):
        algorithm: Any = make_algorithm(name, "identity", d, np.float32, world, server=server, chunk=1024)
        x, expected = start_at(d, np.float32), start_at(d, np.float32)
        kept = np.empty_like(x)
        for t in range(1, 5):
            spy.buffers.clear()
            g = kept if t < 3 else np.empty_like(x)
            g[:] = gradient_at(x, me, t)
            mean = sum(gradient_at(expected, rank, t) for rank in range(world.size)) / np.float32(world.size)
            expected -= np.float32(lr) * mean
            algorithm.setup.network.iteration = t
            algorithm.step(x, lambda _, g=g: g, lr)
            # The agreement of ranks is an all-reduce, too.
            sent = [buffer for buffer in spy.buffers if buffer.nbytes > 64]
            assert all(np.shares_memory(buffer, g) for buffer in sent), (name, server, t)
            bound = t in (1, 3, 4) or "allreduce" in (name, server)
            assert bool(sent) == (bound and world.size > 1 and not (server == "root" and name == "sgd" and not me))
            np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
        algorithm.close()


def allreduce_counts_its_definition() -> None:
    world = World()
    for d in DIMENSIONS:
        algorithm = make_algorithm("allreduce", "identity", d, np.float32, world)
        counter = algorithm.setup.network.counter
        counter.reset()
        run_steps(algorithm, start_at(d, np.float32), 1)
        assert abs(counter.bytes_sent - 2 * (world.size - 1) / world.size * 4 * d) < 1
        assert sum(world.comm.allgather(counter.bytes_sent)) == 2 * (world.size - 1) * 4 * d
        assert counter.bytes_are == ("by definition" if world.size > 1 else "counted")


def an_allreduce_in_messages_is_counted() -> None:
    """On an emulated link the messages are ours. Six ranks fold two in by recursive doubling: 12 vectors, not 10."""
    world = World()
    spy, size = Spy(world.comm), world.size
    world.comm = spy  # type: ignore[assignment]
    for link in ("latency=500us", "bandwidth=100mbit"):
        for d in DIMENSIONS:
            algorithm = make_algorithm("allreduce", "identity", d, np.float32, world, link=link)
            counter = algorithm.setup.network.counter
            counter.reset()
            spy.sent.clear()
            run_steps(algorithm, start_at(d, np.float32), 1)
            assert counter.bytes_are == "counted"
            assert (counter.bytes_sent, counter.messages) == (sum(spy.sent), len(spy.sent))
            total = sum(spy.comm.allgather(counter.bytes_sent))
            assert total == sum(spy.comm.allgather(counter.bytes_received)) == algorithm.bytes_per_iteration()
            assert total >= 2 * (size - 1) * 4 * d
            if size == 6 and link == "latency=500us":
                assert total == (2 * 2 + 4 * 2) * 4 * d


@pytest.mark.parametrize("n", RANKS)
@pytest.mark.parametrize(
    "identity",
    [
        identity_compression_gives_the_iterates_of_sgd,
        every_algorithm_follows_its_equations,
        the_server_of_diana_keeps_the_mean,
        sections_change_no_bit,
        doublesqueeze_moves_by_what_the_gradients_say,
        residuals_hold_what_the_payload_does_not,
        counted_bytes_are_the_bytes_handed_to_mpi,
        full_vectors_leave_from_the_gradient,
        allreduce_counts_its_definition,
        an_allreduce_in_messages_is_counted,
    ],
)
def test_identities(on_ranks: Callable[..., None], identity: Callable[[], None], n: int) -> None:
    on_ranks(n, identity)


def test_folded_ranks_are_counted(on_ranks: Callable[..., None]) -> None:
    on_ranks(6, an_allreduce_in_messages_is_counted)
