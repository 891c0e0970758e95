"""Paths as people write them, text files with errors that name them, and SHA-256 of files."""

from __future__ import annotations

import hashlib
import html
import os
import re
import stat
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec.toml

from mpisqueeze.errors import UsageError
from mpisqueeze.streams import discard, results

#: Most bytes that are read: settings, claims and lists of edges are shorter, and a device file would never end.
LONGEST = 1 << 24


def path_of(text: str | os.PathLike[str]) -> Path:
    """A path as a person writes it: `~` is the home folder, also in files and variables, which no shell expands."""
    return Path(os.path.expanduser(text))


def own(path: Path, option: str) -> Path:
    """The path of a file within a folder that a user named, which may be somebody else's work.

    Raises UsageError, blaming `option`, where it is no file but a link, whose target may be anywhere, or a pipe or a
    device, which may never end. A path where nothing is goes through.
    """
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return path
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "no file"
        raise UsageError(f"{path} is {what}: nothing outside the folder is read", option)
    return path


def inside(folder: Path, name: str, option: str) -> Path:
    """The folder that a file in `folder` names. Raises UsageError, blaming `option`, where that leads out of it."""
    path, parts = folder, PurePosixPath(name).parts
    for part in parts:
        path = path / part
        if part in ("/", "//", "..") or os.path.islink(path):
            raise UsageError(f"{folder} names {name!r}, which is outside of it", option)
    return path


def check_whole(folder: Path, option: str) -> None:
    """Raise UsageError, blaming `option`, for a symbolic link in a folder that is about to be written to."""
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(where, name)
            if os.path.islink(path):
                raise UsageError(f"{path} is a symbolic link: nothing outside the folder is written", option)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


#: Beginnings of files, what they tell, and what to do about it.
_DISGUISES = (
    (rb"PK\x03\x04", "a zip archive: unpack it"),
    (rb"PAR1", "a Parquet file: write it as CSV, by pandas' read_parquet and to_csv, say"),
    (rb"version https://git-lfs\.github\.com", "a pointer of Git LFS: `git lfs pull` fetches the file"),
    (rb"\s*<\?xml.*<Error>", "a server's error message, saved in its place: download it again"),
    (rb"\s*(<!--.*-->\s*)?<(!doctype\s+html|html)", "a web page, saved in its place: download it again"),
)
#: Bytes of the beginning.
_HEAD = 4096


def disguise(path: Path) -> str:
    """The nature of a file that is no data: a web page that a download was answered with, say, gzip-compressed or not.

    Empty where it is none of _DISGUISES.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if head.startswith(b"\x1f\x8b"):
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except (OSError, ValueError, zlib.error):
        return ""
    for begins, what in _DISGUISES:
        if re.match(begins, head, re.IGNORECASE | re.DOTALL):
            title = re.search(rb"<(?:title|code)>\s*([^<]{1,60})", head, re.IGNORECASE)
            said = html.unescape(" ".join(title[1].decode(errors="replace").split())) if title else ""
            return what.replace(",", f" ({said!r}),", 1) if said else what
    return ""


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


#: Characters of a TOML file and of its lines. A name of many parts, `a.b.c`, takes memory by their number squared.
_LONGEST_TOML, _LONGEST_LINE = 1 << 16, 1 << 12


def read_toml(path: Path, option: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError that names the file and `option`."""
    text = read_text(path, option)
    longest = max(map(len, text.splitlines()), default=0)
    if len(text) > _LONGEST_TOML or longest > _LONGEST_LINE:
        most = f"at most {_LONGEST_TOML} characters, and {_LONGEST_LINE} a line"
        raise UsageError(f"{path} is not TOML as it is read: {most}", option)
    try:
        return msgspec.toml.decode(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", option) from None


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
