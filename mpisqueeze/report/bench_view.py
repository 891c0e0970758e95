"""The benchmarks' tables: a line as soon as it is measured, below a header about the machine; CSV and Markdown."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from mpisqueeze import __version__
from mpisqueeze.bench import kernels
from mpisqueeze.bench.timing import TimeStatistics, flat
from mpisqueeze.quantities import clock, counted, grouped, significant
from mpisqueeze.record.environment import cores_of, crowding, places
from mpisqueeze.report.live import Drawing, bar
from mpisqueeze.report.tables import DEFINED, TableColumn, defined

#: The operations of `bench kernels`, as people are shown them.
OPERATIONS = {"encode": "encode+δ", "plain_encode": "encode", "decode": "decode+="}


@dataclass(frozen=True)
class KernelLine:
    """A line of `bench kernels`: an operation of a row."""

    row: kernels.KernelRow
    operation: kernels.Operation

    @property
    def time(self) -> TimeStatistics:
        return self.operation.time

    @property
    def wrong(self) -> int | None:
        return self.operation.wrong


#: The device of `bench kernels`, where a section's title cannot say it.
VARIANT = TableColumn("device", lambda line: line.row.variant, left=True)


def micro(seconds: float) -> str:
    """Seconds as a number of µs, to four digits where it has so many."""
    us = 1e6 * seconds
    return f"{us:.0f}" if us >= 1000 else f"{us:.1f}" if us >= 100 else f"{us:.2f}"


def numbers(size: int) -> str:
    """A size as `-m` takes it: `16Mi`, `1000`."""
    for unit, factor in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _rate(value: float) -> str:
    """Three digits, of small numbers two."""
    return significant(value, 2) if 0 < value < 1 else _plain(value)


def _plain(value: float) -> str:
    """Three digits, and no more than two places."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


#: Parts of a table that a terminal may be too narrow for, the first to go first.
_SPARE = ("times", "size", "memory", "rate")
_TIMES = (
    TableColumn("p50 µs", lambda line: micro(line.time.median), 8),
    TableColumn("mean µs", lambda line: micro(line.time.mean), 8, part="times"),
    TableColumn("± σ", lambda line: micro(line.time.std), 7, part="times"),
    TableColumn("p99 µs", lambda line: micro(line.time.p99), 8, part="times"),
)
_WRONG = TableColumn("#wrong", lambda line: "-" if line.wrong is None else str(line.wrong), 6)


def kernel_columns(compressors: Sequence[str]) -> list[TableColumn]:
    """The columns of `bench kernels`, for the lines of `kernel_lines`."""
    return [
        TableColumn("compressor", lambda line: line.row.compressor, max(map(len, compressors)), left=True),
        TableColumn("size", lambda line: numbers(line.row.size), 6),
        TableColumn("operation", lambda line: OPERATIONS[line.operation.name], 9, left=True),
        *_TIMES,
        TableColumn("GB/s", lambda line: _rate(line.operation.gb_s), 6),
        TableColumn("ns/el", lambda line: significant(line.operation.ns), 6, part="rate"),
        TableColumn("%mem", lambda line: f"{line.operation.memory_percent:.0f}", 4, part="memory"),
        TableColumn("×add", lambda line: _plain(line.operation.ratio), 5),
        TableColumn("bits", lambda line: _plain(line.row.wire_bits), 5, part="size"),
        TableColumn("error", lambda line: significant(line.row.relative_error) if line.row.relative_error else "0", 7),
        _WRONG,
    ]


def kernel_lines(row: kernels.KernelRow) -> list[KernelLine]:
    """A line for each operation of a row."""
    return [KernelLine(row, operation) for operation in row.operations]


def kernel_header(context: dict[str, Any]) -> list[str]:
    """The lines above the table: the machine, and what the columns mean."""
    versions = context["versions"]
    return [
        f"mpisqueeze {__version__} bench kernels",
        f"command: {context['command']}",
        f"machine: {context['cpu']}, {cores_of(context)}, {context['system']}",
        f"Python {versions['python']}, NumPy {versions['numpy']}"
        + (f", CuPy {versions['cupy']}" if versions["cupy"] else ""),
        f"{context['dtype']}, {counted(context['threads'], 'thread')}; sizes in numbers; warm-up {context['warmup']}",
        "encode+δ: v = g + δ, payload ← C(v), δ ← v − D(payload); encode: payload ← C(g); "
        "decode+=: x ← x + D(payload); "
        "GB/s of the vector; %mem: of the rate at which an in-place add moves memory, for what must be moved; "
        "×add: over the time of an in-place add of this length in the same rounds; error: ‖C(v) − v‖/‖v‖; "
        "#wrong: payload bytes and numbers that differ from the reference kernels'",
    ]


def kernel_footer(context: dict[str, Any]) -> list[str]:
    """The lines below the table."""
    rates = ", ".join(f"{device} {significant(rate)} GB/s" for device, rate in context["memory_gb_s"].items())
    return [f"memory, by in-place adds of the largest size, read and written: {rates}"]


def comm_columns(rows: Sequence[tuple[str, str]]) -> list[TableColumn]:
    """The columns of `bench comm`; `rows`: the (exchange, compressor) of each row of a size."""
    exchanges, compressors = zip(*rows, strict=True)
    return [
        TableColumn("bytes", lambda row: str(row.bytes), 9, part="size"),
        TableColumn("size", lambda row: numbers(row.size), 5),
        TableColumn("exchange", lambda row: row.exchange, max(map(len, exchanges)), left=True),
        TableColumn("compressor", lambda row: row.compressor, max(map(len, compressors)), left=True),
        *_TIMES,
        TableColumn("algbw", lambda row: _rate(row.algbw), 7, part="rate"),
        TableColumn("busbw", lambda row: _rate(row.busbw), 7, part="memory"),
        TableColumn("effective", lambda row: _rate(row.effective_busbw), 9, part="memory"),
        TableColumn(
            "payload", lambda row: f"{row.payload_bytes}{DEFINED if defined(row.payload_bytes_are) else ''}", 9
        ),
        TableColumn("×allreduce", lambda row: "-" if row.ratio is None else _plain(row.ratio), 10),
        TableColumn("×kernels", lambda row: "-" if row.kernels_ratio is None else _plain(row.kernels_ratio), 8),
        _WRONG,
    ]


def comm_header(context: dict[str, Any]) -> list[str]:
    """The lines above the table: the machine, and what the columns mean."""
    versions = context["versions"]
    library = (context["mpi_library"] or "unknown").partition(",")[0]
    buffers = context["buffers"] + (f" ({context['buffers_reason']})" if context["buffers_reason"] else "")
    lines = [
        f"mpisqueeze {__version__} bench comm",
        f"command: {context['command']}",
        f"MPI: {library} (MPI {context['mpi_standard']}), mpi4py {versions['mpi4py']}, {places(context)}",
        *(
            f"host {host['hostname']}: {counted(host['ranks'], 'rank')}, {host['cpu_model']}, {cores_of(host)}"
            for host in context["hosts"]
        ),
        f"device: {context['device']}, {context['kernels']} kernels, {counted(context['threads'], 'thread')} a rank; "
        f"buffers: {buffers}; {context['dtype']}",
    ]
    lines += [f"warning: {warning}" for warning in crowding(context)]
    if context["link"] == "virtual":
        lines.append("link: virtual workers, no network: times are a worker's own, which computes and copies")
    elif context["link"] != "real":
        lines.append(f"link: {context['link']}, {context['link_given'] or context['lab']}")
    return [
        *lines,
        "time of the slowest rank after a barrier; sharded, root, ring: a whole step, encode with error feedback, "
        "exchange, server, decode and update, of doublesqueeze or deepsqueeze (identity: sgd, dpsgd); "
        "allreduce: a step of allreduce, or of memsgd with what is linear; by-hand: MPI_Allreduce in place and the "
        "update in one pass, as one would write it; mpi-…: MPI's calls alone; ×allreduce: over the time of allreduce; "
        "×kernels: over what the step's kernels take alone, all ranks at once and each in one piece; "
        "algbw: bytes of a rank's payload over the time, GB/s; busbw: × 2(n − 1)/n, of ring × neighbours, after "
        "nccl-tests; effective: busbw of full vectors in this time; payload: bytes that a rank sends, mean, "
        f"{DEFINED} by the definition of MPI's collective, of which the library may move more; "
        "#wrong: numbers of all ranks that differ from those of virtual workers in one process",
    ]


class BenchView:
    """Writes lines to `console`, and where it is `live` a progress bar below them.

    Args:
        total: ticks to come.
        live: the console is a terminal that updates in place.
    """

    def __init__(self, console: Console, live: bool, columns: Sequence[TableColumn], total: int) -> None:
        self.console = console
        self._drawing = Drawing(console, live)
        self._columns, self._hidden = _fitting(columns, console.width if live else None)
        self._total, self._done, self._began = total, 0, time.monotonic()

    def start(self, header: Sequence[str]) -> None:
        """Write what is known beforehand, and the columns' titles."""
        self.comments(header)
        if self._hidden:
            self.comments([f"in a wider terminal also: {', '.join(column.title for column in self._hidden)}"])
        self._write([column.title for column in self._columns], "# ", "bold")

    def section(self, title: str) -> None:
        """Write what the lines below are about."""
        self.comments([title], "cyan")

    def line(self, line: Any) -> None:
        """Write a line of the table."""
        self._write([str(column.cell(line)) for column in self._columns], "  ", "bold red" if line.wrong else "")

    def tick(self, what: str) -> None:
        """A round is done."""
        self._done += 1
        left = clock((time.monotonic() - self._began) / self._done * (self._total - self._done))
        self._drawing.show(lambda: bar(self._done, self._total, what, left))

    def comments(self, lines: Sequence[str], style: str = "dim") -> None:
        """Write lines, each broken at blanks where it is wider than the console; a command is left whole in a log."""
        for line in lines:
            if line.startswith("command: ") and not self.console.is_terminal:
                parts = [line]
            else:
                parts = textwrap.wrap(line, self.console.width - 2, break_long_words=False, break_on_hyphens=False)
            for part in parts:
                self.console.print(Text(f"# {part}", style), soft_wrap=True)

    def close(self) -> None:
        """Take the bar away; nothing is drawn afterwards."""
        self._drawing.close()

    def _write(self, cells: Sequence[str], prefix: str, style: str) -> None:
        padded = [_padded(column, cell) for column, cell in zip(self._columns, cells, strict=True)]
        self.console.print(Text((prefix + " ".join(padded)).rstrip(), style), soft_wrap=True)


def _width(column: TableColumn) -> int:
    return max(column.width, len(column.title))


def _padded(column: TableColumn, text: str) -> str:
    return text.ljust(_width(column)) if column.left else text.rjust(_width(column))


def _fitting(columns: Sequence[TableColumn], width: int | None) -> tuple[list[TableColumn], list[TableColumn]]:
    """(what fits into so many characters, without as many spare parts as it takes; what is left out)."""
    shown = list(columns)
    for spare in _SPARE:
        if width is None or 1 + sum(1 + _width(column) for column in shown) <= width:
            break
        shown = [column for column in shown if column.part != spare]
    return shown, [column for column in columns if column not in shown]


def failures(results: Sequence[Any], keys: Sequence[str]) -> list[str]:
    """A sentence for each row whose check failed, with the values of `keys`."""
    wrong = [row for row in results if row.wrong]
    return [f"FAILED: {', '.join(str(getattr(row, key)) for key in keys)}: {grouped(row.wrong)} wrong" for row in wrong]


def plain_rows(results: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows for a spreadsheet, which has no place for the single samples."""
    return [{key: value for key, value in flat(row).items() if key != "samples"} for row in results]
