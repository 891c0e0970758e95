"""The choice of an exchange's sections, and of the tree for a root's answers: the fastest by the cost model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpisqueeze.costs import exchanges
from mpisqueeze.costs.exchanges import Schedule
from mpisqueeze.costs.link import Link

#: Number of elements in the shortest section.
SHORTEST = 64
#: Most bytes that MPI is handed at a time; its counts are 32 bits with a sign. Longer messages travel in pieces.
LONGEST = 1 << 30


def messages(nbytes: int) -> int:
    """The number of messages of at most LONGEST bytes in which so many bytes travel."""
    return max(1, -(-nbytes // LONGEST))


def pieces(nbytes: int, alignment: int = 1, longest: int = LONGEST) -> list[slice]:
    """The bytes of each of these messages.

    Args:
        alignment: bytes of an element, which no piece cuts.
        longest: most bytes of a piece.
    """
    step = max(min(longest, LONGEST) // alignment, 1) * alignment
    return [slice(start, min(start + step, nbytes)) for start in range(0, max(nbytes, 1), step)]


def section_lengths(dimension: int, grain: int | None) -> Iterator[int]:
    """The possible lengths of sections: `grain`·2^k, and the whole vector."""
    if grain is not None:
        length = grain
        while length < dimension:
            if length >= SHORTEST:
                yield length
            length *= 2
    yield dimension


@dataclass(frozen=True)
class Coding:
    """The assumed cost of coding, for the choice of sections; the same on all ranks, so that they agree.

    Attributes:
        element_s: seconds per element of the vector.
        section_s: seconds per section, whatever its length.
        byte_s: seconds per byte of payload between device and MPI.
        cached: elements of the longest section whose sum stays in the cache until it is encoded, None: there is none.
        cold_s: seconds more per element that is served in longer ones.
    """

    element_s: float
    section_s: float = 0.0
    byte_s: float = 0.0
    cached: int | None = None
    cold_s: float = 0.0

    def seconds(self, dimension: int, served: int, nbytes: int, length: int) -> float:
        """Time (s) for d elements in all, `served` of them at a server, in sections of `length`."""
        cold = self.cold_s * served if self.cached is not None and length > self.cached else 0.0
        return self.element_s * dimension + self.byte_s * nbytes + self.section_s * -(-served // length) + cold


#: One core of a host, at about the speed of memory; a section is what its calls from Python to MPI take.
HOST_CODING = Coding(element_s=1e-9, section_s=25e-6, cached=1 << 19, cold_s=2e-10)


@dataclass(frozen=True)
class Terms:
    """The inputs to the choice of sections; the same on all ranks, so that they agree.

    Attributes:
        chunk_bytes: the user's limit to a message's bytes (`--chunk`), or None.
        limit: limit to a message's bytes, from `--chunk` or for a slow real network, or None.
        tree: the user's choice (`--tree`), or None.
    """

    ranks: int
    link: Link
    coding: Coding
    chunk_bytes: int | None = None
    limit: int | None = None
    tree: str | None = None

    @property
    def message_bytes(self) -> int:
        """Most bytes of a message."""
        return min(self.limit or LONGEST, LONGEST)


@dataclass(frozen=True)
class Cut:
    """The sections of a vector.

    Attributes:
        up, down: number of elements in a section on the way to the servers and back. They are equal unless a payload
            cannot be cut; its section is then the whole part.
        schedule: the tree, and the cost.
    """

    up: int
    down: int
    schedule: Schedule


def choose_sections(
    terms: Terms,
    dimension: int,
    grains: tuple[int | None, int | None],
    up_bytes: int,
    down_bytes: int,
    by_root: bool,
) -> Cut:
    """The fastest sections and tree for an exchange, by the cost model.

    Args:
        grains: grains of the payloads to the servers and back, see `Compressor.grain`; None if a payload stays whole.
        up_bytes, down_bytes: bytes of a whole vector's payload to the servers and back.
        by_root: whether rank 0 is the server; else every rank serves its shard.
    """
    ranks, link, coding = terms.ranks, terms.link, terms.coding
    servers = 1 if by_root else ranks
    longest = -(-dimension // servers)
    up_grain, down_grain = grains
    # Even if payloads come whole, answers in sections pass through a tree faster.
    whole_up = by_root and up_grain is None and down_grain is not None
    grain = down_grain if whole_up else common_grain(*grains)
    # A single rank has no transfer that hides its coding.
    lengths = list(section_lengths(longest, grain)) if ranks > 1 or terms.chunk_bytes else [longest]
    largest = down_bytes if whole_up else max(up_bytes, down_bytes)
    fitting = [n for n in lengths if largest / dimension * n <= terms.message_bytes] or lengths[:1]
    lengths = fitting if terms.chunk_bytes is None else fitting[-1:]
    best: tuple[float, Cut] | None = None
    for length in reversed(lengths):
        count = -(-longest // length)
        work = coding.seconds(dimension, longest, (0 if whole_up else up_bytes) + down_bytes, length)
        for way in root_ways(terms.tree, count) if by_root else [""]:
            if by_root:
                schedule = exchanges.through_root(link, ranks, up_bytes, down_bytes, count, way, whole_up)
            else:
                schedule = exchanges.sharded(link, ranks, up_bytes, down_bytes, count)
            # The longer one of coding and transfer hides the other, but for one section.
            seconds = max(schedule.seconds, work) + min(schedule.seconds, work) / count
            if best is None or seconds < best[0] * (1 - 1e-9):
                best = (seconds, Cut(longest if whole_up else length, length, schedule))
    assert best is not None
    return best[1]


def root_ways(tree: str | None, sections: int) -> Sequence[str]:
    """The trees to choose from: the user's, or those that suit the number of sections."""
    if tree is not None:
        return [tree]
    return ["binomial", "flat"] if sections == 1 else ["flat", "binary", "chain"]


def common_grain(*grains: int | None) -> int | None:
    """The grain of payloads that are cut at the same elements, or None if one of them cannot be cut."""
    whole = [grain for grain in grains if grain is not None]
    return math.lcm(*whole) if len(whole) == len(grains) else None
