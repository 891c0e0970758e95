"""Signals that ranks agree on. This module does not load MPI, so that logs can be read without it."""

from __future__ import annotations

from enum import IntEnum

#: Seconds within which a signal of the operating system that comes again is the same wish. SLURM sends SIGTERM to a
#: step twice within milliseconds, and a launcher may add its own to one that the ranks have got already.
SAME_S = 1.0


class Signal(IntEnum):
    """A rank's signal to the others; ranks agree on the largest."""

    NONE = 0
    FLUSH = 1
    CHECKPOINT = 2
    TARGET = 3
    ENOUGH = 4
    INTERRUPT = 5
    TERMINATE = 6
    NONFINITE = 7
    ERROR = 8
    #: A rank of a user's own script ends, or evaluates; those that are in an iteration cannot go on with it.
    ASIDE = 9
