"""How an exchange cuts a vector into sections, and which tree a root answers down: the fastest by the cost model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpisqueeze.costs import exchanges
from mpisqueeze.costs.exchanges import Schedule
from mpisqueeze.costs.link import Link

#: Numbers in the shortest section.
SHORTEST = 64


def section_lengths(dimension: int, grain: int | None) -> Iterator[int]:
    """The lengths that sections of a vector may have: `grain`·2^k, and the whole."""
    if grain is not None:
        length = grain
        while length < dimension:
            if length >= SHORTEST:
                yield length
            length *= 2
    yield dimension


@dataclass(frozen=True)
class Coding:
    """What coding is taken to cost where an exchange chooses its sections; the same on all ranks, so that they agree.

    Attributes:
        number_s: seconds a number, of the section that nothing hides.
        section_s: seconds that every section takes, however short.
        byte_s: seconds a byte of the payload, of the section that nothing hides, on its way to MPI and back.
    """

    number_s: float
    section_s: float = 0.0
    byte_s: float = 0.0


#: One core of a host, at about the speed of memory.
HOST_CODING = Coding(number_s=1e-9)


@dataclass(frozen=True)
class Terms:
    """The terms on which an exchange chooses its sections; the same on all ranks, so that they agree.

    Attributes:
        ranks: N.
        link: what messages cost.
        coding: what encoding and decoding cost.
        chunk_bytes: the user's limit to the bytes of a message, by `--chunk`, or None.
        message_bytes: bytes that no message exceeds, by `--chunk` or as on a slow real network, or None.
        tree: the user's choice, by `--tree`, or None.
    """

    ranks: int
    link: Link
    coding: Coding
    chunk_bytes: int | None = None
    message_bytes: int | None = None
    tree: str | None = None


@dataclass(frozen=True)
class Cut:
    """How the vector is cut.

    Attributes:
        up, down: numbers in a section on the way to the servers, and on the way back: the same, or all of a part where
            its payload cannot be cut.
        schedule: what that costs, with the tree.
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
    """The fastest sections and tree, by the cost model, for an exchange of so many bytes a vector.

    Args:
        dimension: of the vector.
        grains: of the payloads to the servers and back, see `Compressor.grain`; None where a payload stays whole.
        by_root: through rank 0, or sharded.
    """
    ranks, link, coding = terms.ranks, terms.link, terms.coding
    servers = 1 if by_root else ranks
    longest = -(-dimension // servers)
    up_grain, down_grain = grains
    # Behind a root, answers in sections reach all through a tree sooner, though payloads came whole.
    whole_up = by_root and up_grain is None and down_grain is not None
    grain = down_grain if whole_up else common_grain(*grains)
    # Alone, a rank has nothing to hide its coding behind.
    lengths = list(section_lengths(longest, grain)) if ranks > 1 or terms.chunk_bytes else [longest]
    most = terms.message_bytes
    if most is not None:
        largest = down_bytes if whole_up else max(up_bytes, down_bytes)
        fitting = [n for n in lengths if largest / dimension * n <= most] or lengths[:1]
        lengths = fitting if terms.chunk_bytes is None else fitting[-1:]
    best: tuple[float, Cut] | None = None
    for length in reversed(lengths):
        count = -(-longest // length)
        nbytes = (0 if whole_up else up_bytes) + down_bytes
        unhidden = coding.section_s + (coding.number_s * dimension + coding.byte_s * nbytes) / count
        for way in root_ways(terms.tree, count) if by_root else [""]:
            if by_root:
                schedule = exchanges.through_root(link, ranks, up_bytes, down_bytes, count, way, whole_up)
            else:
                schedule = exchanges.sharded(link, ranks, up_bytes, down_bytes, count)
            seconds = max(schedule.seconds, coding.section_s * count) + unhidden
            if best is None or seconds < best[0] * (1 - 1e-9):
                best = (seconds, Cut(longest if whole_up else length, length, schedule))
    assert best is not None
    return best[1]


def root_ways(tree: str | None, sections: int) -> Sequence[str]:
    """The trees to choose from: the user's, or those that suit so many sections."""
    if tree is not None:
        return [tree]
    return ["binomial", "flat"] if sections == 1 else ["flat", "binary", "chain"]


def common_grain(*grains: int | None) -> int | None:
    """The grain of payloads that are cut at the same numbers, or None if one of them cannot be cut."""
    whole = [grain for grain in grains if grain is not None]
    return math.lcm(*whole) if len(whole) == len(grains) else None
