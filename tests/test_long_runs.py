"""Runs of many iterations: what was recorded is on disk, not in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mpisqueeze.comm.world import World
from mpisqueeze.record.figures import BINARY_HEAD, BINARY_LOG, FIGURES, LOGGED, summarized
from mpisqueeze.record.folder import RunFolder
from mpisqueeze.record.iterations import CAPACITY, Recorder

#: Gathered so many times: 3.7 MB of float64.
FLUSHES = 30


def recorded(recorder: Recorder, values: np.ndarray) -> None:
    """Have the rows of `values` (iterations, figures) recorded."""
    for row in values:
        recorder.add(cast(Any, row))
        if recorder.full:
            recorder.flush()
    recorder.flush()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Values (iterations, figures) that stand for those of a loop, which is a row of them."""

    def taking(at: int) -> Any:
        return lambda row: row[at]

    monkeypatch.setattr("mpisqueeze.record.iterations._MEASURES", tuple(map(taking, range(len(FIGURES)))))
    values = np.random.default_rng(1).random((FLUSHES * CAPACITY + 5, len(FIGURES)))
    for at, figure in enumerate(FIGURES):
        if figure.whole:
            values[:, at] = np.rint(1e3 * values[:, at])
    values[::3, [figure.name for figure in FIGURES].index("consensus")] = np.nan
    return values


def logged(values: np.ndarray) -> dict[str, np.ndarray]:
    return {f.name: column for f, column in zip(FIGURES, values.T, strict=True) if f in LOGGED}


@pytest.mark.parametrize("form", ["binary", "jsonl"])
def test_memory_does_not_grow_with_a_run(form: str, measured: np.ndarray, tmp_path: Path) -> None:
    """Nor is a bit lost for the summary, though lines have rounded times."""
    folder = RunFolder(tmp_path / "run")
    recorder = Recorder(World(), folder, 10, form, False)
    assert recorder.columns["loss"].size == 0
    recorded(recorder, measured[: 2 * CAPACITY])
    tracemalloc.start()
    recorded(recorder, measured[2 * CAPACITY :])
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Lines' rows stay in memory up to 1 MiB.
    assert held < 1 << 19
    assert peak < 3 << 20
    _same(logged(measured), recorder.columns)
    assert summarized(recorder.columns, 3) == summarized(logged(measured), 3)
    assert recorder.last
    assert recorder.last.iteration == len(measured)
    folder.close()
    assert [path.name for path in folder.path.glob("iter*")] == [BINARY_LOG if form == "binary" else "iterations.jsonl"]


@pytest.mark.parametrize("form", ["binary", "jsonl"])
def test_a_resumed_recorder_goes_on_where_the_log_ends(form: str, measured: np.ndarray, tmp_path: Path) -> None:
    world, rows = World(), measured[:3000]
    first = RunFolder(tmp_path / "run")
    recorder = Recorder(world, first, 10, form, False)
    recorded(recorder, rows[:2000])
    by_rank = recorder.by_rank.tolist()
    first.close()
    again = RunFolder(tmp_path / "run", again=True)
    recorder = Recorder(world, again, 10, form, False)
    recorder.restore(logged(rows[:2000]), by_rank, 2000)
    _same(logged(rows[:2000]), recorder.columns)
    recorded(recorder, rows[2000:])
    _same(logged(rows), recorder.columns)
    assert recorder.last
    assert recorder.last.iteration == 3000
    if form == "binary":
        size = (tmp_path / "run" / BINARY_LOG).stat().st_size
        assert size == len(BINARY_HEAD) + 8 * len(LOGGED) * 3000
    again.close()


def _same(expected: dict[str, np.ndarray], found: Any) -> None:
    names: Sequence[str] = [*found]
    assert names == [*expected]
    for name in names:
        assert np.array_equal(expected[name], found[name], equal_nan=True), name
