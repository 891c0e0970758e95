"""A run folder on disk: JSON files replaced atomically, JSON lines appended and flushed."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mpisqueeze import holder
from mpisqueeze.errors import UsageError
from mpisqueeze.files import check_whole, own

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World

#: The file that makes a folder a run's.
FIRST = "config.json"
#: Bytes of a file without a name that stay in memory.
_SHORT = 1 << 20


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON has no number for it (NaN, infinities)."""
    return value if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def sanitized(value: Any) -> Any:
    """`value` with None for each number that JSON lacks."""
    if isinstance(value, dict):
        return {key: sanitized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sanitized(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write or replace a JSON file; a reader sees the old or the new one, never a part.

    With `durable` it outlives a power failure from now on, for which a disk takes 10 ms, and a busy one a second.
    """
    temporary = path.with_name(f"{path.name}.part")
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(sanitized(value), stream, indent=2, allow_nan=False, default=_plain)
        stream.write("\n")
        stream.flush()
        if durable:
            os.fsync(stream.fileno())
    os.replace(temporary, path)


#: Characters of a file's name that a method gets; systems allow 255 in all.
_SLUG = 100


def slug(text: str) -> str:
    """`text` as part of a file's name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)[:_SLUG].strip("-")


def timed_path(name: str, ranks: int) -> Path:
    """The new folder `results/<UTC time>-<name>-n<N>`, with a number behind it where that is taken.

    Raises UsageError if it cannot be made.
    """
    time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    base = Path("results") / f"{time}-{name}-n{ranks}"
    path, tries = base, 1
    while not _made(path):
        tries += 1
        path = base.with_name(f"{base.name}-{tries}")
    return path


def _made(path: Path) -> bool:
    """Make a folder; False if it was there. Raises UsageError if it cannot be made."""
    try:
        path.mkdir(parents=True)
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            return False
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be made: {reason}", "--out") from error
    return True


def check_path(path: Path) -> None:
    """Raise UsageError unless `path` can become a run folder: new or empty, writable, and held by no other process."""
    if os.path.exists(path):
        if not os.path.isdir(path):
            raise UsageError(f"{path} is not a folder", "--out")
        own(path / holder.NAME, "--out")
        holder.check_free(path, "--out")
        _check_empty(path)
        check_whole(path, "--out")
    nearest = path
    while not os.path.exists(nearest):
        nearest = nearest.parent
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: no permission in {os.path.abspath(nearest)}", "--out")


def _check_empty(path: Path) -> None:
    # A run that was killed before its first file was complete leaves these, and can be started again.
    if not {file.name for file in path.iterdir()} <= {f"{FIRST}.part", holder.NAME, holder.TAKING}:
        raise UsageError(f"{path} is not empty; name a new or an empty folder", "--out")


class RunFolder:
    """The files of one run, on rank 0, which holds the folder until `close`.

    Args:
        again: it is there, and a run goes on in it.

    Attributes:
        hold: for the other ranks of the run.

    Raises:
        UsageError: the folder cannot be made, is not empty, or another process writes to it.
    """

    def __init__(self, path: Path, again: bool = False) -> None:
        if not again:
            check_path(path)
        _made(path)
        self.hold = holder.take(path, "--resume" if again else "--out")
        if not again:
            # Another process may have come and gone meanwhile.
            try:
                _check_empty(path)
            except UsageError:
                self.hold.release()
                raise
        self.path = path
        self._streams: dict[str, BinaryIO] = {}
        self._opened: list[BinaryIO] = []

    def write_json(self, name: str, value: Any, durable: bool = True) -> None:
        """Write or replace a JSON file, as the function of this name does."""
        self.hold.check()
        write_json(self.path / name, value, durable)

    def append(self, name: str, lines: bytes) -> None:
        """Add whole lines to a JSON-lines file and hand them to the system. Raises OSError if the folder is lost."""
        self.hold.check()
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = open(self.path / name, "ab")  # noqa: SIM115
        stream.write(lines)
        stream.flush()
        # A file that was removed takes what is written to it, and nobody will read that.
        if os.fstat(stream.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the run folder was removed", str(self.path / name))

    def rows(self, name: str | None) -> BinaryIO:
        """A log to read; without a name, a file of this folder's disk that nobody else sees, to write and read."""
        if name is not None:
            stream: BinaryIO = open(self.path / name, "rb")  # noqa: SIM115
        else:
            stream = cast(BinaryIO, SpooledTemporaryFile(_SHORT, "w+b", dir=str(self.path)))  # noqa: SIM115
        self._opened.append(stream)
        return stream

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of each of these files, of those that are there; all that was appended is in them."""
        paths = {name: self.path / name for name in names}
        return {name: path.stat().st_size for name, path in paths.items() if os.path.exists(path)}

    def cut(self, sizes: dict[str, int], names: Iterable[str]) -> None:
        """Cut logs back to so many bytes, to nothing where none are named; before anything is appended."""
        for name in names:
            path = self.path / name
            if os.path.exists(path):
                os.truncate(path, min(sizes.get(name, 0), path.stat().st_size))

    def close(self) -> None:
        """Close the logs, whose lines are safe with the system, and give the folder up."""
        for stream in (*self._streams.values(), *self._opened):
            stream.close()
        self._streams.clear()
        self._opened.clear()
        self.hold.release()


def hold_of_all(world: World, folder: RunFolder | None, path: Path) -> holder.Hold:
    """The hold of a folder on every rank, so that each that ends all of them can give it up; collective.

    Args:
        folder: on rank 0.
    """
    content = world.comm.bcast(folder.hold.content if folder else b"")
    return folder.hold if folder else holder.Hold(path, content)
