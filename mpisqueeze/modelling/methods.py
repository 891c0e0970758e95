"""The methods that a prediction compares: an algorithm with a compressor, and what it puts on the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from mpisqueeze.algorithms.base import Algorithm
from mpisqueeze.costs import exchanges
from mpisqueeze.costs.exchanges import Schedule, Tree
from mpisqueeze.costs.link import Link
from mpisqueeze.costs.sections import Terms, choose_sections
from mpisqueeze.errors import UsageError
from mpisqueeze.parts import registry
from mpisqueeze.parts.failing import shown_to_fail
from mpisqueeze.parts.registry import Part
from mpisqueeze.runs.pairs import Pair, expand
from mpisqueeze.runs.plan import check_directed, check_linear
from mpisqueeze.settings import ALLREDUCE, SERVERS, Settings
from mpisqueeze.topology import Spectrum, Topology

#: The algorithm that the others are compared with.
BASELINE = "allreduce"
#: The compressors that an algorithm is shown with unless a user names some.
USUAL_COMPRESSORS = ("onebit", "qsgd:4", "topk:0.01")


#: Matrices of a model of which only the number of elements is known.
_MATRICES = 32

Shapes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Traffic:
    """The payloads of one iteration.

    Attributes:
        exchange: `root`, `sharded`, `neighbours` or `allreduce`.
        ranks, dimension: N and d.
        up, down: payload bytes of a whole vector to the servers and back; without servers `up` is what goes to each
            neighbour, or what is summed over ranks.
        payloads: number of payloads to each neighbour, each by itself.
        sums: bytes of each vector that is summed over ranks, one after the other.
        grains: elements at whose multiples payloads can be cut on either way, or None.
        degree: the largest number of neighbours.
        total: bytes of all ranks together in an exchange, as runs count them.
        every: iterations from one exchange to the next.
        group, everyone: ranks that take part as one, and all of them; the other figures are of their leaders.
        vector: bytes of a full vector.
    """

    exchange: str
    ranks: int
    dimension: int
    up: int
    total: int
    down: int = 0
    grains: tuple[int | None, int | None] = (None, None)
    degree: int = 0
    sums: tuple[int, ...] = ()
    payloads: int = 1
    every: int = 1
    group: int = 1
    everyone: int = 0
    vector: int = 0

    @property
    def per_iteration(self) -> float:
        """`total` on average over iterations, most of which exchange nothing where there are local steps."""
        return self.total / self.every if self.every > 1 else self.total

    @lru_cache(maxsize=1 << 16)  # noqa: B019 - small, and asked for again and again
    def schedule(self, terms: Terms) -> Schedule:
        """The schedule that the exchange would choose on these terms, with its time."""
        if self.exchange in SERVERS and self.ranks > 1:
            by_root = self.exchange == "root"
            return choose_sections(terms, self.dimension, self.grains, self.up, self.down, by_root).schedule
        each = -(-self.up // (self.payloads * terms.message_bytes))
        return self.cost(terms.link, self.payloads * each if self.exchange == "neighbours" else 1)

    def cost(self, link: Link, sections: int = 1, way: str = "") -> Schedule:
        """The time of a schedule on `link`, whose idle ports pass a burst in no time.

        So do the first bytes into the busiest port, and those of a root's last answer at each port on its way, which
        is idle between answers. An all-reduce is left as it is: the library's is measured, bursts included.
        """
        made = self._cost(link, sections, way)
        if not link.burst or self.exchange == "allreduce":
            return made
        saved = link.burst
        if self.exchange == "root":
            sends, hops = Tree(way, self.ranks).paths[0]
            saved += min(hops * link.burst, sends * self.down / sections)
        least = self._cost(replace(link, byte_s=0.0), sections, way).seconds
        return replace(made, seconds=max(least, made.seconds - saved * link.byte_s))

    def _cost(self, link: Link, sections: int, way: str) -> Schedule:
        if self.ranks == 1:
            return Schedule(0.0, 0.0)
        if self.exchange == "allreduce":
            made = [exchanges.allreduce(link, self.ranks, nbytes) for nbytes in self.sums]
            longest = max(made, key=lambda schedule: schedule.port_bytes)
            return replace(
                longest,
                seconds=sum(schedule.seconds for schedule in made),
                port_bytes=sum(schedule.port_bytes for schedule in made),
            )
        if self.exchange == "neighbours":
            return exchanges.neighbours(link, self.degree, self.up, sections, self.ranks)
        if self.exchange == "sharded":
            return exchanges.sharded(link, self.ranks, self.up, self.down, sections)
        whole_up = self.grains[0] is None and self.grains[1] is not None
        return exchanges.through_root(link, self.ranks, self.up, self.down, sections, way, whole_up)


@dataclass(frozen=True)
class Method:
    """An algorithm with a compressor.

    Attributes:
        server: `root`, `sharded` or `allreduce`; None for an algorithm without servers.
        topology: the gossip graph's spec; None for an algorithm without neighbours.
        every: iterations from one exchange to the next, the local steps.
        group: ranks that take part as one.
    """

    algorithm: Part
    compressor: Part
    server: str | None
    topology: str | None
    every: int = 1
    group: int = 1

    @staticmethod
    def of(algorithm: Part, compressor: Part, server: str, topology: str, every: int = 1, group: int = 1) -> Method:
        """Keep `server` or `topology` only where the algorithm has one."""
        route = getattr(algorithm.cls, "route", "")
        return Method(
            algorithm,
            compressor,
            server if route == "servers" else None,
            topology if route == "neighbours" else None,
            every,
            group,
        )

    @staticmethod
    def ran(config: Mapping[str, Any]) -> Method:
        """The method of a run, by its settings. Raises UsageError."""
        algorithm = registry.algorithms.find(config["algorithm"])
        compressor = registry.compressors.find(config["compressor"])
        # Hosts may have different numbers of ranks.
        group = round(config["ranks"] / (config.get("groups") or config["ranks"]))
        return Method.of(
            algorithm, compressor, config.get("server", "root"), config.get("topology", "ring"),
            config.get("local_steps", 1), group,
        )  # fmt: skip

    @property
    def route(self) -> str:
        """`servers`, `neighbours` or `allreduce`; empty where the class, which may not be built on ours, has none."""
        return getattr(self.algorithm.cls, "route", "")

    @property
    def compressed(self) -> tuple[bool, bool]:
        """(True if ranks compress what they send, True if servers compress their answer)."""
        cls = self.algorithm.cls
        up = getattr(cls, "compresses_up", getattr(cls, "compresses", True))
        return bool(up), bool(getattr(cls, "compresses_down", False))

    @property
    def feedback(self) -> bool:
        """True if it encodes with error feedback."""
        return getattr(self.algorithm.cls, "residual", Algorithm.residual) is not Algorithm.residual

    @property
    def compressor_name(self) -> str:
        return self.compressor.label

    @property
    def name(self) -> str:
        """`memsgd/onebit`, or `sgd` of full vectors, or `signum`, which has a compressor of its own."""
        compressor, open_ = self.compressor_name, getattr(self.algorithm.cls, "compresses", True)
        return self.algorithm.label + (f"/{compressor}" if open_ and compressor != "identity" else "")

    @cached_property
    def shown_to_fail(self) -> bool:
        return shown_to_fail(self.algorithm, self.compressor)

    @property
    def by_shapes(self) -> bool:
        """True if what it sends depends on the parameters' shapes."""
        return hasattr(self.algorithm.cls, "summed") or hasattr(self.algorithm.cls, "gossiped")

    def traffic(self, ranks: int, dimension: int, dtype: str, shapes: Shapes | None = None) -> Traffic:
        """The traffic of one exchange on `ranks` ranks. Raises UsageError of `--topology`.

        Args:
            shapes: of the parameters; None: those of `typical_shapes`.
        """
        among = max(1, ranks // self.group)
        found = self._exchanged(among, dimension, dtype, shapes)
        vector = dimension * np.dtype(dtype).itemsize
        return replace(found, every=self.every, group=min(self.group, ranks), everyone=ranks, vector=vector)

    def _exchanged(self, ranks: int, dimension: int, dtype: str, shapes: Shapes | None) -> Traffic:
        route, kind = self.route, np.dtype(dtype)
        if self.server == ALLREDUCE:
            nbytes, _ = self._payload(dimension, kind, self.compressed[0])
            return Traffic(ALLREDUCE, ranks, dimension, nbytes, 2 * (ranks - 1) * nbytes, sums=(nbytes,))
        if route == "servers":
            return self._through_servers(ranks, dimension, kind)
        if route == "neighbours":
            cls, payloads = self.algorithm.cls, getattr(self.algorithm.cls, "payloads", 1)
            if self.by_shapes:
                even, odd = cls.gossiped(shapes or typical_shapes(dimension), **self.algorithm.options)
                nbytes = (even + odd) * kind.itemsize // 2
            else:
                nbytes = payloads * self._payload(dimension, kind, self.compressed[0])[0]
            largest, together = degrees(self.topology or "ring", ranks)
            return Traffic("neighbours", ranks, dimension, nbytes, together * nbytes, degree=largest, payloads=payloads)
        if route == ALLREDUCE:
            cls = self.algorithm.cls
            lengths: Sequence[int] = (dimension,)
            if self.by_shapes:
                lengths = cls.summed(shapes or typical_shapes(dimension), **self.algorithm.options)
            sums = tuple(length * kind.itemsize for length in lengths)
            return Traffic(ALLREDUCE, ranks, dimension, sum(sums), 2 * (ranks - 1) * sum(sums), sums=sums)
        raise UsageError(
            f"{self.algorithm.spec}: it is built on none of ServerAlgorithm, GossipAlgorithm and Allreduce, so that "
            "what it sends is not known",
            "PAIR",
        )

    def _through_servers(self, ranks: int, dimension: int, dtype: np.dtype[Any]) -> Traffic:
        """Parts differ by one element at most, as `Setup.parts` cuts them."""
        servers = ranks if self.server == "sharded" else 1
        share, longer = divmod(dimension, servers)
        up, down = (
            sum(
                count * self._payload(length, dtype, compressed)[0]
                for length, count in ((share + 1, longer), (share, servers - longer))
                if length and count
            )
            for compressed in self.compressed
        )
        up_grain, down_grain = (self._payload(dimension, dtype, compressed)[1] for compressed in self.compressed)
        exchange, total = self.server or SERVERS[0], (ranks - 1) * (up + down)
        return Traffic(exchange, ranks, dimension, up, total, down, (up_grain, down_grain))

    def _payload(self, length: int, dtype: np.dtype[Any], compressed: bool) -> tuple[int, int | None]:
        """(payload bytes, grain) of a vector of `length`, compressed or in full."""
        part = self.compressor if compressed else registry.compressors.find("identity")
        made = part.cls(length, np, dtype, 0, **part.options)
        return int(made.payload_bytes), getattr(made, "grain", None)


def typical_shapes(dimension: int) -> Shapes:
    """Parameters of a model of which d alone is known: square matrices, and what is left.

    With 32 of them the sum of all n + m is as in ResNet-18, to 5 %.
    """
    side = max(1, math.isqrt(dimension // _MATRICES))
    rows, rest = divmod(dimension, side)
    squares, rows = divmod(rows, side)
    return [*[(side, side)] * squares, (rows, side), (rest,)]


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


@lru_cache(maxsize=64)
def spectrum_of(spec: str, ranks: int) -> Spectrum | None:
    """The eigenvalues of a graph's W; None where it is too large for them. Raises UsageError of `--topology`."""
    topology = Topology(spec, ranks)
    try:
        return topology.spectrum()
    except UsageError:
        return None


def methods_for(
    pairs: Sequence[Pair],
    compressors: Sequence[str],
    servers: Sequence[str],
    topology: str,
    every: int = 1,
    group: int = 1,
) -> tuple[list[Method], list[str]]:
    """The methods that are asked for, with the baseline at the front, and those left out. Raises UsageError.

    What is shown to fail is left out unless its pair is named.

    Args:
        pairs: none: every built-in algorithm.
        compressors: for pairs that name none; none: the usual ones.
        servers: of `--server`, for the algorithms that have one; those that cannot go by `allreduce` are left out
            unless their pair is named, which is an error. So are those that have no place on the graph, or no local
            steps and groups.
        every, group: of all methods but the baseline.
    """
    for spec in compressors:
        registry.compressors.find(spec)
    asked = [Pair(BASELINE, BASELINE, None)]
    for pair in pairs or [Pair(name, name, None) for name in registry.algorithms.builtins()]:
        cls = _found(pair).cls
        open_ = getattr(cls, "compresses", True) and pair.compressor is None
        specs = (compressors or _usual(cls, bool(pairs))) if open_ else [pair.compressor]
        if not pairs and open_:
            specs = [spec for spec in specs if _takes(cls, spec)] or [cls.default_compressor]
        asked += [Pair(pair.text, pair.algorithm, spec) for spec in specs]
    methods: list[Method] = []
    left_out: list[str] = []
    for pair in asked:
        (entry,) = expand([pair], [], Settings())
        for server in servers:
            # A pair may name the baseline, too.
            plain = pair is asked[0]
            method = Method.of(
                entry.plan.algorithm, entry.plan.compressor, server, topology,
                1 if plain else every, 1 if plain else group,
            )  # fmt: skip
            try:
                _check_together(method)
                check_directed(method.algorithm, topology)
                if method.server == ALLREDUCE:
                    check_linear(method.algorithm, method.compressor)
            except UsageError:
                if pairs:
                    raise
                continue
            if not pairs and method.shown_to_fail:
                left_out += [method.name] if method.name not in left_out else []
            elif method not in methods:
                methods.append(method)
    return methods, left_out


def _check_together(method: Method) -> None:
    """Raise UsageError for gossip with local steps or groups."""
    for value, option in ((method.every, "--local-steps"), (method.group, "--group")):
        if value > 1 and method.route == "neighbours":
            raise UsageError(f"is for centralized algorithms, and {method.algorithm.name} gossips", option)


def _found(pair: Pair) -> Part:
    try:
        return registry.algorithms.find(pair.algorithm)
    except UsageError as error:
        raise UsageError(error.message, f"PAIR {pair.text}") from error.__cause__


def _takes(cls: Any, compressor: str | None) -> bool:
    return not cls.takes or compressor is None or registry.compressors.find(compressor).name in cls.takes


def _usual(cls: Any, named: bool) -> Sequence[str | None]:
    """The default compressor of an algorithm that a user names; otherwise the usual ones that it converges with."""
    if named:
        return [None]
    default = cls.default_compressor
    if registry.compressors.find(default).cls.unbiased:
        return [default, *(spec for spec in USUAL_COMPRESSORS if registry.compressors.find(spec).cls.unbiased)]
    return USUAL_COMPRESSORS
