"""Reading files that people write or edit by hand."""

from __future__ import annotations

from pathlib import Path

from mpisqueeze.errors import UsageError

#: Bytes: no settings, claim or list of edges is longer, and a device file would never end.
LONGEST = 1 << 24


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
