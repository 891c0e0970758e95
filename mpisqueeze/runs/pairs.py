"""The runs of a comparison: ALGORITHM/COMPRESSOR pairs, each with every combination of the swept settings."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of
from mpisqueeze.language import check_choice, suggestion
from mpisqueeze.parts import registry
from mpisqueeze.record.folder import slug
from mpisqueeze.runs.plan import Plan, applies, plan
from mpisqueeze.runs.presets import PRESETS
from mpisqueeze.settings import SETTINGS, Settings, moved, name_of, option_of

_PLUGIN = re.compile(r".+?\.py:[A-Za-z_]\w*([:,][^/]*)?(?=/|$)")
#: Settings that pairs or the comparison itself give.
_NOT_SWEPT = {
    "algorithm": "name algorithms as pairs, or sweep their parameters, such as eta=0.1,0.3",
    "out": "each run has its own folder within --out",
    "seed": "repeat runs with --seeds, which gives intervals over them",
    "stop_at": "name one target for all, with --target and --stop-at-target",
}


@dataclass(frozen=True)
class Pair:
    """An algorithm and its compressor as they were typed; no compressor means the algorithm's default."""

    text: str
    algorithm: str
    compressor: str | None


@dataclass(frozen=True)
class Sweep:
    """The values, as text, that a setting takes in turn, or a parameter of algorithms such as choco's `eta`."""

    setting: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes:
        name: what tables call it, different for each.
        folder: its folder's name within the comparison's.
        plan: checked; its `out` is not set yet.
        swept: the values of the swept and the tuned options, by option.
        ranks: how many take part, the lowest ones; None for all.
        pair: the name that it shares with runs that differ by their seed alone; empty: its own.
        phase: `race`, or `tune` for a trial that chooses settings and is not counted.
    """

    name: str
    folder: str
    plan: Plan
    swept: dict[str, str]
    ranks: int | None = None
    pair: str = ""
    phase: str = "race"

    @property
    def seed(self) -> int:
        return self.plan.config.seed

    @property
    def takes(self) -> int | None:
        """The number of ranks, or of virtual workers, that take part; None for all."""
        return self.ranks or self.plan.config.workers

    def as_json(self) -> dict[str, Any]:
        """The entry of compare.json."""
        of = {"pair": self.pair or self.name, "seed": self.seed, "phase": self.phase}
        return {"name": self.name, "folder": self.folder, "swept": self.swept, **of}


def parse_pair(text: str) -> Pair:
    """`ALGORITHM[/COMPRESSOR]`, where either part may be `FILE.py:Class` with a path of its own.

    The algorithm ends at the first slash, unless the text starts with a plug-in file and no known algorithm's name
    stands before that slash. Raises UsageError.
    """
    head, slash, tail = text.partition("/")
    known = re.split("[:,]", head, maxsplit=1)[0] in registry.algorithms.names()
    plugin = None if known else _PLUGIN.match(text)
    if plugin and (
        head in ("", ".", "..", "~", plugin[0]) or os.path.isfile(path_of(plugin[0].partition(".py:")[0] + ".py"))
    ):
        head, (slash, tail) = plugin[0], (text[plugin.end() : plugin.end() + 1], text[plugin.end() + 1 :])
    if not head or (slash and not tail):
        raise UsageError(f"{text!r} is not ALGORITHM or ALGORITHM/COMPRESSOR", "PAIR")
    return Pair(text, head, tail or None)


def parse_sweep(text: str) -> Sweep:
    """`OPTION=V1,V2,…`, or with semicolons between values that hold commas. Raises UsageError."""
    name, equals, rest = text.partition("=")
    setting = name_of(name.strip())
    if setting in _NOT_SWEPT:
        raise UsageError(f"{name} cannot be swept: {_NOT_SWEPT[setting]}", "--sweep")
    values = tuple(value.strip() for value in rest.split(";" if ";" in rest else ","))
    if not equals or not all(values):
        raise UsageError(f"{text!r} is not OPTION=V1,V2,…", "--sweep")
    if len(set(values)) < len(values):
        raise UsageError(f"{text!r} names a value twice", "--sweep")
    return Sweep(setting, values)


def preset(name: str) -> list[str]:
    """The pairs of a preset. Raises UsageError with the nearest name."""
    check_choice("--preset", name, PRESETS)
    return list(PRESETS[name])


def expand(pairs: Sequence[Pair], sweeps: Sequence[Sweep], base: Settings) -> list[Entry]:
    """Every pair with every combination of swept values, planned and named, in the order given.

    An algorithm that sends full vectors runs once where the compressor is swept, as the others' baseline; so does one
    without the parameter that is swept, or without a server where `server` is.

    Raises:
        UsageError: whatever `plan` says of any of them, blamed on the pair or the sweep that it comes from; an option
            that is none, or is swept twice; no pair at all.
    """
    if not pairs:
        raise UsageError("name at least one ALGORITHM/COMPRESSOR, or a --preset", "PAIR")
    for setting, times in Counter(sweep.setting for sweep in sweeps).items():
        if times > 1:
            raise UsageError(f"{option_of(setting)} is swept twice", "--sweep")
    applied = [[sweep for sweep in sweeps if _applies(sweep.setting, pair)] for pair in pairs]
    for sweep in sweeps:
        if sweep.setting not in SETTINGS and not any(sweep in own for own in applied):
            raise no_option(sweep.setting, "--sweep", _NOT_SWEPT)
    planned = []
    for pair, own in zip(pairs, applied, strict=True):
        for values in itertools.product(*(sweep.values for sweep in own)):
            swept = {sweep.setting: value for sweep, value in zip(own, values, strict=True)}
            planned.append((_planned(pair, swept, base), swept))
    # A setting that some pairs have a use for is no mistake in the others.
    needless = set(SETTINGS).intersection(*(made.idle for made, _ in planned))
    planned = [(_without(made, made.idle.keys() - needless), swept) for made, swept in planned]
    labels = [_label(made, swept) for made, swept in planned]
    entries = []
    seen: Counter[str] = Counter()
    width = max(2, len(str(len(planned))))
    for number, ((made, swept), label) in enumerate(zip(planned, labels, strict=True), 1):
        seen[label] += 1
        name = label if seen[label] == 1 else f"{label} #{seen[label]}"
        folder = f"{number:0{width}}-{slug(label)}"
        entries.append(Entry(name, folder, made, {option_of(key): value for key, value in swept.items()}))
    return entries


def no_option(name: str, option: str, left_out: Collection[str]) -> UsageError:
    """The error about a name, given to `option`, that is neither a setting nor a parameter of these algorithms."""
    options = [option_of(item).removeprefix("--") for item in SETTINGS if item not in left_out]
    near = moved(name) or suggestion(name.replace("_", "-"), options)
    return UsageError(
        f"neither train nor an algorithm of these pairs has an option {name!r}{near}; known: {', '.join(options)}",
        option,
    )


def _applies(setting: str, pair: Pair) -> bool:
    """Sweeping it changes the pair. Raises UsageError where the pair names a compressor of its own."""
    with _blaming(pair, {}):
        algorithm = registry.algorithms.find(pair.algorithm)
    if setting != "compressor":
        return setting in algorithm.options or (setting in SETTINGS and applies(setting, algorithm))
    if not getattr(algorithm.cls, "compresses", True):
        return False
    if pair.compressor:
        raise UsageError("names a compressor, and --sweep compressor too: leave one out", f"PAIR {pair.text}")
    return True


def _planned(pair: Pair, swept: dict[str, str], base: Settings) -> Plan:
    with _blaming(pair, swept):
        return plan(adjusted(replace(base, algorithm=pair.algorithm, compressor=pair.compressor), swept))


def adjusted(base: Settings, values: Mapping[str, str]) -> Settings:
    """Settings with some of them, or parameters of their algorithm, changed to values that are given as text.

    Raises UsageError.
    """
    algorithm = base.algorithm
    for name, text in values.items():
        if name not in SETTINGS:
            algorithm += f"{',' if ':' in algorithm else ':'}{name}={text}"
    given = {name: SETTINGS[name].checked(text) for name, text in values.items() if name in SETTINGS}
    return replace(base, **{"algorithm": algorithm, **given})


def _without(made: Plan, settings: Collection[str]) -> Plan:
    """The plan with defaults in place of settings that have no effect on it."""
    return replace(made, config=replace(made.config, **{name: SETTINGS[name].default for name in settings}))


@contextmanager
def _blaming(pair: Pair, swept: dict[str, str]) -> Iterator[None]:
    """A UsageError names the argument that the user typed."""
    try:
        yield
    except UsageError as error:
        raise blamed(error, pair.text, swept) from error.__cause__


def blamed(error: UsageError, pair: str, swept: dict[str, str]) -> UsageError:
    """`error`, with the argument of `compare` that it comes from as its option."""
    name = name_of(error.option)
    if name in swept:
        return UsageError(f"{error.option} {swept[name]} of {pair}: {error.message}", "--sweep")
    if name in ("algorithm", "compressor"):
        return UsageError(error.message, f"PAIR {pair}")
    return UsageError(f"{error.message} (for {pair})", error.option)


def _label(made: Plan, swept: dict[str, str]) -> str:
    """`dcd/qsgd:8 lr=0.1`: plug-ins by their class, no compressor for those who take none."""
    parts = [made.algorithm.label]
    if getattr(made.algorithm.cls, "compresses", True):
        parts.append(made.compressor.label)
    shown = SETTINGS.keys() - {"compressor"}
    settings = [f"{option_of(name)[2:]}={value}" for name, value in swept.items() if name in shown]
    return " ".join(["/".join(parts), *settings])
