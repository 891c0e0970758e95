"""EF21, EF21-BC, DGC, Signum and 1-bit Adam on real ranks: their equations, what they equal, their bytes, and the
numbers that EF21's authors would find."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from parts import (
    DIMENSIONS,
    SEED,
    assert_the_server_keeps_the_mean,
    compressed_by,
    gradient_at,
    make_algorithm,
    make_compressor,
    payload_bytes,
    run_steps,
    start_at,
)
from random_numbers import SERVER, SHARED, WORKER, key_of, stream

from mpisqueeze.comm.world import World
from mpisqueeze.optimizers.adam import Adam
from mpisqueeze.optimizers.base import Recipe

STEPS, LR = 5, 0.1
SERVERS = ["root", "sharded"]
#: Each with the compressors that its equations are tried with.
METHODS = {
    "ef21": ("identity", "onebit", "qsgd:4,bucket=0", "topk:0.3"),
    "ef21-bc": ("identity", "onebit:7,scale=l2", "uniform:5,bucket=64", "topk:0.3"),
    "dgc": ("topk:1", "topk:0.3", "randomk:0.2", "randomk:0.2,unbiased", "randomk:0.3,shared"),
    "dgc:warmup=2": ("topk:0.01", "topk:0.1"),
    "signum": ("onebit:scale=none",),
    "signum:0.5": ("onebit:scale=none",),
    "onebit-adam:freeze=2": ("identity", "onebit", "topk:0.3"),
}
#: `--momentum`, and iterations in an epoch.
BETA, EPOCH = 0.9, 2


def made(name: str, spec: str, d: int, dtype: Any, world: World, **options: Any) -> Any:
    return make_algorithm(name, spec, d, dtype, world, momentum=BETA, per_epoch=EPOCH, **options)


class Ranks:
    """The equations of the algorithms for all ranks in one loop, in single precision, by plain encodes and decodes."""

    def __init__(self, name: str, spec: str, d: int, size: int, where: str) -> None:
        self.name, _, self.option = name.partition(":")
        self.spec, self.size = spec, size
        self.parts = [part for part in np.array_split(np.arange(d), size if where == "sharded" else 1) if part.size]
        self.zeros = lambda *shape: np.zeros((*shape, d), np.float32)

    def c(self, v: np.ndarray, role: int, rank: int, t: int, spec: str | None = None) -> np.ndarray:
        result = np.empty_like(v)
        role, rank = (SHARED, 0) if self.spec.endswith(",shared") else (role, rank)
        for s, part in enumerate(self.parts):
            compressor = make_compressor(spec or self.spec, np.float32)(part.size, 0)
            result[part] = compressed_by(compressor, v[part], key_of(stream(SEED, role, rank, s), t))
        return result

    def mean(self, vectors: list[np.ndarray]) -> np.ndarray:
        total = vectors[0].copy()
        for vector in vectors[1:]:
            total += vector
        return total / np.float32(self.size)

    def iterates(self) -> np.ndarray:
        x, step = start_at(self.zeros().size, np.float32), getattr(self, self.name.replace("-", "_"))()
        for t in range(1, STEPS + 1):
            x = step([gradient_at(x, r, t) for r in range(self.size)], x, t)
        return x

    def ef21(self, both: bool = False) -> Callable[..., np.ndarray]:
        h, total, w = self.zeros(self.size), self.zeros(), self.zeros()

        def step(g: list[np.ndarray], x: np.ndarray, t: int) -> np.ndarray:
            nonlocal total, w
            sent = [g[r] - h[r] if t == 1 else self.c(g[r] - h[r], WORKER, r, t) for r in range(self.size)]
            for r, c in enumerate(sent):
                h[r] += c
            total = total + self.mean(sent)
            w = w + self.c(total - w, SERVER, 0, t) if both and t > 1 else total
            return x - np.float32(LR) * w

        return step

    def ef21_bc(self) -> Callable[..., np.ndarray]:
        return self.ef21(both=True)

    def dgc(self) -> Callable[..., np.ndarray]:
        u, v = self.zeros(self.size), self.zeros(self.size)

        def step(g: list[np.ndarray], x: np.ndarray, t: int) -> np.ndarray:
            sent = []
            ratio = self.spec.partition(":")[2]
            if self.option and t <= 2 * EPOCH:
                ratio = str(max(float(ratio), (0.25, 0.063)[(t - 1) // EPOCH]))
            for r in range(self.size):
                u[r] = np.float32(BETA) * u[r] + g[r]
                v[r] = v[r] + u[r]
                sent.append(self.c(v[r], WORKER, r, t, f"{self.spec.partition(':')[0]}:{ratio}"))
                u[r][sent[r] != 0] = v[r][sent[r] != 0] = 0
            return x - np.float32(LR) * self.mean(sent)

        return step

    def signum(self) -> Callable[..., np.ndarray]:
        m, beta = self.zeros(self.size), float(self.option or 0.9)

        def step(g: list[np.ndarray], x: np.ndarray, t: int) -> np.ndarray:
            for r in range(self.size):
                m[r] = np.float32(beta) * m[r] + np.float32(1 - beta) * g[r]
            negative = (m < 0).sum(axis=0)
            return x - np.float32(LR) * np.where(2 * negative > self.size, -1, 1).astype(np.float32)

        return step

    def onebit_adam(self) -> Callable[..., np.ndarray]:
        m, v, delta, delta_bar = self.zeros(), self.zeros(), self.zeros(self.size), self.zeros()
        f, freeze = np.float32, 2

        def step(g: list[np.ndarray], x: np.ndarray, t: int) -> np.ndarray:
            nonlocal m, v, delta_bar
            if t <= freeze:
                p = self.mean(g)
                m, v = f(0.9) * m + f(1 - 0.9) * p, f(0.999) * v + f(1 - 0.999) * (p * p)
            else:
                sent = []
                for r in range(self.size):
                    held = f(0.9) * m + f(1 - 0.9) * g[r] + delta[r]
                    sent.append(self.c(held, WORKER, r, t))
                    delta[r] = held - sent[r]
                held = self.mean(sent) + delta_bar
                m = self.c(held, SERVER, 0, t)
                delta_bar = held - m
            root = f(1 / np.sqrt(1 - 0.999 ** min(t, freeze)))
            return x - f(LR / (1 - 0.9**t)) * m / (root * np.sqrt(v) + f(1e-8))

        return step


def each_follows_its_equations(world: World) -> None:
    for name, server, d in product(METHODS, SERVERS, DIMENSIONS[::2]):
        for spec in METHODS[name]:
            x = run_steps(made(name, spec, d, np.float32, world, server=server), start_at(d, np.float32), STEPS)
            expected = world.on_root(Ranks(name, spec, d, world.size, server).iterates)
            assert np.array_equal(x, expected), (name, spec, d, server)


def each_has_its_identity(world: World) -> None:
    """EF21 with identity is SGD to rounding, DGC of all elements plain SGD, 1-bit Adam that never freezes Adam."""
    for dtype, d, server in product((np.float32, np.float64), DIMENSIONS[1:], SERVERS):
        sgd = run_steps(made("sgd", "identity", d, dtype, world, server=server), start_at(d, dtype), STEPS)
        for name in ("ef21", "ef21-bc"):
            x = run_steps(made(name, "identity", d, dtype, world, server=server), start_at(d, dtype), STEPS)
            np.testing.assert_allclose(x, sgd, rtol=100 * np.finfo(dtype).eps, atol=100 * np.finfo(dtype).eps)
        x = run_steps(made("dgc:warmup=1", "topk:1", d, dtype, world, server=server), start_at(d, dtype), STEPS)
        assert np.array_equal(x, sgd)
        adam = Adam(d, np, np.dtype(dtype), Recipe())
        whole = made("sgd", "identity", d, dtype, world, server=server, optimizer=adam)
        expected = start_at(d, dtype)
        for t in range(1, STEPS + 1):
            adam.begin()
            whole.setup.network.iteration = t
            g = gradient_at(expected, world.rank, t)
            whole.step(expected, lambda _, g=g: g, LR)
        whole.close()
        name = f"onebit-adam:freeze={STEPS}"
        x = run_steps(made(name, "onebit", d, dtype, world, server=server), start_at(d, dtype), STEPS)
        assert np.array_equal(x, expected)


def the_server_keeps_the_mean(world: World) -> None:
    """EF21's g is mean g_i after every iteration, to rounding, whatever C is; all ranks have EF21-BC's w."""
    d = 1031
    for name, spec, server in product(("ef21", "ef21-bc"), ("onebit", "qsgd:4,bucket=0", "topk:0.01", "fp16"), SERVERS):
        algorithm = made(name, spec, d, np.float64, world, server=server, chunk=1024)
        run_steps(algorithm, start_at(d, np.float64), 4)
        assert_the_server_keeps_the_mean(algorithm, (name, spec, server))
        if name == "ef21-bc":
            assert all(np.array_equal(algorithm.w, w) for w in world.comm.allgather(algorithm.w))


def bytes_are_those_of_the_formulas(world: World) -> None:
    """Over all ranks, in each iteration; those of a steady state are the ones that are told beforehand."""
    d, n = 1031, world.size
    for server, itemsize in product(SERVERS, (4, 8)):
        dtype = {4: np.float32, 8: np.float64}[itemsize]
        parts = [part.size for part in np.array_split(np.arange(d), n if server == "sharded" else 1)]

        def sent(spec: str, parts: list[int] = parts, itemsize: int = itemsize) -> int:
            return sum(payload_bytes(spec, part, itemsize) for part in parts)

        full, c, bits = itemsize * d, sent("topk:0.01"), sum(-(-part // 8) for part in parts)
        for name, spec, expected in (
            ("ef21", "topk:0.01", [2 * full] + 4 * [c + full]),
            ("ef21-bc", "topk:0.01", [2 * full] + 4 * [2 * c]),
            ("dgc", "topk:0.01", 5 * [c + full]),
            ("dgc:warmup=2", "topk:0.01", [sent(f"topk:{r}") + full for r in (0.25, 0.25, 0.063, 0.063, 0.01)]),
            ("signum", "onebit:scale=none", 5 * [2 * bits]),
            ("onebit-adam:freeze=3", "topk:0.01", 3 * [2 * full] + 2 * [2 * c]),
        ):
            algorithm = made(name, spec, d, dtype, world, server=server)
            counter, x, found = algorithm.setup.network.counter, start_at(d, dtype), []
            for t in range(1, STEPS + 1):
                counter.reset()
                algorithm.setup.network.iteration = t
                algorithm.step(x, lambda point, t=t: gradient_at(point, world.rank, t), LR)
                found.append(sum(world.comm.allgather(counter.bytes_sent)))
            assert found == [(n - 1) * nbytes for nbytes in expected], (name, server)
            assert algorithm.bytes_per_iteration() == found[-1]
            algorithm.close()


#: Data of the shape of LIBSVM's mushrooms: 22 features with so many values each, one of which holds in a sample.
SAMPLES, VALUES = 8124, (6, 4, 10, 2, 9, 2, 2, 2, 12, 2, 4, 4, 4, 9, 9, 4, 3, 5, 5, 6, 2, 6)
PENALTY = 0.1


def ranks_data(rank: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(A, y) of a rank, the samples in the order of their labels, as in the authors' experiments, which are uneven."""
    rng = np.random.default_rng(7)
    columns = [np.eye(n)[rng.choice(n, SAMPLES, p=rng.dirichlet(np.ones(n)))] for n in VALUES]
    a = np.concatenate(columns, axis=1)
    y = np.where(a @ rng.standard_normal(a.shape[1]) + rng.standard_normal(SAMPLES) > 0, 1.0, -1.0)
    order = np.array_split(np.argsort(y, kind="stable"), size)[rank]
    return a[order], y[order]


def logistic_gradient(x: np.ndarray, a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """∇ of mean log(1 + exp(−y aᵀx)) + λ Σ x²/(1 + x²), the problem of arXiv 2106.05203, §5."""
    weights = -y / (1 + np.exp(y * (a @ x)))
    return a.T @ weights / len(y) + PENALTY * 2 * x / (1 + x * x) ** 2


def largest(v: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(v)
    indices = np.argsort(-np.abs(v), kind="stable")[:k]
    kept[indices] = v[indices]
    return kept


def authors_numbers(name: str, data: list[tuple[np.ndarray, np.ndarray]], lr: float, steps: int, k: int) -> np.ndarray:
    """x after the updates of EF21, EF21-BC or EF as their authors write them, for all workers in one array."""
    x = np.zeros(data[0][0].shape[1])
    gradients = np.array([logistic_gradient(x, *own) for own in data])
    if name == "memsgd:lr=inside":
        error = np.zeros_like(gradients)
        for _ in range(steps):
            gradients = np.array([logistic_gradient(x, *own) for own in data])
            sent = np.array([largest(e + lr * g, k) for e, g in zip(error, gradients, strict=True)])
            error += lr * gradients - sent
            x = x - sent.mean(axis=0)
        return x
    held, w = gradients, gradients.mean(axis=0)
    for step in range(steps):
        x = x - lr * w
        if step < steps - 1:
            gradients = np.array([logistic_gradient(x, *own) for own in data])
            held = held + np.array([largest(d, k) for d in gradients - held])
            mean = held.mean(axis=0)
            w = w + largest(mean - w, k) if name == "ef21-bc" else mean
    return x


def numbers_are_the_authors(world: World) -> None:
    """EF21, EF21-BC and Stich's EF on logistic regression with the authors' nonconvex regulariser, top-4 of 112."""
    steps, k, lr, left = 120, 4, 0.5, {}
    data = [ranks_data(rank, world.size) for rank in range(world.size)]
    own, d = data[world.rank], sum(VALUES)

    def norm(x: np.ndarray) -> float:
        return float(np.linalg.norm(np.mean([logistic_gradient(x, *part) for part in data], axis=0)))

    for name in ("ef21", "ef21-bc", "memsgd:lr=inside"):
        algorithm: Any = make_algorithm(name, f"topk:{k / d}", d, np.float64, world)
        assert algorithm.codec.compressor.k == k
        x = np.zeros(d)
        for t in range(1, steps + 1):
            algorithm.setup.network.iteration = t
            algorithm.step(x, lambda point: logistic_gradient(point, *own), lr)
        algorithm.close()
        expected = world.on_root(partial(authors_numbers, name, data, lr, steps, k))
        np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-11, err_msg=name)
        left[name] = norm(x) / norm(np.zeros(d))
    # What the papers show: on ranks with different data, error feedback with a constant γ stays away from the minimum.
    assert left["ef21"] < 0.01 < left["ef21-bc"] < 0.1 < 0.3 < left["memsgd:lr=inside"], left


def everything() -> None:
    world = World()
    each_follows_its_equations(world)
    each_has_its_identity(world)
    the_server_keeps_the_mean(world)
    bytes_are_those_of_the_formulas(world)
    if world.size == 4:
        numbers_are_the_authors(world)


@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow), 3, 4])
def test_on_ranks(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, everything)
