"""The contract of a compressor, and the adapter for plug-ins that have only its minimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import numpy as np

from mpisqueeze.kernels import kernels_for
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.language import integer

#: The elements that share a scale.
Block = Annotated[int, integer(0, accepts="a block length ≥ 1, or 0 for the whole vector")]


class NonFiniteError(ArithmeticError):
    """A vector had an element that was NaN, infinite or too large for the format: nothing was encoded."""


class Compressor:
    """C(·) for vectors of one length d: encodes a vector as a payload of known size, and decodes it.

    A plug-in needs only `unbiased`, `payload_bytes`, `__init__`, `encode` and `decode`, and need not inherit from this
    class: `adapt` adds the rest. Encoding may keep state (a generator); decoding must not: any instance of the same
    spec and dimension decodes any rank's payload; where it is `linear`, any that has the same seed and iteration.

    Args:
        dimension: length d ≥ 1 of the vectors.
        xp: the array module, numpy or cupy.
        dtype: float32 or float64, for vectors and for scales and values in the payload.
        seed: seed of random operators; it differs by rank and by role (worker, server), unless C is `linear`.

    The parameters of a spec (`NAME:ARG,key=value`) are further arguments, by keyword only, see `language`.

    Attributes:
        unbiased: whether E C(v) = v.
        draws: whether a payload depends on `seed`, or on what was encoded before.
        linear: whether payloads are arrays of `dtype` that may be added up, D(p + q) = D(p) + D(q), where they are of
            one seed and iteration. `--server allreduce` averages such payloads. All ranks and roles then have one seed,
            and `iteration` is set before each decoding, too. One that depends on the iteration has no `grain`.
        payload_bytes: exact size of a payload, known before any data.
        iteration: 1, 2, …, set before each encoding, so that built-in randomness is keyed by (seed, iteration, index).
        first: position of this compressor's vector in the run's vector, set before each encoding; a multiple of a power
            of two ≥ `dimension`.
        grain: number of elements at whose multiples a payload may be cut: the sections' payloads, put together, are the
            whole vector's to the bit. None where it cannot be cut.
    """

    name: str
    #: One line for `mpisqueeze info`.
    summary: ClassVar[str] = ""
    unbiased: bool = False
    draws: bool = True
    linear: bool = False
    payload_bytes: int
    grain: int | None = None
    first: int = 0
    #: A payload holds some elements, the share `ratio`, and the rest is 0: there are `clear` and `at`.
    sparsifies: ClassVar[bool] = False
    ratio: Fraction
    #: A built-in operator's kernels: `{kernel}_encode`, `{kernel}_decode` and, for some, `{kernel}_combine`.
    kernel: str = ""
    #: The arguments that all of them take: those that set the payload's layout.
    layout: tuple[Any, ...] = ()
    _kernels: Any = None
    _encoder: Any = None
    _decoder: Any = None

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        self.dimension = dimension
        self.xp = xp
        self.dtype = np.dtype(dtype)
        self.seed = seed
        self.iteration = 0
        self.kernels = kernels_for(xp, self.dtype)

    @property
    def kernels(self) -> Any:
        """The kernel set; None for a part that has none."""
        return self._kernels

    @kernels.setter
    def kernels(self, kernels: Any) -> None:
        self._kernels = kernels
        self._encoder, self._decoder = (getattr(kernels, f"{self.kernel}_{way}", None) for way in ("encode", "decode"))

    @property
    def key(self) -> int:
        """The key of this iteration's random numbers.

        The hash combines key and index by exclusive or, so `first` can be added to the key.
        """
        return derive_key(self.seed, self.iteration) ^ self.first

    def bound(self) -> float | None:
        """An upper bound on E‖C(v) − v‖² / ‖v‖² over all v, or None."""
        return None

    def _rounding(self) -> tuple[Any, ...]:
        """Arguments of the encoding kernel that the decoding one does not need."""
        return ()

    def encode(self, vector: Any, payload: Any) -> None:
        """payload (payload_bytes,), uint8 ← C(vector); `vector` (d,) is not changed. Raises NonFiniteError."""
        self._encode(vector, None, payload)

    def encode_feedback(self, vector: Any, residual: Any, payload: Any) -> None:
        """v = vector + residual; payload ← C(v); residual (d,) ← v − D(payload). Raises NonFiniteError."""
        self._encode(vector, residual, payload)

    def _encode(self, vector: Any, residual: Any, payload: Any) -> None:
        if not self._encoder(vector, residual, payload, *self.layout, *self._rounding()):
            raise NonFiniteError(self.nonfinite_message())

    def decode(self, payload: Any, out: Any) -> None:
        """out (d,) ← D(payload). Raises NonFiniteError where a payload may hold what was never encoded (`identity`)."""
        if self._decoder(payload, out, *self.layout, False) is False:
            raise NonFiniteError(self.nonfinite_message())

    def decode_add(self, payload: Any, out: Any, factor: float = 1.0) -> None:
        """out (d,) ← out + factor·D(payload). Raises NonFiniteError as `decode` does, with `out` changed."""
        if self._decoder(payload, out, *self.layout, True, factor) is False:
            raise NonFiniteError(self.nonfinite_message())

    def combine(self, payloads: Sequence[Any], out: Any, weights: Any = None, factor: float = 0.0) -> None:
        """out (d,) ← (D(p₀) + D(p₁) + …)/n, or with a tuple of weights Σ w D(p), in one pass over `out`.

        With a factor, which is not 0, out ← out + factor·Σ w D(p). Summed in the order of the payloads, and rounded
        after each product and sum. Needs `combines`.
        """
        getattr(self.kernels, f"{self.kernel}_combine")(tuple(payloads), weights, factor, out, *self.layout)

    def clear(self, payload: Any, out: Any) -> None:
        """out (d,) ← 0 at the elements that the payload holds, be they 0 themselves. Needs `sparsifies`."""
        getattr(self.kernels, f"{self.kernel}_clear")(payload, out, *self.layout)

    def at(self, ratio: Fraction) -> Compressor:
        """The same with another share of elements. Needs `sparsifies`."""
        raise NotImplementedError

    @property
    def combines(self) -> bool:
        """True if there is a kernel for `combine`."""
        return hasattr(self.kernels, f"{self.kernel}_combine")

    def nonfinite_message(self) -> str:
        """The message of NonFiniteError."""
        return f"a number was NaN, infinite or too large for {self.name}"


def block_grain(block: int, dimension: int, random: bool = False) -> int | None:
    """The grain of payloads with a scale for each `block` elements (0: one for all) and codes in whole bytes.

    With `random` rounding it must be a power of two, see `Compressor.first`.
    """
    grain = math.lcm(block, 8) if 0 < block < dimension else None
    return None if grain is None or (random and grain & (grain - 1)) else grain


def is_finite(vector: Any, xp: Any) -> bool:
    """True if no element is NaN or infinite; a temporary is made only if there may be one."""
    return math.isfinite(float(vector.dot(vector))) or bool(xp.isfinite(vector).all())


#: Normal numbers that are drawn at once, in double precision.
_DRAWN = 1 << 20


def gaussian_error(compressor: Compressor) -> float:
    """‖C(v) − v‖²/‖v‖² for one fixed vector of standard normal elements."""
    generator, draws = np.random.default_rng(1), np.empty(compressor.dimension, compressor.dtype)
    for start in range(0, draws.size, _DRAWN):
        draws[start : start + _DRAWN] = generator.standard_normal(min(_DRAWN, draws.size - start))
    vector = compressor.xp.asarray(draws)
    payload = compressor.xp.empty(compressor.payload_bytes, np.uint8)
    decoded = compressor.xp.empty_like(vector)
    compressor.iteration = 1
    compressor.encode(vector, payload)
    compressor.decode(payload, decoded)
    decoded -= vector
    return float(decoded.dot(decoded)) / float(vector.dot(vector))


class AdaptedCompressor(Compressor):
    """A plug-in that has only the contract's minimum, with the fused operations added.

    Scratch: one vector.
    """

    def __init__(self, part: Any, dimension: int, xp: Any, dtype: Any) -> None:
        self.part = part
        self.name = type(part).__name__
        self.dimension, self.xp, self.dtype = dimension, xp, np.dtype(dtype)
        self.unbiased, self.linear = bool(part.unbiased), bool(getattr(part, "linear", False))
        self.payload_bytes = int(part.payload_bytes)
        self._decoded = xp.empty(dimension, self.dtype)

    @property
    def iteration(self) -> int:
        return getattr(self.part, "iteration", 0)

    @iteration.setter
    def iteration(self, value: int) -> None:
        self.part.iteration = value

    def bound(self) -> float | None:
        bound = getattr(self.part, "bound", None)
        return bound() if callable(bound) else None

    def encode(self, vector: Any, payload: Any) -> None:
        if not is_finite(vector, self.xp):
            raise NonFiniteError(self.nonfinite_message())
        self.part.encode(vector, payload)

    def encode_feedback(self, vector: Any, residual: Any, payload: Any) -> None:
        residual += vector
        self.encode(residual, payload)
        self.part.decode(payload, self._decoded)
        residual -= self._decoded

    def decode(self, payload: Any, out: Any) -> None:
        self.part.decode(payload, out)

    def decode_add(self, payload: Any, out: Any, factor: float = 1.0) -> None:
        self.part.decode(payload, self._decoded)
        if factor != 1.0:
            self._decoded *= self.dtype.type(factor)
        out += self._decoded


def adapt(part: Any, dimension: int, xp: Any, dtype: Any) -> Compressor:
    """`part` itself if it is a `Compressor`, else an adapter around it."""
    return part if isinstance(part, Compressor) else AdaptedCompressor(part, dimension, xp, dtype)
