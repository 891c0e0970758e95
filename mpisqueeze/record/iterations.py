"""What is recorded of each iteration: rows kept on each rank, gathered now and then, written by rank 0."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze.devices.clock import Phase
from mpisqueeze.record.folder import RunFolder

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World

TIMES = (*(f"{phase.name.lower()}_s" for phase in Phase), "iteration_s")
_LOSS, _FIRST_TIME = 0, 1
_SENT = _FIRST_TIME + len(TIMES)
_RECEIVED, _MESSAGES, _RESIDUAL, _CONSENSUS = _SENT + 1, _SENT + 2, _SENT + 3, _SENT + 4
COLUMNS = _CONSENSUS + 1
#: Lines are formatted by hand: a JSON encoder takes longer than a small iteration.
_TIMES_FORMAT = "".join(f', "{name}": %.9g' for name in TIMES)
_STATE_FORMAT = ', "residual_norm": %s, "consensus": %s}'
_LINE = (
    '{"iteration": %d, "epoch": %r, "loss": %s, "lr": %r, "bytes_sent": %d, "messages": %d'
    + _TIMES_FORMAT
    + _STATE_FORMAT
)
_RANK_LINE = (
    '{"iteration": %d, "epoch": %r, "rank": %d, "loss": %s, "lr": %r'
    ', "bytes_sent": %d, "bytes_received": %d, "messages": %d' + _TIMES_FORMAT + _STATE_FORMAT
)
#: Rows that a rank keeps before all of them gather.
CAPACITY = 1024
#: Seconds after which rank 0 asks for rows, so that a killed run loses no more than these.
INTERVAL = 0.2


def _json(value: float) -> str:
    """A float as JSON, null where JSON has no number for it."""
    return repr(value) if math.isfinite(value) else "null"


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for the live view."""

    iteration: int
    loss: float
    bytes_sent: int
    seconds_per_iteration: float


class Recorder:
    """Rows of this rank; on rank 0 also the log files and what the summary needs of each iteration.

    Args:
        per_epoch: iterations of an epoch, for the log's `epoch`.
        per_rank: write ranks.jsonl too.
    """

    def __init__(self, world: World, folder: RunFolder | None, per_epoch: int, per_rank: bool) -> None:
        self.world, self.folder = world, folder
        self.per_epoch, self.per_rank = per_epoch, per_rank
        self._rows = np.zeros((CAPACITY, COLUMNS))
        self._rates: list[float] = []
        self._first = 1
        self._flushed = time.monotonic()
        self._gathered = np.empty((world.size, CAPACITY, COLUMNS)) if world.is_root else None
        #: On rank 0, per iteration: the slowest rank's time in each phase, and in all.
        self.times = {name: array("d") for name in TIMES}
        self.bytes_sent = 0
        self.messages = 0
        #: On rank 0: bytes sent and received by each rank so far.
        self.by_rank = np.zeros((world.size, 2), np.int64)
        self.last: Progress | None = None

    def add(
        self,
        lr: float,
        loss: float,
        seconds: list[float],
        iteration_s: float,
        counts: tuple[int, int, int],
        residual_norm: float,
        consensus: float,
    ) -> None:
        """Keep one iteration's row; NaN stands for what an algorithm does not have."""
        self._rows[len(self._rates)] = (loss, *seconds, iteration_s, *counts, residual_norm, consensus)
        self._rates.append(lr)

    def restore(self, columns: Mapping[str, np.ndarray], by_rank: Sequence[Sequence[int]], iteration: int) -> None:
        """On all ranks: go on after `iteration`; on rank 0 with the log's columns and each rank's bytes up to there."""
        self._first = iteration + 1
        if not (self.world.is_root and iteration):
            return
        for name in TIMES:
            self.times[name].frombytes(np.ascontiguousarray(columns[name], np.float64).tobytes())
        self.by_rank[...] = by_rank
        self.bytes_sent, self.messages = (int(columns[name].sum()) for name in ("bytes_sent", "messages"))
        pace = float(np.median(columns["iteration_s"][-100:]))
        self.last = Progress(iteration, float(columns["loss"][-1]), self.bytes_sent, pace)

    @property
    def full(self) -> bool:
        return len(self._rates) == CAPACITY

    @property
    def overdue(self) -> bool:
        return time.monotonic() - self._flushed > INTERVAL

    def flush(self) -> None:
        """Gather all ranks' rows on rank 0 and write them; collective."""
        count = len(self._rates)
        if count:
            mine = self._rows[:count]
            if self._gathered is None:
                self.world.comm.Gather(mine, None, 0)
            else:
                everyone = self._gathered.reshape(-1)[: self.world.size * count * COLUMNS]
                self.world.comm.Gather(mine, everyone, 0)
                self._write(everyone.reshape(self.world.size, count, COLUMNS))
        self._first += count
        self._rates.clear()
        self._flushed = time.monotonic()

    def _write(self, rows: np.ndarray) -> None:
        _, count, _ = rows.shape
        loss = rows[:, :, _LOSS].mean(axis=0).tolist()
        seconds = rows[:, :, _FIRST_TIME:_SENT].max(axis=0)
        counts = rows[:, :, _SENT : _MESSAGES + 1].sum(axis=0).astype(np.int64)
        state = rows[:, :, _RESIDUAL:].mean(axis=0).tolist()
        for column, name in enumerate(TIMES):
            self.times[name].frombytes(np.ascontiguousarray(seconds[:, column]).tobytes())
        self.by_rank += rows[:, :, _SENT : _RECEIVED + 1].sum(axis=1).astype(np.int64)
        self.bytes_sent += int(counts[:, 0].sum())
        self.messages += int(counts[:, 2].sum())
        self.last = Progress(self._first + count - 1, loss[-1], self.bytes_sent, float(np.median(seconds[-100:, -1])))
        if self.folder is None:
            return
        timing, tallies = seconds.tolist(), counts.tolist()
        self.folder.append(
            "iterations.jsonl",
            (
                _LINE
                % (
                    *self._head(i),
                    _json(loss[i]),
                    self._rates[i],
                    tallies[i][0],
                    tallies[i][2],
                    *timing[i],
                    _json(state[i][0]),
                    _json(state[i][1]),
                )
                for i in range(count)
            ),
        )
        if self.per_rank:
            values = rows.tolist()
            self.folder.append(
                "ranks.jsonl",
                (
                    _RANK_LINE % self._rank_values(i, rank, values[rank][i])
                    for i in range(count)
                    for rank in range(len(values))
                ),
            )

    def _head(self, row: int) -> tuple[int, float]:
        iteration = self._first + row
        return iteration, round(iteration / self.per_epoch, 6)

    def _rank_values(self, row: int, rank: int, values: list[float]) -> tuple[Any, ...]:
        return (
            *self._head(row),
            rank,
            _json(values[_LOSS]),
            self._rates[row],
            *values[_SENT:_RESIDUAL],
            *values[_FIRST_TIME:_SENT],
            _json(values[_RESIDUAL]),
            _json(values[_CONSENSUS]),
        )
