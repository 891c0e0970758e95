"""Results of runs and comparisons as Python objects, read from their folders. MPI is not needed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze.analysis.ranking import Target, rank_runs, summaries_of
from mpisqueeze.analysis.seeds import TUNE, by_pair, pool, tuned
from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of
from mpisqueeze.record.figures import Floats
from mpisqueeze.record.reading import COMPARISON, RunLog, read_run, read_runs

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ComparisonResult", "RunResult", "load"]


@dataclass(frozen=True)
class RunResult:
    """One run, as its folder tells it; docs/files.md has every field and its unit.

    Attributes:
        name: `ALGORITHM/COMPRESSOR` or, in a comparison, what tables call it.
        path: the run folder; None for a run of a comparison that never got one.
        settings: config.json's object: every setting, resolved.
        environment: environment.json's object: versions, hosts, devices.
        summary: summary.json's object, or what could be rebuilt of it where the run was killed: `status` says so.
        columns: iterations.jsonl by name, `iteration` and `epoch` included, each (T,) float64 for the T iterations that
            were done; NaN for null.
        evaluations: the lines of evaluations.jsonl.
    """

    name: str
    path: Path | None
    settings: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    columns: dict[str, Floats] = field(repr=False)
    evaluations: list[dict[str, Any]] = field(repr=False)

    def frame(self) -> DataFrame:
        """The columns as a pandas DataFrame with a row an iteration, indexed by `iteration` from 1.

        What was evaluated is in the rows of its iterations, and NaN elsewhere; the evaluation before the first
        iteration has none. Raises ImportError without pandas.
        """
        import pandas

        columns = {name: values.copy() for name, values in self.columns.items() if name != "iteration"}
        index = pandas.RangeIndex(1, self.columns["loss"].size + 1, name="iteration")
        frame = pandas.DataFrame(columns, index=index)
        if not self.evaluations:
            return frame
        evaluated = pandas.DataFrame(self.evaluations).drop_duplicates("iteration", keep="last")
        return frame.join(evaluated.set_index("iteration").drop(columns="epoch", errors="ignore"))


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison.

    Attributes:
        path: its folder.
        results: what `compare --json` writes: the summary of each run or, over seeds, an object a pair.
        runs: all of its runs, trials that chose settings left out.
        facts: compare.json's object.
    """

    path: Path
    results: list[dict[str, Any]] = field(repr=False)
    runs: list[RunResult]
    facts: dict[str, Any] = field(repr=False)

    def frame(self) -> DataFrame:
        """The results as a pandas DataFrame with a row each, and dots in the names of nested fields.

        Raises ImportError without pandas.
        """
        import pandas

        return pandas.json_normalize(self.results)


def load(path: str | os.PathLike[str]) -> RunResult | ComparisonResult:
    """The run or the comparison in a folder, whether it ended well or was killed.

    Raises:
        UsageError: the folder or a file is missing or damaged; says which, and how.
    """
    folder = path_of(Path(path))
    if os.path.isfile(folder / COMPARISON):
        return _comparison(folder)
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is {'not a folder' if os.path.exists(folder) else 'not there'}", "RUN")
    return _result(read_run(folder))


def _result(log: RunLog) -> RunResult:
    iteration = np.arange(1.0, log.columns["loss"].size + 1)
    columns = {"iteration": iteration, "epoch": np.round(iteration / log.per_epoch, 6), **log.columns}
    return RunResult(log.name, log.path, log.config, log.environment, log.summary, columns, log.evaluations)


def _comparison(folder: Path) -> ComparisonResult:
    found, (given,) = read_runs([folder])
    target = Target.given(given)
    counted = [run for run in found if run.phase != TUNE]
    results: list[dict[str, Any]] = []
    if pairs := by_pair(found):
        results = [dict(pair) for pair in pool(pairs, target, "loss", tuned(found)).as_json()]
    elif counted:
        results = summaries_of(counted, rank_runs(counted, target, "loss"))
    facts = json.loads((folder / COMPARISON).read_bytes())
    return ComparisonResult(folder, results, [*map(_result, counted)], facts)
