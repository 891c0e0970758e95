"""PowerSGD on real ranks: its identities, its equations with NumPy's QR, its bytes, and torch's hook."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parts import gradient_at, make_algorithm, run_steps, start_at, step_at

from mpisqueeze.algorithms.powersgd import Bases, PowerSGD
from mpisqueeze.comm.world import World
from mpisqueeze.costs.exchanges import allreduce
from mpisqueeze.costs.link import Link
from mpisqueeze.devices.device import CudaDevice
from mpisqueeze.modelling.methods import Method
from mpisqueeze.parts import registry

Run = Callable[..., Any]
#: Matrices of 7 × 9 and 5 × 8, and what travels in full.
SHAPES = [(7, 9), (3,), (5, 2, 4), (), (2, 2)]
MATRICES = [(slice(0, 63), (7, 9)), (slice(66, 106), (5, 8))]
REST = [*range(63, 66), *range(106, 111)]
D, LR = 111, 0.1


def some_ranks() -> Iterator[World]:
    """The first 1, 2, 3 and 4 ranks, on those that take part."""
    everyone = World()
    for size in range(1, everyone.size + 1):
        part = everyone.first(size)
        if part is not None:
            yield part


def powersgd(rank: int, world: World, dtype: Any = np.float64, shapes: Any = SHAPES, d: int = D, **more: Any) -> Any:
    return make_algorithm(f"powersgd:{rank}", "identity", d, dtype, world, shapes=shapes, **more)


def mean_of(world: World, vector: np.ndarray) -> np.ndarray:
    return np.mean(world.comm.allgather(vector), axis=0)


def what_is_lost_is_remembered() -> None:
    """mean e + ĝ = mean(g + e before) with any rank; x is the same on all, and the equations are those of the paper."""
    for world in some_ranks():
        for rank in (1, 3):
            algorithm = powersgd(rank, world)
            x, serial = start_at(D, np.float64), Serial(algorithm, world.size)
            before = np.zeros(D)
            for t in range(1, 5):
                start, g = x.copy(), step_at(algorithm, x, t, LR)
                everyone = world.comm.allgather(np.array([g, algorithm.e, x]))
                gradients, memories, points = np.array(everyone).swapaxes(0, 1)
                lost, moved = memories.mean(axis=0), (start - x) / LR
                np.testing.assert_allclose(lost + moved, gradients.mean(axis=0) + before, rtol=0, atol=1e-12)
                assert (points == x).all()
                before = lost
                serial.step(t)
                np.testing.assert_allclose(x, serial.x, rtol=0, atol=1e-10)
                np.testing.assert_allclose(algorithm.e, serial.e[world.rank], rtol=0, atol=1e-9)
                assert not algorithm.e[REST].any()
            algorithm.close()


class Serial:
    """The equations for all ranks in one loop, with NumPy's QR."""

    def __init__(self, algorithm: Any, size: int) -> None:
        self.x, self.e = start_at(D, np.float64), np.zeros((size, D))
        ends = np.cumsum([shape[1] for _, shape in MATRICES])[:-1]
        self.q = [q.T.copy() for q in np.split(algorithm.q, ends, axis=1)]

    def step(self, t: int) -> None:
        self.e += [gradient_at(self.x, rank, t) for rank in range(len(self.e))]
        moved = self.e.mean(axis=0)
        self.e[:, REST] = 0
        for k, (span, shape) in enumerate(MATRICES):
            matrices = [m[span].reshape(shape) for m in self.e]
            p = np.linalg.qr(sum(m @ self.q[k] for m in matrices))[0]
            self.q[k] = np.mean([m.T @ p for m in matrices], axis=0)
            moved[span] = (p @ self.q[k].T).ravel()
            self.e[:, span] -= moved[span]
        self.x = self.x - LR * moved


def full_rank_is_the_mean() -> None:
    """Nothing would get shorter, so that all goes in full. Of gradients of rank 1, P of rank 1 holds all."""
    for world in some_ranks():
        for dtype, near in ((np.float32, 1e-5), (np.float64, 1e-13)):
            whole = powersgd(7, world, dtype)
            expected = run_steps(make_algorithm("allreduce", "identity", D, dtype, world), start_at(D, dtype), 4)
            np.testing.assert_allclose(run_steps(whole, start_at(D, dtype), 4), expected, rtol=0, atol=near)
            assert not whole.residual().any()
            assert whole.doubts() == [
                "no parameter gets shorter as a product, so that powersgd:7 sends everything in full, as allreduce does"
            ]

            low = powersgd(1, world, dtype)
            x, columns = np.zeros(D, dtype), np.random.default_rng(5).standard_normal(7)
            rows = np.random.default_rng(6).standard_normal((world.size, 9))
            g = np.zeros(D, dtype)
            g[:63] = np.outer(columns, rows[world.rank]).ravel()
            low.setup.network.iteration = 1
            low.step(x, lambda _, g=g: g, 1.0)
            mean = np.outer(columns, rows.mean(axis=0)).ravel()
            np.testing.assert_allclose(-x[:63], mean, rtol=0, atol=near)
            np.testing.assert_allclose(mean_of(world, low.e), 0, atol=near)


def a_gradient_of_zeros_leaves_directions() -> None:
    """After Q = 0 the next gradients arrive all the same, two of their directions in each iteration."""
    world = World()
    algorithm, x = powersgd(2, world), np.zeros(D)
    g = np.random.default_rng([4, world.rank]).standard_normal(D)
    for t in range(1, 9):
        algorithm.setup.network.iteration = t
        algorithm.step(x, lambda _, g=g * (1 < t < 4): g, 1.0)
        assert bool(np.linalg.norm(mean_of(world, algorithm.e)) > 1e-6) == (1 < t < 6)
    np.testing.assert_allclose(-x, 2 * mean_of(world, g), rtol=0, atol=1e-9)


def bytes_are_those_of_the_definition() -> None:
    for world in some_ranks():
        # With rank 3 the second matrix has 39 elements in place of 40, and with rank 4 it goes in full.
        for rank, elements in ((1, 16 + 13 + 8), (2, 2 * (16 + 13) + 8), (3, 3 * (16 + 13) + 8), (4, 63 + 40 + 8)):
            for link in (None, "bandwidth=1gbit") if rank == 2 else (None,):
                algorithm = powersgd(rank, world, np.float32, link=link)
                counter = algorithm.setup.network.counter
                counter.reset()
                run_steps(algorithm, start_at(D, np.float32), 2)
                total, size = sum(world.comm.allgather(counter.bytes_sent)), world.size
                assert total == 2 * algorithm.bytes_per_iteration()
                assert algorithm.payload_bytes == 4 * elements
                assert counter.bytes_are == ("by definition" if size > 1 and not link else "counted")
                if link is None:
                    assert total == 2 * 2 * (size - 1) * 4 * elements
                    assert abs(counter.bytes_sent - total / size) < 4
                    assert counter.messages == 2 * 2 * (size - 1) * (1 if rank == 4 else 2)
                else:
                    assert total >= 2 * 2 * (size - 1) * 4 * elements


def a_nan_is_found_by_all() -> None:
    for world in some_ranks():
        for place in (5, 64):
            algorithm, x = powersgd(2, world, np.float32), np.zeros(D, np.float32)
            g = np.ones(D, np.float32)
            if world.rank == world.size - 1:
                g[place] = np.nan
            algorithm.setup.network.iteration = 1
            algorithm.step(x, lambda _, g=g: g, 1.0)
            trouble = algorithm.setup.network.trouble
            assert trouble is not None
            assert "the answer to all ranks' gradients holds a NaN" in trouble.message


def identities() -> None:
    what_is_lost_is_remembered()
    full_rank_is_the_mean()
    a_gradient_of_zeros_leaves_directions()
    bytes_are_those_of_the_definition()
    a_nan_is_found_by_all()


def resnet18() -> Iterator[tuple[int, ...]]:
    """The shapes of ResNet-18 for CIFAR-10, by its architecture: batch norm's two vectors follow each convolution."""
    channels = 64
    convolutions = [(channels, 3, 3)]
    for width in (64, 128, 256, 512):
        shortcut = [(width, channels, 1)] * (channels != width)
        convolutions += [(width, channels, 3), (width, width, 3), *shortcut, *[(width, width, 3)] * 2]
        channels = width
    for outputs, inputs, side in convolutions:
        yield from ((outputs, inputs, side, side), (outputs,), (outputs,))
    yield from ((10, channels), (10,))


def test_elements_of_resnet18_are_the_papers() -> None:
    """Its Table 3 has 136, 72 … times fewer; what goes in full is included."""
    shapes = list(resnet18())
    assert sum(map(math.prod, shapes)) == 11_173_962
    assert sum(shape[0] for shape in shapes if len(shape) == 1) == 9_610
    assert [sum(PowerSGD.summed(shapes, rank=rank)) for rank in (1, 2, 4)] == [45_935, 82_260, 154_910]


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("dependent", [0, 1, 3, 4])
def test_rows_become_orthonormal_whatever_they_were(scale: float, dependent: int) -> None:
    """Rows of zeros, rows that are others' multiples, and rows that almost are."""
    rng, lengths = np.random.default_rng(dependent), (5, 37, 400)
    for noise in (0.0, 1e-9, 1e-3):
        rows = rng.standard_normal((4, sum(lengths)))
        rows[4 - dependent :] = rng.standard_normal((dependent, 1)) * rows[0] * (dependent < 4)
        rows += noise * rng.standard_normal(rows.shape)
        rows = (scale * rows).astype(np.float32)
        matrices = np.split(rows, np.cumsum(lengths)[:-1], axis=1)
        Bases(np, 4, lengths, rows.dtype).orthonormalise(rows, matrices)
        for matrix in matrices:
            assert np.abs(matrix.astype(float) @ matrix.T.astype(float) - np.eye(4)).max() < 2e-6


def test_predict_counts_what_a_run_sends() -> None:
    method = Method.of(registry.algorithms.find("powersgd:2"), registry.compressors.find("identity"), "root", "ring")
    link = Link(20e-6, 0.0, 8e-9)
    traffic = method.traffic(4, 11_173_962, "float32", list(resnet18()))
    assert (traffic.up, traffic.total) == (4 * 82_260, 2 * 3 * 4 * 82_260)
    sums = [allreduce(link, 4, 4 * elements) for elements in PowerSGD.summed(list(resnet18()), rank=2)]
    found = traffic.cost(link)
    assert found.seconds == pytest.approx(sum(schedule.seconds for schedule in sums))
    assert found.port_bytes == pytest.approx(2 * 3 / 4 * 4 * 82_260)
    # Where nobody tells the shapes, they are taken to be about as here.
    assert method.traffic(4, 11_173_962, "float32").up == pytest.approx(traffic.up, rel=0.12)


def test_identities_hold_on_one_to_four_ranks(on_ranks: Callable[..., None]) -> None:
    on_ranks(4, identities)


def as_torchs_hook(port: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as hooks

    world = World()
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=world.rank, world_size=world.size)
    n, m, rank = 33, 48, 2
    state = hooks.PowerSGDState(None, rank, start_powerSGD_iter=2)
    state.iter = 2
    # The seed of its first Q is the first that its own generator draws.
    seed = np.random.RandomState(0).randint(1_000_000_000)
    torch.manual_seed(seed)
    q = torch.randn(m, rank)
    algorithm = powersgd(rank, world, np.float32, [(n, m)], n * m)
    algorithm.q[:] = q.T.numpy()
    x = np.zeros(n * m, np.float32)
    for t in range(1, 6):
        g = gradient_at(np.zeros_like(x), world.rank, t)
        theirs = torch.from_numpy(g.copy())
        bucket = SimpleNamespace(
            buffer=lambda b=theirs: b, index=lambda: 0, gradients=lambda b=theirs: [b.view(n, m)], is_last=lambda: True
        )
        hooks.powerSGD_hook(state, bucket).wait()
        before = x.copy()
        algorithm.setup.network.iteration = t
        algorithm.step(x, lambda _, g=g: g, 1.0)
        np.testing.assert_allclose(before - x, theirs.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(algorithm.e, state.error_dict[0].numpy(), rtol=0, atol=1e-5)
    dist.destroy_process_group()


def test_torchs_hook_gives_the_same(on_ranks: Callable[..., None]) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    import socket

    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    on_ranks(2, as_torchs_hook, port, alone=True)


def on_a_gpu(aware: bool) -> None:
    """To rounding, since its matrices are not cut into blocks, and CuPy has a BLAS of its own."""
    world, shapes, d = World(), [(20, 90), (7,)], 1807
    host = run_steps(powersgd(2, world, np.float32, shapes, d), start_at(d, np.float32), 3)
    device = CudaDevice(0, aware, "a test")
    algorithm = powersgd(2, world, np.float32, shapes, d, device=device)
    x = run_steps(algorithm, device.xp.asarray(start_at(d, np.float32)), 3)
    assert isinstance(x, device.xp.ndarray)
    np.testing.assert_allclose(x.get(), host, rtol=0, atol=1e-5)


def test_it_runs_on_a_gpu(on_ranks: Callable[..., None], cuda_variables: dict[str, str]) -> None:
    on_ranks(2, on_a_gpu, False, timeout=300, **cuda_variables)


def test_a_run_goes_on_to_the_bit(mpisqueeze_run: Run, tmp_path: Path) -> None:
    from test_checkpoint import same_runs, whole_and_part

    options = ("--algorithm", "powersgd:1", "--problem", "mlp:9x7", "--momentum", "0.5")
    same_runs(*whole_and_part(mpisqueeze_run, tmp_path, 3, *options, last=19, saved=12))


@pytest.mark.parametrize(
    ("algorithm", "problem", "code", "says"),
    [
        ("powersgd", "quadratic:101", 0, "the problem tells no shapes, so that powersgd:2 sends everything in full"),
        ("powersgd:0", "mlp", 2, "powersgd:0: rank must be a whole number ≥ 1"),
        ("powersgd/onebit", "mlp", 2, "powersgd"),
    ],
)
def test_what_it_cannot_do_is_said(mpisqueeze_run: Run, algorithm: str, problem: str, code: int, says: str) -> None:
    finished = mpisqueeze_run(2, "train", algorithm, "--problem", problem, "--iterations", "3", "--out", "run")
    assert finished.code == code, finished.err
    assert says in " ".join((finished.err if code else finished.out).split())
    assert not code or finished.err.count("\n") == 1
