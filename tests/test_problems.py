"""Objectives: gradients against differences, batches by (seed, rank, iteration), no waste, known minima."""

from __future__ import annotations

import re
import tracemalloc
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from problem_cases import make, small_dataset, some_point

import mpisqueeze
from mpisqueeze.data import load_dataset
from mpisqueeze.data.partition import Partition, partition_indices
from mpisqueeze.errors import UsageError
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.allocation import peak_allocation
from mpisqueeze.parts.conformance import examine
from mpisqueeze.parts.contracts import GradientCheck
from mpisqueeze.problems import classification
from mpisqueeze.problems.quadratic import Quadratic
from mpisqueeze.problems.samples import BatchSampler
from mpisqueeze.settings import DEFAULT_LR, Settings

ALL = ["logistic", "mlp:5", "mlp:7x1", "mlp:6x5x3", "quadratic:11", "quadratic:1", "quadratic:11,spread=0"]
LINEAR = """
import numpy as np

from mpisqueeze.problems.base import Problem


class Linear:
    dimension = 5

    def __init__(self, rank, size, seed, xp, dtype):
        self.c = np.arange(1, 6).astype(dtype)

    def initial_point(self):
        return 0 * self.c

    def gradient(self, x, iteration):
        return float(self.c @ x), self.c


class Fresh(Linear):
    def gradient(self, x, iteration):
        return float(self.c @ x), self.c.copy()


class Given(Linear, Problem):
    pass
"""
NEEDS_DATA = [text for text in ALL if not text.startswith("quadratic")]
TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed (extra torch)")
PLUGINS = Path(__file__).with_name("torch_plugins.py")
NETWORKS = [
    pytest.param(text, marks=TORCH)
    for text in ("cnn", "resnet20", "cnn,augment=off", "gpt:1x8", f"{PLUGINS}:classes", f"{PLUGINS}:regression")
]


@pytest.mark.parametrize("text", [*ALL, *NETWORKS])
@pytest.mark.parametrize(("size", "batch_size"), [(1, 6), (3, 5), (4, 40)])
def test_gradient_is_the_derivative_of_the_loss(text: str, size: int, batch_size: int) -> None:
    """Differences are taken along a random direction and, of a large x, 30 coordinates, in double precision."""
    problem = make(text, rank=size - 1, size=size, batch_size=batch_size)
    small, rng = problem.dimension < 100, np.random.default_rng(1)
    x = some_point(problem) if small else problem.initial_point() + 0.01 * some_point(problem)
    # A larger step crosses kinks of relu in a large network.
    step, near = (1e-6, {"rel": 1e-6, "abs": 2e-7}) if small else (1e-7, {"rel": 1e-4, "abs": 1e-6})
    directions = [rng.standard_normal(problem.dimension) / problem.dimension**0.5]
    for i in rng.choice(problem.dimension, min(30, problem.dimension), replace=False):
        directions.append(np.eye(1, problem.dimension, i)[0])
    for iteration in (1, 4):
        gradient = problem.gradient(x, iteration)[1].copy()
        for direction in directions:
            above, below = (problem.gradient(x + sign * step * direction, iteration)[0] for sign in (1, -1))
            assert gradient @ direction == pytest.approx((above - below) / (2 * step), **near)


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contract(text: str, dtype: Any) -> None:
    ranks = [make(text, rank, 4, seed=9, dtype=dtype) for rank in range(4)]
    start = ranks[0].initial_point()
    assert start.shape == (ranks[0].dimension,)
    assert start.dtype == dtype
    assert all(np.array_equal(start, problem.initial_point()) for problem in ranks)
    assert all(problem.iterations_per_epoch == ranks[0].iterations_per_epoch >= 1 for problem in ranks)

    x = some_point(ranks[0])
    before = x.copy()
    loss, gradient = ranks[2].gradient(x, 7)
    assert type(loss) is float
    assert gradient.shape == x.shape
    assert gradient.dtype == dtype
    expected = gradient.copy()
    ranks[2].evaluate(x)
    assert np.array_equal(gradient, expected)
    gradient[:] = np.nan
    again_loss, again = ranks[2].gradient(x.copy(), 7)
    assert again_loss == loss
    assert np.array_equal(again, expected)
    assert np.array_equal(x, before)
    evaluations = [problem.evaluate(x) for problem in ranks]
    assert all(evaluation == evaluations[0] for evaluation in evaluations)


@pytest.mark.parametrize("text", ALL)
def test_float32_follows_float64(text: str) -> None:
    single, double = make(text, dtype=np.float32), make(text, dtype=np.float64)
    assert np.allclose(single.initial_point(), double.initial_point(), atol=1e-6)
    x = some_point(double)
    loss, gradient = single.gradient(x.astype(np.float32), 2)
    assert loss == pytest.approx(double.gradient(x, 2)[0], rel=1e-4)
    assert np.allclose(gradient, double.gradient(x, 2)[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", [*NEEDS_DATA, "quadratic:11,noise=1", *NETWORKS[:1]])
def test_gradient_is_a_function_of_seed_rank_and_iteration(text: str) -> None:
    def gradients(iterations: list[int], seed: int = 1, rank: int = 1) -> dict[int, np.ndarray]:
        problem = make(text, rank, 3, seed=seed)
        x = some_point(problem)
        return {t: problem.gradient(x, t)[1].copy() for t in iterations}

    forward, scattered = gradients(list(range(1, 13))), gradients([12, 5, 1, 6, 5])
    assert all(np.array_equal(forward[t], scattered[t]) for t in scattered)
    assert not np.array_equal(forward[1], forward[2])
    assert not np.array_equal(forward[1], gradients([1], seed=2)[1])
    assert not np.array_equal(forward[1], gradients([1], rank=2)[1])


@pytest.mark.parametrize(("samples", "batch_size"), [(7, 3), (7, 7), (3, 10), (1, 4), (12, 4)])
def test_every_sample_is_drawn_once_an_epoch(samples: int, batch_size: int) -> None:
    sampler = BatchSampler(samples, batch_size, seed=0, rank=3)
    drawn = np.concatenate([sampler.batch(t).copy() for t in range(1, 3 * samples + 1)])
    epochs = drawn.reshape(-1, samples)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(samples), (len(epochs), 1)))
    if samples == 12:
        assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("text", NEEDS_DATA)
@pytest.mark.parametrize("partition", ["iid", "label"])
def test_ranks_together_hold_the_whole_data_set(text: str, partition: str) -> None:
    data = small_dataset(samples=40)
    ranks = [make(text, rank, 8, dataset=data, batch_size=5, partition=partition) for rank in range(8)]
    alone = make(text, dataset=data, batch_size=40)
    x = some_point(alone)
    parts = [problem.gradient(x, 3) for problem in ranks]
    loss, gradient = alone.gradient(x, 1)
    assert np.mean([part for part, _ in parts]) == pytest.approx(loss)
    assert np.allclose(np.mean([part for _, part in parts], axis=0), gradient)


def test_a_rank_sees_only_its_own_samples() -> None:
    data = small_dataset(samples=30)
    mine = partition_indices(data.train_labels, 3, Partition("label"), 0)[1]
    problem = make("logistic", 1, 3, dataset=data, batch_size=100, partition="label")
    problem.gradient(np.ones(problem.dimension), 1)
    absent = sorted(set(range(3)) - set(data.train_labels[mine]))
    assert absent
    x = np.zeros(problem.dimension)
    x[-3:][absent] = 1000.0
    assert problem.gradient(x, 1)[0] == pytest.approx(1000 + np.log(len(absent)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("problem_text", ["logistic", "mlp:512x256", "quadratic:200000,spread=1,noise=0.1"])
@pytest.mark.parametrize("data_text", ["synthetic:500x600", "digits"])
def test_the_hot_loop_allocates_nothing_of_batch_or_parameter_size(
    dtype: Any, problem_text: str, data_text: str
) -> None:
    problem = make(problem_text, dtype=dtype, dataset=load_dataset(data_text, None, 0), batch_size=500)
    x = some_point(problem)
    peak = peak_allocation(lambda iteration: problem.gradient(x, iteration))
    buffered_ufunc_chunk = 8192 * 8
    assert peak < buffered_ufunc_chunk + 16384 < 500 * 64 * np.dtype(dtype).itemsize


@pytest.mark.parametrize("text", NEEDS_DATA)
@pytest.mark.parametrize("rows", [1, 7, 23, 1000])
def test_evaluate_covers_the_test_set_in_batches(text: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_dataset()
    as_training = replace(data, train_inputs=data.test_inputs, train_labels=data.test_labels)
    problem = make(text, dataset=as_training, batch_size=23)
    x = some_point(problem)
    monkeypatch.setattr(classification, "_TEST_ROWS", rows)
    figures = problem.evaluate(x)
    assert figures["test_loss"] == pytest.approx(problem.gradient(x, 1)[0])
    logits = problem.make_activations(23)
    problem.forward(x, data.test_inputs * 0.2 - 1.5, logits)
    assert figures["test_accuracy"] == np.mean(logits[-1].argmax(axis=1) == data.test_labels)


@pytest.mark.parametrize("text", [*ALL, *NETWORKS[1:2]])
@pytest.mark.parametrize("scale", [1e38, np.inf, np.nan])
def test_divergence_shows_in_the_loss_and_warns_of_nothing(text: str, scale: float) -> None:
    problem = make(text, dtype=np.float32)
    x = np.full(problem.dimension, scale, np.float32)
    x[::2] *= -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, _ = problem.gradient(x, 1)
        figures = problem.evaluate(x)
    if text != "logistic" or not np.isfinite(scale):
        assert not np.isfinite(loss) or loss > 1e30
    healthy, start = make(text, dtype=np.float32), problem.initial_point()
    assert figures.keys() == healthy.evaluate(start).keys()
    assert problem.gradient(start, 1)[0] == healthy.gradient(start, 1)[0]


def test_large_logits_do_not_overflow() -> None:
    problem = make("logistic", dtype=np.float32)
    x = np.zeros(problem.dimension, np.float32)
    x[-3:] = [1e4, -1e4, 1e4]
    loss, gradient = problem.gradient(x, 1)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(gradient))


def test_uniform_predictions_cost_the_logarithm_of_the_classes() -> None:
    problem = make("logistic", dataset=small_dataset(classes=7))
    assert problem.gradient(problem.initial_point(), 1)[0] == pytest.approx(np.log(7))
    assert problem.evaluate(problem.initial_point())["test_loss"] == pytest.approx(np.log(7))


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
def test_inputs_keep_their_dtype_in_memory(stored: Any) -> None:
    data = small_dataset(samples=10_000, features=50)
    data = replace(data, train_inputs=data.train_inputs.astype(stored), test_inputs=data.test_inputs.astype(stored))
    tracemalloc.start()
    problem = make("logistic", size=2, dataset=data)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    labels_and_orders = 5000 * 3 * 8
    assert held < 5000 * 50 * np.dtype(stored).itemsize + labels_and_orders + 50_000
    assert np.isfinite(problem.gradient(problem.initial_point(), 1)[0])


def test_epochs_count_all_ranks_batches() -> None:
    digits = load_dataset("digits", None, 0)
    assert make("logistic", 0, 8, dataset=digits, batch_size=16).iterations_per_epoch == 1437 // 128
    assert make("logistic", 0, 8, dataset=digits, batch_size=1000).iterations_per_epoch == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_default_mlp_learns_digits_with_eight_workers(seed: int) -> None:
    digits = load_dataset("digits", None, seed)
    ranks = [
        make("mlp", rank, 8, seed, np, np.float32, digits, Settings.batch_size, partition="iid") for rank in range(8)
    ]
    x = ranks[0].initial_point()
    for iteration in range(1, 10 * ranks[0].iterations_per_epoch + 1):
        x -= np.float32(DEFAULT_LR / 8) * np.sum([problem.gradient(x, iteration)[1] for problem in ranks], axis=0)
    assert ranks[0].evaluate(x)["test_accuracy"] >= 0.96


class CupyLikeModule:
    """NumPy behind CuPy's narrower signatures: `take` knows no mode."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def take(a: np.ndarray, indices: np.ndarray, axis: int | None = None, out: np.ndarray | None = None) -> Any:
        return np.take(a, indices, axis=axis, out=out)

    @staticmethod
    def dot(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
        assert out.flags.c_contiguous
        assert a.dtype == b.dtype == out.dtype
        return np.dot(a, b, out=out)


@pytest.mark.parametrize("text", [*ALL, "quadratic:11,noise=1"])
def test_another_array_module_gives_the_same(text: str) -> None:
    ours, theirs = make(text, 1, 3), make(text, 1, 3, xp=CupyLikeModule())
    x = some_point(ours)
    for iteration in (1, 2):
        loss, gradient = ours.gradient(x, iteration)
        their_loss, their_gradient = theirs.gradient(x, iteration)
        assert loss == their_loss
        assert np.array_equal(gradient, their_gradient)
    assert ours.evaluate(x) == theirs.evaluate(x)


def minimiser(problem: Quadratic) -> np.ndarray:
    """The minimum of one rank's quadratic, by one Newton step with its diagonal Hessian."""
    zero = np.zeros(problem.dimension)
    at_zero = problem.gradient(zero, 1)[1].copy()
    return -at_zero / (problem.gradient(zero + 1, 1)[1] - at_zero)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("spread", [0, 0.7])
def test_quadratic_minimum_and_objective_are_those_of_the_mean(size: int, spread: float) -> None:
    ranks = [make(f"quadratic:13,spread={spread}", rank, size) for rank in range(size)]
    optimum = np.mean([minimiser(problem) for problem in ranks], axis=0)
    assert ranks[0].evaluate(optimum)["distance"] < 1e-12
    assert np.allclose(np.mean([problem.gradient(optimum, 1)[1] for problem in ranks], axis=0), 0, atol=1e-13)
    x = some_point(ranks[0])
    figures = ranks[-1].evaluate(x)
    assert figures["objective"] == pytest.approx(np.mean([problem.gradient(x, 1)[0] for problem in ranks]))
    assert figures["distance"] == pytest.approx(np.linalg.norm(x - optimum))
    apart = np.std([minimiser(problem) for problem in ranks], axis=0)
    assert np.all(apart < 1e-12) == (size == 1 or spread == 0)


@pytest.mark.parametrize("size", [2, 5])
def test_quadratic_spread_is_the_deviation_of_the_ranks_minima(size: int) -> None:
    minima = [minimiser(make("quadratic:4000,spread=3", rank, size)) for rank in range(size)]
    assert np.sqrt(np.mean(np.var(minima, axis=0))) == pytest.approx(3, rel=0.05)


def test_quadratic_curvature_runs_from_one_to_the_condition() -> None:
    problem = make("quadratic:101,condition=1000")
    zero = np.zeros(101)
    curvature = -(problem.gradient(zero, 1)[1].copy() - problem.gradient(zero + 1, 1)[1])
    assert curvature[0] == pytest.approx(1)
    assert curvature[-1] == pytest.approx(1e-3)
    assert curvature[50] == pytest.approx(1000**-0.5)
    assert np.all(np.diff(curvature) < 0)


def test_quadratic_noise_has_its_deviation_and_no_mean() -> None:
    noisy, clean = (make(f"quadratic:50k,noise={noise}", 1, 2) for noise in (0.5, 0))
    x = some_point(noisy)
    errors = [noisy.gradient(x, t)[1] - clean.gradient(x, t)[1] for t in (1, 2)]
    assert np.std(errors[0]) == pytest.approx(0.5, rel=0.02)
    assert abs(np.mean(errors[0])) < 0.01
    assert abs(np.corrcoef(errors[0], errors[1])[0, 1]) < 0.02


def test_quadratic_is_the_same_however_it_is_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make("quadratic:50", 1, 2)
    monkeypatch.setattr("mpisqueeze.problems.quadratic._BLOCK", 7)
    cut = make("quadratic:50", 1, 2)
    x = some_point(whole)
    assert np.array_equal(whole.gradient(x, 1)[1], cut.gradient(x, 1)[1])
    assert whole.evaluate(x)["objective"] == pytest.approx(cut.evaluate(x)["objective"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("quadratics:3", "did you mean 'quadratic'"),
        ("svm", "known: cnn, gpt, logistic, mlp, quadratic, resnet18"),
        ("quadratic", "write quadratic:DIMENSION"),
        ("quadratic:0", "dimension must be"),
        ("quadratic:5,condition=0.5", "condition must be"),
        ("quadratic:5,nois=1", "did you mean 'noise'"),
        ("mlp:0", "hidden must be"),
        ("mlp:64x", "hidden must be"),
        ("logistic:3", "takes no argument"),
    ],
)
def test_a_wrong_problem_blames_its_option(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        registry.problems.find(text)
    assert caught.value.option == "--problem"


def test_a_network_tells_its_parameters_shapes() -> None:
    assert make("mlp:6x5x3").shapes == [(5, 6), (6,), (6, 5), (5,), (5, 3), (3,), (3, 3), (3,)]
    assert make("logistic").shapes == [(5, 3), (3,)]
    assert make("quadratic:11").shapes is None


@pytest.mark.parametrize(
    ("shapes", "says"),
    [([(2, 3)], "make up 6 elements, and its dimension is 7"), ([(-1, -7)], "below 0"), ([7], "not [7]"), (7, "not 7")],
)
def test_shapes_must_make_up_x(shapes: Any, says: str) -> None:
    part = registry.problems.find("logistic")
    assert contracts.shapes_of(part, SimpleNamespace(dimension=7, shapes=[(2, 3), (), (0, 4)])) == ((2, 3), (), (0, 4))
    assert contracts.shapes_of(part, SimpleNamespace(dimension=7)) == ()
    with pytest.raises(UsageError, match=re.escape(says)):
        contracts.shapes_of(part, SimpleNamespace(dimension=7, shapes=shapes))


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be spread over 38 ranks"):
        make("logistic", 0, 38)
    with pytest.raises(UsageError, match="--batch-size"):
        make("logistic", batch_size=0)


def test_an_algorithm_gets_the_gradient_in_one_place() -> None:
    """It may overwrite what it gets, and MPI may keep requests for it: x itself and new arrays are copied, once."""
    check = GradientCheck(registry.problems.find("quadratic:4"), 4, np, np.dtype(np.float32))
    x, mine = np.ones(4, np.float32), np.arange(4, dtype=np.float32)
    assert check(mine, x) is mine
    assert check(mine[:], x) is not x
    assert np.shares_memory(check(mine[:], x), mine)
    copies = check(mine + 1, x)
    assert not np.shares_memory(copies, mine)
    for g in (mine + 2, x, (mine + 3).astype(float), np.arange(8, dtype=np.float32)[::2], mine):
        assert check(g, x) is copies
        assert np.array_equal(copies, g)
    sealed = mine.copy()
    sealed.flags.writeable = False
    for g in (sealed, x):
        fresh = GradientCheck(registry.problems.find("quadratic:4"), 4, np, np.dtype(np.float32))
        assert not np.shares_memory(fresh(g, x), g)
    with pytest.raises(UsageError, match="shape"):
        check(np.ones(5, np.float32), x)


@pytest.mark.parametrize(("name", "outcome"), [("Linear", "passed"), ("Given", "doubtful"), ("Fresh", "passed")])
def test_check_doubts_a_gradient_that_does_not_outlive_its_use(tmp_path: Path, name: str, outcome: str) -> None:
    """The gradient of c·x is c, which an algorithm overwrites where the problem gives it away."""
    (tmp_path / "mine.py").write_text(LINEAR)
    part = registry.problems.find(f"{tmp_path}/mine.py:{name}")
    found = {finding.check: finding.outcome for finding in examine("problem", part)}
    assert found["the gradient is a function of (seed, rank, iteration)"] == outcome


@pytest.mark.parametrize("pair", ["allreduce", "ef21/identity", "ecd/identity", "d2"])
def test_a_plug_in_keeps_the_array_that_its_gradient_is(tmp_path: Path, pair: str) -> None:
    (tmp_path / "mine.py").write_text(LINEAR)
    models = []
    for name in ("Linear", "Fresh"):
        out = tmp_path / name
        problem = f"{tmp_path}/mine.py:{name}"
        mpisqueeze.train(pair, problem=problem, workers=2, iterations=4, lr=0.5, out=out, save_model=True)
        models.append(np.load(out / "model.npz")["x"])
    assert np.array_equal(*models)
    assert np.allclose(models[0].mean(0), -0.5 * 4 * np.arange(1, 6))
