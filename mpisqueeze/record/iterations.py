"""Recording iterations: rows kept on each rank, gathered now and then, and written by rank 0."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np

from mpisqueeze.record.figures import (
    BINARY_HEAD,
    BINARY_LOG,
    FIGURES,
    ITERATION_LINE,
    LOGGED,
    RANK_LINE,
    Floats,
    Measured,
    columns_in,
    no_columns,
)
from mpisqueeze.record.folder import RunFolder

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World

#: Rows that a rank keeps before all of them gather.
CAPACITY = 1024
#: Seconds after which rank 0 asks for rows, so that a killed run loses no more than these.
INTERVAL = 0.2
#: Iterations whose pace the live view shows.
RECENT = 100

_MEASURES = tuple(figure.of for figure in FIGURES)
_AT = {figure.name: at for at, figure in enumerate(FIGURES)}
_COLUMNS = [figure.name for figure in LOGGED]
_PORT = [_AT["bytes_sent"], _AT["bytes_received"]]


@dataclass(frozen=True)
class Progress:
    """The state of a run, for the live view."""

    iteration: int
    loss: float
    bytes_sent: int
    seconds_per_iteration: float


class Written(Mapping[str, Floats]):
    """The columns of iterations that were written, by the names in LOGGED; each is read when it is asked for.

    Args:
        rows: LOGGED of each iteration as float64, from `first` on.
        lock: held by whoever uses the position of `rows`.
        count: iterations.
    """

    def __init__(self, rows: BinaryIO, first: int, lock: threading.Lock, count: int) -> None:
        self._rows, self._first, self._lock, self._count = rows, first, lock, count

    def __getitem__(self, name: str) -> Floats:
        with self._lock:
            self._rows.seek(self._first)
            return columns_in(self._rows, _COLUMNS, self._count, [name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COLUMNS)

    def __len__(self) -> int:
        return len(_COLUMNS)


class Recorder:
    """Rows of this rank; on rank 0 also the log files.

    What the summary needs of each iteration is read back from disk: from the binary log, or from a nameless file of the
    same rows beside a log of lines, since lines have rounded times. Memory does not grow with the run.

    Args:
        per_epoch: iterations of an epoch, for the log's `epoch`.
        form: of the log of iterations, one of LOG_FORMS.
        per_rank: write ranks.jsonl too.

    Attributes:
        first: the number of the next iteration that is written.
        by_rank: on rank 0, bytes sent and received by each rank so far.
        last: on rank 0, the iteration that was written last.
    """

    def __init__(self, world: World, folder: RunFolder | None, per_epoch: int, form: str, per_rank: bool) -> None:
        self.world, self.folder = world, folder
        self.per_epoch, self.per_rank = per_epoch, per_rank
        self._binary = form == "binary"
        self._first_byte = len(BINARY_HEAD) if self._binary else 0
        self._rows = array("d")
        self._count, self.first = 0, 1
        self._flushed = time.monotonic()
        self._gathered = np.empty(world.size * CAPACITY * len(FIGURES)) if world.is_root else None
        self._kept: BinaryIO | None = None
        # A thread that saves what there is reads what was kept, too.
        self._lock = threading.Lock()
        self._done = 0
        self._ends = deque([0.0], RECENT + 1)
        self._encoder = msgspec.json.Encoder()
        self.by_rank = np.zeros((world.size, 2), np.int64)
        self.last: Progress | None = None

    @property
    def columns(self) -> Mapping[str, Floats]:
        """On rank 0, what was measured in all iterations that were written."""
        with self._lock:
            count, rows = self._done, self._kept
        return Written(rows, self._first_byte, self._lock, count) if rows else no_columns()

    def add(self, loop: Measured) -> None:
        """Keep the row of the iteration that is over."""
        self._rows.extend([measure(loop) for measure in _MEASURES])
        self._count += 1

    def restore(self, columns: Mapping[str, Floats], by_rank: Sequence[Sequence[int]], iteration: int) -> None:
        """On all ranks: go on after `iteration`; on rank 0 with the log's columns and each rank's bytes up to there."""
        self.first = iteration + 1
        if self.world.is_root and iteration:
            self.by_rank[...] = by_rank
            self._keep(np.stack([columns[figure.name] for figure in LOGGED], axis=1))

    @property
    def full(self) -> bool:
        return self._count == CAPACITY

    @property
    def overdue(self) -> bool:
        return time.monotonic() - self._flushed > INTERVAL

    def flush(self) -> None:
        """Gather all ranks' rows on rank 0 and write them; collective."""
        if self._count:
            mine = np.array(self._rows)
            if self._gathered is None:
                self.world.comm.Gather(mine, None, 0)
            else:
                everyone = self._gathered[: self.world.size * mine.size]
                self.world.comm.Gather(mine, everyone, 0)
                self._write(everyone.reshape(self.world.size, self._count, len(FIGURES)))
        self.first += self._count
        self._count = 0
        del self._rows[:]
        self._flushed = time.monotonic()

    def _write(self, rows: np.ndarray) -> None:
        ranks, count, _ = rows.shape
        self.by_rank += rows[:, :, _PORT].sum(axis=1).astype(np.int64)
        values = [figure.over_ranks(rows[:, :, _AT[figure.name]], axis=0) for figure in LOGGED]
        table = np.stack(values, axis=1).astype("<f8")
        assert self.folder is not None
        iterations = range(self.first, self.first + count)
        epochs = [round(iteration / self.per_epoch, 6) for iteration in iterations]
        if self._binary:
            self.folder.append(BINARY_LOG, (BINARY_HEAD if self.first == 1 else b"") + table.tobytes())
        else:
            written = (figure.written(column) for figure, column in zip(LOGGED, values, strict=True))
            self._append("iterations.jsonl", ITERATION_LINE, iterations, epochs, *written)
        if self.per_rank:
            each = rows.transpose(1, 0, 2).reshape(count * ranks, -1)
            written = (figure.written(column) for figure, column in zip(FIGURES, each.T, strict=True))
            heads = (np.repeat(head, ranks).tolist() for head in (iterations, epochs))
            self._append("ranks.jsonl", RANK_LINE, *heads, [*range(ranks)] * count, *written)
        self._keep(table)

    def _append(self, name: str, line: Any, *columns: Sequence[Any]) -> None:
        assert self.folder is not None
        self.folder.append(name, self._encoder.encode_lines([*map(line, *columns)]))

    def _keep(self, table: np.ndarray) -> None:
        """Have the rows of LOGGED of iterations that are in the log where `columns` finds them."""
        assert self.folder is not None
        with self._lock:
            if self._kept is None:
                self._kept = self.folder.rows(BINARY_LOG if self._binary else None)
            if not self._binary:
                self._kept.seek(0, os.SEEK_END)
                self._kept.write(table.astype("<f8").tobytes())
            self._done += len(table)
        ends = self._ends
        ends.extend(table[:, _COLUMNS.index("elapsed_s")].tolist())
        loss = float(table[-1, _COLUMNS.index("loss")])
        pace = (ends[-1] - ends[0]) / (len(ends) - 1)
        self.last = Progress(self._done, loss, int(self.by_rank[:, 0].sum()), pace)
