"""The optimizers: the bits of their kernels, torch's steps and their equations; weight decay; schedules."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from kernel_cases import DTYPES
from mpi4py import MPI
from parts import make_algorithm, start_at, stepping

from mpisqueeze.comm.world import World
from mpisqueeze.compressors.base import NonFiniteError
from mpisqueeze.kernels import kernels_for
from mpisqueeze.kernels.reference import ReferenceKernels
from mpisqueeze.optimizers.base import Optimizer, Recipe
from mpisqueeze.optimizers.decay import Decay, matrices
from mpisqueeze.parts import registry
from mpisqueeze.parts.allocation import DIMENSION, excess
from mpisqueeze.runs.schedule import parse_schedule

try:
    from mpisqueeze.kernels import _native
    from mpisqueeze.kernels.native import NativeKernels
except ImportError:
    _native = None

STEPS, LR = 20, 0.05
RECIPES = {
    "sgd": Recipe(),
    "sgd momentum": Recipe(momentum=0.9),
    "sgd Nesterov": Recipe(momentum=0.9, nesterov=True),
    "adam": Recipe(betas=(0.8, 0.95), eps=1e-6),
    "adamw": Recipe(betas=(0.8, 0.95), eps=1e-6),
}
each_recipe = pytest.mark.parametrize("name", RECIPES)


def make(name: str, d: int, dtype: Any = np.float64, decay: Decay | None = None, **recipe: Any) -> Optimizer:
    cls = registry.optimizers.find(name.split()[0]).cls
    made: Optimizer = cls(d, np, dtype, Recipe(**{**vars(RECIPES[name]), "decay": decay, **recipe}))
    return made


def gradients(d: int, dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(d).astype(dtype) for _ in range(STEPS)]


# -- kernels

#: A kernel with the number of its memories and the numbers that it takes, scale first and then decay.
KERNELS = (
    ("momentum_step", 1, (1 / 3, 0.0, 0.1, 0.9, False)),
    ("momentum_step", 1, (1.0, 1e-2, 0.1, 0.9, True)),
    ("adam_step", 2, (1 / 3, 0.0, 0.3, 0.99, 0.9, 0.999, 7.0, 1e-8)),
    ("adam_step", 2, (1.0, 1e-2, 0.3, 1.0, 0.8, 0.95, 1.5, 1e-3)),
)


def stepped(kernels: Any, case: tuple[Any, ...], vectors: list[np.ndarray], moves: bool, xp: Any = np) -> list[Any]:
    """Two steps from copies of p, the memories and x: whether all was finite, and the bytes of each vector.

    The vectors begin off a boundary of 16 bytes.
    """
    kernel, memories, numbers = case
    padded = (np.concatenate([vector[:1], vector]) for vector in vectors[: memories + 1] + vectors[3:])
    *given, x = (xp.asarray(vector)[1:] for vector in padded)
    good = [getattr(kernels, kernel)(*given, x if moves else None, *numbers) for _ in range(2)]
    host = [vector if xp is np else vector.get() for vector in (*given, x)]
    return [good, *(vector.tobytes() for vector in host)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_set_steps_to_the_same_bits(cuda: Any, dtype: np.dtype[Any]) -> None:
    from mpisqueeze.kernels.cuda import CudaKernels

    sets = [("cuda", CudaKernels(dtype), cuda)]
    sets += [(level, NativeKernels(dtype), np) for level in _native.instruction_sets()] if _native else []
    for case, d, moves in itertools.product(KERNELS, (1, 7, 4099), (True, False)):
        rng = np.random.default_rng(d)
        vectors = [rng.standard_normal(d).astype(dtype) for _ in range(4)]
        vectors[2] **= 2  # Adam's mean of squares
        expected = stepped(ReferenceKernels(dtype), case, vectors, moves)
        assert expected[0] == [True, True]
        assert (expected[-1] == vectors[3].tobytes()) is not moves
        assert (expected[1] == vectors[0].tobytes()) is moves
        for name, kernels, xp in sets:
            if xp is np:
                _native.use_instruction_set(name)
            assert stepped(kernels, case, vectors, moves, xp) == expected, (name, case, d)
        vectors[0][d // 2] = np.nan
        for name, kernels, xp in sets:
            assert stepped(kernels, case, vectors, moves, xp)[0][0] is False, (name, case, d)
    if _native:
        _native.use_instruction_set(_native.instruction_sets()[-1])


def test_native_steps_refuse_vectors_that_do_not_fit() -> None:
    if _native is None:
        pytest.skip("the native kernels were not built")
    p, u = np.zeros(4), np.zeros(4)
    for wrong in (np.zeros(3), np.zeros(4, np.float32)):
        with pytest.raises(ValueError, match="x must have the length and dtype of p"):
            _native.momentum_step(p, u, wrong, 1.0, 0.0, 0.1, 0.9, False)
    with pytest.raises(TypeError, match="expected 8 arguments"):
        _native.momentum_step(p, u, None)


# -- steps


def by_equations(name: str, x: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """x after STEPS steps with the rate `decay` for each element."""
    recipe = RECIPES[name]
    (b1, b2), u, m, v = recipe.betas, 0 * x, 0 * x, 0 * x
    for t, g in enumerate(gradients(x.size), 1):
        if name == "adamw":
            x = x - LR * decay * x
        else:
            g = g + decay * x
        if name.startswith("sgd"):
            u = recipe.momentum * u + g
            x = x - LR * (g + recipe.momentum * u if recipe.nesterov else u)
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            x = x - LR * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + recipe.eps)
    return x


def by_torch(name: str, x: np.ndarray, decay: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    recipe, parameters = RECIPES[name], [torch.nn.Parameter(torch.tensor([value])) for value in x]
    groups = [{"params": [one], "weight_decay": rate} for one, rate in zip(parameters, decay, strict=True)]
    if name.startswith("sgd"):
        made = torch.optim.SGD(groups, lr=LR, momentum=recipe.momentum, nesterov=recipe.nesterov)
    else:
        cls = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        made = cls(groups, lr=LR, betas=recipe.betas, eps=recipe.eps)
    for g in gradients(x.size):
        for one, value in zip(parameters, g, strict=True):
            one.grad = torch.tensor([value])
        made.step()
    return np.array([one.item() for one in parameters])


@pytest.mark.parametrize("reference", [by_equations, by_torch])
@each_recipe
def test_steps_are_those_of_the_equations_and_of_torch(name: str, reference: Any) -> None:
    """With weight decay on some of the elements."""
    d, rates = 11, np.zeros(11)
    rates[2:5] = rates[7:] = 0.3
    x = start_at(d, np.float64)
    expected = reference(name, x.copy(), rates)
    # Plain SGD leaves weight decay to the gradient.
    optimizer = make(name, d, decay=None if name == "sgd" else Decay(0.3, [slice(2, 5), slice(7, 11)]))
    for p in gradients(d):
        given = p + rates * x if name == "sgd" else p.copy()
        optimizer.step(x, given, LR)
        assert name == "sgd" or np.array_equal(given, p)
    np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-9)


@each_recipe
def test_a_step_in_ranges_is_the_step_of_the_whole_to_the_bit(name: str) -> None:
    d = 1000
    decay = None if name == "sgd" else Decay(0.1, [slice(3, 400), slice(555, 556)])
    whole, parts = make(name, d, np.float32, decay), make(name, d, np.float32, decay)
    x, y = start_at(d, np.float32), start_at(d, np.float32)
    for p in gradients(d, np.float32)[:4]:
        whole.step(x, p, LR)
        parts.begin()
        for start, stop in ((500, 777), (777, 1000), (0, 500)):
            parts.move(y[start:stop], p[start:stop], LR, start)
        assert parts.moved == d
        assert x.tobytes() == y.tobytes()


@each_recipe
def test_a_turned_gradient_is_the_step(name: str) -> None:
    """x − γs with s of `turn` is x after `step`, and a sum of count directions steps as their mean."""
    d = 33
    steps, turns = make(name, d), make(name, d)
    x, y = start_at(d, np.float64), start_at(d, np.float64)
    for p in gradients(d)[:5]:
        steps.begin()
        steps.move(x, 4 * p, LR, count=4)
        turns.begin()
        turns.turn(p)
        y -= LR * p
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@each_recipe
def test_a_direction_that_is_not_finite_is_told(name: str) -> None:
    optimizer, p = make(name, 9), np.ones(9)
    p[4] = math.inf
    with pytest.raises(NonFiniteError):
        optimizer.step(np.zeros(9), p, LR)


@pytest.mark.parametrize("algorithm", ["sgd", "doublesqueeze", "allreduce"])
@pytest.mark.parametrize("name", ["sgd Nesterov", "adamw"])
def test_a_step_along_an_answer_allocates_nothing_of_the_vectors_size(name: str, algorithm: str) -> None:
    if kernels_for(np, np.float32).name == "numpy":
        pytest.skip("NumPy's fallback allocates tiles")
    spec = "onebit" if algorithm == "doublesqueeze" else "identity"
    optimizer = make(name, DIMENSION, np.float32, Decay(0.1, [slice(0, DIMENSION // 2)]))
    made: Any = make_algorithm(algorithm, spec, DIMENSION, np.float32, World(MPI.COMM_SELF), optimizer=optimizer)
    step = stepping(made, DIMENSION, np.float32)

    def begin_and_step(t: int) -> None:
        optimizer.begin()
        step(t)

    assert not excess(begin_and_step, 4 * DIMENSION)


# -- weight decay and schedules


def test_matrices_are_the_parameters_of_two_dimensions_and_more() -> None:
    assert matrices([(2, 3), (3,), (4, 1, 2), (2, 2), (), (5,)]) == [slice(0, 6), slice(9, 21)]
    assert matrices([(7,), (0, 3)]) == []
    decay = Decay(0.1, [slice(2, 5), slice(7, 9)])
    assert decay.pieces(0, 10) == [
        (slice(0, 2), 0.0), (slice(2, 5), 0.1), (slice(5, 7), 0.0), (slice(7, 9), 0.1), (slice(9, 10), 0.0),
    ]  # fmt: skip
    assert decay.pieces(3, 5) == [(slice(3, 5), 0.1)]
    assert decay.pieces(5, 7) == [(slice(5, 7), 0.0)]
    assert Decay(0.2).pieces(4, 6) == [(slice(4, 6), 0.2)]


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("constant", [1] * 8),
        ("constant,warmup=1", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("step:1:0.5,warmup=0.5", [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
        ("milestones:0.5,1.5:0.1", [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ("milestones:1:0.1,warmup=1.5", [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 60, 0.1, 0.1, 0.1]),
        ("cosine", [(1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]),
        ("cosine,warmup=1", [0.25, 0.5, 0.75, 1, *((1 + math.cos(math.pi * t / 4)) / 2 for t in range(4))]),
    ],
)
def test_schedules(text: str, factors: list[float]) -> None:
    """Two epochs of four iterations."""
    schedule = parse_schedule(text)
    assert [schedule(t, 8, 4) for t in range(1, 9)] == pytest.approx(factors, rel=1e-12)
