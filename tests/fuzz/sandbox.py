"""A folder of its own for each input, and an eye on what the code does outside of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Events of code that would load a program, start one or call somebody.
_FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
#: Events that change files, and which of their arguments are paths.
_CHANGES = {
    "open": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "shutil.rmtree": (0,),
}
_FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class EscapedError(AssertionError):
    """Something happened outside of the sandbox, or something that may happen nowhere."""


class _Eye:
    """An audit hook; Python never takes one away, so that there is one for the whole process."""

    def __init__(self) -> None:
        self.inside = ""
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.inside:
            return
        if event in _FORBIDDEN and event not in self.allowed:
            self.seen.append(f"{event} {arguments!r:.200}")
        if event in _CHANGES:
            if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
                return
            for at in _CHANGES[event]:
                self._look(event, arguments[at])

    def _look(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        with contextlib.suppress(ValueError):
            where = os.path.abspath(os.fsdecode(path))
            if not where.startswith((self.inside, "/dev/null", "/proc/")):
                self.seen.append(f"{event} {where}")


_EYE: _Eye | None = None


@contextlib.contextmanager
def sandbox(allowed: tuple[str, ...] = ()) -> Iterator[Path]:
    """An empty folder to work in, gone afterwards.

    Raises:
        EscapedError: a file outside of it was changed, a program started, or something unpickled.

    Args:
        allowed: events that may happen.
    """
    global _EYE
    if _EYE is None:
        _EYE = _Eye()
        sys.addaudithook(_EYE)
    before, outer = Path.cwd(), (_EYE.inside, _EYE.allowed, _EYE.seen)
    # Modules are loaded when they are needed.
    caching, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _EYE.inside = ""
    path = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_FOLDER))
    try:
        os.chdir(path)
        _EYE.inside, _EYE.allowed, _EYE.seen = f"{path}{os.sep}", allowed, []
        yield path
    finally:
        seen, _EYE.inside = _EYE.seen, ""
        sys.dont_write_bytecode = caching
        os.chdir(before)
        shutil.rmtree(path, ignore_errors=True)
        _EYE.inside, _EYE.allowed, _EYE.seen = outer
    if seen:
        raise EscapedError("; ".join(seen[:3]))
