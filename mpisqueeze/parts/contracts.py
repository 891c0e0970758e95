"""Checks that a part keeps its contract: before training, and on each gradient."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import numpy as np

from mpisqueeze.compressors.base import Compressor, adapt, is_finite
from mpisqueeze.control_groups import total_memory
from mpisqueeze.costs.exchanges import Schedule
from mpisqueeze.errors import UsageError, describe, describe_value
from mpisqueeze.parts.registry import Part
from mpisqueeze.parts.state import carried, copied, put_back
from mpisqueeze.problems.base import Problem, address_of


@contextmanager
def plugin(part: Part, option: str, what: str) -> Iterator[None]:
    """Turn what a plug-in raises into a UsageError that names `what` was called; a built-in's error is a bug and
    stays."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        if not part.is_plugin:
            raise
        raise UsageError(f"{part.spec} breaks its contract: {what} raised {describe(error)}", option) from error


def broken(part: Part, option: str, what: str) -> UsageError:
    """The error for a part that breaks its contract."""
    return UsageError(f"{part.spec} breaks its contract: {what}", option)


def _need_methods(part: Part, option: str, thing: Any, *names: str) -> None:
    for name in names:
        if not callable(getattr(thing, name, None)):
            raise broken(part, option, f"it has no method {name}")


def _need_count(part: Part, option: str, thing: Any, name: str, default: int | None = None) -> int:
    value: Any = getattr(thing, name, default)
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise broken(part, option, f"{name} must be a whole number ≥ 1, not {value!r}")
    return int(value)


def _need_shape(part: Part, method: str, array: Any, shape: tuple[int, ...]) -> None:
    if getattr(array, "shape", None) != shape:
        found = f"shape {array.shape}" if hasattr(array, "shape") else f"a {type(array).__name__}"
        raise broken(part, "--problem", f"{method} gave {found}, not an array of shape {shape}")


def check_installed(part: Part, option: str) -> None:
    """Raise UsageError for a part that says that it cannot be used here."""
    with plugin(part, option, "check_installed()"):
        getattr(part.cls, "check_installed", lambda: None)()


def default_compressor(part: Part) -> str:
    """The specification of the compressor that an algorithm has unless told otherwise. Raises UsageError."""
    if not getattr(part.cls, "compresses", True):
        return getattr(part.cls, "fixed_compressor", "identity")
    default = getattr(part.cls, "default_compressor", "onebit")
    if not isinstance(default, str):
        raise broken(part, "--algorithm", f"default_compressor must be a text, not {describe_value(default)}")
    return default


def check_state(part: Part, option: str, thing: Any) -> None:
    """Raise UsageError unless what a part carries over can be saved."""
    for name, value in carried(thing).items():
        if getattr(value, "dtype", np.asarray(value).dtype).kind not in "biufc":
            raise broken(part, option, f"{name} must be an array of numbers, not {describe_value(value)}")


def check_problem(part: Part, problem: Any) -> None:
    """Raise UsageError unless `problem` keeps the contract of a problem, as far as that shows."""
    _need_methods(part, "--problem", problem, "initial_point", "gradient")
    dimension = _need_count(part, "--problem", problem, "dimension")
    if dimension >= 2**31:
        raise UsageError(f"{part.spec}: {dimension} parameters are more than an int32 index reaches", "--problem")
    _need_count(part, "--problem", problem, "iterations_per_epoch", 1)
    check_state(part, "--problem", problem)
    if getattr(problem, "training_samples", None) is not None:
        _need_count(part, "--problem", problem, "training_samples")
    shapes_of(part, problem)


def shapes_of(part: Part, problem: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of a problem's parameters; empty where it tells none. Raises UsageError unless they make up d."""
    given = getattr(problem, "shapes", None)
    if given is None:
        return ()
    try:
        shapes = tuple(tuple(map(operator.index, shape)) for shape in given)
    except TypeError:
        what = f"shapes must be shapes such as [(3, 4), (4,)], not {describe_value(given)}"
        raise broken(part, "--problem", what) from None
    if any(length < 0 for shape in shapes for length in shape):
        raise broken(part, "--problem", f"shapes has a length below 0: {describe_value(given)}")
    count, dimension = sum(map(math.prod, shapes)), int(problem.dimension)
    if count != dimension:
        raise broken(part, "--problem", f"shapes make up {count} elements, and its dimension is {dimension}")
    return shapes


def checked_point(part: Part, x: Any, dimension: int, xp: Any, dtype: np.dtype[Any]) -> Any:
    """A contiguous copy of an initial point in the run's dtype. Raises UsageError for a wrong shape or a NaN."""
    _need_shape(part, "initial_point", x, (dimension,))
    with plugin(part, "--problem", "the conversion of initial_point()"):
        x = xp.array(_real(part, "initial_point", xp.asarray(x)), dtype=dtype)
    if not is_finite(x, xp):
        raise broken(part, "--problem", "initial_point holds a NaN or an infinity")
    return x


def _real(part: Part, method: str, array: Any) -> Any:
    """The array. Raises UsageError where it holds complex numbers, texts or objects."""
    if array.dtype.kind not in "biuf":
        raise broken(part, "--problem", f"{method} gave an array of {array.dtype}, not of real numbers")
    return array


def loss_and_gradient(part: Part, found: Any) -> tuple[float, Any]:
    """The pair that `problem.gradient` returned. Raises UsageError for anything else."""
    try:
        loss, g = found
        return float(loss), g
    except (TypeError, ValueError):
        raise broken(part, "--problem", f"gradient gave {describe_value(found)}, not (loss, gradient)") from None


@contextmanager
def keeps(part: Part, method: str, x: Any) -> Iterator[None]:
    """Raise UsageError if x (d) is another one at the end of the block, in which `method` is called."""

    def mark() -> int:
        # In place of a copy, for which there may be no memory.
        host: np.ndarray = x if isinstance(x, np.ndarray) else x.get()
        return crc32(host.data)

    before = mark()
    yield
    if mark() != before:
        raise broken(part, "--problem", f"{method} changed x")


def evaluation(part: Part, found: Any) -> dict[str, float]:
    """The numbers by name that `problem.evaluate` returned; none for None. Raises UsageError for anything else."""
    try:
        return {str(name): float(value) for name, value in ({} if found is None else found).items()}
    except (AttributeError, TypeError, ValueError):
        raise broken(part, "--problem", f"evaluate gave {describe_value(found)}, not numbers by name") from None


class GradientCheck:
    """Checks what `problem.gradient` returns, at the price of comparing an address.

    A gradient of another shape is refused. One of another dtype, one that may not be written to, x itself, one that
    comes in other memory each time and one of a plug-in that is not built on `Problem`, whose docstring gives it away,
    are copied, so that algorithms may overwrite what they get, and MPI knows its place.
    """

    def __init__(self, part: Part, dimension: int, xp: Any, dtype: np.dtype[Any]) -> None:
        self.part, self.xp, self.dtype = part, xp, dtype
        self.shape = (dimension,)
        self._given = not part.is_plugin or issubclass(part.cls, Problem)
        self._kept: Any = None
        self._copies: Any = None

    def __call__(self, g: Any, x: Any) -> Any:
        """The gradient (d) at x in the run's dtype, contiguous, the same array each time. Raises UsageError."""
        if g is self._kept:
            return g
        fits = self.fits(g, x) and self._given
        if fits and (self._kept is None or address_of(g) == address_of(self._kept)):
            self._kept = g
        else:
            if self._copies is None:
                self._copies = self.xp.empty(self.shape, self.dtype)
            self._kept = self._copies
            self._kept[:] = _real(self.part, "gradient", self.xp.asarray(g))
        return self._kept

    def fits(self, g: Any, x: Any) -> bool:
        """True if the gradient can be worked on where it lies. Raises UsageError for another shape."""
        _need_shape(self.part, "gradient", g, self.shape)
        if g.dtype != self.dtype or not isinstance(g, self.xp.ndarray) or not g.flags.c_contiguous:
            return False
        return getattr(g.flags, "writeable", True) and address_of(g) != address_of(x)


def check_compressor(part: Part, compressor: Any) -> None:
    """Raise UsageError unless `compressor` keeps the contract of a compressor, as far as that shows."""
    _need_methods(part, "--compressor", compressor, "encode", "decode")
    if not isinstance(getattr(compressor, "unbiased", None), bool):
        raise broken(part, "--compressor", "unbiased must be True or False")
    if isinstance(compressor, Compressor) and not all(
        hasattr(compressor, name) for name in ("dimension", "xp", "dtype")
    ):
        raise broken(part, "--compressor", "its __init__ does not call that of its base class")
    _need_count(part, "--compressor", compressor, "payload_bytes")
    check_state(part, "--compressor", compressor)


def make_compressor(part: Part, dimension: int, xp: Any, dtype: np.dtype[Any], seed: int) -> Compressor:
    """A compressor of a part, with all that the contract lets it leave out. Raises UsageError."""
    made = part.cls(dimension, xp, dtype, seed, **part.options)
    check_compressor(part, made)
    return adapt(made, dimension, xp, dtype)


def says_what_it_carries(part: Part) -> bool:
    """An algorithm names what it carries from one iteration to the next; a plug-in must do so itself."""
    own = [cls for cls in part.cls.__mro__ if not (part.is_plugin and cls.__module__.startswith("mpisqueeze."))]
    return any(name in vars(cls) for cls in own for name in ("memory", "state"))


def encoding_repeats(compressor: Compressor, vector: Any) -> bool:
    """An iteration encoded again, after another, gives the same payload once what is carried over is put back."""
    own = getattr(compressor, "part", compressor)
    before = copied(own)
    payloads: list[Any] = []
    for iteration in (1, 2, 1):
        compressor.iteration = iteration
        if payloads and iteration == 1:
            put_back(own, before)
        payloads.append(compressor.xp.zeros(compressor.payload_bytes, np.uint8))
        compressor.encode(vector, payloads[-1])
    return bool((payloads[0] == payloads[-1]).all())


def check_algorithm(part: Part, algorithm: Any) -> None:
    """Raise UsageError unless `algorithm` keeps the contract of an algorithm, as far as that shows."""
    # Imported here because it loads MPI, which checking settings does not need.
    from mpisqueeze.algorithms.base import Algorithm

    step = getattr(algorithm, "step", None)
    if not callable(step) or getattr(type(algorithm), "step", None) is Algorithm.step:
        raise broken(part, "--algorithm", "it has no method step")
    if isinstance(algorithm, Algorithm) and not hasattr(algorithm, "setup"):
        raise broken(part, "--algorithm", "its __init__ does not call that of its base class")
    # One that is not built on ours may call its attributes as it likes.
    for name, (kinds, what) in _SUMMARIZED.items() if isinstance(algorithm, Algorithm) else ():
        value = getattr(algorithm, name, None)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool)):
            raise broken(part, "--algorithm", f"{name} must be {what}, not {describe_value(value)}")
    if not part.is_plugin:
        return
    check_state(part, "--algorithm", algorithm)
    with plugin(part, "--algorithm", "bytes_per_iteration()"):
        expected = getattr(algorithm, "bytes_per_iteration", lambda: None)()
    if expected is not None and not (
        isinstance(expected, int | float | np.integer | np.floating) and 0 <= expected < math.inf
    ):
        raise broken(part, "--algorithm", f"bytes_per_iteration gave {describe_value(expected)}, not a number ≥ 0")
    with plugin(part, "--algorithm", "residual()"):
        residual = getattr(algorithm, "residual", lambda: None)()
    if residual is not None and getattr(residual, "ndim", 0) != 1:
        raise broken(part, "--algorithm", f"residual gave {describe_value(residual)}, not a vector")


#: Attributes of an algorithm that a run's summary has, if there are any.
_SUMMARIZED: dict[str, tuple[Any, str]] = {
    "centralized": (bool, "True or False"),
    "payload_bytes": (int | np.integer, "a whole number"),
    "eta": (float | int | np.floating, "a number"),
    "formula": (str, "a text"),
    "schedule": (Schedule, "a Schedule"),
}


def try_compressor(part: Part, make: Callable[[int, int], Compressor], dimension: int, xp: Any) -> int:
    """Send one vector through a plug-in, so that a broken one is found before any training; its payload_bytes, or 0.

    Raises UsageError.
    """
    if not part.is_plugin:
        return 0
    compressor = make(dimension, 0)
    memory = total_memory()
    if compressor.payload_bytes > memory:
        what = f"a payload has {compressor.payload_bytes} bytes, and this machine's memory {memory}"
        raise UsageError(f"{part.spec}: {what}", "--compressor")
    vector = xp.asarray(np.random.default_rng(0).standard_normal(dimension)).astype(compressor.dtype)
    kept = vector.copy()
    payload = xp.zeros(compressor.payload_bytes, np.uint8)
    decoded = xp.full(dimension, xp.nan, compressor.dtype)
    with plugin(part, "--compressor", f"encode(vector ({dimension},), payload ({payload.size},))"):
        compressor.encode(vector, payload)
    if not bool((vector == kept).all()):
        raise broken(part, "--compressor", "encode changed the vector")
    with plugin(part, "--compressor", f"decode(payload ({payload.size},), out ({dimension},))"):
        compressor.decode(payload, decoded)
    if not bool(xp.isfinite(decoded).all()):
        raise broken(part, "--compressor", "decode left elements of out unset, NaN or infinite")
    return compressor.payload_bytes
