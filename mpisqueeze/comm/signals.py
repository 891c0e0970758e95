"""What a rank has to say when the ranks agree; apart from MPI, so that a log can be read without it."""

from __future__ import annotations

from enum import IntEnum


class Signal(IntEnum):
    """What a rank tells the others when they agree; the largest of all ranks wins."""

    NONE = 0
    FLUSH = 1
    CHECKPOINT = 2
    INTERRUPT = 3
    TERMINATE = 4
    NONFINITE = 5
    ERROR = 6
