"""Results that depend on data alone, kept for further runs and for the other workers of a process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

#: Bytes of the largest data set that is kept for further runs.
KEPT_BYTES = 64 << 20
#: By kind, the last thing that was made: of what, by which key, and what it is; None where nothing is kept.
_kept: dict[str, tuple[Any, Any, Any]] | None = None
_most: float = KEPT_BYTES


@contextmanager
def keeping(together: bool = False) -> Iterator[None]:
    """Within the block, a data set is read once for those who follow each other, if it is small.

    Args:
        together: they live at the same time, so that a large one is kept, too.
    """
    global _kept, _most
    before, most = _kept, _most
    _kept, _most = {}, math.inf if together else KEPT_BYTES
    try:
        yield
    finally:
        _kept, _most = before, most


def once(kind: str, source: Any, key: Any, make: Callable[[], T], nbytes: Callable[[T], int] = lambda made: 0) -> T:
    """`make()`, or what it gave before; nobody writes to it.

    Args:
        kind: of each kind the last thing is kept.
        source, key: what it depends on: the same object, and an equal key.
        nbytes: of it; what is too large is not kept.
    """
    if _kept is None:
        return make()
    if kind in _kept and _kept[kind][0] is source and _kept[kind][1] == key:
        return _kept[kind][2]
    _kept.pop(kind, None)
    made = make()
    if nbytes(made) <= _most:
        _kept[kind] = source, key, made
    return made


def shared(kind: str, source: Any, key: Any, make: Callable[[], T]) -> T | None:
    """`once` for what those who live at the same time, in one process, use by turns; None where they do not."""
    return once(kind, source, key, make) if _kept is not None and _most == math.inf else None
