"""The outcome of a check of `mpisqueeze check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check's outcome, and why.

    Attributes:
        outcome: `passed`, `failed`, `doubtful`, or `untried` where an error told before ends this check, too.
    """

    check: str
    outcome: str
    detail: str = ""


class Doubt(Exception):  # noqa: N818 - it is no error
    """Something that a part may do, but that a user should know of."""


#: Raises AssertionError with what is wrong, or Doubt for a remark that does not fail a part. Its arguments are the part
#: and, for an algorithm, the ranks.
Check = Callable[..., None]
