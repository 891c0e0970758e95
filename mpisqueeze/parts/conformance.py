"""`mpisqueeze check`: the tests that every part passes, built in or not.

A check raises AssertionError with what is wrong, or Doubt for a remark that does not fail a part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mpisqueeze.compressors.base import Compressor, NonFiniteError, adapt
from mpisqueeze.data import load_dataset
from mpisqueeze.data.partition import parse_partition
from mpisqueeze.errors import UsageError, describe
from mpisqueeze.kernels import kernels_for
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.allocation import DIMENSION, SPARE, excess
from mpisqueeze.parts.registry import Part
from mpisqueeze.quantities import size
from mpisqueeze.topology import Topology

DIMENSIONS = (1, 2, 7, 64, 1000, 1025, 4099)
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
TRIALS = 400


@dataclass(frozen=True)
class Finding:
    """One check's outcome: `passed`, `failed` or `doubtful`, and why."""

    check: str
    outcome: str
    detail: str = ""


class Doubt(Exception):  # noqa: N818 - it is no error
    """Something that a part may do, but that a user should know of."""


def find_part(text: str) -> tuple[str, Part]:
    """(kind, part) of a plug-in, by the methods that it has, or of a built-in, by its name; a function is a problem.

    Raises UsageError.
    """
    if ".py:" in text:
        try:
            part = registry.problems.find(text)
        except UsageError as error:
            # Until the file is read, nothing says which kind it is.
            raise UsageError(error.message, "FILE.py:Class") from error.__cause__
        # An algorithm may have an `encode` of its own.
        for kind, method in (("problem", "gradient"), ("algorithm", "step"), ("compressor", "encode")):
            if callable(getattr(part.cls, method, None)):
                return _installed(kind, part)
        raise UsageError(f"{text} is no problem (gradient), compressor (encode) or algorithm (step)", "FILE.py:Class")
    for parts in (registry.compressors, registry.problems, registry.algorithms):
        if text.partition(":")[0].partition(",")[0] in parts.names():
            return _installed(parts.kind, parts.find(text))
    raise UsageError(f"{text!r} is neither FILE.py:Class nor the name of a part", "FILE.py:Class")


def _installed(kind: str, part: Part) -> tuple[str, Part]:
    contracts.check_installed(part, "FILE.py:Class")
    if kind == "algorithm":
        from mpisqueeze.mpi import require

        require()
    return kind, part


def examine(kind: str, part: Part) -> Iterator[Finding]:
    """Run every check of `kind` on `part`. An error that ends several checks is told with the first of them."""
    told: set[str] = set()
    for name, check in CHECKS[kind]:
        try:
            check(part)
        except Doubt as doubt:
            yield Finding(name, "doubtful", str(doubt))
        except AssertionError as error:
            yield Finding(name, "failed", str(error))
        except (Exception, SystemExit) as error:
            detail = error.message if isinstance(error, UsageError) else describe(error)
            # Shapes and other numbers may differ.
            key = re.sub(r"\d+", "", detail)
            yield Finding(name, "failed", "the same error" if key in told else detail)
            told.add(key)
        else:
            yield Finding(name, "passed")


def _allocates_nothing(
    part: Part, works: Mapping[str, Callable[[int], Any]], vector_bytes: int, spare: float = SPARE
) -> None:
    """Fail a built-in part, and doubt a plug-in, of whose works one allocates memory of a vector's size."""
    found = {name: peak for name, work in works.items() if (peak := excess(work, vector_bytes, spare))}
    if not found:
        return
    what = ", ".join(f"{name} {size(peak)}" for name, peak in found.items())
    text = f"{what}, beside vectors of {size(vector_bytes)}; keep buffers for that"
    # NumPy's kernels, which stand in for the compiled ones, have temporaries.
    if part.is_plugin or kernels_for(np, np.float32).name == "numpy":
        raise Doubt(text)
    raise AssertionError(text)


def _compressor(part: Part, dimension: int, dtype: np.dtype[Any], seed: int = 1) -> Compressor:
    made = part.cls(dimension, np, dtype, seed, **part.options)
    contracts.check_compressor(part, made)
    return adapt(made, dimension, np, dtype)


def _vectors(dimension: int, dtype: np.dtype[Any]) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(dimension)
    yield "normal numbers", rng.standard_normal(dimension).astype(dtype)
    yield "zeros", np.zeros(dimension, dtype)
    single = np.zeros(dimension, dtype)
    single[dimension // 2] = -3
    yield "a single number", single
    yield (
        "numbers of many sizes",
        (rng.standard_normal(dimension) * 10.0 ** rng.integers(-4, 3, dimension)).astype(dtype),
    )


def _cases(part: Part) -> Iterator[tuple[str, Compressor, np.ndarray]]:
    for dtype in DTYPES:
        for dimension in DIMENSIONS:
            for what, vector in _vectors(dimension, dtype):
                yield f"{what}, d = {dimension}, {dtype}", _compressor(part, dimension, dtype), vector


def _encoded(compressor: Compressor, vector: np.ndarray, fill: int = 0, iteration: int = 1) -> np.ndarray:
    payload = np.full(compressor.payload_bytes, fill, np.uint8)
    compressor.iteration = iteration
    compressor.encode(vector, payload)
    return payload


def _decoded(compressor: Compressor, payload: np.ndarray) -> np.ndarray:
    out = np.empty(compressor.dimension, compressor.dtype)
    compressor.decode(payload, out)
    return out


def _payload_size_is_stated(part: Part) -> None:
    for dtype in DTYPES:
        for dimension in DIMENSIONS:
            sizes = {_compressor(part, dimension, dtype, seed).payload_bytes for seed in (1, 2, 2**63 - 1)}
            assert len(sizes) == 1, f"payload_bytes depends on the seed for d = {dimension}: {sorted(sizes)}"


def _vector_is_kept(part: Part) -> None:
    for what, compressor, vector in _cases(part):
        before = vector.copy()
        _encoded(compressor, vector)
        assert np.array_equal(vector, before), f"encode changed the vector ({what})"


def _payload_is_filled(part: Part) -> None:
    for what, compressor, vector in _cases(part):
        other = _compressor(part, compressor.dimension, compressor.dtype)
        same = np.array_equal(_encoded(compressor, vector, 0), _encoded(other, vector, 255))
        assert same, f"two equal compressors gave different payloads: bytes are left unset, or not seeded ({what})"


def _out_is_overwritten(part: Part) -> None:
    for what, compressor, vector in _cases(part):
        payload = _encoded(compressor, vector)
        outs = [np.full(vector.size, fill, vector.dtype) for fill in (np.nan, 7)]
        for out in outs:
            compressor.decode(payload, out)
        assert np.isfinite(outs[0]).all(), f"decode left elements of out unset or not finite ({what})"
        assert np.array_equal(outs[0], outs[1]), f"what decode gives depends on what out held ({what})"


def _anyone_decodes(part: Part) -> None:
    for what, compressor, vector in _cases(part):
        payload = _encoded(compressor, vector)
        receiver = _compressor(part, vector.size, vector.dtype, seed=99)
        same = np.array_equal(_decoded(compressor, payload), _decoded(receiver, payload.copy()))
        assert same, f"another rank's instance decodes something else ({what})"


def _error_feedback_balances(part: Part) -> None:
    for what, compressor, vector in _cases(part):
        residual = (0.1 * np.random.default_rng(5).standard_normal(vector.size)).astype(vector.dtype)
        total = vector + residual
        payload = np.zeros(compressor.payload_bytes, np.uint8)
        compressor.iteration = 1
        compressor.encode_feedback(vector, residual, payload)
        left = total - _decoded(compressor, payload)
        assert np.array_equal(residual, left), f"the residual is not v − D(payload) ({what})"
        doubled = vector.copy()
        compressor.decode_add(payload, doubled)
        assert np.array_equal(doubled, vector + _decoded(compressor, payload)), f"decode_add does not add ({what})"


def _nan_is_refused(part: Part) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for dtype in DTYPES:
            compressor = _compressor(part, 1000, dtype)
            vector = np.ones(1000, dtype)
            vector[777] = bad
            try:
                _encoded(compressor, vector)
            except NonFiniteError:
                continue
            raise AssertionError(f"{bad} was encoded silently ({dtype})")


def _errors(part: Part) -> Iterator[tuple[np.ndarray, np.ndarray, Compressor]]:
    """(v, TRIALS decodings of it, compressor) for a few vectors."""
    for dimension in (7, 600):
        for what, vector in _vectors(dimension, DTYPES[1]):
            if what != "numbers of many sizes":
                compressor = _compressor(part, dimension, DTYPES[1])
                trials = [_decoded(compressor, _encoded(compressor, vector, 0, t)) for t in range(1, TRIALS + 1)]
                yield vector, np.array(trials), compressor


def _unbiased_is_true(part: Part) -> None:
    for vector, trials, compressor in _errors(part):
        if not compressor.unbiased:
            return
        # Single elements may be sent so rarely that their spread is not seen, so that the whole vector is judged.
        expected = float(trials.var(axis=0).sum()) / TRIALS + 1e-12 * float(vector @ vector)
        found = float(np.sum((trials.mean(axis=0) - vector) ** 2))
        off = (found / expected) ** 0.5 if found else 0.0
        assert off < 3, f"unbiased is True, but a mean of {TRIALS} decodings is {off:.1f} standard errors off"


def _bound_holds(part: Part) -> None:
    for vector, trials, compressor in _errors(part):
        bound, norm = compressor.bound(), float(vector @ vector)
        if bound is None:
            raise Doubt("it states no bound on E‖C(v) − v‖²/‖v‖²")
        error = float(np.mean(np.sum((trials - vector) ** 2, axis=1)))
        assert error <= bound * norm * 1.1 + 1e-12, f"E‖C(v) − v‖²/‖v‖² is {error / norm:.3g}, its bound {bound:.3g}"


def _coding_allocates_nothing(part: Part) -> None:
    compressor = _compressor(part, DIMENSION, DTYPES[0])
    _, vector = next(_vectors(DIMENSION, DTYPES[0]))
    residual, out = np.zeros_like(vector), np.zeros_like(vector)
    payload = np.zeros(compressor.payload_bytes, np.uint8)
    works: dict[str, Callable[[int], None]] = {
        "encode": lambda t: compressor.encode(vector, payload),
        "encode_feedback": lambda t: compressor.encode_feedback(vector, residual, payload),
        "decode": lambda t: compressor.decode(payload, out),
        "decode_add": lambda t: compressor.decode_add(payload, out),
    }
    _allocates_nothing(part, works, vector.nbytes)


def _problem(part: Part, rank: int, size: int, dtype: np.dtype[Any]) -> Any:
    options = dict(part.options)
    if getattr(part.cls, "needs_data", False):
        options |= {
            "dataset": load_dataset("digits", None, 1),
            "batch_size": 8,
            "partition": parse_partition("iid"),
        }
    elif getattr(part.cls, "takes_batch_size", False):
        options["batch_size"] = 8
    problem = part.cls(rank, size, 1, np, dtype, **options)
    contracts.check_problem(part, problem)
    return problem


def _problems(part: Part) -> Iterator[tuple[str, Any, np.ndarray]]:
    for dtype in DTYPES:
        for rank, ranks in ((0, 1), (0, 3), (2, 3)):
            problem = _problem(part, rank, ranks, dtype)
            x = contracts.checked_point(part, problem.initial_point(), problem.dimension, np, dtype)
            yield f"rank {rank} of {ranks}, {dtype}", problem, x


def _start_is_common(part: Part) -> None:
    for dtype in DTYPES:
        points = [_problem(part, rank, 3, dtype).initial_point() for rank in range(3)]
        assert all(np.array_equal(points[0], point) for point in points), "initial_point differs by rank"


def _gradient_is_sound(part: Part) -> None:
    for what, problem, x in _problems(part):
        before = x.copy()
        for iteration in (1, 2):
            loss, g = problem.gradient(x, iteration)
            contracts.GradientCheck(part, problem.dimension, np, x.dtype)(g, x)
            assert np.isfinite(float(loss)), f"the loss at the initial point is {loss} ({what})"
            assert np.isfinite(g).all(), f"the gradient at the initial point holds a NaN or an infinity ({what})"
        assert np.array_equal(x, before), f"gradient changed x ({what})"


def _dtype_is_kept(part: Part) -> None:
    for what, problem, x in _problems(part):
        dtype = problem.gradient(x, 1)[1].dtype
        if dtype != x.dtype:
            raise Doubt(f"the gradient is {dtype} and is converted in every iteration ({what})")


def _gradient_repeats(part: Part) -> None:
    for what, problem, x in _problems(part):
        if not _repeats(problem, x):
            raise Doubt(
                "the gradient is not a function of (seed, rank, iteration), or not once it was overwritten; no run can "
                f"be resumed ({what})"
            )


def _loss_and_gradient_agree(part: Part) -> None:
    problem = _problem(part, 0, 1, DTYPES[1])
    x = np.array(problem.initial_point(), np.float64)
    g = np.array(problem.gradient(x, 1)[1], np.float64)
    norm = float(np.linalg.norm(g))
    if norm == 0:
        return
    step = 1e-5 / norm
    slope = (float(problem.gradient(x + step * g, 1)[0]) - float(problem.gradient(x - step * g, 1)[0])) / (2 * step)
    if abs(slope - norm**2) > 1e-3 * norm**2:
        raise Doubt(f"along the gradient the loss changes by {slope:.6g}, not by ‖g‖² = {norm**2:.6g}")


def _evaluation_is_numbers(part: Part) -> None:
    for _, problem, x in _problems(part):
        evaluate = getattr(problem, "evaluate", None)
        if evaluate is None:
            raise Doubt("it has no evaluate; a run reports the training loss alone")
        for name, value in (evaluate(x) or {}).items():
            assert isinstance(name, str), f"evaluate's key {name!r} is no string"
            float(value)


def _evaluation_is_pure(part: Part) -> None:
    for what, problem, x in _problems(part):
        evaluate = getattr(problem, "evaluate", None)
        if evaluate is None:
            return
        loss, gradient = problem.gradient(x, 2)
        before, expected = x.copy(), gradient.copy()
        first = evaluate(x)
        assert np.array_equal(x, before), f"evaluate changed x ({what})"
        assert np.array_equal(gradient, expected), f"evaluate changed the gradient's buffer ({what})"
        evaluate(x + 1)
        again_loss, again = problem.gradient(x, 2)
        same = float(loss) == float(again_loss) and np.array_equal(again, expected)
        if not same and _repeats(problem, x):
            raise AssertionError(f"evaluate changed what gradient gives ({what})")
        if evaluate(x) != first:
            raise Doubt(f"evaluate gives other numbers for the same x ({what})")


def _repeats(problem: Any, x: np.ndarray) -> bool:
    """The gradient of an iteration is the same the second time, after that of another, which was overwritten."""
    first = problem.gradient(x, 1)[1].copy()
    other = problem.gradient(x, 2)[1]
    if other is not x and other.dtype.kind == "f" and other.flags.writeable:
        other.fill(np.nan)
    return np.array_equal(first, problem.gradient(x, 1)[1])


def _gradient_allocates_nothing(part: Part) -> None:
    problem = _problem(part, 0, 1, DTYPES[0])
    x = contracts.checked_point(part, problem.initial_point(), problem.dimension, np, DTYPES[0])
    # Shorter vectors are not told apart from whatever else a gradient takes.
    if x.size >= DIMENSION:
        # A batch may be gathered and converted.
        _allocates_nothing(part, {"gradient": lambda t: problem.gradient(x, t)}, x.nbytes, 0.5)
    elif not np.shares_memory(problem.gradient(x, 1)[1], problem.gradient(x, 2)[1]):
        raise Doubt("gradient gives a new one each time; keep a buffer for it")


@contextmanager
def _algorithm(
    part: Part, dtype: np.dtype[Any], dimension: int, compressor: str = "identity"
) -> Iterator[Callable[..., None]]:
    """An algorithm on this rank alone, as (t, x, gradient) → None for an iteration with γ = 0.5; closed in the end."""
    from mpisqueeze.algorithms.base import Setup
    from mpisqueeze.comm.exchange import Network
    from mpisqueeze.comm.world import World
    from mpisqueeze.devices.device import Device
    from mpisqueeze.mpi import MPI

    network = Network(World(MPI.COMM_SELF), Device())
    compressors = registry.compressors.find(compressor)
    make = lambda d, seed: _compressor(compressors, d, dtype, seed)  # noqa: E731
    algorithm = part.cls(Setup(network, dimension, dtype, 1, make, Topology("ring", 1)), **part.options)
    contracts.check_algorithm(part, algorithm)

    def step(t: int, x: np.ndarray, gradient: Callable[[Any], Any]) -> None:
        network.iteration = t
        algorithm.step(x, gradient, 0.5)

    yield step
    getattr(algorithm, "close", lambda: None)()


def _trained(part: Part, dtype: np.dtype[Any], iterations: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """(problem, x₀, x) after some iterations on a quadratic."""
    problem = registry.problems.find("quadratic:37").cls(0, 1, 1, np, dtype, dimension=37)
    start = problem.initial_point()
    x = start.copy()
    with _algorithm(part, dtype, 37) as step:
        for t in range(1, iterations + 1):
            step(t, x, lambda point, t=t: problem.gradient(point, t)[1])
    return problem, start, x


def _step_descends(part: Part) -> None:
    for dtype in DTYPES:
        problem, start, x = _trained(part, dtype, 60)
        before, after = problem.evaluate(start)["distance"], problem.evaluate(x)["distance"]
        assert after < 0.1 * before, f"60 steps on a quadratic go from distance {before:.3g} to {after:.3g} ({dtype})"


def _steps_repeat(part: Part) -> None:
    for dtype in DTYPES:
        same = np.array_equal(_trained(part, dtype, 5)[2], _trained(part, dtype, 5)[2])
        assert same, f"the same 5 steps end elsewhere the second time ({dtype})"


def _step_allocates_nothing(part: Part) -> None:
    dtype = DTYPES[0]
    _, vector = next(_vectors(DIMENSION, dtype))
    g, x = np.empty_like(vector), vector.copy()

    def gradient(point: np.ndarray) -> np.ndarray:
        np.copyto(g, vector)
        return g

    for compressor in ("identity", "onebit") if getattr(part.cls, "compresses", True) else ("identity",):
        with _algorithm(part, dtype, DIMENSION, compressor) as step:
            work = partial(step, x=x, gradient=gradient)
            _allocates_nothing(part, {f"a step with {compressor}": work}, vector.nbytes)


#: The checks of each kind of part, with what each holds a part to.
CHECKS: dict[str, list[tuple[str, Callable[[Part], None]]]] = {
    "compressor": [
        ("the payload's size is known beforehand", _payload_size_is_stated),
        ("encode keeps the vector", _vector_is_kept),
        ("encode fills the payload, the same from the same seed", _payload_is_filled),
        ("decode overwrites out, with finite numbers", _out_is_overwritten),
        ("any rank decodes any payload", _anyone_decodes),
        ("error feedback keeps what decoding lost, to the bit", _error_feedback_balances),
        ("a NaN or an infinity never encodes", _nan_is_refused),
        ("it is unbiased if it says so", _unbiased_is_true),
        ("its bound holds", _bound_holds),
        ("an iteration allocates no vector", _coding_allocates_nothing),
    ],
    "problem": [
        ("every rank starts at the same point", _start_is_common),
        ("gradient gives a loss and a vector, and keeps x", _gradient_is_sound),
        ("the gradient has the run's dtype", _dtype_is_kept),
        ("the gradient is a function of (seed, rank, iteration)", _gradient_repeats),
        ("the gradient is the loss's", _loss_and_gradient_agree),
        ("evaluate gives numbers", _evaluation_is_numbers),
        ("evaluate is a function of x, and changes nothing", _evaluation_is_pure),
        ("an iteration allocates no vector", _gradient_allocates_nothing),
    ],
    "algorithm": [
        ("on one rank, without compression, it minimises a quadratic", _step_descends),
        ("its steps are reproducible", _steps_repeat),
        ("an iteration allocates no vector", _step_allocates_nothing),
    ],
}
