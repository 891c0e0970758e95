"""Exit codes, and the errors that end a run."""

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
        message: one sentence that says what is wrong and what is accepted.
        option: the option at fault, as the user types it (`--compressor`), or None.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.option = option

    def __str__(self) -> str:
        return f"{self.option}: {self.message}" if self.option else self.message


class RankFailureError(Exception):
    """A rank raised an error; exit code 4.

    Args:
        message: the rank, the place and the error.
        details: traceback as text.
        alone: whether only this rank knows of the error, so that it must end the others.
    """

    def __init__(self, message: str, details: str = "", alone: bool = False) -> None:
        super().__init__(message)
        self.details = details
        self.alone = alone


def describe_value(value: Any) -> str:
    """A `repr` of at most 60 characters, for any object."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def describe(error: BaseException) -> str:
    """An error as one line, `TypeName: message`."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
