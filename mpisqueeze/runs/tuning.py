"""Tuning: every pair tries the same number of settings on a seed of its own, and the best of them is raced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mpisqueeze.analysis.ranking import Target
from mpisqueeze.analysis.trials import best_trial
from mpisqueeze.errors import UsageError
from mpisqueeze.language import integer, real
from mpisqueeze.record.folder import slug
from mpisqueeze.record.reading import RunLog
from mpisqueeze.runs.comparing import Track
from mpisqueeze.runs.pairs import Entry, adjusted, blamed, no_option
from mpisqueeze.runs.plan import applies, plan
from mpisqueeze.runs.seeding import in_turns, with_seed
from mpisqueeze.settings import SETTINGS, name_of, option_of

#: Settings that are no numbers, or that are the same for all pairs of a comparison.
_NOT_TUNED = {
    **{name: "it is no number" for name, setting in SETTINGS.items() if setting.type not in (int, float)},
    "seed": "trials have a seed of their own",
    **dict.fromkeys(("iterations", "epochs"), "every pair has runs of one length"),
    **dict.fromkeys(("warmup", "eval_every", "consensus_every", "test_samples"), "it changes what is measured alone"),
    "samples": "every pair is trained on the same data",
    "workers": "every pair has as many",
}
#: Options that leave an iteration's time as it is.
_UNPACED = ("lr", "momentum", "eps", "weight_decay", "clip_norm", "self_weight", "eta")
#: Values by the name of a setting or of an algorithm's parameter, as text.
Choice = dict[str, str]


@dataclass(frozen=True)
class Grid:
    """Values of an option, evenly spaced on a logarithmic scale.

    Attributes:
        name: of a setting, or of a parameter of algorithms such as choco's `eta`.
        low, high: the ends, > 0, as they were typed.
        whole: values are whole numbers.
    """

    name: str
    low: str
    high: str
    count: int
    whole: bool = False

    def __str__(self) -> str:
        return f"{option_of(self.name)[2:]} from {self.low} to {self.high}"

    def values(self, count: int) -> list[str]:
        """So many of them, as text; fewer where whole numbers fall on each other."""
        ends = real()(self.low), real()(self.high)
        inner = [ends[0] * (ends[1] / ends[0]) ** (k / (count - 1)) for k in range(1, count - 1)]
        return list(dict.fromkeys([self.low, *(self._text(value, count) for value in inner), self.high]))

    def beyond(self, values: Sequence[str], chosen: str) -> str | None:
        """The value one step of the grid further than a chosen one at an end of it; None for one in between."""
        at = values.index(chosen)
        if 0 < at < len(values) - 1:
            return None
        inward = real()(values[1 if at == 0 else -2])
        found = self._text(real()(chosen) ** 2 / inward, len(values))
        return found if real()(found) > 0 and found not in values else None

    def _text(self, value: float, count: int) -> str:
        if self.whole:
            return str(round(value))
        step = (real()(self.high) / real()(self.low)) ** (1 / (count - 1)) - 1
        # Neighbours differ in the last digit but one at least.
        return f"{value:.{max(3, 2 - math.floor(math.log10(step)))}g}"


def parse_grid(text: str) -> Grid:
    """`lr=0.01:1:5`: OPTION=LOW:HIGH:COUNT. Raises UsageError."""
    typed, _, rest = text.partition("=")
    name = name_of(typed.strip())
    if name in _NOT_TUNED:
        raise UsageError(f"{typed} cannot be tuned: {_NOT_TUNED[name]}", "--tune")
    parts = [part.strip() for part in rest.split(":")]
    try:
        low, high = map(real(), parts[:2])
        count = integer(0)(parts[2])
        if not name or len(parts) > 3:
            raise ValueError
    except (ValueError, IndexError):
        raise UsageError(f"{text!r} is not OPTION=LOW:HIGH:COUNT, such as lr=0.01:1:5", "--tune") from None
    if low <= 0 or high <= 0:
        raise UsageError(f"{text!r}: both ends must be above 0, as the grid is logarithmic", "--tune")
    if low >= high:
        raise UsageError(f"{text!r}: {parts[0]} is not below {parts[1]}", "--tune")
    if count < 2:
        raise UsageError(f"{text!r}: a grid has 2 values at least, got {parts[2]}", "--tune")
    return Grid(name, parts[0], parts[1], count, name in SETTINGS and SETTINGS[name].type is int)


@dataclass
class Tuned:
    """A pair with its trials.

    Attributes:
        entry: the pair, untuned.
        grids: of the options that it has a use for.
        values: what is tried of each option, by name.
        tried: the trials' choices and runs, the runs on rank 0 alone.
        chosen: the best choice so far; None where no trial ended well, or where there is nothing to tune.
    """

    entry: Entry
    grids: list[Grid]
    values: dict[str, list[str]]
    tried: list[tuple[Choice, RunLog | None]] = field(default_factory=list)
    chosen: Choice | None = None

    @property
    def choices(self) -> list[Choice]:
        """Every combination of its values; none where it has no use for any of the options."""
        found = itertools.product(*self.values.values())
        return [dict(zip(self.values, each, strict=True)) for each in found] if self.values else []

    def widened(self) -> list[Choice]:
        """The choices to try where the best is at an end of a grid: a step further along each such option."""
        if self.chosen is None:
            return []
        further: Choice = {}
        for grid in self.grids:
            value = grid.beyond(self.values[grid.name], self.chosen[grid.name])
            # A parameter may have no values beyond this end.
            with suppress(UsageError):
                if value is not None and self.race({**self.chosen, grid.name: value}):
                    further[grid.name] = value
        options = [[value, *([further[name]] if name in further else [])] for name, value in self.chosen.items()]
        found = [dict(zip(self.chosen, each, strict=True)) for each in itertools.product(*options)]
        for name, value in further.items():
            self.values[name] = sorted([*self.values[name], value], key=real())
        return found[1:]

    def best(self, target: Target | None) -> int | None:
        """On rank 0: the index of the best of the trials so far; None where none ended well."""
        paced = any(name not in _UNPACED for name in self.values)
        return best_trial([log for _, log in self.tried if log], target, paced)

    @property
    def at_edge(self) -> list[str]:
        """The options whose chosen value is the smallest or the largest that was tried."""
        if self.chosen is None:
            return []
        return [name for name, values in self.values.items() if self.chosen[name] in (values[0], values[-1])]

    def trial(self, choice: Choice, seed: int) -> Entry:
        """The run that tries a choice. Raises UsageError, blaming --tune."""
        made = self.race(choice)
        folder = f"tune-{made.folder}-{slug(_said(choice))}"
        return replace(with_seed(made, seed), name=f"{made.name} (tuning)", folder=folder, phase="tune")

    def race(self, choice: Choice | None) -> Entry:
        """The pair with a choice made, which its name tells, or untuned for None. Raises UsageError, blaming --tune."""
        pair = self.entry.pair or self.entry.name
        if not choice:
            return replace(self.entry, pair=pair)
        swept = {**self.entry.swept, **{option_of(name): value for name, value in choice.items()}}
        try:
            made = plan(adjusted(self.entry.plan.config, choice))
        except UsageError as error:
            name = name_of(error.option)
            if name in choice:
                raise UsageError(f"{error.option} {choice[name]} of {pair}: {error.message}", "--tune") from None
            raise blamed(error, pair, {}) from error.__cause__
        return replace(self.entry, name=f"{pair} {_said(choice)}", plan=made, swept=swept, pair=pair)

    def as_json(self) -> dict[str, Any]:
        """The entry of compare.json's `tuned`."""
        chosen = {name: real()(value) for name, value in (self.chosen or {}).items()}
        return {"pair": self.entry.name, "settings": chosen, "trials": len(self.tried), "at_edge": self.at_edge}


def _said(choice: Choice) -> str:
    return " ".join(f"{option_of(name)[2:]}={value}" for name, value in choice.items())


def plan_grids(entries: Sequence[Entry], grids: Sequence[Grid]) -> list[Tuned]:
    """Each pair's trials, as many for all of them.

    A pair that has no use for an option, such as sgd for `eta`, has as many more values of its first one. A pair that
    has no use for any has nothing to try.

    Raises:
        UsageError: an option is named twice, swept as well, unknown to all, or does not take one of the values.
    """
    found = []
    for grid in grids:
        if [other.name for other in grids].count(grid.name) > 1:
            raise UsageError(f"{option_of(grid.name)} is tuned twice", "--tune")
        if any(option_of(grid.name) in entry.swept for entry in entries):
            raise UsageError(f"{option_of(grid.name)} is swept, too: leave one out", "--tune")
        if not any(_applies(grid.name, entry) for entry in entries):
            raise no_option(grid.name, "--tune", _NOT_TUNED) if grid.name not in SETTINGS else UsageError(
                f"{option_of(grid.name)} has no effect with any of these pairs", "--tune")  # fmt: skip
    budget = math.prod(grid.count for grid in grids)
    for entry in entries:
        own = [replace(grid, whole=grid.whole or _is_whole(grid.name, entry)) for grid in grids
               if _applies(grid.name, entry)]  # fmt: skip
        counts = [grid.count for grid in own]
        if counts:
            counts[0] *= budget // math.prod(counts)
        tuned = Tuned(entry, own, {grid.name: grid.values(count) for grid, count in zip(own, counts, strict=True)})
        for choice in tuned.choices:
            tuned.race(choice)
        found.append(tuned)
    return found


def _applies(name: str, entry: Entry) -> bool:
    algorithm = entry.plan.algorithm
    return name in algorithm.options or (name in SETTINGS and applies(name, algorithm))


def _is_whole(name: str, entry: Entry) -> bool:
    value = entry.plan.algorithm.options.get(name)
    return isinstance(value, int) and not isinstance(value, bool)


def tune(tuned: Sequence[Tuned], seed: int, target: Target | None, track: Track, to_come: Sequence[Entry] = ()) -> None:
    """Run every pair's trials, in turns, and set what each of them chose; collective.

    Where the best is at an end of a grid, one step further is tried, once.

    Args:
        seed: of all trials.
        to_come: runs that are to follow, for who watches.
    """
    for ask in (lambda one: one.choices, Tuned.widened):
        own = [[(one, choice) for choice in ask(one)] for one in tuned]
        turns = in_turns([[item for item in lap if item] for lap in itertools.zip_longest(*own)])
        trials = [one.trial(choice, seed) for one, choice in turns]
        track.expect([*trials, *to_come])
        for (one, choice), log in zip(turns, track.run(trials), strict=True):
            one.tried.append((choice, log))
        for one in tuned:
            best = track.world.on_root(partial(one.best, target))
            one.chosen = None if best is None else one.tried[best][0]
