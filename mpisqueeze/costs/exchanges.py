"""Costs of the exchanges on a network whose ranks have one port each, and share processors.

A port does at most one send and one receive at a time. A message of m bytes occupies the sender's port for
τ(m) = g + m·β. It also occupies the receiver's port for τ(m), from its start or from when that port is free, and then
arrives a latency l later. With l = 0 and g = α this is Hockney's α + mβ, as in Thakur, Rabenseifner & Gropp,
"Optimization of Collective Communication Operations in MPICH" (IJHPCA 19(1), 2005), the source of all formulas without
another one; with l = L and g = o it is LogGP (Alexandrov, Ionescu, Schauser & Scheiman, SPAA 1995).

Where a link has a `Processor`, a rank goes on w after a message has arrived, so that l + w stands for l, and no
exchange takes less than the work of all its messages on the cores of a host.

Exchanges choose their tree and their number of sections by these functions, so that a prediction describes what runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mpisqueeze.costs.link import Link

#: Limits to the sections that a rank sends before it has the answer to the first of them: as many as AHEAD_BYTES hold,
#: at most AHEAD, and at least FEWEST_AHEAD.
AHEAD = 64
AHEAD_BYTES = 1 << 20
FEWEST_AHEAD = 4
#: Most bytes of payloads that a server holds at a time; two payloads always fit.
WINDOW_BYTES = 256 << 20
#: Bytes of the shortest bucket of an all-reduce that overlaps with the gradient, and what its latencies may cost.
SHORTEST_BUCKET, BUCKET_COST = 64 << 10, 0.1


@dataclass(frozen=True)
class Tree:
    """A tree through which rank 0's messages reach all ranks.

    `chain`, `binary` and `flat` are heaps with 1, 2 and N − 1 children per rank. In a `binomial` tree the children of
    rank r are r + 2^k for all 2^k > r; the nearest, which has the most ranks behind it, comes first.
    """

    name: str
    ranks: int

    @property
    def fanout(self) -> int:
        """Number of children of rank 0."""
        if self.name == "binomial":
            return self.depth
        return min({"chain": 1, "binary": 2, "flat": self.ranks}[self.name], self.ranks - 1)

    @property
    def depth(self) -> int:
        """Number of levels below rank 0; in a binomial tree, of rounds."""
        if self.name == "binomial":
            return (self.ranks - 1).bit_length()
        return {"chain": self.ranks - 1, "binary": self.ranks.bit_length() - 1, "flat": min(1, self.ranks - 1)}[
            self.name
        ]

    @property
    def paths(self) -> tuple[tuple[int, int], ...]:
        """(sends, hops) of the ranks that a message may reach last; which one is last depends on the link.

        `sends` counts the sends before and including the message's own on its way, `hops` the links that it crosses.
        """
        depth = self.depth
        if self.name in ("chain", "flat"):
            return ((self.ranks - 1, depth),)
        # Behind the leading 1 of a heap's rank + 1 stands a binary digit per level, 1 for the second child; in a
        # binomial tree each 1 of the rank is a hop.
        binary = self.name == "binary"
        ones = _most_ones(self.ranks if binary else self.ranks - 1)
        last = (depth + ones - 1, depth) if binary else (depth, ones)
        above = (2 * (depth - 1), depth - 1) if binary else (depth - 1, depth - 1)
        return (last, above)

    def parent(self, rank: int) -> int | None:
        if rank == 0:
            return None
        if self.name == "binomial":
            return rank - (1 << (rank.bit_length() - 1))
        return (rank - 1) // self.fanout

    def children(self, rank: int) -> list[int]:
        """The children of `rank` in the order of sending."""
        if self.name == "binomial":
            steps = range(rank.bit_length(), self.depth)
            return [rank + (1 << k) for k in steps if rank + (1 << k) < self.ranks]
        first = self.fanout * rank + 1
        return list(range(first, min(first + self.fanout, self.ranks)))


def _most_ones(limit: int) -> int:
    """The most binary ones of an integer ≤ `limit` that has as many binary digits as `limit` ≥ 1."""
    ones = [bit for bit in range(limit.bit_length() - 1) if limit >> bit & 1]
    lower = [limit >> (bit + 1) << (bit + 1) | (1 << bit) - 1 for bit in ones]
    return max(number.bit_count() for number in (limit, *lower))


@dataclass(frozen=True)
class Schedule:
    """A way to do an exchange, and its cost.

    Attributes:
        seconds: time (s) from when all ranks enter until the last one has everything, without encoding.
        port_bytes: bytes that the busiest port sends or receives, whichever are more.
        sections: number of sections of a payload.
        way: name of the tree, or of the collective's algorithm.
    """

    seconds: float
    port_bytes: float
    sections: int = 1
    way: str = ""

    def bound(self, link: Link) -> float:
        """Lower bound (s) for any schedule that sends these bytes through these ports."""
        return max(0.0, self.port_bytes - link.burst) * link.byte_s


def through_root(
    link: Link, ranks: int, up_bytes: float, down_bytes: float, sections: int, way: str, whole_up: bool = False
) -> Schedule:
    """Payloads of `up_bytes` go to rank 0, which answers with `down_bytes` to all, section by section through a tree.

    The root receives the first section from all ranks after G = (N − 1)τ(u) + l. Its answer takes D down the tree, the
    largest s·τ(d) + h·l of any rank, for s sends and h hops on the way to it. Every further section takes the period p,
    the largest time at any port: (N − 1)τ(u) into the root, f·τ(d) out of it, and τ(u) + f′·τ(d) out of a rank with f′
    children. This is the pipelined tree of Thakur et al. §3 behind a pipelined gather. As at most A sections of a rank
    are on their way at a time (`sections_ahead`), K sections take

        T = G + D + max((K − 1)·p, ⌊(K − 1)/A⌋·(G + D) + ((K − 1) mod A)·p)

    With `whole_up` payloads go up whole, and only the answer is cut: G comes once, and p is the tree's alone.
    A binomial tree is for one section.
    """
    if ranks == 1:
        return Schedule(0.0, 0.0, 1, way)
    fanout, inner, paths = _shape(way, ranks)
    up, down = link.message(up_bytes if whole_up else up_bytes / sections), link.message(down_bytes / sections)
    first = (ranks - 1) * up + link.hop + max(sends * down + hops * link.hop for sends, hops in paths)
    period = max((ranks - 1) * up, fanout * down, up + inner * down if inner else 0.0)
    port = max((ranks - 1) * up_bytes, fanout * down_bytes, up_bytes + inner * down_bytes if inner else 0)
    if whole_up:
        seconds = first + (sections - 1) * max(fanout, inner) * down
    else:
        seconds = _pipeline(first, period, sections, sections_ahead(ranks, sections, up_bytes))
    messages = (ranks - 1) * ((1 if whole_up else sections) + sections)
    return Schedule(
        max(seconds, _work(link, ranks, messages, (ranks - 1) * (up_bytes + down_bytes))), port, sections, way
    )


@lru_cache(maxsize=256)
def _shape(way: str, ranks: int) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """(children of rank 0, of rank 1, the paths) of a tree; cached, since `predict` needs it ten thousand times."""
    tree = Tree(way, ranks)
    return tree.fanout, len(tree.children(1)), tree.paths


def sections_ahead(ranks: int, sections: int, payload_bytes: float) -> int:
    """A: the number of sections that a rank sends before it has the first answer, so that a server can hold them."""
    others, section = ranks - 1, max(payload_bytes / sections, 1)
    wanted = min(sections, max(FEWEST_AHEAD, min(AHEAD, int(AHEAD_BYTES / section))))
    return max(1, min(wanted * others, max(2, int(WINDOW_BYTES / section))) // others)


def _pipeline(first: float, period: float, sections: int, ahead: int) -> float:
    """Time (s) until the last section is done, where the first takes `first` and each further one `period`."""
    rounds, rest = divmod(sections - 1, ahead)
    return first + max((sections - 1) * period, rounds * first + rest * period)


def sharded(link: Link, ranks: int, up_bytes: float, down_bytes: float, sections: int = 1) -> Schedule:
    """Every rank serves 1/N of the vector: N − 1 shards out and in, then N − 1 answers out and in.

    T = K(N − 1)(τ(u/N/K) + τ(d/N/K)) + 2l, the pairwise all-to-all and all-gather of Thakur et al. §§4, 5. It is longer
    where the latency leaves ports idle because no more than A sections are on their way, as through a root, and since a
    rank serves a section when it has all answers but the last: two sections take l + (N − 1)τ(d/N/K) at the least.
    """
    if ranks == 1:
        return Schedule(0.0, 0.0)
    messages = ranks * sections
    up, down = link.message(up_bytes / messages), link.message(down_bytes / messages)
    port = (ranks - 1) / ranks * (up_bytes + down_bytes)
    both = (ranks - 1) * (up + down)
    period = max(both, (link.hop + (ranks - 1) * down) / 2)
    ahead = sections_ahead(ranks, sections, up_bytes / ranks)
    work = _work(link, ranks, 2 * (ranks - 1) * messages, ranks * port)
    return Schedule(max(_pipeline(both + 2 * link.hop, period, sections, ahead), work), port, sections)


def _work(link: Link, ranks: int, messages: float, nbytes: float) -> float:
    """Time (s) of the processors for all messages of an exchange, 0 where it is not known."""
    return link.processor.seconds(messages, nbytes, ranks) if link.processor else 0.0


def neighbours(link: Link, degree: int, nbytes: float, sections: int = 1, ranks: int = 2) -> Schedule:
    """A payload goes to each of `degree` neighbours and one comes from each: T = K·deg·τ(B/K) + l for any N.

    `degree` is the largest of any rank. Many sections may wait for the latency, as through a root. N is for the work of
    processors alone.
    """
    if degree == 0:
        return Schedule(0.0, 0.0)
    period = degree * link.message(nbytes / sections)
    work = _work(link, ranks, ranks * degree * sections, ranks * degree * nbytes)
    return Schedule(max(_pipeline(period + link.hop, period, sections, AHEAD), work), degree * nbytes, sections)


def inside_group(link: Link, ranks: int, nbytes: float) -> Schedule:
    """A vector is summed at a group's leader, and one comes back from there: MPI_Reduce and MPI_Bcast among N ranks.

    Each is the faster of two (Thakur et al. §§4.2, 4.4): a binomial tree, ⌈log₂N⌉(τ(B) + l); or in parts, a
    reduce-scatter and a gather, 2⌈log₂N⌉(g + l) + 2(N − 1)/N·Bβ, and a scatter and an all-gather,
    (⌈log₂N⌉ + N − 1)(g + l) + as much.
    """
    if ranks == 1:
        return Schedule(0.0, 0.0)
    rounds, start = (ranks - 1).bit_length(), link.gap + link.hop
    tree = rounds * (link.message(nbytes) + link.hop)
    moved = 2 * (ranks - 1) / ranks * nbytes * link.byte_s
    seconds = min(tree, 2 * rounds * start + moved) + min(tree, (rounds + ranks - 1) * start + moved)
    return Schedule(max(seconds, _work(link, ranks, 2 * (ranks - 1), 2 * (ranks - 1) * nbytes)), 2 * nbytes)


def allreduce(link: Link, ranks: int, nbytes: float) -> Schedule:
    """The fastest of the algorithms that MPI libraries choose from.

    `ring`: 2(N − 1)(τ(B/N) + l) (Patarasuk & Yuan 2009). `doubling`: log₂ N (τ(B) + l), recursive doubling.
    `halving`: Σ_k 2(τ(B/2^k) + l), k = 1 … log₂ N, recursive halving and doubling (Rabenseifner; Thakur et al. §6).
    Where N is no power of two, the ranks beyond the largest one below N send their vector first and get the sum last:
    2(τ(B) + l) more, and the first round's message of a rank without such a partner delays them.
    """
    if ranks == 1:
        return Schedule(0.0, 0.0)
    return min(allreduce_ways(link, ranks, nbytes), key=lambda schedule: schedule.seconds)


def bucket(link: Link, ranks: int, nbytes: int) -> int:
    """Bytes of the shortest buckets, 2^k, whose all-reduces together take at most a tenth longer than one of all."""
    if ranks == 1:
        return nbytes
    size, most = SHORTEST_BUCKET, (1 + BUCKET_COST) * allreduce(link, ranks, nbytes).seconds
    while size < nbytes and nbytes / size * allreduce(link, ranks, size).seconds > most:
        size *= 2
    return min(size, nbytes)


def allreduce_ways(link: Link, ranks: int, nbytes: float) -> Iterable[Schedule]:
    """All algorithms of `allreduce`, for N ≥ 2."""
    rounds = ranks.bit_length() - 1
    power = 1 << rounds
    folded = power < ranks
    fold = 2 * (link.message(nbytes) + link.hop) if folded else 0.0
    extra = nbytes if folded else 0.0
    halving = sum(2 * (link.message(nbytes / 2**k) + link.hop) for k in range(1, rounds + 1))
    doubling = rounds * (link.message(nbytes) + link.hop)
    if folded:
        doubling += link.message(nbytes)
        halving += link.message(nbytes / 2)
    ring = 2 * (ranks - 1) * (link.message(nbytes / ranks) + link.hop)
    outside = 2 * (ranks - power)
    for way, seconds, count, port in (
        ("doubling", doubling + fold, rounds, rounds * nbytes + extra),
        ("halving", halving + fold, 2 * rounds, 2 * (power - 1) / power * nbytes + extra),
        ("ring", ring, 2 * (ranks - 1), 2 * (ranks - 1) / ranks * nbytes),
    ):
        messages = ranks * count if way == "ring" else power * count + outside
        moved = ranks * port if way == "ring" else power * (port - extra) + outside * nbytes
        yield Schedule(max(seconds, _work(link, ranks, messages, moved)), port, way=way)
