"""Reading run folders back, of runs that ended well or badly or were killed while they wrote."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpisqueeze.costs.link import network_name
from mpisqueeze.errors import UsageError
from mpisqueeze.files import inside, own
from mpisqueeze.record.decoding import Count, Number, as_type, parsed, read_object
from mpisqueeze.record.figures import BINARY_LOG, LOGGED, READ_LINE, Floats, columns_in, no_columns, rows_in, summarized
from mpisqueeze.record.folder import FIRST
from mpisqueeze.record.summary import label_in, summary_of
from mpisqueeze.record.types import ComparisonFile, Config, Environment, GivenTarget, Summary
from mpisqueeze.settings import upgraded

COMPARISON = "compare.json"
#: The name of a target that is a smoothed training loss.
SMOOTHED = "smoothed_loss"
#: Bytes of a log that are decoded at once; no line is longer.
_BLOCK = 1 << 20

_DECODER = msgspec.json.Decoder(READ_LINE)
#: Fields that a summary needs where the run has no folder.
_NEEDED = ("algorithm", "compressor", "dtype", "ranks", "iterations", "warmup", "bytes_sent", "messages")
_VALUES = attrgetter(*(figure.name for figure in LOGGED))


@dataclass(frozen=True)
class RunLog:
    """One run as its folder tells it.

    Attributes:
        name: what tables call it.
        path: its folder; None for a run that never got one.
        summary: summary.json's object, or what could be rebuilt of it.
        planned: the iterations that the run was to have.
        per_epoch: iterations of an epoch.
        columns: the figures of iterations.jsonl by name, each (T,) for the T iterations done; NaN for null and for
            what an older version did not record, but for `elapsed_s`.
        evaluations: the lines of evaluations.jsonl.
        config, environment: config.json's and environment.json's objects, empty where there is none.
        summed: an older version recorded no `elapsed_s`, for which sums of `iteration_s` stand.
        pair: its name in its comparison, without the seed where that made runs over seeds; empty of one by itself.
        phase: `race`, or `tune` of a trial that chooses settings.
    """

    name: str
    path: Path | None
    summary: dict[str, Any]
    planned: int
    per_epoch: int
    columns: dict[str, Floats]
    evaluations: list[dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summed: bool = False
    pair: str = ""
    phase: str = "race"

    @property
    def label(self) -> str:
        """Its algorithm and compressor."""
        return label_of_run(self.config) if self.config else self.name

    @property
    def virtual(self) -> bool:
        """Its workers were virtual ones, and so is the time that its messages took."""
        return self.environment.get("link") == "virtual"

    @property
    def network(self) -> str:
        """The network that it ran on, for people."""
        kind, given = self.environment.get("link", "real"), self.config.get("link")
        kind = "emulated" if given and not self.virtual else kind
        return network_name(kind, self.summary.get("hosts"), self.environment.get("lab"), given)

    @property
    def gossips(self) -> bool:
        """The ranks have models of their own, as far as the summary tells, or the log measured their distance."""
        return bool(self.summary.get("topology")) or bool(np.isfinite(self.columns["consensus"]).any())


def sift(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The folders of runs and comparisons among paths such as `results/*`, and a note on each of the others.

    A path that is not there is kept, and so is everything where there is no run, for `read_runs` to say what is wrong.
    """
    found = [path for path in paths if any(os.path.isfile(path / name) for name in (FIRST, COMPARISON))]
    if not found:
        return [*paths], []
    kept = [path for path in paths if path in found or not os.path.lexists(path)]
    return kept, [f"{path}: left out, as it is no run folder" for path in paths if path not in kept]


def read_runs(paths: Sequence[Path]) -> tuple[list[RunLog], list[GivenTarget | None]]:
    """The runs in `paths`, a comparison's folder standing for its runs, each under a name of its own.

    Returns:
        The runs, and of each comparison the target that was given to it, or None.

    Raises:
        UsageError: a folder or a file is missing or damaged; says which, and how.
    """
    runs: list[RunLog] = []
    targets: list[GivenTarget | None] = []
    for path in paths:
        if not os.path.isdir(path):
            raise _wrong(path, "is not a folder" if os.path.exists(path) else "is not there")
        if os.path.isfile(path / COMPARISON):
            found, target = _read_comparison(path)
            runs += found
            targets.append(target)
        else:
            runs.append(read_run(path))
    return _named_apart(runs), targets


def read_run(path: Path, name: str | None = None) -> RunLog:
    """The run in a folder; its last line may be half written, and its summary missing.

    Raises:
        UsageError: no run folder, or a damaged one.
    """
    config = read_settings(path)
    columns = _columns(path)
    unknown = np.isnan(columns["elapsed_s"])
    columns["elapsed_s"] = np.where(unknown, np.cumsum(columns["iteration_s"]), columns["elapsed_s"])
    log = path / "evaluations.jsonl"
    lines = (line for block in _blocks(log) for line in block.split(b"\n"))
    evaluations = [_line(log, at, line, dict[str, Count | Number | None]) for at, line in enumerate(lines, 1)]
    environment = _object(path / "environment.json", Environment) if os.path.exists(path / "environment.json") else {}
    reason = "there is no summary.json: the run was killed, or is still going"
    summary = summary_of(config, environment, columns, evaluations, "killed", reason, str(path))
    if os.path.exists(path / "summary.json"):
        summary = _completed(summary, _object(path / "summary.json", Summary))
    label = label_of_run(config)
    planned, per_epoch = config["iterations"], config["iterations_per_epoch"]
    summed = bool(unknown.any())
    return RunLog(name or label, path, summary, planned, per_epoch, columns, evaluations, config, environment, summed)


def label_of_run(config: dict[str, Any]) -> str:
    """`doublesqueeze/onebit`; full vectors need no mention."""
    compressor = "" if config["compressor"] == "identity" else f"/{label_in(config, 'compressor')}"
    return f"{label_in(config, 'algorithm')}{compressor}"


def read_settings(path: Path, option: str = "RUN") -> dict[str, Any]:
    """The object of a run folder's config.json, as this version writes it. Raises UsageError, blaming `option`."""
    return upgraded(_object(path / "config.json", Config, option))


def folderless(name: str, summary: dict[str, Any]) -> RunLog:
    """A run that failed before it had a folder, or was skipped."""
    return RunLog(name, None, _completed(summarized(no_columns(), 0), summary), 0, 1, no_columns(), [])


def _completed(known: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """A summary that was read, with what is known of the figures that it lacks."""
    return {**known, **summary, "times": {**known["times"], **summary.get("times", {})}}


def _read_comparison(path: Path) -> tuple[list[RunLog], GivenTarget | None]:
    """Its runs in the order of the comparison; one that was killed names runs that had not begun."""
    about = _object(path / COMPARISON, ComparisonFile)
    recorded = {summary["name"]: summary for summary in about["summaries"]}
    runs = []
    for entry in about["runs"]:
        name, folder = entry["name"], inside(path, entry["folder"], "RUN")
        if os.path.isfile(folder / "config.json"):
            run = read_run(folder, name)
        elif name in recorded:
            run = folderless(name, _whole(path / COMPARISON, recorded[name]))
        else:
            continue
        runs.append(replace(run, pair=entry.get("pair") or name, phase=entry.get("phase") or run.phase))
    if not runs:
        raise _wrong(path, "is a comparison whose first run had not begun")
    target: GivenTarget | None = about.get("given_target")
    if about.get("given_target_loss") is not None:
        target = {"name": SMOOTHED, "value": about["given_target_loss"]}
    return runs, target


def _whole(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run that has no folder, which compare.json has to have whole."""
    where = f"{path}, in the summary of {summary['name']},"
    as_type(summary, Summary, where, "RUN")
    missing = next((key for key in _NEEDED if key not in summary), None)
    if missing:
        raise UsageError(f"{where} has no {missing!r}", "RUN")
    return summary


def _named_apart(runs: list[RunLog]) -> list[RunLog]:
    """Runs of one name are told apart by what differs between their folders."""
    found = [*runs]
    for name, count in Counter(run.name for run in runs).items():
        paths = {at: run.path for at, run in enumerate(runs) if run.name == name and run.path}
        for at, where in zip(paths, _differences([*paths.values()]) if count > 1 else (), strict=False):
            found[at] = replace(runs[at], name=f"{name} ({where})")
    return found


def _differences(paths: Sequence[Path]) -> list[str]:
    """Paths without the folders that all of them begin with, and those that all end with."""
    parts = [path.parts for path in paths]
    shortest = min(map(len, parts))
    begin = next((i for i in range(shortest) if len({each[i] for each in parts}) > 1), shortest)
    end = next((i for i in range(shortest - begin) if len({each[-1 - i] for each in parts}) > 1), 0)
    short = [str(Path(*each[begin : len(each) - end])) for each in parts]
    useful = len(set(short)) == len(short) and "." not in short
    return short if useful else [str(path) for path in paths]


def _object(path: Path, kind: Any, option: str = "RUN") -> dict[str, Any]:
    if not os.path.exists(path):
        raise UsageError(f"{path} is not there; a run folder has one", option)
    return read_object(own(path, option), option, kind)


def _columns(folder: Path) -> dict[str, Floats]:
    """The figures of the log of iterations, in whichever form it is."""
    path = folder / BINARY_LOG
    if not os.path.exists(path):
        return _columns_of_lines(folder / "iterations.jsonl")
    try:
        with open(own(path, "RUN"), "rb") as stream:
            names, rows = rows_in(stream)
            found = columns_in(stream, names, rows, no_columns())
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _wrong(path, str(error)) from None
    if missing := [figure.name for figure in LOGGED if figure.required and figure.name not in found]:
        raise _wrong(path, f"has no {missing[0]!r}")
    return {name: _compact(found.get(name, np.full(rows, np.nan))) for name in no_columns()}


def _columns_of_lines(path: Path) -> dict[str, Floats]:
    """The figures of iterations.jsonl, of which no more than a block's lines are objects at any time."""
    columns = [array("d") for _ in LOGGED]
    for lines in _blocks(path):
        try:
            found = _DECODER.decode_lines(lines)
            whole = len(found) == lines.count(b"\n") + 1
        except (msgspec.MsgspecError, RecursionError):
            whole = False
        if not whole:
            first = len(columns[0]) + 1
            found = [_line(path, at, line, READ_LINE) for at, line in enumerate(lines.split(b"\n"), first)]
        values = np.array([*map(_VALUES, found)], float)
        for column, some in zip(columns, values.T, strict=True):
            column.frombytes(np.ascontiguousarray(some).tobytes())
    if not columns[0]:
        return no_columns()
    return {figure.name: _compact(np.frombuffer(column)) for figure, column in zip(LOGGED, columns, strict=True)}


def _compact(values: Floats) -> Floats:
    """The column for itself; one whose values are all the same, as many are, takes the memory of one."""
    same = values.size and np.array_equal(values, np.broadcast_to(values[0], values.shape), equal_nan=True)
    return np.broadcast_to(values[:1].copy(), values.shape) if same else np.ascontiguousarray(values)


def _line(path: Path, at: int, line: bytes, kind: Any) -> Any:
    where = f"{path} line {at}"
    return as_type(parsed(line.decode(errors="replace"), where, "RUN"), kind, where, "RUN")


def _blocks(path: Path) -> Iterator[bytes]:
    """The whole lines of a log, many at a time, without the last newline; none of a file that is not there."""
    if not os.path.exists(path):
        return
    rest = b""
    try:
        with open(own(path, "RUN"), "rb") as stream:
            while block := stream.read(_BLOCK):
                # A line without its newline was being written when the run ended.
                lines, newline, rest = (rest + block).rpartition(b"\n")
                if newline:
                    yield lines
                elif len(rest) > _BLOCK:
                    raise _wrong(path, f"has a line of more than {_BLOCK} bytes")
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from None


def _wrong(path: Path, what: str) -> UsageError:
    return UsageError(f"{path} {what}", "RUN")
