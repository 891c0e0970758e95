"""The contract of an algorithm, and what it is built from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, repeat
from typing import Any, ClassVar

import numpy as np

from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import Signal
from mpisqueeze.compressors.base import Compressor, NonFiniteError, gaussian_error
from mpisqueeze.compressors.identity import Identity
from mpisqueeze.devices.clock import Phase
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.optimizers.base import Optimizer, Recipe
from mpisqueeze.optimizers.sgd import GradientDescent
from mpisqueeze.topology import Topology

Ready = Callable[[Any, int], None]
"""(g, start): the elements g[start:] of a gradient are final; they may be read and overwritten. Starts only fall."""

Gradient = Callable[..., Any]
"""x ↦ g; with `Setup.overlap` also (x, ready: Ready) ↦ g, which need not have called `ready` to the end."""


#: Elements of a vector for which a compressor is asked what it is.
_PROBED = 64


class Codec:
    """A compressor at work: booked as encode_s and decode_s, keyed by the iteration, and never raising for a NaN.

    A rank that cannot encode sends zeros and has the gate tell the others, since they wait for its payload; on a GPU
    this is found out later, by wires and by the network.
    """

    __slots__ = ("compressor", "network", "payload_bytes")

    def __init__(self, compressor: Compressor, network: Network) -> None:
        self.compressor, self.network = compressor, network
        network.device.adopt(compressor)
        self.payload_bytes = compressor.payload_bytes

    def encode(self, vector: Any, payload: Any, first: int = 0) -> None:
        """payload ← C(vector), a section that begins at `first` of the vector."""
        self._encode(vector, None, payload, first)

    def encode_feedback(self, vector: Any, residual: Any, payload: Any, first: int = 0) -> None:
        """v = vector + residual; payload ← C(v); residual ← v − D(payload)."""
        self._encode(vector, residual, payload, first)

    def _encode(self, vector: Any, residual: Any, payload: Any, first: int) -> None:
        compressor, network = self.compressor, self.network
        compressor.iteration, compressor.first = network.iteration, first
        try:
            if residual is None:
                compressor.encode(vector, payload)
            else:
                compressor.encode_feedback(vector, residual, payload)
        except NonFiniteError as error:
            payload.fill(0)
            network.complain(Signal.NONFINITE, str(error))
        network.clock.lap(Phase.ENCODE)

    def decode(self, payload: Any, out: Any) -> None:
        """out ← D(payload)."""
        self._tell_iteration()
        try:
            self.compressor.decode(payload, out)
        except NonFiniteError as error:
            self.network.complain(Signal.NONFINITE, str(error))
        self.network.clock.lap(Phase.DECODE)

    def decode_add(self, payload: Any, out: Any, factor: float = 1.0) -> None:
        """out ← out + factor·D(payload)."""
        self._tell_iteration()
        try:
            self.compressor.decode_add(payload, out, factor)
        except NonFiniteError as error:
            self.network.complain(Signal.NONFINITE, str(error))
        self.network.clock.lap(Phase.DECODE)

    def combine(self, payloads: Sequence[Any], out: Any, weights: Any = None, factor: float = 0.0) -> None:
        """out ← the payloads' mean, Σ w D(p), or with a factor out + factor·Σ w D(p); only where it `combines`."""
        self.compressor.combine(payloads, out, weights, factor)
        self.network.clock.lap(Phase.DECODE)

    def add_up(self, payloads: Iterable[Any], out: Any, weights: tuple[Any, ...] = ()) -> None:
        """out ← D(p₀) + D(p₁) + …, or Σ w D(p), one payload after the other as they come."""
        for number, (payload, weight) in enumerate(zip(payloads, weights or repeat(1.0), strict=False)):
            if number:
                self.decode_add(payload, out, weight)
                continue
            self.decode(payload, out)
            if weights:
                out *= weight
                self.network.clock.lap(Phase.UPDATE)

    def clear(self, payload: Any, out: Any) -> None:
        """out ← 0 at the elements that the payload holds; only where the compressor `sparsifies`."""
        self._tell_iteration()
        self.compressor.clear(payload, out)
        self.network.clock.lap(Phase.ENCODE)

    def _tell_iteration(self) -> None:
        """A linear compressor's payload does not say what it was drawn by."""
        if self.compressor.linear:
            self.compressor.iteration = self.network.iteration

    @property
    def combines(self) -> bool:
        """There is `combine`."""
        return getattr(self.compressor, "combines", False)


class Descent:
    """An optimizer at work on the answers: booked as update_s, and never raising for a NaN."""

    def __init__(self, optimizer: Optimizer, network: Network) -> None:
        self.optimizer, self.network = optimizer, network
        network.device.adopt(optimizer)

    @property
    def plain(self) -> bool:
        """It is x ← x − γp."""
        return self.optimizer.plain

    def move(self, x: Any, p: Any, lr: float, start: int = 0, count: int = 1) -> None:
        """x ← x − γ·p/count, or as the optimizer moves it; both hold the elements from `start` on. p is kept."""
        try:
            self.optimizer.move(x, p, lr, start, count)
        except NonFiniteError as error:
            self.network.complain(Signal.NONFINITE, str(error))
        self.network.clock.lap(Phase.UPDATE)


@dataclass(frozen=True)
class Setup:
    """The ranks, the problem's size and the choices that an algorithm is built for.

    Attributes:
        network: ranks, device, clock and counter, for exchanges to be built on.
        dimension, dtype: of the parameters x.
        seed: the run's.
        make_compressor: (dimension, seed) → the run's compressor.
        topology: the gossip graph with its weights.
        server: `root`, `sharded` or `allreduce`.
        overlap: the gradient's sections are to leave while it is computed; only for algorithms that have `overlaps`.
        optimizer: moves x by the answers; None stands for x ← x − γp.
        momentum: β of `--momentum`, for algorithms that have `own_momentum`; the gradients of all others hold it.
        betas, eps: β₁, β₂ and ε of `--betas` and `--eps`, for algorithms that are a form of Adam.
        shapes: the shapes of the parameters in x, in its order, d elements in all; empty where the problem tells none.
        per_epoch: iterations of an epoch that exchange.
        iterations: the run's that exchange; None where nobody knows.
        every: iterations from one exchange to the next.
    """

    network: Network
    dimension: int
    dtype: np.dtype[Any]
    seed: int
    make_compressor: Callable[[int, int], Compressor]
    topology: Topology
    server: str = "root"
    overlap: bool = False
    optimizer: Optimizer | None = None
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    shapes: Sequence[tuple[int, ...]] = ()
    per_epoch: int = 100
    every: int = 1
    iterations: int | None = None

    @property
    def rank(self) -> int:
        return self.network.world.rank

    @property
    def size(self) -> int:
        return self.network.world.size

    @property
    def exchange(self) -> int:
        """The number of the current exchange, from 1."""
        return self.network.iteration // self.every

    def zeros(self, length: int | None = None) -> Any:
        """A vector of d zeros, or of `length`, on the device."""
        return self.network.device.xp.zeros(self.dimension if length is None else length, self.dtype)

    def parts(self) -> list[slice]:
        """The part of the vector that each server serves: all of it for `root`, contiguous shards for `sharded`.

        Shards differ by one element at most; where ranks outnumber elements, the last ones are empty.
        """
        servers = self.size if self.server == "sharded" else 1
        share, rest = divmod(self.dimension, servers)
        starts = [s * share + min(s, rest) for s in range(servers + 1)]
        return [slice(start, stop) for start, stop in pairwise(starts)]

    @property
    def served(self) -> slice:
        """The part that this rank serves; empty where it serves none."""
        parts = self.parts()
        return parts[self.rank] if self.rank < len(parts) else slice(0, 0)

    def worker_codec(self, part: int = 0, length: int | None = None, rank: int | None = None) -> Codec:
        """Codec of a worker (default: this rank) for `length` elements (default d) of a part.

        Its randomness differs by rank and part; that of a linear compressor by part alone.
        """
        rank = self.rank if rank is None else rank
        return self._codec(part, length, derive_key(self.seed, 1, rank, *([part] if part else [])))

    def server_codec(self, part: int = 0, length: int | None = None) -> Codec:
        """Codec of a part's server for its answers."""
        return self._codec(part, length, derive_key(self.seed, 2, part))

    def identity_codec(self, part: int = 0, length: int | None = None) -> Codec:
        """Codec of full vectors, whatever the part."""
        return Codec(Identity(length or self.dimension, self.network.device.xp, self.dtype, 0), self.network)

    def _codec(self, part: int, length: int | None, seed: int) -> Codec:
        length = length or self.dimension
        if length in self._exact:
            return self._exact[length]
        if self._linear:
            seed = derive_key(self.seed, 3, part)
        made = self.make_compressor(length, seed)
        codec = Codec(made, self.network)
        if not made.draws:
            self._exact[length] = codec
        return codec

    @cached_property
    def _exact(self) -> dict[int, Codec]:
        """Codecs of compressors without a seed, by length: whoever asks for one gets the same."""
        return {}

    @cached_property
    def _linear(self) -> bool:
        """Payloads of the run's compressor may be added up, and all codecs have one seed."""
        return self.make_compressor(min(self.dimension, _PROBED), 0).linear

    def descent(self, message: str = "") -> Descent:
        """The optimizer that moves x by the answers; `message` is for an answer that is not finite."""
        network = self.network
        optimizer = self.optimizer or GradientDescent(self.dimension, network.device.xp, self.dtype, Recipe())
        optimizer.message = message or optimizer.message
        return Descent(optimizer, network)

    def gossip_step(self) -> float:
        """The default for η, the same on every rank: 1 for a compressor without error, else (1 − α²)/2.

        It is at least 0.01, also where α² ≥ 1 and no η is safe. Theory's own bound (CHOCO, arXiv 1902.00340, Theorem 2)
        is smaller by orders of magnitude than what works; this one held in every trial with α² < 1.
        """
        error = self.compressor_error
        return 1.0 if error == 0 else max(0.01, float(f"{(1 - error) / 2:.2g}"))

    @cached_property
    def compressor_error(self) -> float:
        """α² = ‖C(v) − v‖²/‖v‖² of the run's compressor on normal numbers."""
        return gaussian_error(self.make_compressor(self.dimension, 0))


#: Values of `Algorithm.fails_with`, and the compressors that they stand for.
FAILING = {"biased": "a biased compressor", "lossy": "any compressor but identity"}


class Algorithm:
    """One step of distributed SGD.

    A plug-in needs `__init__(setup)` and `step` (`AdaptedAlgorithm` gives it the rest), and is best written on top of
    `centralized.ServerAlgorithm` or `decentralized.GossipAlgorithm`.

    Attributes:
        centralized: all ranks hold the same x.
        compresses: it takes a compressor; otherwise `--compressor` must be left out or `fixed_compressor`.
        default_compressor: what it takes unless told otherwise.
        fixed_compressor: what it sends with if it takes none.
        takes: names of the compressors that it takes; empty: any.
        lossless: the compressor that it takes and that loses nothing.
        ignores: settings that it has no use for, besides those of other routes.
        falling_lr: it converges with a falling γ alone.
        default_lr: default of `--lr`, in place of the problem's, where steps do not grow with the gradient; None.
        overlaps: it can send the gradient's sections while it is computed.
        linear: the answer to all payloads is their mean as it is, so that linear ones can be averaged by MPI_Allreduce
            (`--server allreduce`), which has no server that could change or remember it.
        directed: it gossips also where W is not symmetric, or differs from one iteration to the next.
        own_momentum: it has a momentum of its own, as by `Setup.momentum`, and gets gradients without.
        route: how its payloads travel: `servers`, `neighbours` or `allreduce`; empty where `predict` cannot know.
        formula: the talks' count of full vectors per iteration, for N workers and a server apart from them.
        fails_with: a key of FAILING: the compressors with which the talks show it to fail; empty where they do not.
        memory: the names of the attributes that carry over from one iteration to the next, besides x: arrays, lists of
            arrays, numbers or None. A checkpoint holds them. A plug-in that does not say is not checkpointed.
    """

    memory: ClassVar[Sequence[str]] = ()
    name: ClassVar[str]
    summary: ClassVar[str] = ""
    centralized: ClassVar[bool] = True
    compresses: ClassVar[bool] = True
    default_lr: ClassVar[float | None] = None
    overlaps: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    directed: ClassVar[bool] = False
    own_momentum: ClassVar[bool] = False
    default_compressor: ClassVar[str] = "onebit"
    fixed_compressor: ClassVar[str] = "identity"
    takes: ClassVar[tuple[str, ...]] = ()
    lossless: ClassVar[str] = "identity"
    ignores: ClassVar[tuple[str, ...]] = ()
    falling_lr: ClassVar[bool] = False
    route: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    fails_with: ClassVar[str] = ""

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

    @property
    def payload_bytes(self) -> int | None:
        """Size of a rank's whole vector once compressed, or None if it is sent in full or not known beforehand."""
        return None

    def bytes_per_iteration(self) -> int | None:
        """Bytes that all ranks together will count in one iteration, or None if they are not known beforehand."""
        return None

    @property
    def later_bytes(self) -> int:
        """Bytes of vectors that it asks for in the first iteration, besides those that it has asked for before."""
        return 0

    def doubts(self) -> list[str]:
        """Sentences about what this choice does not promise, above all to converge, with condition and source."""
        return []

    def close(self) -> None:
        """Free what MPI holds."""


class AdaptedAlgorithm(Algorithm):
    """A plug-in that has `step` and perhaps `centralized`, `formula`, `residual`, `bytes_per_iteration`, `close`."""

    def __init__(self, setup: Setup, part: Any) -> None:
        super().__init__(setup)
        self.part = part
        self.centralized = bool(getattr(part, "centralized", True))  # type: ignore[misc]
        self.formula = str(getattr(part, "formula", ""))  # type: ignore[misc]

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.part.step(x, gradient, lr)

    def residual(self) -> Any:
        return getattr(self.part, "residual", super().residual)()

    def bytes_per_iteration(self) -> int | None:
        return getattr(self.part, "bytes_per_iteration", super().bytes_per_iteration)()

    def close(self) -> None:
        getattr(self.part, "close", super().close)()


def bias_doubt(algorithm: Algorithm, codec: Codec, source: str) -> list[str]:
    """The doubt about an algorithm that needs E C(v) = v."""
    if codec.compressor.unbiased:
        return []
    name = getattr(codec.compressor, "name", "this compressor")
    return [f"{algorithm.name} needs an unbiased compressor, E C(v) = v, and {name} is biased ({source})"]


def feedback_doubt(algorithm: Algorithm, codec: Codec) -> list[str]:
    """The doubt about error feedback where C loses more than it is given."""
    error = algorithm.setup.compressor_error
    if error < 1:
        return []
    return [
        f"{algorithm.name} feeds the compressor's error back, and {codec.compressor.name} errs by ‖C(v) − v‖² = "
        f"{error:.3g}‖v‖² on normal numbers: without ‖C(v) − v‖ < ‖v‖ the error may grow "
        "(arXiv 1901.09847, Assumption A)"
    ]
