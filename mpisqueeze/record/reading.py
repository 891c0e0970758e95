"""Reading run folders back, of runs that ended well or badly or were killed while they wrote."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.errors import UsageError
from mpisqueeze.record import schema
from mpisqueeze.record.iterations import TIMES
from mpisqueeze.record.schema import count, list_of, maybe, number, read_object, table, table_of
from mpisqueeze.record.summary import SCHEMA_VERSION, statistics, traffic
from mpisqueeze.settings import upgraded

Column = NDArray[np.float64]

COMPARISON = "compare.json"
STATUSES = ("ok", "interrupted", "killed", "diverged", "failed", "skipped")
_COUNTS = ("ranks", "dimension", "iterations", "iterations_per_epoch")
_NUMBERS = ("loss", "bytes_sent", "messages", *TIMES)
#: No loss is larger, for it was a float, and nothing else: bytes of all ranks, or anything a second.
_LOSS, _MUCH = 1.7e308, 1e30
#: A few ten thousand years at most.
_SECONDS = number(0, 1e12)
_RATIO = number(-_MUCH, _MUCH)
#: What the cost model takes.
_RANKS, _DIMENSION = count(1, 10**6), count(1, 10**12)
_TEXT = maybe(schema.text)
_DTYPE, _SERVER = schema.one_of("float32", "float64"), maybe(schema.one_of("root", "sharded"))
_NAME = table({"name": schema.text, "origin": schema.text})

CONFIG = table(
    {"algorithm": schema.text, "compressor": schema.text, "dtype": _DTYPE}
    | dict.fromkeys(_COUNTS, count(1))
    | {"ranks": _RANKS, "dimension": _DIMENSION},
    {
        **dict.fromkeys(("topology", "problem", "data", "link"), _TEXT),
        "server": _SERVER,
        "tree": maybe(schema.one_of("flat", "chain", "binary", "binomial")),
        "chunk": maybe(count(1)),
        "warmup": count(),
        "batch_size": count(1),
        "seed": maybe(number()),
        "parts": table({}, {"algorithm": _NAME, "compressor": _NAME, "problem": _NAME}),
    },
)
ENVIRONMENT = table(
    {},
    {
        "hosts": list_of(
            table({}, {"hostname": _TEXT, "memory_bytes": maybe(number(0, _MUCH)), "ranks": maybe(count())})
        ),
        "ranks": maybe(count()),
        "versions": table_of(_TEXT),
        "variables": table_of(_TEXT),
        "lab": maybe(table({"rate": number(1e-3, _MUCH)}, {"delay": maybe(_SECONDS)})),
        "link": schema.text,
        "link_model": maybe(table({"latency": _SECONDS, "gap": _SECONDS, "byte_s": _SECONDS})),
        **dict.fromkeys(("device", "buffers", "kernels", "mpi_library", "git_commit", "started_utc"), _TEXT),
    },
)
_STATISTICS = table({"median": maybe(_SECONDS), "p99": maybe(_SECONDS)}, {"total": maybe(_SECONDS)})
_SUMMARY = {
    **dict.fromkeys(("algorithm", "compressor"), schema.text),
    "dtype": _DTYPE,
    "server": _SERVER,
    **dict.fromkeys(("reason", "problem", "data", "full_vectors_formula", "run_folder"), _TEXT),
    **dict.fromkeys(("iterations", "warmup", "bytes_sent", "messages", "sgd_bytes_sent"), count()),
    "ranks": _RANKS,
    "dimension": maybe(_DIMENSION),
    "hosts": maybe(_RANKS),
    **dict.fromkeys(
        ("percent_saved_vs_sgd", "ratio_vs_sgd", "full_vectors_per_iteration", "compression"), maybe(_RATIO)
    ),
    **dict.fromkeys(("final_loss", "test_loss", "test_accuracy"), maybe(number())),
    "evaluation": maybe(table_of(maybe(number()))),
    "times": table(dict.fromkeys(TIMES, _STATISTICS)),
    "wall_s": maybe(_SECONDS),
}
_STATUS = {"status": schema.one_of(*STATUSES)}
_ANY = {"warnings": maybe(list_of(schema.text)), "link": _TEXT}
#: What summary.json lacks is taken from the log, and of a run that has none compare.json has it all.
SUMMARY, _FOLDERLESS = table(_STATUS, _SUMMARY | _ANY), table(_STATUS | _SUMMARY, _ANY)
_EVALUATION = table_of(maybe(number()))
_COMPARISON = table(
    {
        "runs": list_of(table({"name": schema.text, "folder": schema.text})),
        "given_target_loss": maybe(number()),
        "summaries": list_of(table({"name": schema.text})),
    }
)


@dataclass(frozen=True)
class RunLog:
    """One run as its folder tells it.

    Attributes:
        name: what tables call it.
        path: its folder; None for a run that never got one.
        summary: summary.json's object, or what could be rebuilt of it.
        planned: the iterations that the run was to have.
        per_epoch: iterations of an epoch.
        columns: of iterations.jsonl by field, each (T,) for the T iterations done; NaN for a loss that is null.
        evaluations: the lines of evaluations.jsonl.
        gossips: the ranks have models of their own, as far as the log measured their distance.
        config, environment: config.json's and environment.json's objects, empty where there is none.
    """

    name: str
    path: Path | None
    summary: dict[str, Any]
    planned: int
    per_epoch: int
    columns: dict[str, Column]
    evaluations: list[dict[str, Any]]
    gossips: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What compare.json says besides the runs: the target loss that was given, or None."""

    path: Path
    target_loss: float | None


def read_runs(paths: Sequence[Path]) -> tuple[list[RunLog], list[Comparison]]:
    """The runs in `paths`, a comparison's folder standing for its runs, each under a name of its own.

    Raises:
        UsageError: a folder or a file is missing or damaged; says which, and how.
    """
    runs: list[RunLog] = []
    comparisons = []
    for path in paths:
        if not os.path.isdir(path):
            raise _wrong(path, "is not a folder" if os.path.exists(path) else "is not there")
        if os.path.isfile(path / COMPARISON):
            found, comparison = _read_comparison(path)
            runs += found
            comparisons.append(comparison)
        else:
            runs.append(read_run(path))
    return _named_apart(runs), comparisons


def read_run(path: Path, name: str | None = None) -> RunLog:
    """The run in a folder; its last line may be half written, and its summary missing.

    Raises:
        UsageError: no run folder, or a damaged one.
    """
    config = read_settings(path)
    lines = list(_lines(path / "iterations.jsonl")) if os.path.exists(path / "iterations.jsonl") else []
    columns = {field: _column(path / "iterations.jsonl", lines, field) for field in _NUMBERS}
    evaluations = list(_lines(path / "evaluations.jsonl")) if os.path.exists(path / "evaluations.jsonl") else []
    for at, line in enumerate(evaluations, 1):
        try:
            _EVALUATION(line, "")
        except ValueError as error:
            raise _wrong(path / "evaluations.jsonl", f"line {at} {error}") from None
    environment = _object(path / "environment.json", ENVIRONMENT) if os.path.exists(path / "environment.json") else {}
    reason = "there is no summary.json: the run was killed, or is still going"
    summary = rebuild_summary(config, environment, columns, evaluations, "killed", reason, str(path))
    if os.path.exists(path / "summary.json"):
        summary |= _object(path / "summary.json", SUMMARY)
    label = _algorithm(config)
    # Full vectors need no mention.
    label += "" if config["compressor"] == "identity" else f"/{config['compressor']}"
    planned, per_epoch = config["iterations"], config["iterations_per_epoch"]
    gossips = any(line.get("consensus") is not None for line in lines)
    return RunLog(name or label, path, summary, planned, per_epoch, columns, evaluations, gossips, config, environment)


def read_settings(path: Path, option: str = "RUN") -> dict[str, Any]:
    """The object of a run folder's config.json, as this version writes it. Raises UsageError, blaming `option`."""
    return upgraded(_object(path / "config.json", CONFIG, option))


def _algorithm(config: dict[str, Any]) -> str:
    """What tables call a run's algorithm: its spec, or the name of a plug-in."""
    part = config.get("parts", {}).get("algorithm", {})
    return str(config["algorithm"] if part.get("origin") == "built-in" else part.get("name", config["algorithm"]))


def no_columns() -> dict[str, Column]:
    """The columns of a run without iterations."""
    return {field: np.empty(0) for field in _NUMBERS}


def folderless(name: str, summary: dict[str, Any]) -> RunLog:
    """A run that failed before it had a folder, or was skipped."""
    return RunLog(name, None, summary, 0, 1, no_columns(), [])


def rebuild_summary(
    config: dict[str, Any],
    environment: dict[str, Any],
    columns: dict[str, Column],
    evaluations: Sequence[dict[str, Any]],
    status: str,
    reason: str | None,
    path: str | None,
) -> dict[str, Any]:
    """summary.json's object from the log alone; None for what only the run itself knew."""
    done = columns["loss"].size
    ranks, dimension = config["ranks"], config.get("dimension")
    full_vector = (dimension or 0) * np.dtype(config["dtype"]).itemsize
    sent, messages = (int(columns[field].sum()) for field in ("bytes_sent", "messages"))
    warmup = config.get("warmup", 0)
    skipped = warmup if done > warmup else 0
    final = evaluations[-1] if evaluations else {}
    loss = float(columns["loss"][-1]) if done else math.nan
    hosts = environment.get("hosts")
    return {
        "schema_version": SCHEMA_VERSION,
        "mpisqueeze": environment.get("versions", {}).get("mpisqueeze"),
        "status": status,
        "reason": reason,
        "signal": None,
        "algorithm": _algorithm(config),
        "compressor": config["compressor"],
        "server": config.get("server"),
        "problem": config.get("problem"),
        "data": config.get("data"),
        "ranks": ranks,
        "hosts": len(hosts) if hosts else None,
        "dimension": dimension,
        "dtype": config["dtype"],
        "device": environment.get("device"),
        "buffers": environment.get("buffers"),
        "seed": config.get("seed"),
        "iterations": done,
        "epochs": done / config["iterations_per_epoch"] if done else 0.0,
        "warmup": skipped,
        **traffic(sent, messages, done, ranks, full_vector),
        "payload_bytes": None,
        "full_vectors_formula": None,
        "compression": None,
        "final_loss": loss if math.isfinite(loss) else None,
        "evaluation": {key: value for key, value in final.items() if key not in ("iteration", "epoch")} or None,
        "test_loss": final.get("test_loss"),
        "test_accuracy": final.get("test_accuracy"),
        "times": {name: statistics(columns[name][skipped:]) for name in TIMES},
        "wall_s": None,
        "run_folder": path,
    }


def _read_comparison(path: Path) -> tuple[list[RunLog], Comparison]:
    """Its runs in the order of the comparison; one that was killed names runs that had not begun."""
    about = _object(path / COMPARISON, _COMPARISON)
    recorded = {summary["name"]: summary for summary in about["summaries"]}
    runs = []
    for entry in about["runs"]:
        name, folder = entry["name"], path / entry["folder"]
        if os.path.isfile(folder / "config.json"):
            runs.append(read_run(folder, name))
        elif name in recorded:
            try:
                _FOLDERLESS(recorded[name], "")
            except ValueError as error:
                raise _wrong(path / COMPARISON, f"{error}, in the summary of {name}") from None
            runs.append(folderless(name, recorded[name]))
    if not runs:
        raise _wrong(path, "is a comparison whose first run had not begun")
    return runs, Comparison(path, about["given_target_loss"])


def _named_apart(runs: list[RunLog]) -> list[RunLog]:
    """Runs of one name are told apart by what differs between their folders."""
    by_name: dict[str, list[Path]] = {}
    for run in runs:
        if run.path:
            by_name.setdefault(run.name, []).append(run.path)
    where = {name: dict(zip(paths, _differences(paths), strict=True)) for name, paths in by_name.items()}
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({where[run.name][run.path]})")
        if names.count(run.name) > 1 and run.path
        else run
        for run in runs
    ]


def _differences(paths: Sequence[Path]) -> list[str]:
    """Paths without the folders that all of them begin with, and those that all end with."""
    parts = [path.parts for path in paths]
    shortest = min(map(len, parts))
    begin = next((i for i in range(shortest) if len({each[i] for each in parts}) > 1), shortest)
    end = next((i for i in range(shortest - begin) if len({each[-1 - i] for each in parts}) > 1), 0)
    short = [str(Path(*each[begin : len(each) - end])) for each in parts]
    useful = len(set(short)) == len(short) and "." not in short
    return short if useful else [str(path) for path in paths]


def _object(path: Path, shape: schema.Shape, option: str = "RUN") -> dict[str, Any]:
    if not os.path.exists(path):
        raise UsageError(f"{path} is not there; a run folder has one", option)
    return read_object(path, option, shape)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, without a last line that its writer did not finish."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from None
    lines = text.split("\n")
    # What follows the last newline was being written when the run ended.
    for at, line in enumerate(lines[:-1], 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise _wrong(path, f"line {at} is not JSON: {line[:40]!r}") from None
        if not isinstance(value, dict):
            raise _wrong(path, f"line {at} is not a JSON object")
        yield value


def _column(path: Path, lines: Sequence[dict[str, Any]], field: str) -> Column:
    column = np.empty(len(lines))
    low, high = (-_LOSS, _LOSS) if field == "loss" else (0.0, _MUCH)
    for i, line in enumerate(lines):
        value = line.get(field, "missing")
        if value is None and field == "loss":
            column[i] = math.nan
        elif isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _wrong(path, f"line {i + 1}: {field} is {repr(value)[:40]}, not a number")
        else:
            column[i] = value
    return column


def _wrong(path: Path, what: str) -> UsageError:
    return UsageError(f"{path} {what}", "RUN")
