"""Signals that ranks agree on. This module does not load MPI, so that logs can be read without it."""

from __future__ import annotations

from enum import IntEnum


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
