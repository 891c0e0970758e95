"""One file over HTTP: from several places in turn, resumed where it broke off, and compared with its SHA-256.

Proxies are those of the environment (`http_proxy`, `https_proxy`, `no_proxy`), which urllib follows.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mpisqueeze import __version__
from mpisqueeze.data.published import File
from mpisqueeze.files import sha256_of

#: Seconds without a byte after which a server is given up.
TIMEOUT_S = 30.0
#: Times that one place is asked to go on, or to start again.
ATTEMPTS = 4
#: Seconds before it is asked again.
PAUSE_S = 1.0
_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
#: Answers that may be better a moment later.
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(Exception):
    """A data set could not be had; the message is one line for the user."""


class Watcher:
    """What is told of a download as it goes; this one keeps it to itself."""

    def start(self, file: File, url: str, have: int) -> None:
        """Bytes are about to arrive, after the `have` that are there."""

    def advance(self, count: int) -> None:
        """So many more bytes have arrived."""

    def note(self, text: str) -> None:
        """Something that the user should know and need not act upon."""


class _PlaceError(Exception):
    """A place does not give the file; `passing` where it may do so if asked again."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def download(file: File, urls: Sequence[str], part: Path, watcher: Watcher) -> None:
    """Complete `part`, which may hold the file's beginning, until it is the file.

    Args:
        urls: places that have it, tried in turn; one goes on where another stopped.
        part: where its bytes are collected; left there when this fails, unless they are wrong.

    Raises:
        DownloadError: no place gives it, or `part` cannot be written.
    """
    reasons: list[str] = []
    try:
        for url in urls:
            try:
                _from(url, file, part, watcher)
                return
            except _PlaceError as error:
                reasons.append(f"{url}: {error}")
                if url != urls[-1]:
                    watcher.note(f"{reasons[-1]}; trying the next place")
    except OSError as error:
        raise DownloadError(f"{part} cannot be written: {error.strerror or error}") from None
    raise DownloadError(f"no place gave {file.name}: {'; '.join(reasons)}")


def is_file(path: Path, file: File) -> bool:
    """Whether `path` holds the bytes of `file`. Raises OSError where it is there and cannot be read."""
    return os.path.isfile(path) and path.stat().st_size == file.size and sha256_of(path) == file.sha256


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _from(url: str, file: File, part: Path, watcher: Watcher) -> None:
    """Complete `part` from one place. Raises _PlaceError, or OSError for `part`."""
    trouble = _PlaceError("it ended too early", passing=True)
    for attempt in range(ATTEMPTS):
        if attempt and trouble.passing:
            time.sleep(PAUSE_S)
        if _length(part) > file.size:
            part.unlink()
        began_at = _length(part)
        if began_at < file.size:
            try:
                began_at = _transfer(url, file, part, watcher)
            except _PlaceError as error:
                if not error.passing:
                    raise
                trouble = error
        if _length(part) < file.size:
            continue
        if sha256_of(part) == file.sha256:
            return
        part.unlink()
        trouble = _PlaceError("it has other bytes than the published file: their SHA-256 differs")
        if began_at == 0:
            raise trouble
        watcher.note(f"{file.name}: the part that was there was not the published file's; starting again")
    raise trouble


def _transfer(url: str, file: File, part: Path, watcher: Watcher) -> int:
    """Append what the place sends to `part`; the byte at which it began, 0 where it knows no ranges.

    Raises _PlaceError where that is nothing of the file, or it broke off; OSError for `part`.
    """
    have = _length(part)
    request = urllib.request.Request(url, headers={"User-Agent": f"mpisqueeze/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        # Not `urlopen`, which keeps the proxies of its first call.
        response = urllib.request.build_opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()
        raise _PlaceError(f"HTTP {error.code} {error.reason}".strip(), _again(error.code, have)) from None
    except urllib.error.URLError as error:
        raise _PlaceError(_why(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _PlaceError(_why(error)) from None
    with response:
        begins = _where(response, file, have)
        with open(part, "r+b" if begins else "wb") as stream:
            stream.seek(begins)
            watcher.start(file, url, begins)
            _receive(response, stream, file.size - begins, watcher)
    return begins


def _again(code: int, have: int) -> bool:
    return code in _PASSING or (code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have > 0)


def _where(response: http.client.HTTPResponse, file: File, have: int) -> int:
    """The byte of the file at which an answer begins. Raises _PlaceError where it is none of its."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if not found or int(found[1]) != have:
            raise _PlaceError("it answers with another part than it was asked for")
        total, begins = found[2], have
    else:
        total, begins = response.headers.get("Content-Length", "*"), 0
    if total.isdigit() and int(total) != file.size:
        raise _PlaceError(f"its file has {total} bytes instead of {file.size}")
    return begins


def _receive(response: http.client.HTTPResponse, stream: IO[bytes], count: int, watcher: Watcher) -> None:
    """Write `count` bytes of an answer. Raises _PlaceError where it breaks off."""
    while count:
        try:
            chunk = response.read(min(_CHUNK, count))
        except (OSError, http.client.HTTPException) as error:
            raise _PlaceError(_why(error), passing=True) from None
        if not chunk:
            raise _PlaceError("it ended too early", passing=True)
        stream.write(chunk)
        watcher.advance(len(chunk))
        count -= len(chunk)


def _why(error: object) -> str:
    """A reason in a few words on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
