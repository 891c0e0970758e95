"""`mpisqueeze check`: the tests that every part passes, built in or not.

A check raises AssertionError with what is wrong, or Doubt for a remark that does not fail a part.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze.compressors.base import Compressor, NonFiniteError
from mpisqueeze.data import load_dataset
from mpisqueeze.data.partition import parse_partition
from mpisqueeze.errors import ExitCode, UsageError, describe
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.allocation import DIMENSION, allocates_nothing
from mpisqueeze.parts.findings import Check, Doubt, Finding
from mpisqueeze.parts.registry import Part
from mpisqueeze.parts.state import carried, copied, put_back
from mpisqueeze.problems.base import Problem
from mpisqueeze.settings import DEFAULT_DATA

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World

DIMENSIONS = (1, 2, 7, 64, 1000, 1025, 4099)
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
TRIALS = 400
#: Bytes on either side of a payload that encoding must leave as they are.
GUARD = 64
#: Seconds that a rank with an error waits for the others before it speaks for all.
ARRIVE_S = 5.0
#: Seconds after which ranks are held to wait for each other.
STAGE_S = 30.0
#: Methods that tell a plug-in's kind, in the order of looking: an algorithm may have an `encode` or a `gradient`.
_METHODS = (("problem", "initial_point"), ("algorithm", "step"), ("compressor", "encode"), ("problem", "gradient"))


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
        for kind, method in _METHODS:
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


def examine(kind: str, part: Part, world: World | None = None) -> Iterator[Finding]:
    """Run every check of `kind` on `part`. An error that ends several checks is told with the first of them.

    Args:
        world: the ranks that an algorithm is checked on; default: this one alone. Collective; rank 0 gets the findings.
    """
    told: set[str] = set()
    if kind != "algorithm":
        for name, check in CHECKS[kind]:
            yield _once(_finding(name, check, part), told)
        return
    from mpisqueeze.comm.watchdog import Watchdog
    from mpisqueeze.comm.world import World as Ranks
    from mpisqueeze.mpi import MPI
    from mpisqueeze.parts.rehearsal import ALONE, TOGETHER

    world = world or Ranks(MPI.COMM_SELF)
    watchdog = Watchdog(world, STAGE_S, "a check")
    # Each rank tries it alone, too, for a plug-in may speak to all ranks by a communicator of its own.
    for name, check, comm in [(*each, MPI.COMM_SELF) for each in ALONE] + [(*each, world.comm) for each in TOGETHER]:
        watchdog.beat()
        # An error may leave messages behind, that no other check must receive.
        found = _gathered(_finding(name, check, part, Ranks(comm)), world)
        if found:
            yield _once(found, told)
    watchdog.close()


def _finding(name: str, check: Check, *arguments: Any) -> Finding:
    try:
        check(*arguments)
    except Doubt as doubt:
        return Finding(name, "doubtful", str(doubt))
    except AssertionError as error:
        # A user's own has file and line.
        return Finding(name, "failed", describe(error).removeprefix("AssertionError: "))
    except (Exception, SystemExit) as error:
        return Finding(name, "failed", error.message if isinstance(error, UsageError) else describe(error))
    return Finding(name, "passed")


def _once(finding: Finding, told: set[str]) -> Finding:
    """The finding, or `untried` for a failure that was told before."""
    # Numbers and ranks may differ.
    key = re.sub(r"^rank \d+: |\d[\d.e+-]*", "", finding.detail)
    if finding.outcome == "failed" and key in told:
        return Finding(finding.check, "untried")
    told.add(key)
    return finding


def _gathered(finding: Finding, world: World) -> Finding | None:
    """On rank 0, the worst of all ranks' findings, with the rank where they differ; collective.

    A rank with an error may be one for whose payload the others wait. It then speaks for all and ends them.
    """
    request = world.comm.Ibarrier()
    deadline = time.monotonic() + ARRIVE_S + 0.5 * world.rank
    while not request.Test():
        if finding.outcome == "failed" and time.monotonic() > deadline:
            from mpisqueeze.mpi import MPI

            print(
                f"  FAILED   {finding.check}: rank {world.rank}: {finding.detail}; the others wait for it",
                file=sys.stderr,
                flush=True,
            )
            MPI.COMM_WORLD.Abort(ExitCode.USAGE)
        time.sleep(1e-3)
    findings = world.comm.gather(finding)
    if findings is None:
        return None
    worst = max(findings, key=lambda found: ("passed", "doubtful", "failed").index(found.outcome))
    if all(found.outcome == worst.outcome for found in findings):
        return worst
    return Finding(worst.check, worst.outcome, f"rank {findings.index(worst)}: {worst.detail}")


def _compressor(part: Part, dimension: int, dtype: np.dtype[Any], seed: int = 1) -> Compressor:
    return contracts.make_compressor(part, dimension, np, dtype, seed)


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
    """A payload, in a buffer that held `fill`. Raises AssertionError if encode wrote beside it."""
    payload, intact = _guarded(compressor.payload_bytes, np.dtype(np.uint8), fill)
    compressor.iteration = iteration
    compressor.encode(vector, payload)
    assert intact(), f"encode wrote beyond the {payload.size} bytes of its payload (d = {vector.size}, {vector.dtype})"
    return payload


def _decoded(compressor: Compressor, payload: np.ndarray) -> np.ndarray:
    out, intact = _guarded(compressor.dimension, compressor.dtype, np.nan)
    compressor.decode(payload, out)
    assert intact(), f"decode wrote beyond the {out.size} elements of out ({out.dtype})"
    return out


def _guarded(length: int, dtype: np.dtype[Any], fill: float) -> tuple[np.ndarray, Callable[[], bool]]:
    """(array, a function that tells whether nothing was written beside it)."""
    spare = GUARD // dtype.itemsize
    room = np.full(length + 2 * spare, 77, dtype)
    room[spare : spare + length] = fill
    return room[spare : spare + length], lambda: bool((room[:spare] == 77).all() and (room[-spare:] == 77).all())


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
        first = _encoded(compressor, vector)
        second, third = (_encoded(_compressor(part, vector.size, vector.dtype), vector, fill) for fill in (0, 255))
        assert np.array_equal(first, second), (
            "with the same seed and iteration a vector gave another payload: it depends on something else, such as a "
            f"generator of the whole process ({what})"
        )
        unset = np.flatnonzero(first != third)
        assert not unset.size, f"encode leaves byte {unset[0] if unset.size else 0} of its payload unset ({what})"


def _encoding_repeats(part: Part) -> None:
    _, vector = next(_vectors(1000, DTYPES[0]))
    compressor = _compressor(part, vector.size, vector.dtype)
    if not contracts.encoding_repeats(compressor, vector):
        named = carried(getattr(compressor, "part", compressor))
        assert not named, f"a replay with its {', '.join(named)} put back gives another payload"
        raise Doubt(
            "it carries something from one encoding to the next, so that a resumed run goes elsewhere: make it a "
            "function of `self.seed` and `self.iteration`, or give it `state`"
        )
    first, second = (_encoded(compressor, vector, 0, t) for t in (1, 2))
    other = _encoded(_compressor(part, vector.size, vector.dtype, 2), vector, 0, 1)
    if np.array_equal(first, second) and not np.array_equal(first, other):
        raise Doubt("it draws the same random numbers in each iteration: key them by `self.iteration`, too")


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
        receiver = _compressor(part, vector.size, vector.dtype, seed=1 if compressor.linear else 99)
        receiver.iteration = compressor.iteration
        same = np.array_equal(_decoded(compressor, payload), _decoded(receiver, payload.copy()))
        assert same, f"another rank's instance decodes something else ({what})"


def _payloads_add_up(part: Part) -> None:
    for what, compressor, vector in _cases(part):
        if not compressor.linear:
            return
        size = compressor.dtype.itemsize
        assert compressor.payload_bytes % size == 0, f"linear, but a payload is no array of {vector.dtype} ({what})"
        payloads = [_encoded(compressor, v) for v in (vector, np.roll(vector, 1))]
        # As MPI does it, so that they lie as such an array does.
        total = np.sum([payload.copy().view(vector.dtype) for payload in payloads], axis=0, dtype=vector.dtype)
        each = [_decoded(compressor, payload) for payload in payloads]
        found = _decoded(compressor, total.view(np.uint8))
        close = np.allclose(found, each[0] + each[1], rtol=1e-5, atol=1e-6 * float(np.abs(each).max()))
        assert close, f"linear, but D(p + q) is not D(p) + D(q) ({what})"


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


def _every_element_arrives(part: Part) -> None:
    for dimension in (1, 7, 1025):
        for place in (0, dimension - 1):
            vector = np.zeros(dimension, DTYPES[0])
            vector[place] = -3
            compressor, residual = _compressor(part, dimension, vector.dtype), np.zeros_like(vector)
            payload = np.zeros(compressor.payload_bytes, np.uint8)
            # Random positions are drawn with a probability of about the payload's part of the vector.
            rounds = int(40 * max(1, vector.nbytes / payload.nbytes))
            for compressor.iteration in range(1, rounds + 1):
                compressor.encode_feedback(vector, residual, payload)
                if _decoded(compressor, payload)[place]:
                    break
            else:
                raise AssertionError(
                    f"element {place} of {dimension} never arrives, in {rounds} rounds with error feedback"
                )


def _nan_is_refused(part: Part) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for dtype in DTYPES:
            compressor = _compressor(part, 1000, dtype)
            vector = np.ones(1000, dtype)
            # An error that any vector meets is none about a NaN.
            _encoded(compressor, vector)
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
        assert norm or not error, "zeros are decoded as something else, so that there is no bound on E‖C(v) − v‖²/‖v‖²"
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
    allocates_nothing(part, works, vector.nbytes)


def _problem(part: Part, rank: int, size: int, dtype: np.dtype[Any]) -> Any:
    options = dict(part.options)
    if getattr(part.cls, "needs_data", False):
        options |= {
            "dataset": load_dataset(getattr(part.cls, "default_data", DEFAULT_DATA), None, 1),
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
        shapes = [np.shape(point) for point in points]
        assert len(set(shapes)) == 1, f"the shape of initial_point differs by rank: {', '.join(map(str, shapes))}"
        other = next((rank for rank, point in enumerate(points) if not np.array_equal(points[0], point)), 0)
        assert not other, f"initial_point differs between ranks 0 and {other}"


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
                f"an iteration that is computed again gives another gradient, or once that was overwritten ({what}): "
                "a resumed run goes elsewhere. Make its randomness a function of (seed, rank, iteration), or give it "
                "`state`"
            )


def _loss_and_gradient_agree(part: Part) -> None:
    problem = _problem(part, 0, 1, DTYPES[1])
    x = np.array(problem.initial_point(), np.float64)
    start = copied(problem)

    def at(point: np.ndarray) -> tuple[float, np.ndarray]:
        put_back(problem, start)
        loss, g = problem.gradient(point, 1)
        return float(loss), np.array(g, np.float64)

    g = at(x)[1]
    norm = float(np.linalg.norm(g))
    if norm == 0:
        return
    # A gradient with elements that are wrong, but not too long, shows along other directions.
    random = np.random.default_rng(0).standard_normal((3, x.size)) * (norm / x.size**0.5)
    for name, what, u in ("the gradient", "‖g‖²", g), *(("a random vector u", "g·u", u) for u in random):
        step = 1e-5 / float(np.linalg.norm(u))
        slope = (at(x + step * u)[0] - at(x - step * u)[0]) / (2 * step)
        # Expected size of g·u where both are random.
        scale = norm**2 / (1 if u is g else x.size**0.5)
        if abs(slope - g @ u) > 1e-3 * scale:
            raise Doubt(f"along {name} the loss changes by {slope:.6g}, not by {what} = {g @ u:.6g}")


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
        start = copied(problem)
        loss, gradient = problem.gradient(x, 2)
        before, expected, kept = x.copy(), gradient.copy(), copied(problem)
        first = evaluate(x)
        assert np.array_equal(x, before), f"evaluate changed x ({what})"
        assert np.array_equal(gradient, expected), f"evaluate changed the gradient's buffer ({what})"
        evaluate(x + 1)
        changed = [name for name, value in copied(problem).items() if not np.array_equal(value, kept[name])]
        assert not changed, f"evaluate changed {changed[0]} ({what})"
        put_back(problem, start)
        again_loss, again = problem.gradient(x, 2)
        same = float(loss) == float(again_loss) and np.array_equal(again, expected)
        if not same and _repeats(problem, x):
            raise AssertionError(f"evaluate changed what gradient gives ({what})")
        if evaluate(x) != first:
            raise Doubt(f"evaluate gives other numbers for the same x ({what})")


def _repeats(problem: Any, x: np.ndarray) -> bool:
    """The gradient of an iteration is the same the second time, after that of another, which was overwritten if a run
    does that."""
    before = copied(problem)
    first = problem.gradient(x, 1)[1].copy()
    other = problem.gradient(x, 2)[1]
    if isinstance(problem, Problem) and other is not x and other.dtype.kind == "f" and other.flags.writeable:
        other.fill(np.nan)
    put_back(problem, before)
    return np.array_equal(first, problem.gradient(x, 1)[1])


def _gradient_allocates_nothing(part: Part) -> None:
    problem = _problem(part, 0, 1, DTYPES[0])
    x = contracts.checked_point(part, problem.initial_point(), problem.dimension, np, DTYPES[0])
    # Shorter vectors are not told apart from whatever else a gradient takes.
    if x.size >= DIMENSION:
        # A batch may be gathered and converted.
        allocates_nothing(part, {"gradient": lambda t: problem.gradient(x, t)}, x.nbytes, 0.5)
    elif not np.shares_memory(problem.gradient(x, 1)[1], problem.gradient(x, 2)[1]):
        raise Doubt("gradient gives a new one each time; keep a buffer for it")


#: The checks of a compressor and of a problem, with what each holds a part to; `rehearsal` has an algorithm's.
CHECKS: dict[str, list[tuple[str, Check]]] = {
    "compressor": [
        ("the payload's size is known beforehand", _payload_size_is_stated),
        ("encode keeps the vector", _vector_is_kept),
        ("encode fills the payload, the same from the same seed", _payload_is_filled),
        ("encode is a function of (seed, iteration, vector)", _encoding_repeats),
        ("decode overwrites out, with finite numbers", _out_is_overwritten),
        ("any rank decodes any payload", _anyone_decodes),
        ("payloads add up if it says so", _payloads_add_up),
        ("error feedback keeps what decoding lost, to the bit", _error_feedback_balances),
        ("every element arrives, sooner or later", _every_element_arrives),
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
}
