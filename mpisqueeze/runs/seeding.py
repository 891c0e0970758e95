"""Repeated runs: the seeds of a comparison, and the turns in which its pairs take them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from mpisqueeze.errors import UsageError
from mpisqueeze.language import integer
from mpisqueeze.runs.pairs import Entry
from mpisqueeze.settings import MAX_SEED, SETTINGS

T = TypeVar("T")

#: Most seeds by their number: who wants more is likely to mean a seed, and can list them.
MOST = 1000


def parse_seeds(text: str, first: int) -> tuple[int, ...]:
    """`5` → five seeds from `first` on; `3,5,8` → these.

    Raises UsageError, also for a single seed, and for one that is named twice.
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        if len(parts) > 1:
            seeds = [SETTINGS["seed"].convert(part) for part in parts]
        else:
            seeds = [first + k for k in range(integer(1, MOST)(text))]
    except ValueError:
        accepts = f"a number of seeds up to {MOST}, such as 5, or a list of them, such as 3,5,8"
        raise UsageError(f"must be {accepts}, got {text!r}", "--seeds") from None
    if len(seeds) == 1:
        raise UsageError("one seed gives no interval: give 3 or more, or none for a run each", "--seeds")
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise UsageError(f"{text!r} names seed {twice} twice", "--seeds")
    if seeds[-1] > MAX_SEED:
        raise UsageError(f"the last of {text} seeds from {first} on is larger than {MAX_SEED}", "--seeds")
    return tuple(seeds)


def seeds_apart(seeds: Sequence[int], count: int = 1) -> list[int]:
    """The smallest seeds that are none of these, for trials that are not counted."""
    return [seed for seed in range(len(seeds) + count) if seed not in seeds][:count]


def seeded(pairs: Sequence[Entry], seeds: Sequence[int], lap: int = 0) -> list[Entry]:
    """The runs of all pairs with all seeds, in turns.

    Args:
        pairs: an entry for each pair, with any seed.
        lap: how many laps came before.
    """
    return in_turns([[with_seed(pair, seed) for pair in pairs] for seed in seeds], lap)


def in_turns(laps: Iterable[Sequence[T]], lap: int = 0) -> list[T]:
    """A B C of the first lap, C B A of the second, A B C of the third, and so on.

    The time at which A runs is then, on average, that of all others, and a drift of the machine is nobody's advantage.
    """
    return [item for number, items in enumerate(laps, lap) for item in (items[::-1] if number % 2 else items)]


def with_seed(entry: Entry, seed: int) -> Entry:
    """The entry's run with another seed, which its name and its folder tell."""
    plan = replace(entry.plan, config=replace(entry.plan.config, seed=seed))
    pair = entry.pair or entry.name
    return replace(entry, name=f"{pair} seed={seed}", folder=f"{entry.folder}-seed-{seed}", plan=plan, pair=pair)
