"""Text files, read and written with errors that name them, and SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mpisqueeze.errors import UsageError
from mpisqueeze.streams import discard, results

#: Most bytes that are read: settings, claims and lists of edges are shorter, and a device file would never end.
LONGEST = 1 << 24


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_text(path: Path, option: str, longest: int = LONGEST) -> str:
    """The content of a UTF-8 file of at most `longest` bytes. Raises UsageError that names the file and `option`."""
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


def write_text(text: str, target: str) -> None:
    """Write to a file, or to stdout for `-`. Raises OSError with the file's name."""
    if target == "-":
        try:
            results().write(text)
            results().flush()
        except BrokenPipeError:
            discard(results())
    else:
        # File names that are not UTF-8 are decoded to lone surrogates, which UTF-8 cannot encode.
        try:
            Path(target).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            # A disk that fills up in the middle of a file raises an error without a name.
            raise OSError(error.errno, error.strerror, target) from None
