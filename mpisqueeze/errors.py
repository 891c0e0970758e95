"""Exit codes, and the errors that end a run."""

from __future__ import annotations

import sysconfig
import traceback
from enum import IntEnum
from pathlib import Path
from typing import Any

#: Folders of code that is not the user's: this package, the standard library, and what is installed.
_NOT_THEIRS = (
    f"{Path(__file__).parent}/",
    *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


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
    """An error as one line, `TypeName: message`, with file and line where a user's code raised it."""
    text = " ".join(str(error).split())
    # The innermost frame; a name such as <string> is no file.
    theirs = (
        frame
        for frame in reversed(traceback.extract_tb(error.__traceback__))
        if not frame.filename.startswith(("<", *_NOT_THEIRS))
    )
    place = next((f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in theirs), "")
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
