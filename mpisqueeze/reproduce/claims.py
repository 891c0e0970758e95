"""A claim: what it says, the runs that test it, and what decides. One TOML file each, in `claims/` or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from mpisqueeze.analysis import evidence
from mpisqueeze.costs.link import parse_link
from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of, read_toml
from mpisqueeze.language import check_choice, suggestion
from mpisqueeze.quantities import counted, parse_rate, parse_time
from mpisqueeze.record.folder import slug
from mpisqueeze.reproduce.expressions import Expression, parse
from mpisqueeze.runs.pairs import Entry
from mpisqueeze.runs.plan import plan
from mpisqueeze.settings import SETTINGS, Settings

FOLDER = Path(__file__).parent / "claims"
SCALES = ("laptop", "full")
#: Settings that a claim does not choose.
_NOT_CHOSEN = {"out", "data_dir", "device", "seed"}


@dataclass(frozen=True)
class Point:
    """A point of a sweep.

    Attributes:
        label: in the names of its runs; empty where nothing is swept.
        settings: those of its runs, where a run has no such setting of its own.
        ranks: how many take part; None for all.
    """

    label: str = ""
    x: float = 0.0
    settings: tuple[tuple[str, Any], ...] = ()
    ranks: int | None = None


@dataclass(frozen=True)
class ClaimSweep:
    """The points over which a claim's runs are repeated.

    Attributes:
        axis: what x is, with its unit.
        points: in the order of their x.
        over_n: x is N.
    """

    axis: str
    points: tuple[Point, ...]
    over_n: bool = False


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    """A table of a claim's file."""


class FigureTable(_Table):
    """The plot of a claim.

    Attributes:
        kind: `loss` by iteration, or `sweep`.
        y: the figure that is drawn over a sweep.
        log: of a sweep: both axes are logarithmic, on which powers are straight lines.
        runs: those that are drawn; all of them where none is named.
    """

    kind: Literal["loss", "sweep"]
    y: str = "loss"
    log: bool = False
    runs: list[str] = []


_Count = Annotated[int, msgspec.Meta(ge=1)]
_Seed = Annotated[int, msgspec.Meta(ge=0)]
_Counts = Annotated[list[_Count], msgspec.Meta(min_length=1)]
_Texts = Annotated[list[str], msgspec.Meta(min_length=1)]


class DecisionTable(_Table):
    """A sentence, and the expression that decides whether it holds."""

    text: str
    holds: str


class _OverN(_Table, kw_only=True):
    """A sweep over N; `settings` has a list for each of some settings, with a value for each N."""

    settings: dict[str, list[Any]] = {}

    def points(self, counts: Sequence[int]) -> list[tuple[int, tuple[tuple[str, Any], ...]]]:
        """N and the settings at each point, by N. Raises ValueError."""
        if "workers" in self.settings:
            raise ValueError("sweep.settings: workers are swept themselves, by `workers = [1, 4]` of the sweep")
        for name, values in self.settings.items():
            if len(values) != len(counts):
                raise ValueError(f"sweep.settings: {name} has {counted(len(values), 'value')} for {len(counts)} points")
        rows = [tuple((name, values[at]) for name, values in self.settings.items()) for at in range(len(counts))]
        return sorted(zip(counts, rows, strict=True), key=lambda point: point[0])


class _Ranks(_OverN):
    ranks: _Counts

    def sweep(self) -> ClaimSweep:
        points = (Point(f"n={count}", count, settings, count) for count, settings in self.points(self.ranks))
        return ClaimSweep("ranks", tuple(points), True)


class _Workers(_OverN):
    workers: _Counts

    def sweep(self) -> ClaimSweep:
        points = (
            Point(f"n={count}", count, (("workers", count), *settings)) for count, settings in self.points(self.workers)
        )
        return ClaimSweep("virtual workers", tuple(points), True)


class _Bandwidths(_Table):
    bandwidths: _Texts
    latency: str = "0ms"

    def sweep(self) -> ClaimSweep:
        return _by_bandwidth(self.bandwidths, lambda text: f"latency={self.latency},bandwidth={text}")


class _Latencies(_Table):
    latencies: _Texts
    bandwidth: str

    def sweep(self) -> ClaimSweep:
        points = [
            Point(text, 1e3 * parse_time(text), _link(f"latency={text},bandwidth={self.bandwidth}"))
            for text in self.latencies
        ]
        return ClaimSweep("latency (ms)", tuple(sorted(points, key=lambda point: point.x)))


_SWEEPS = {"bandwidths": _Bandwidths, "latencies": _Latencies, "ranks": _Ranks, "workers": _Workers}


class _LabTable(_Table):
    hosts: int
    bandwidths: _Texts


class FullTable(_Table):
    """Changes to a claim at full scale, where networks and data are those of the papers.

    Attributes:
        settings: of all runs, over those of the claim.
        runs: settings of each, over those that it has in the claim; others are runs of this scale alone.
        seeds, note: in place of the claim's.
        decisions: likewise; runs that none of them names are left out.
    """

    settings: dict[str, Any] = {}
    runs: dict[str, dict[str, Any]] = {}
    seeds: Annotated[list[_Seed], msgspec.Meta(min_length=1)] | None = None
    decisions: Annotated[list[DecisionTable], msgspec.Meta(min_length=1)] | None = None
    note: str | None = None


class ClaimFile(_Table):
    """A claim as its file states it.

    Attributes:
        title, says, source, note: for people.
        runs: the settings of each, besides those of all.
        min_ranks: with fewer it says nothing; virtual workers of its own need no ranks.
        seeds: each run is repeated with each of them.
        full: changes to it at that scale.
    """

    title: str
    says: str
    source: str
    runs: Annotated[dict[str, dict[str, Any]], msgspec.Meta(min_length=1)]
    decisions: Annotated[list[DecisionTable], msgspec.Meta(min_length=1)]
    note: str = ""
    min_ranks: int = 2
    seeds: Annotated[list[_Seed], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [1])
    settings: dict[str, Any] = {}
    full: FullTable = msgspec.field(default_factory=FullTable)
    sweep: dict[str, Any] | None = None
    lab: _LabTable | None = None
    figure: FigureTable | None = None

    def at(self, scale: str) -> ClaimFile:
        """The claim at one of SCALES."""
        if scale != "full":
            return self
        full = self.full
        runs = {run: {**self.runs.get(run, {}), **full.runs.get(run, {})} for run in {**self.runs, **full.runs}}
        others = {name: getattr(full, name) for name in ("seeds", "decisions", "note")}
        others = {name: value for name, value in others.items() if value is not None}
        return msgspec.structs.replace(self, settings={**self.settings, **full.settings}, runs=runs, **others)


@dataclass(frozen=True)
class StatedClaim:
    """A claim, checked.

    Attributes:
        name: the file's name without its number and ending.
        runs: by its name, the settings of each at each point of the sweep, without a seed.
        sweep: None where nothing is varied.
        decisions: the expressions of the file's, in their order.
    """

    name: str
    file: ClaimFile
    runs: Mapping[str, Sequence[Settings]]
    sweep: ClaimSweep | None
    decisions: tuple[Expression, ...]

    @property
    def workers(self) -> int | None:
        """The most virtual workers that one of its runs has; None for a claim that runs on ranks."""
        return max((config.workers or 0 for configs in self.runs.values() for config in configs), default=0) or None

    @property
    def hosts(self) -> int | None:
        """The hosts of the virtual cluster that it runs in; None for the ranks at hand."""
        return self.file.lab.hosts if self.file.lab else None

    def points(self, ranks: int) -> list[Point]:
        """The points of the sweep that `ranks` ranks can run; one that varies nothing where there is no sweep."""
        if self.sweep is None:
            return [Point()]
        return [point for point in self.sweep.points if (point.ranks or 1) <= ranks]

    def trials(self, ranks: int) -> list[ClaimRun]:
        """All its runs, in the order in which they are to be run."""
        found = []
        # Points that so few ranks cannot run are the last ones.
        for at, point in enumerate(self.points(ranks)):
            for turn, seed in enumerate(self.file.seeds):
                # In turns, so that a machine that slows down slows all of them down.
                runs = list(self.runs.items())
                for name, configs in reversed(runs) if turn % 2 else runs:
                    marks = [name, point.label, f"seed={seed}" if len(self.file.seeds) > 1 else ""]
                    config = replace(configs[at], seed=seed)
                    found.append(ClaimRun(" ".join(filter(None, marks)), name, point, config))
        return found


@dataclass(frozen=True)
class ClaimRun:
    """One run of a claim.

    Attributes:
        label: what tables call it, different for each.
        run: its name in the claim.
    """

    label: str
    run: str
    point: Point
    config: Settings

    def entry(self, number: int) -> Entry:
        """The run of a comparison. Raises UsageError."""
        return Entry(self.label, f"{number:03}-{slug(self.label)}", plan(self.config), {}, self.point.ranks)


def names() -> list[str]:
    """The names of the claims that come with the package, in their order."""
    return [_name(path) for path in sorted(FOLDER.glob("*.toml"))]


def select(wanted: Sequence[str], scale: str) -> list[StatedClaim]:
    """The claims of these names or files, each once; `all` is all that come with the package. Raises UsageError."""
    check_choice("--scale", scale, SCALES)
    paths = {_name(path): path for path in sorted(FOLDER.glob("*.toml"))}
    chosen: dict[str, Path] = {}
    for text in wanted:
        if text == "all":
            chosen |= paths
        elif text.endswith(".toml"):
            path = path_of(text)
            chosen[_name(path)] = path
        else:
            check_choice("CLAIM", text, ["all", *paths])
            chosen[text] = paths[text]
    return [load(path, scale) for path in chosen.values()]


def load(path: Path, scale: str) -> StatedClaim:
    """The claim in a file. Raises UsageError naming the file and what is wrong in it."""
    facts = read_toml(path, "CLAIM")
    try:
        return _claim(_name(path), facts, scale)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{path.name}: {error}".replace("`$.", "`"), "CLAIM") from None


def _name(path: Path) -> str:
    return path.stem.lstrip("0123456789").lstrip("-") or path.stem


def _claim(name: str, facts: dict[str, Any], scale: str) -> StatedClaim:
    file = msgspec.convert(facts, ClaimFile).at(scale)
    if file.sweep is not None and file.lab:
        raise ValueError("a claim has a sweep or a lab, not both")
    sweep = None
    if file.lab:
        sweep = _by_bandwidth(file.lab.bandwidths, None)
    elif file.sweep is not None:
        sweep = _swept(file.sweep)
    points = sweep.points if sweep else (Point(),)
    runs = {
        run: [_config({**file.settings, **dict(point.settings), **table}) for point in points]
        for run, table in file.runs.items()
    }
    configs = [config for found in runs.values() for config in found]
    if file.lab:
        # The runs of a lab are pairs of one `compare`.
        plain = [replace(config, algorithm="sgd", compressor=None) for config in configs]
        if any(config != plain[0] for config in plain):
            raise ValueError("lab: runs may differ by algorithm and compressor alone")
    on_workers = {config.workers is not None for config in configs}
    if len(on_workers) > 1 or (True in on_workers and (file.lab or any(point.ranks for point in points))):
        raise ValueError("workers: a claim runs on virtual workers or on ranks, not on both")
    if file.figure:
        if (file.figure.kind == "sweep") != (sweep is not None):
            raise ValueError("figure: kind is loss, or sweep where there is one")
        if file.figure.log and sweep is None:
            raise ValueError("figure: log is for a sweep")
        _known(file.figure.y, "figure")
        _are_runs(file.figure.runs, runs, "figure")
    decisions = tuple(_decision(item.holds, runs) for item in file.decisions)
    if file.decisions is file.full.decisions:
        named = {run for decision in decisions for run in decision.runs}
        runs = {run: config for run, config in runs.items() if run in named}
    return StatedClaim(name, file, runs, sweep, decisions)


def _config(settings: dict[str, Any]) -> Settings:
    known = [name for name in SETTINGS if name not in _NOT_CHOSEN]
    for key in settings:
        if key not in known:
            raise ValueError(f"{key!r} is no setting of train{suggestion(key, known)}")
    config = Settings.of(settings)
    # Virtual workers are refused in some places, which is no fault of the file's; its runs are planned with them later.
    plan(replace(config, workers=None, compute=None, jitter=None))
    return config


def _swept(table: dict[str, Any]) -> ClaimSweep:
    kinds = [kind for kind in _SWEEPS if kind in table]
    if len(kinds) != 1:
        raise ValueError(f"sweep: give one of {', '.join(_SWEEPS)}")
    return msgspec.convert(table, _SWEEPS[kinds[0]]).sweep()


def _by_bandwidth(values: Sequence[str], link: Callable[[str], str] | None) -> ClaimSweep:
    """The sweep over these rates; `link`: the one that is emulated for each, None where a lab shapes real ones."""
    points = [Point(text, 1e6 / parse_rate(text), _link(link(text)) if link else ()) for text in values]
    return ClaimSweep("1/bandwidth (s/Mbit)", tuple(sorted(points, key=lambda point: point.x)))


def _link(text: str) -> tuple[tuple[str, str]]:
    parse_link(text)
    return (("link", text),)


def _decision(text: str, runs: Collection[str]) -> Expression:
    expression = parse(text)
    _are_runs(expression.runs, runs, expression.text)
    for figure in expression.figures:
        _known(figure, expression.text)
    return expression


def _are_runs(names: Iterable[str], runs: Collection[str], where: str) -> None:
    for run in names:
        if run not in runs:
            raise ValueError(f"{where}: there is no run {run!r}{suggestion(run, runs)}")


def _known(figure: str, where: str) -> None:
    if figure not in evidence.FIGURES:
        near = suggestion(figure, evidence.FIGURES)
        raise ValueError(f"{where}: {figure!r} is not one of {', '.join(evidence.FIGURES)}{near}")
