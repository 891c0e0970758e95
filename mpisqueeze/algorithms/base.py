"""The contract of an algorithm, and what it is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mpisqueeze.comm.counters import Phase
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import Signal
from mpisqueeze.compressors.base import Compressor, NonFiniteError
from mpisqueeze.compressors.identity import Identity
from mpisqueeze.kernels.random import derive_key

Gradient = Callable[[Any], Any]


class Codec:
    """A compressor at work: booked as encode_s and decode_s, keyed by the iteration, and never raising for a NaN.

    A rank that cannot encode sends zeros and has the gate tell the others, since they wait for its payload.
    """

    def __init__(self, compressor: Compressor, network: Network) -> None:
        self.compressor, self.network = compressor, network
        self.payload_bytes = compressor.payload_bytes

    def encode(self, vector: Any, payload: Any) -> None:
        """payload ← C(vector)."""
        self.compressor.iteration = self.network.iteration
        try:
            self.compressor.encode(vector, payload)
        except NonFiniteError as error:
            self._give_up(payload, error)
        self.network.clock.lap(Phase.ENCODE)

    def encode_feedback(self, vector: Any, residual: Any, payload: Any) -> None:
        """v = vector + residual; payload ← C(v); residual ← v − D(payload)."""
        self.compressor.iteration = self.network.iteration
        try:
            self.compressor.encode_feedback(vector, residual, payload)
        except NonFiniteError as error:
            self._give_up(payload, error)
        self.network.clock.lap(Phase.ENCODE)

    def decode(self, payload: Any, out: Any) -> None:
        """out ← D(payload)."""
        self.compressor.decode(payload, out)
        self.network.clock.lap(Phase.DECODE)

    def decode_add(self, payload: Any, out: Any) -> None:
        """out ← out + D(payload)."""
        self.compressor.decode_add(payload, out)
        self.network.clock.lap(Phase.DECODE)

    def _give_up(self, payload: Any, error: NonFiniteError) -> None:
        payload.fill(0)
        self.network.complain(Signal.NONFINITE, str(error))


@dataclass(frozen=True)
class Setup:
    """What an algorithm is built from.

    Attributes:
        network: ranks, device, clock and counter, for exchanges to be built on.
        dimension, dtype: of the parameters x.
        seed: the run's.
        make_compressor: (dimension, seed) → the run's compressor.
        memory_lr: `outside` or `inside`: whether memsgd's memory holds gradients or steps γg.
    """

    network: Network
    dimension: int
    dtype: np.dtype[Any]
    seed: int
    make_compressor: Callable[[int, int], Compressor]
    memory_lr: str = "outside"

    @property
    def rank(self) -> int:
        return self.network.world.rank

    @property
    def size(self) -> int:
        return self.network.world.size

    def zeros(self) -> Any:
        """A vector of d zeros on the device."""
        return self.network.device.xp.zeros(self.dimension, self.dtype)

    def worker_codec(self) -> Codec:
        """The compressor that this rank sends with; its randomness differs by rank."""
        seed = derive_key(self.seed, 1, self.rank)
        return Codec(self.make_compressor(self.dimension, seed), self.network)

    def server_codec(self) -> Codec:
        """The compressor that the server answers with."""
        return Codec(self.make_compressor(self.dimension, derive_key(self.seed, 2, 0)), self.network)

    def identity_codec(self) -> Codec:
        """Full vectors."""
        return Codec(Identity(self.dimension, self.network.device.xp, self.dtype, 0), self.network)


class Algorithm:
    """One step of distributed SGD.

    A plug-in needs `__init__(setup)` and `step`, and is best written on top of this class or of
    `centralized.RootAlgorithm`.

    Attributes:
        centralized: all ranks hold the same x.
        compresses: it takes a compressor; otherwise `--compressor` must be left out or `identity`.
        formula: the talks' count of full vectors per iteration, for N workers and a server apart from them.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    centralized: ClassVar[bool] = True
    compresses: ClassVar[bool] = True
    formula: ClassVar[str] = ""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        """Move x (d), in place, by one iteration.

        Args:
            gradient: called once with the point to differentiate at; the (d,) array that it returns may be overwritten.
            lr: γ of this iteration.

        Raises:
            HaltError: from the exchange, when all ranks agreed to stop.
        """
        raise NotImplementedError

    def residual(self) -> Any:
        """This rank's error-feedback memory (d), or None."""
        return None

    def bytes_per_iteration(self) -> int | None:
        """What all ranks together will count in one iteration, or None if it is not known beforehand."""
        return None

    def close(self) -> None:
        """Free what MPI holds."""
