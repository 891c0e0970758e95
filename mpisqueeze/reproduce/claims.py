"""A claim: what it says, the runs that test it, and what decides. One TOML file each, in `claims/` or a user's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpisqueeze.analysis import evidence
from mpisqueeze.costs.link import parse_link
from mpisqueeze.errors import UsageError
from mpisqueeze.files import read_text
from mpisqueeze.language import check_choice, suggestion
from mpisqueeze.quantities import parse_rate, parse_time
from mpisqueeze.record.folder import slug
from mpisqueeze.reproduce.expressions import Expression, parse
from mpisqueeze.runs.pairs import Entry
from mpisqueeze.runs.plan import plan
from mpisqueeze.settings import SETTINGS, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "claims"
SCALES = ("laptop", "gpu")
SWEEPS = ("bandwidths", "latencies", "ranks")
_TEXTS = ("title", "says", "source")
_KEYS = {*_TEXTS, "note", "min_ranks", "seeds", "settings", "gpu", "runs", "sweep", "lab", "decisions", "figure"}
#: Settings that a claim does not choose.
_NOT_CHOSEN = {"out", "data_dir", "device", "seed"}


@dataclass(frozen=True)
class Decision:
    """A sentence, and the expression that decides whether it holds."""

    text: str
    holds: Expression


@dataclass(frozen=True)
class Point:
    """A point of a sweep.

    Attributes:
        label: in the names of its runs; empty where nothing is swept.
        x: where it stands.
        settings: of a run.
        ranks: how many take part; None for all.
    """

    label: str = ""
    x: float = 0.0
    settings: tuple[tuple[str, Any], ...] = ()
    ranks: int | None = None


@dataclass(frozen=True)
class Sweep:
    """What is varied.

    Attributes:
        axis: what x is, with its unit.
        points: in the order of their x.
    """

    axis: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Figure:
    """The plot of a claim.

    Attributes:
        kind: `loss` by iteration, or `sweep`.
        y: of a sweep, the figure drawn.
    """

    kind: str
    y: str


@dataclass(frozen=True)
class Claim:
    """Everything that its file says, checked.

    Attributes:
        name: the file's name without its number and ending.
        title, says, source, note: for people.
        min_ranks: with fewer it says nothing.
        seeds: each run is repeated with each of them.
        runs: the settings of each, by its name, without what belongs to a sweep or a seed.
        sweep: None where nothing is varied.
        hosts: of the virtual cluster that it runs in; None for the ranks at hand.
    """

    name: str
    title: str
    says: str
    source: str
    note: str
    min_ranks: int
    seeds: tuple[int, ...]
    runs: Mapping[str, Settings]
    sweep: Sweep | None
    hosts: int | None
    decisions: tuple[Decision, ...]
    figure: Figure | None

    def points(self, ranks: int) -> list[Point]:
        """Those of the sweep that `ranks` ranks can run; one that varies nothing where there is no sweep."""
        if self.sweep is None:
            return [Point()]
        return [point for point in self.sweep.points if (point.ranks or 1) <= ranks]

    def trials(self, ranks: int) -> list[Trial]:
        """All its runs, in the order in which they are to be run."""
        found = []
        for point in self.points(ranks):
            for seed in self.seeds:
                for name, config in self.runs.items():
                    marks = [name, point.label, f"seed={seed}" if len(self.seeds) > 1 else ""]
                    config = replace(config, seed=seed, **dict(point.settings))
                    found.append(Trial(" ".join(filter(None, marks)), name, point, config))
        return found


@dataclass(frozen=True)
class Trial:
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
    """Of the claims that come with the package, in their order."""
    return [_name(path) for path in sorted(FOLDER.glob("*.toml"))]


def select(wanted: Sequence[str], scale: str) -> list[Claim]:
    """The claims of these names or files, each once; `all` is all that come with the package. Raises UsageError."""
    check_choice("--scale", scale, SCALES)
    paths = {_name(path): path for path in sorted(FOLDER.glob("*.toml"))}
    chosen: dict[str, Path] = {}
    for text in wanted:
        if text == "all":
            chosen |= paths
        elif text.endswith(".toml"):
            chosen[_name(Path(text))] = Path(text)
        else:
            check_choice("CLAIM", text, ["all", *paths])
            chosen[text] = paths[text]
    return [load(path, scale) for path in chosen.values()]


def load(path: Path, scale: str) -> Claim:
    """The claim in a file. Raises UsageError naming the file and what is wrong in it."""
    try:
        facts = tomllib.loads(read_text(path, "CLAIM"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "CLAIM") from None
    try:
        return _claim(_name(path), facts, scale)
    except UsageError as error:
        raise UsageError(f"{path.name}: {error}", "CLAIM") from None
    except ValueError as error:
        raise UsageError(f"{path.name}: {error}", "CLAIM") from None


def _name(path: Path) -> str:
    return path.stem.lstrip("0123456789").lstrip("-") or path.stem


def _claim(name: str, facts: dict[str, Any], scale: str) -> Claim:
    _only(facts, _KEYS, "the file")
    texts = {key: _typed(facts, key, str) for key in _TEXTS}
    settings = {**_typed(facts, "settings", dict, {}), **(_typed(facts, "gpu", dict, {}) if scale == "gpu" else {})}
    runs = {run: _config({**settings, **_typed(facts["runs"], run, dict)}) for run in _typed(facts, "runs", dict)}
    if not runs:
        raise ValueError("runs: name at least one")
    sweep, hosts = _sweep_of(facts)
    if hosts is not None:
        _fit_for_lab(runs)
    decisions = tuple(_decision(item, runs, sweep) for item in _typed(facts, "decisions", list))
    if not decisions:
        raise ValueError("decisions: name at least one")
    seeds = tuple(_typed(facts, "seeds", list, [1]))
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise ValueError("seeds are whole numbers ≥ 0")
    return Claim(
        name,
        **texts,
        note=_typed(facts, "note", str, ""),
        min_ranks=_typed(facts, "min_ranks", int, 2),
        seeds=seeds,
        runs=runs,
        sweep=sweep,
        hosts=hosts,
        decisions=decisions,
        figure=_figure(facts, sweep),
    )


def _config(settings: dict[str, Any]) -> Settings:
    known = [name for name in SETTINGS if name not in _NOT_CHOSEN]
    for key in settings:
        if key not in known:
            raise ValueError(f"{key!r} is no setting of train{suggestion(key, known)}")
    config = Settings.of(settings)
    plan(config)
    return config


def _sweep_of(facts: dict[str, Any]) -> tuple[Sweep | None, int | None]:
    """What is varied, and the hosts of a lab."""
    if "sweep" in facts and "lab" in facts:
        raise ValueError("a claim has a sweep or a lab, not both")
    if "lab" in facts:
        lab = _typed(facts, "lab", dict)
        _only(lab, {"hosts", "bandwidths"}, "lab")
        points = tuple(
            Point(text, 1e6 / parse_rate(text))
            for text in sorted(_texts(lab, "bandwidths"), key=parse_rate, reverse=True)
        )
        return Sweep("1/bandwidth (s/Mbit)", points), _typed(lab, "hosts", int)
    if "sweep" not in facts:
        return None, None
    sweep = _typed(facts, "sweep", dict)
    kinds = [kind for kind in SWEEPS if kind in sweep]
    if len(kinds) != 1:
        raise ValueError(f"sweep: give one of {', '.join(SWEEPS)}")
    if kinds == ["ranks"]:
        _only(sweep, {"ranks"}, "sweep")
        counts = sorted(_typed(sweep, "ranks", list))
        if not all(isinstance(count, int) and count >= 1 for count in counts):
            raise ValueError("sweep: ranks are whole numbers ≥ 1")
        return Sweep("ranks", tuple(Point(f"n={count}", count, ranks=count) for count in counts)), None
    if kinds == ["bandwidths"]:
        _only(sweep, {"bandwidths", "latency"}, "sweep")
        latency = _typed(sweep, "latency", str, "0ms")
        texts = sorted(_texts(sweep, "bandwidths"), key=parse_rate, reverse=True)
        return Sweep(
            "1/bandwidth (s/Mbit)",
            tuple(
                Point(text, 1e6 / parse_rate(text), (("link", _link(f"latency={latency},bandwidth={text}")),))
                for text in texts
            ),
        ), None
    _only(sweep, {"latencies", "bandwidth"}, "sweep")
    bandwidth = _typed(sweep, "bandwidth", str)
    return Sweep(
        "latency (ms)",
        tuple(
            Point(text, 1e3 * parse_time(text), (("link", _link(f"latency={text},bandwidth={bandwidth}")),))
            for text in sorted(_texts(sweep, "latencies"), key=parse_time)
        ),
    ), None


def _link(text: str) -> str:
    parse_link(text)
    return text


def _fit_for_lab(runs: Mapping[str, Settings]) -> None:
    """In a lab the runs are pairs of one `compare`, and differ in nothing else."""
    plain = [replace(config, algorithm="sgd", compressor=None) for config in runs.values()]
    if any(config != plain[0] for config in plain):
        raise ValueError("lab: runs may differ by algorithm and compressor alone")


def _decision(item: Any, runs: Mapping[str, Settings], sweep: Sweep | None) -> Decision:
    if not isinstance(item, dict):
        raise ValueError("decisions are tables of text and holds")
    _only(item, {"text", "holds"}, "decisions")
    expression = parse(_typed(item, "holds", str))
    for run in expression.runs:
        if run not in runs:
            raise ValueError(f"{expression.text}: there is no run {run!r}{suggestion(run, runs)}")
    for figure in expression.figures:
        if figure not in evidence.FIGURES:
            near = suggestion(figure, evidence.FIGURES)
            raise ValueError(f"{expression.text}: {figure!r} is not one of {', '.join(evidence.FIGURES)}{near}")
    return Decision(_typed(item, "text", str), expression)


def _figure(facts: dict[str, Any], sweep: Sweep | None) -> Figure | None:
    if "figure" not in facts:
        return None
    figure = _typed(facts, "figure", dict)
    _only(figure, {"kind", "y"}, "figure")
    kind, y = _typed(figure, "kind", str), _typed(figure, "y", str, "loss")
    if kind not in ("loss", "sweep") or (kind == "sweep") != (sweep is not None):
        raise ValueError("figure: kind is loss, or sweep where there is one")
    if y not in evidence.FIGURES:
        raise ValueError(f"figure: {y!r} is not one of {', '.join(evidence.FIGURES)}")
    return Figure(kind, y)


def _typed(table: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = table.get(key, default)
    if value is None:
        raise ValueError(f"there is no {key!r}")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key} must be {kind.__name__}, got {value!r}")
    return value


def _texts(table: Mapping[str, Any], key: str) -> list[str]:
    values = _typed(table, key, list)
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key}: give a list of texts")
    return values


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{where} has {key!r}, which is not one of {', '.join(sorted(known))}")
