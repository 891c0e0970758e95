"""Text files, read and written with errors that name them, and files by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import IO

from mpisqueeze.errors import UsageError

#: Bytes: no settings, claim or list of edges is longer, and a device file would never end.
LONGEST = 1 << 24


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_text(path: Path, option: str, longest: int = LONGEST) -> str:
    """What a UTF-8 file of at most `longest` bytes holds. Raises UsageError that names it, blaming `option`."""
    try:
        with open(path, "rb") as file:
            content = file.read(longest + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read: {reason}", option) from None
    if len(content) > longest:
        raise UsageError(f"{path} is too long: more than {longest >> 20} MiB", option)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not text in UTF-8: byte {error.start} is {content[error.start]:#04x}", option
        ) from None


def discard(stream: IO[str]) -> None:
    """Have what goes to a stream lead nowhere from now on, since whoever read it is gone, as `head` is."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def write_text(text: str, target: str) -> None:
    """Write to a file, or alone to stdout for `-`. Raises OSError with the file's name."""
    if target == "-":
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            discard(sys.stdout)
    else:
        # File names in no known encoding have halves of characters in them.
        try:
            Path(target).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            # That of a disk which is full in the middle of a file names none.
            raise OSError(error.errno, error.strerror, target) from None
