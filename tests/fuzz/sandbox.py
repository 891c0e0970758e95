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
#: (folder, events that may happen in it, what was seen outside) of the sandboxes that are open, and None in between.
_OPEN: list[tuple[str, tuple[str, ...], list[str]] | None] = [None]


class EscapedError(AssertionError):
    """Something happened outside of the sandbox, or something that may happen nowhere."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _OPEN[-1] is None:
        return
    inside, allowed, seen = _OPEN[-1]
    if event in _FORBIDDEN and event not in allowed:
        seen.append(f"{event} {arguments!r:.200}")
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
        return
    for path in [arguments[at] for at in _CHANGES.get(event, ())]:
        if isinstance(path, str | bytes | os.PathLike):
            with contextlib.suppress(ValueError):
                where = os.path.abspath(os.fsdecode(path))
                if not where.startswith((inside, "/dev/null", "/proc/")):
                    seen.append(f"{event} {where}")


# Python never takes an audit hook away.
sys.addaudithook(_watch)


@contextlib.contextmanager
def sandbox(allowed: tuple[str, ...] = ()) -> Iterator[Path]:
    """An empty folder to work in, gone afterwards.

    Raises:
        EscapedError: a file outside of it was changed, a program started, or something unpickled.

    Args:
        allowed: events that may happen.
    """
    before, seen = Path.cwd(), list[str]()
    # Modules are loaded when they are needed.
    caching, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _OPEN.append(None)
    path = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_FOLDER))
    try:
        os.chdir(path)
        _OPEN[-1] = (f"{path}{os.sep}", allowed, seen)
        yield path
    finally:
        _OPEN[-1] = None
        sys.dont_write_bytecode = caching
        os.chdir(before)
        shutil.rmtree(path, ignore_errors=True)
        _OPEN.pop()
    if seen:
        raise EscapedError("; ".join(seen[:3]))
