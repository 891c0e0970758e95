"""The errors that end a run, and the exit code that each one means."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    OK = 0
    USAGE = 2
    DIVERGED = 3
    FAILED = 4
    INTERRUPTED = 130
    TERMINATED = 143


class UsageError(Exception):
    """The command line, a configuration or an input file is wrong; reported once, by rank 0, as exit code 2.

    Args:
        message: what is wrong and what is accepted, in one sentence without a traceback.
        option: the option to blame, as the user types it (`--compressor`), or None.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.option = option

    def __str__(self) -> str:
        return f"{self.option}: {self.message}" if self.option else self.message


class RankFailureError(Exception):
    """A rank raised; exit code 4.

    Args:
        message: which rank, where and what.
        details: its traceback, as text.
        alone: only this rank knows, so that it has to end the others.
    """

    def __init__(self, message: str, details: str, alone: bool = False) -> None:
        super().__init__(message)
        self.details = details
        self.alone = alone


def describe_value(value: Any) -> str:
    """A short `repr`, of whatever it may be."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def describe(error: BaseException) -> str:
    """`TypeName: message` in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
