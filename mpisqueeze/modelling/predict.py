"""What an iteration would take on a network that is described, not there: a model, of which nothing was run.

    iteration = compute + exchange + update        exchange = max(wire, codec) + min(wire, codec)/K

`wire` is the exchange's time by `costs.exchanges`, in the schedule that the exchange itself would choose. `codec` is
what encoding and decoding take from the first number to the last: a rank's encoding, what its server adds up and
encodes, and the decoding of the answer. Of an exchange in K sections the codec works on one while others travel, so
that all but a K-th of the shorter one is hidden behind the longer. Without measured kernel rates codec and update are
left out.

An algorithm that sends its model before it has the gradient (`dpsgd:order=awc`) hides a part of `wire` behind
`compute`; the model does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from mpisqueeze.algorithms.allreduce import Allreduce
from mpisqueeze.algorithms.base import Algorithm
from mpisqueeze.algorithms.centralized import ServerAlgorithm
from mpisqueeze.algorithms.decentralized import GossipAlgorithm
from mpisqueeze.costs import exchanges
from mpisqueeze.costs.exchanges import Schedule
from mpisqueeze.costs.link import Link
from mpisqueeze.costs.sections import HOST_CODING, Terms, choose_sections
from mpisqueeze.errors import UsageError
from mpisqueeze.parts import registry
from mpisqueeze.parts.registry import Part
from mpisqueeze.record.calibration import Calibration, Kernel
from mpisqueeze.runs.pairs import Pair, expand
from mpisqueeze.settings import SERVERS, Settings
from mpisqueeze.topology import Topology

#: What the others are measured against.
BASELINE = "allreduce"
#: What a compressing algorithm is shown with unless it is told otherwise.
USUAL_COMPRESSORS = ("onebit", "qsgd:4", "topk:0.01")
MAX_RANKS = 10**6
MAX_DIMENSION = 10**12
#: Bits a second between which a break-even point is searched, and points a decade at which the search looks first.
SLOWEST, FASTEST = 1e3, 1e13
_LOOKS = 4
#: Relative difference below which two times are the same.
_SAME = 1e-9
GROWTH_RANKS = (*(2**k for k in range(1, 17)), 100_000)


@dataclass(frozen=True)
class Traffic:
    """What one iteration puts on the wire.

    Attributes:
        exchange: `root`, `sharded`, `neighbours` or `allreduce`.
        ranks, dimension: N and d.
        up, down: payload bytes of a whole vector to the servers and back; of an exchange without servers `up` is the
            payload to each neighbour, or the vector.
        grains: numbers at whose multiples payloads can be cut on either way, or None.
        degree: the largest number of neighbours.
        total: bytes of all ranks together, as runs count them.
    """

    exchange: str
    ranks: int
    dimension: int
    up: int
    down: int
    grains: tuple[int | None, int | None]
    degree: int
    total: int

    def schedule(self, link: Link, told: Told | None = None) -> Schedule:
        """How the exchange would be done over `link`, and its time."""
        return _schedule(self, link, told or Told())


@dataclass(frozen=True)
class Told:
    """What a run was told of its schedule.

    Attributes:
        chunk: bytes of a message in a pipeline, by `--chunk`, or None.
        tree: by `--tree`, or None.
        limit: bytes that no message exceeds, as on a slow real network, or None.
    """

    chunk: int | None = None
    tree: str | None = None
    limit: int | None = None


@lru_cache(maxsize=1 << 16)
def _schedule(traffic: Traffic, link: Link, told: Told) -> Schedule:
    ranks, limit = traffic.ranks, told.chunk or told.limit
    if ranks == 1:
        return Schedule(0.0, 0.0)
    if traffic.exchange == "allreduce":
        return exchanges.allreduce(link, ranks, traffic.up)
    if traffic.exchange == "neighbours":
        return exchanges.neighbours(link, traffic.degree, traffic.up, -(-traffic.up // limit) if limit else 1)
    terms = Terms(ranks, link, HOST_CODING, told.chunk, limit, told.tree)
    by_root = traffic.exchange == "root"
    return choose_sections(terms, traffic.dimension, traffic.grains, traffic.up, traffic.down, by_root).schedule


@dataclass(frozen=True)
class Coding:
    """What compressing takes in an iteration, s.

    Attributes:
        encode, decode: in all, from the first number to the last.
        server: the part of both that workers wait for while their server does it.
        update: of the model.
    """

    encode: float = 0.0
    decode: float = 0.0
    server: float = 0.0
    update: float = 0.0


@dataclass(frozen=True)
class Method:
    """An algorithm with a compressor.

    Attributes:
        server: `root` or `sharded`, None of an algorithm without one.
        topology: the gossip graph's spec, None of a centralized algorithm.
    """

    algorithm: Part
    compressor: Part
    server: str | None
    topology: str | None

    @staticmethod
    def of(algorithm: Part, compressor: Part, server: str, topology: str) -> Method:
        """With that of the server and the graph which the algorithm has."""
        return Method(
            algorithm,
            compressor,
            server if issubclass(algorithm.cls, ServerAlgorithm) else None,
            topology if issubclass(algorithm.cls, GossipAlgorithm) else None,
        )

    @property
    def compressor_name(self) -> str:
        return self.compressor.name if self.compressor.is_plugin else self.compressor.spec

    def traffic(self, ranks: int, dimension: int, dtype: str) -> Traffic:
        """Of one iteration on `ranks` ranks. Raises UsageError of `--topology`."""
        for kind, find in _EXCHANGES:
            if issubclass(self.algorithm.cls, kind):
                return find(self, ranks, dimension, np.dtype(dtype))
        raise UsageError(
            f"{self.algorithm.spec}: it is built on none of ServerAlgorithm, GossipAlgorithm and Allreduce, so that "
            "what it sends is not known",
            "PAIR",
        )

    def payload(self, length: int, dtype: np.dtype[Any], compressed: bool = True) -> tuple[int, int | None]:
        """(payload bytes, grain) of a vector of `length`; `compressed` or in full."""
        part = self.compressor if compressed else registry.compressors.find("identity")
        made = part.cls(length, np, dtype, 0, **part.options)
        return int(made.payload_bytes), getattr(made, "grain", None)

    def coding(self, traffic: Traffic, calibration: Calibration) -> Coding | None:
        """What its kernels take by measured rates, None where its compressor was not measured.

        Decoding is taken to add. A root adds N payloads of d numbers, sharded every rank N of d/N; the sum is divided
        by N, and the answer added to the model as it is decoded, so that there is no further update. A gossip rank adds
        a payload for each neighbour and, where it compresses, its own, with a multiplication and an addition each. Its
        update, and that of an all-reduce, is two passes over the model. A pass takes as long as an in-place add.
        """
        rates, full = (_rates(part, calibration) for part in (self.compressor, registry.compressors.find("identity")))
        if rates is None or full is None:
            return None
        d, n, add = traffic.dimension, traffic.ranks, calibration.add_s
        cls: Any = self.algorithm.cls
        up = rates if getattr(cls, "compresses_up", getattr(cls, "compresses", True)) else full
        # What keeps a residual encodes with error feedback.
        feedback = getattr(cls, "residual", None) is not Algorithm.residual
        encode = up.encode_feedback if feedback else up.encode
        update = 2 * add * d
        if traffic.exchange == "allreduce":
            # MPI adds what it receives, (N − 1)/N of a vector, and the sum is divided by N.
            return Coding(encode * d, add * d * (1 + (n - 1) / n), 0.0, update)
        if traffic.exchange == "neighbours":
            own = 1 if getattr(cls, "compresses", True) else 0
            return Coding(encode * d, (traffic.degree + own) * (up.decode_add + 2 * add) * d, 0.0, update)
        served = d if traffic.exchange == "root" else d / n
        added = (n * up.decode_add + add) * served
        answered = (rates.encode_feedback if feedback else rates.encode) * served if cls.compresses_down else 0.0
        taken = (rates if cls.compresses_down else full).decode_add * d
        return Coding(encode * d + answered, added + taken, added + answered)


def _rates(part: Part, calibration: Calibration) -> Kernel | None:
    """By the parameters that a spec stands for, so that `qsgd:4` is `qsgd:4,bucket=512`."""
    if part.spec in calibration.kernels or part.is_plugin:
        return calibration.kernels.get(part.spec)
    for spec, kernel in calibration.kernels.items():
        if spec.partition(":")[0].partition(",")[0] == part.name:
            try:
                other = registry.compressors.find(spec)
            except UsageError:
                continue
            if other.options == part.options:
                return kernel
    return None


def _served(method: Method, ranks: int, dimension: int, dtype: np.dtype[Any]) -> Traffic:
    """Parts differ by one number at most, as `Setup.parts` cuts them."""
    cls: Any = method.algorithm.cls
    servers = ranks if method.server == "sharded" else 1
    share, rest = divmod(dimension, servers)
    sizes = []
    for compressed in (cls.compresses_up, cls.compresses_down):
        shorter = method.payload(share, dtype, compressed)[0] if share else 0
        longer = method.payload(share + 1, dtype, compressed)[0] if rest else 0
        sizes.append(rest * longer + (servers - rest) * shorter)
    up, down = sizes
    up_grain, down_grain = (
        method.payload(dimension, dtype, each)[1] for each in (cls.compresses_up, cls.compresses_down)
    )
    total = (ranks - 1) * (up + down)
    return Traffic(method.server or SERVERS[0], ranks, dimension, up, down, (up_grain, down_grain), 0, total)


def _gossip(method: Method, ranks: int, dimension: int, dtype: np.dtype[Any]) -> Traffic:
    nbytes, _ = method.payload(dimension, dtype, getattr(method.algorithm.cls, "compresses", True))
    largest, together = degrees(method.topology or "ring", ranks)
    return Traffic("neighbours", ranks, dimension, nbytes, 0, (None, None), largest, together * nbytes)


def _allreduced(method: Method, ranks: int, dimension: int, dtype: np.dtype[Any]) -> Traffic:
    nbytes = dimension * dtype.itemsize
    return Traffic("allreduce", ranks, dimension, nbytes, 0, (None, None), 0, 2 * (ranks - 1) * nbytes)


_EXCHANGES: tuple[tuple[type, Callable[[Method, int, int, np.dtype[Any]], Traffic]], ...] = (
    (ServerAlgorithm, _served),
    (GossipAlgorithm, _gossip),
    (Allreduce, _allreduced),
)


@lru_cache(maxsize=64)
def degrees(spec: str, ranks: int) -> tuple[int, int]:
    """(largest, sum of all) number of neighbours in a graph. Raises UsageError of `--topology`."""
    topology = Topology(spec, ranks)
    if spec.startswith("file:"):
        all_ = [topology.degree(rank) for rank in range(ranks)]
        return max(all_), sum(all_)
    # Rank 0 is a star's hub; all other ranks of a named graph have the same number.
    first, last = topology.degree(0), topology.degree(ranks - 1)
    return max(first, last), first + (ranks - 1) * last


def methods_for(
    pairs: Sequence[Pair], compressors: Sequence[str], servers: Sequence[str], topology: str
) -> list[Method]:
    """The methods that are asked for, with the baseline at the front.

    Args:
        pairs: none: every built-in algorithm.
        compressors: for pairs that name none; none: the usual ones.
        servers: `root`, `sharded` or both, for the algorithms that have one.

    Raises:
        UsageError: an unknown name, or a compressor for an algorithm that takes none.
    """
    for spec in compressors:
        registry.compressors.find(spec)
    asked = [Pair(BASELINE, BASELINE, None)]
    for pair in pairs or [Pair(name, name, None) for name in registry.algorithms.builtins()]:
        cls = _found(pair).cls
        takes = getattr(cls, "compresses", True) and pair.compressor is None
        specs = (compressors or _usual(cls, bool(pairs))) if takes else [pair.compressor]
        asked += [Pair(pair.text, pair.algorithm, spec) for spec in specs]
    methods: list[Method] = []
    for pair in asked:
        (entry,) = expand([pair], [], Settings())
        algorithm, compressor = entry.plan.algorithm, entry.plan.compressor
        for server in servers:
            method = Method.of(algorithm, compressor, server, topology)
            if method not in methods:
                methods.append(method)
    return methods


def _found(pair: Pair) -> Part:
    try:
        return registry.algorithms.find(pair.algorithm)
    except UsageError as error:
        raise UsageError(error.message, f"PAIR {pair.text}") from error.__cause__


def _usual(cls: Any, named: bool) -> Sequence[str | None]:
    """A user who names an algorithm means its default compressor; otherwise the usual ones that it converges with."""
    if named:
        return [None]
    default = cls.default_compressor
    if registry.compressors.find(default).cls.unbiased:
        return [default, *(spec for spec in USUAL_COMPRESSORS if registry.compressors.find(spec).cls.unbiased)]
    return USUAL_COMPRESSORS


@dataclass(frozen=True)
class Prediction:
    """What the model says of a method, in seconds an iteration unless stated otherwise.

    Attributes:
        wire_s: `comm_s` of the output: the exchange, without coding.
        exchange_s: with coding, as far as it is not hidden.
        bound_s: what the busiest port needs for its bytes.
        waited_s: what a worker's log would count as `comm_s`: the exchange without the coding that it does itself.
    """

    method: Method
    traffic: Traffic
    schedule: Schedule
    coding: Coding
    compute_s: float
    bound_s: float

    @property
    def wire_s(self) -> float:
        return self.schedule.seconds

    @property
    def exchange_s(self) -> float:
        codec = self.coding.encode + self.coding.decode
        # Gossip cuts a payload that is encoded already.
        sections = self.schedule.chunks if self.traffic.exchange in SERVERS else 1
        return max(self.wire_s, codec) + min(self.wire_s, codec) / sections

    @property
    def waited_s(self) -> float:
        own = self.coding.encode + self.coding.decode - self.coding.server
        return max(0.0, self.exchange_s - own)

    @property
    def iteration_s(self) -> float:
        return self.compute_s + self.exchange_s + self.coding.update


def predict(
    method: Method, traffic: Traffic, coding: Coding, link: Link, compute_s: float, told: Told | None = None
) -> Prediction:
    """One iteration over `link`."""
    schedule = traffic.schedule(link, told)
    return Prediction(method, traffic, schedule, coding, compute_s, schedule.bound(link))


@dataclass(frozen=True)
class Wins:
    """Where a method beats the baseline.

    Attributes:
        between: intervals of bandwidth (bits/s), None for an end beyond what was searched.
    """

    between: list[tuple[float | None, float | None]]

    @property
    def break_even(self) -> float | None:
        """Bits a second where that ends, or begins where it has no end; None where it always or never wins."""
        for low, high in reversed(self.between):
            return high if high is not None else low
        return None


def wins(gain: Callable[[float], float]) -> Wins:
    """Where `gain(bandwidth)` is positive, between 1 kbit/s and 10 Tbit/s.

    It is looked at four times a decade, and each change of sign is bisected to a part in 10 000, on a logarithmic
    scale. What crosses twice between two looks goes unseen.
    """
    decades = math.log10(FASTEST / SLOWEST)
    count = round(decades * _LOOKS)
    points = [SLOWEST * 10 ** (i / _LOOKS) for i in range(count + 1)]
    signs = [gain(point) > 0 for point in points]
    between: list[tuple[float | None, float | None]] = []
    low: float | None = None
    for i in range(1, len(points)):
        if signs[i] == signs[i - 1]:
            continue
        crossing = _bisect(gain, points[i - 1], points[i], signs[i])
        if signs[i]:
            low = crossing
        else:
            between.append((low, crossing))
    if signs[-1]:
        between.append((low, None))
    return Wins(between)


def _bisect(gain: Callable[[float], float], low: float, high: float, sign_at_high: bool) -> float:
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        if (gain(middle) > 0) == sign_at_high:
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)


@dataclass(frozen=True)
class Cell:
    """The fastest method on a network. Several may tie; the first one is taken."""

    bandwidth: float
    latency_s: float
    best: Prediction
    speedup: float


class Forecast:
    """The methods on one network, and on others like it.

    Args:
        methods: the first is the baseline.
        link: its latency and gap keep their ratio where others are looked at.
        calibration: for kernel rates, or None.

    Attributes:
        results: a prediction for each method, in their order.
        missing: compressors whose kernels are not in the calibration.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        ranks: int,
        dimension: int,
        dtype: str,
        link: Link,
        compute_s: float,
        calibration: Calibration | None,
    ) -> None:
        self.methods, self.link, self.compute_s = list(methods), link, compute_s
        self.ranks, self.dimension, self.dtype = ranks, dimension, dtype
        self.calibration = calibration
        self.traffic = [method.traffic(ranks, dimension, dtype) for method in self.methods]
        coding = [
            method.coding(traffic, calibration) if calibration else None
            for method, traffic in zip(self.methods, self.traffic, strict=True)
        ]
        # A method whose kernels are not known would beat those whose are: then all go without.
        self.missing = sorted(
            {
                method.compressor_name
                for method, found in zip(self.methods, coding, strict=True)
                if calibration and found is None
            }
        )
        self.measured = calibration is not None and not self.missing
        self.coding = [found if found and self.measured else Coding() for found in coding]
        # The first of those that cost the same stands for them all.
        first: dict[tuple[Traffic, Coding], int] = {}
        self._alike = [
            first.setdefault(key, index) for index, key in enumerate(zip(self.traffic, self.coding, strict=True))
        ]
        self._wins: dict[int, Wins] = {}
        self.results = [self._predict(index, link) for index in range(len(self.methods))]

    @property
    def baseline(self) -> Prediction:
        return self.results[0]

    def _predict(self, index: int, link: Link) -> Prediction:
        return predict(self.methods[index], self.traffic[index], self.coding[index], link, self.compute_s)

    def wins(self, index: int) -> Wins:
        """Where method `index` beats the baseline, at this latency and compute time."""
        alike = self._alike[index]
        if alike not in self._wins:

            def gain(bandwidth: float) -> float:
                link = replace(self.link, byte_s=8 / bandwidth)
                base = self._predict(0, link).iteration_s
                return base * (1 - _SAME) - self._predict(alike, link).iteration_s

            self._wins[alike] = wins(gain)
        return self._wins[alike]

    def cell(self, bandwidth: float, latency_s: float) -> Cell:
        """The fastest method at another bandwidth (bits/s) and latency α (s); of equals the first."""
        alpha = self.link.latency + self.link.gap
        part = self.link.gap / alpha if alpha else 1.0
        link = Link(latency_s * (1 - part), latency_s * part, 8 / bandwidth)
        base = best = self._predict(0, link)
        for index, alike in enumerate(self._alike):
            if index == alike:
                prediction = self._predict(index, link)
                if prediction.iteration_s < best.iteration_s * (1 - _SAME):
                    best = prediction
        return Cell(bandwidth, latency_s, best, _over(base.iteration_s, best.iteration_s))

    def speedup(self, prediction: Prediction) -> float:
        """Over the baseline."""
        return _over(self.baseline.iteration_s, prediction.iteration_s)

    def growth(self) -> Iterator[Prediction]:
        """`wire_s` for N = 2, 4, 8, …, of one method that compresses and one that does not from each exchange.

        Of a graph from a file there is no larger one.
        """
        for method in self._typical():
            for ranks in GROWTH_RANKS:
                traffic = method.traffic(ranks, self.dimension, self.dtype)
                yield predict(method, traffic, Coding(), self.link, self.compute_s)

    def _typical(self) -> list[Method]:
        kept: dict[tuple[str, bool], Prediction] = {}
        for prediction in self.results:
            if (prediction.method.topology or "").startswith("file:"):
                continue
            key = (prediction.traffic.exchange, prediction.traffic.up < self._full)
            if key not in kept or prediction.wire_s < kept[key].wire_s * (1 - _SAME):
                kept[key] = prediction
        return [prediction.method for prediction in kept.values()]

    @property
    def _full(self) -> int:
        return self.dimension * np.dtype(self.dtype).itemsize


def _over(base: float, other: float) -> float:
    return base / other if other else 1.0
