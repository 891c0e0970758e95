"""Python values of options that a command line has as text."""

from __future__ import annotations

import os
from typing import Any


def text(value: Any) -> str:
    """A value as a command line has it: a list is text with commas."""
    if isinstance(value, list | tuple | range):
        # Text of a single item would be another thing than a list of one.
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def plain(value: Any) -> Any:
    """A value as a setting takes it: flags as they are, all else as text."""
    return value if isinstance(value, bool) else text(value)
