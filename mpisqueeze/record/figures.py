"""The figures that are recorded of each iteration, each declared once.

Every rank measures what FIGURES declares; iterations.jsonl and ranks.jsonl have it, summary.json sums it up, `report`
shows it in the terminal, in the table and the CSV file of a comparison, and on the page. To record one more, add it:

    Figure("x_norm", "norm of x", "", np.max, lambda loop: float(np.linalg.norm(loop.x)), "last", heading="‖x‖"),
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, BinaryIO, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpisqueeze.comm.counters import Counter
from mpisqueeze.devices.clock import Phase, PhaseClock
from mpisqueeze.record.folder import finite

Floats = NDArray[np.float64]
#: Parts of a run over which its pace is the median.
TENTHS = 10
Unit = Literal["s", "bytes", "count", ""]

#: Values that a log may hold. Bytes, messages and seconds are not negative.
Value = Annotated[float, msgspec.Meta(ge=-1.7e308, le=1.7e308)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e30)]


class Measured(Protocol):
    """An iteration that is over, as its rank knows it: figures are measured of this.

    Attributes:
        run: with its `algorithm`.
        x: this rank's parameters (d).
        loss, lr: this rank's loss, and γ.
        began, ended: s, by this rank's clock.
        elapsed: s of training until then, without pauses.
    """

    run: Any
    x: Any
    loss: float
    lr: float
    clock: PhaseClock
    counter: Counter
    began: float
    ended: float
    elapsed: float

    def distance(self) -> float:
        """‖x_i − x̄‖², NaN where it is not asked for; collective."""


@dataclass(frozen=True)
class Figure:
    """A number that every iteration has.

    Attributes:
        name: the field of the logs, and the column that a reader gets.
        title: what tables call it in full.
        unit: `s`, `bytes`, `count`, or empty. Bytes and counts are whole numbers.
        over_ranks: makes one number out of those of the ranks: `np.max` for times, whose slowest rank decides.
        of: measures it on a rank when an iteration is over; NaN where there is none. May be collective.
        over_iterations: how the summary has it: as `total`, `last` or `median`; as `spread`, for times, an object of
            `median`, `p99` and `total` under `times`; as `clock`, for times that run on, the last one and `pace`; or
            not at all. Medians, spreads and paces leave the warm-up out.
        heading: of its column where runs are compared; empty for a figure that only the CSV file has.
        required: a log without it is damaged.
        per_rank: it is in ranks.jsonl alone.
    """

    name: str
    title: str
    unit: Unit
    over_ranks: Callable[..., Any]
    of: Callable[[Measured], float]
    over_iterations: Literal["total", "last", "median", "spread", "clock", ""] = ""
    heading: str = ""
    required: bool = False
    per_rank: bool = False

    @property
    def kind(self) -> Any:
        """The type of its field."""
        kind = Amount if self.unit else Value
        return kind if self.required and self.unit else kind | None

    @property
    def whole(self) -> bool:
        """It is a whole number."""
        return self.unit in ("bytes", "count")

    def written(self, values: Floats) -> list[Any]:
        """The numbers as the log has them: whole ones as such, and times to the nanosecond."""
        if self.whole:
            return values.astype(np.int64).tolist()
        return (np.round(values, 9) if self.unit == "s" else values).tolist()


def _phase(phase: Phase, title: str) -> Figure:
    def of(loop: Measured) -> float:
        return loop.clock.seconds[phase]

    return Figure(f"{phase.name.lower()}_s", title, "s", np.max, of, "spread", required=True)


def _count(name: str, title: str, unit: Unit, **more: Any) -> Figure:
    return Figure(name, title, unit, np.sum, attrgetter(f"counter.{name}"), **more)


def _norm(vector: Any) -> float:
    return math.nan if vector is None else math.sqrt(float(vector.dot(vector)))


def _mean_of_known(values: Floats, axis: int) -> Floats:
    """The mean over the ranks that have a number: those that follow a leader have no residual."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, values, 0.0).sum(axis) / known.sum(axis)
    return mean


#: The parts of an iteration.
_PHASES = (
    _phase(Phase.COMPUTE, "compute (gradient)"),
    _phase(Phase.WAIT, "wait (barrier)"),
    _phase(Phase.ENCODE, "encode"),
    _phase(Phase.COMM, "communicate"),
    _phase(Phase.DECODE, "decode, reduce"),
    _phase(Phase.UPDATE, "update"),
)

#: In the order of the log's fields.
FIGURES: tuple[Figure, ...] = (
    Figure("loss", "training loss", "", np.mean, attrgetter("loss"), required=True),
    Figure("lr", "step size", "", np.max, attrgetter("lr")),
    _count("bytes_sent", "bytes sent", "bytes", over_iterations="total", heading="bytes", required=True),
    _count(
        "bytes_local",
        "bytes sent inside groups",
        "bytes",
        over_iterations="total",
        heading="in groups",
    ),
    _count("bytes_received", "bytes received", "bytes", per_rank=True),
    _count("messages", "messages", "count", over_iterations="total", required=True),
    *_PHASES,
    Figure("iteration_s", "iteration", "s", np.max, lambda loop: loop.ended - loop.began, "spread", required=True),
    # The last rank's clock: where ranks overlap, the slowest rank's iterations add up to more.
    Figure("elapsed_s", "iteration, by the clock", "s", np.max, attrgetter("elapsed"), "clock", "ms/it"),
    Figure(
        "residual_norm",
        "norm of the residual",
        "",
        _mean_of_known,
        lambda loop: _norm(loop.run.algorithm.residual()),
    ),
    Figure("consensus", "mean ‖x_i − x̄‖²", "", np.mean, lambda loop: loop.distance()),
)

#: The figures of iterations.jsonl.
LOGGED = tuple(figure for figure in FIGURES if not figure.per_rank)
PHASES = {figure.name: figure.title for figure in _PHASES}
#: Times whose spread over the iterations summary.json has.
TIMES = {figure.name: figure.title for figure in LOGGED if figure.over_iterations == "spread"}

#: The log of iterations in binary form: a line with the names of figures, then these for each iteration, as
#: little-endian float64, NaN for null.
BINARY_LOG = "iterations.f8"
BINARY_HEAD = (" ".join(figure.name for figure in LOGGED) + "\n").encode()
#: Bytes that a head has at the most.
_LONGEST_HEAD = 4096
#: Rows that are read at once.
_ROWS = 8192


def rows_in(stream: BinaryIO) -> tuple[list[str], int]:
    """The names of figures in a binary log, read up to its rows, and how many there are; a half one does not count.

    Raises ValueError.
    """
    head = stream.readline(_LONGEST_HEAD)
    names = head.decode("ascii").split()
    if not names or not head.endswith(b"\n"):
        raise ValueError("does not begin with a line of names")
    return names, (os.fstat(stream.fileno()).st_size - len(head)) // (8 * len(names))


def columns_in(stream: BinaryIO, names: Sequence[str], rows: int, wanted: Collection[str]) -> dict[str, Floats]:
    """The columns `wanted`, (rows,) each, of rows that begin where the stream stands; a block of them at a time.

    Args:
        names: of all figures in a row.

    Raises ValueError where there are fewer rows.
    """
    found = {name: np.empty(rows) for name in names if name in wanted}
    for start in range(0, rows, _ROWS):
        count = min(_ROWS, rows - start)
        block = np.frombuffer(stream.read(8 * count * len(names)), "<f8").reshape(count, len(names))
        for name, column in found.items():
            column[start : start + count] = block[:, names.index(name)]
    return found


_HEAD = [("iteration", int), ("epoch", float)]
#: A line of iterations.jsonl and one of ranks.jsonl, as they are written.
ITERATION_LINE = msgspec.defstruct("Iteration", [*_HEAD, *((figure.name, figure.kind) for figure in LOGGED)], gc=False)
RANK_LINE = msgspec.defstruct(
    "Rank", [*_HEAD, ("rank", int), *((figure.name, figure.kind) for figure in FIGURES)], gc=False
)
#: A line of iterations.jsonl as it is read, by this version or another one.
READ_LINE = msgspec.defstruct(
    "Iteration",
    [(f.name, f.kind) if f.required else (f.name, f.kind, None) for f in LOGGED],
    kw_only=True,
    gc=False,
)


def no_columns() -> dict[str, Floats]:
    """The columns of a run without iterations."""
    return {figure.name: np.empty(0) for figure in LOGGED}


def summarized(columns: Mapping[str, Floats], warmup: int) -> dict[str, Any]:
    """The figures in summary.json; the first `warmup` iterations count for totals alone."""
    found: dict[str, Any] = {"times": {name: statistics(columns[name][warmup:]) for name in TIMES}}
    for figure in LOGGED:
        if figure.over_iterations in ("spread", ""):
            continue
        values = columns[figure.name]
        if figure.over_iterations == "total":
            total = float(np.nansum(values))
            found[figure.name] = int(total) if figure.whole else finite(total)
        elif figure.over_iterations in ("last", "clock"):
            found[figure.name] = finite(float(values[-1])) if values.size else None
            if figure.over_iterations == "clock":
                found[per_iteration(figure.name)] = pace(values, warmup)
        elif figure.over_iterations == "median":
            found[figure.name] = finite(float(np.median(values[warmup:]))) if values[warmup:].size else None
    return found


def per_iteration(name: str) -> str:
    """The summary's name for the pace of a figure that runs on."""
    return f"{name}_per_iteration"


def pace(elapsed: Floats, warmup: int) -> float | None:
    """Seconds an iteration after the warm-up, by the clock (T,): the median over tenths of the run, so that a stall of
    the machine does not count, while what ranks gain and lose by overlapping does. None without an iteration."""
    count = elapsed.size - warmup
    if count < 1:
        return None
    ends = np.linspace(0, count, min(TENTHS, count) + 1).astype(np.intp)
    seconds = np.diff(np.concatenate([[0.0], elapsed])[warmup + ends])
    return finite(float(np.median(seconds / np.diff(ends))))


def statistics(values: Floats) -> dict[str, float | None]:
    """Median, 99th percentile and total."""
    if not values.size:
        return {"median": None, "p99": None, "total": 0.0}
    median, p99 = np.percentile(values, [50, 99])
    return {"median": finite(float(median)), "p99": finite(float(p99)), "total": finite(float(values.sum()))}
