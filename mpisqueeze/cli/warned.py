"""Warnings of libraries, which every rank has: each is shown once."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpisqueeze.comm.launched import launched_rank
from mpisqueeze.streams import harmless

#: File and line that a warning came from.
Place = tuple[str, int]


class Warned(logging.Handler):
    """The warnings of this rank by their places. Rank 0 shows its own at once; other ranks keep theirs for `tell`."""

    def __init__(self, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._rank = rank
        self._texts: dict[Place, str] = {}

    def warn(self, message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        """Take a warning, as `warnings.showwarning` does."""
        self._take((filename, lineno), warnings.formatwarning(message, category, filename, lineno, line))

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of a log that nobody handles."""
        self._take((record.pathname, record.lineno), f"{record.getMessage()}\n")

    def _take(self, place: Place, text: str) -> None:
        text = harmless(text)
        self._texts.setdefault(place, text)
        if self._rank == 0:
            sys.stderr.write(text)

    def tell(self) -> None:
        """Show what other ranks have kept and rank 0 has not shown; collective."""
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi is None or not mpi.Is_initialized() or mpi.Is_finalized():
            return
        every: list[dict[Place, str]] = mpi.COMM_WORLD.gather(self._texts) or [{}]
        shown = set(every[0])
        for rank, texts in enumerate(every):
            for place in (place for place in texts if place not in shown):
                others = f" and others of {len(every)}" if any(place in other for other in every[rank + 1 :]) else ""
                sys.stderr.write(f"rank {rank}{others}: {texts[place]}")
            shown |= texts.keys()
        sys.stderr.flush()


@contextmanager
def warned_once() -> Iterator[Warned | None]:
    """Take all warnings of a rank; None where no launcher has started this process."""
    rank = launched_rank()
    if rank is None:
        yield None
        return
    before = warnings.showwarning, logging.lastResort
    warned = Warned(rank)
    warnings.showwarning, logging.lastResort = warned.warn, warned
    try:
        yield warned
    finally:
        warnings.showwarning, logging.lastResort = before
