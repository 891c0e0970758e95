"""Download one published file: pooch tries each mirror, compares the SHA-256 and puts the file under its name.

pooch starts every try from nothing, so the downloader that it calls here keeps what has arrived in a part of its own
and asks the server for the rest. Proxies are those of the environment (`http_proxy`, `https_proxy`, `no_proxy`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pooch
import requests

from mpisqueeze import __version__
from mpisqueeze.data.published import DownloadError, DownloadWatcher, File

#: Seconds without a byte after which a server is given up.
TIMEOUT_S = 30.0
#: Times that one mirror is asked for a file: to start, to go on, or to start again.
ATTEMPTS = 4
#: At most so many bytes are lost where a connection breaks off.
_READ_BYTES = 1 << 14
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
#: Answers that may be better a moment later.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_WRONG = "it has other bytes than the published file: their SHA-256 differs"

# The user is told by the watcher.
pooch.get_logger().setLevel("CRITICAL")


class _RefusedError(Exception):
    """A mirror does not give the file, and would not if it were asked again."""


def download(file: File, mirrors: Sequence[str], folder: Path, part: Path, watcher: DownloadWatcher) -> None:
    """Put `file` into `folder`, whole or not at all.

    Args:
        mirrors: addresses below which it is, tried in turn; one goes on where another stopped.
        part: collects its bytes, and may hold its beginning; stays when this fails, unless the bytes are wrong.

    Raises:
        DownloadError: no mirror gives it, or `folder` cannot be written.
    """
    reasons: list[str] = []
    for mirror in mirrors:
        registry = {file.name: f"sha256:{file.sha256}"}
        fetcher = pooch.create(folder, mirror, registry=registry, retry_if_failed=ATTEMPTS - 1)
        try:
            fetcher.fetch(file.name, downloader=_Resuming(file, part, watcher))
            return
        except (_RefusedError, requests.RequestException) as error:
            reason = _why(error)
        except ValueError:
            reason = _WRONG
        except OSError as error:
            raise DownloadError(f"{part} cannot be written: {error.strerror or error}") from None
        reasons.append(f"{mirror}{file.name}: {reason}")
        if mirror != mirrors[-1]:
            watcher.note(f"{reasons[-1]}; trying the next place")
    raise DownloadError(f"no place gave {file.name}: {'; '.join(reasons)}")


class _Resuming:
    """Completes `part`; pooch calls it again after a RequestException, and where the bytes are wrong."""

    def __init__(self, file: File, part: Path, watcher: DownloadWatcher) -> None:
        self.file, self.part, self.watcher = file, part, watcher
        self.began: int | None = None  # the byte at which the answer begins that completed the file

    def __call__(self, url: str, output_file: str, fetcher: object) -> None:
        if self.began == 0:
            raise _RefusedError(_WRONG)
        if self.began:
            self.watcher.note(f"{self.file.name}: the part that was there was not the published file's; starting again")
        with open(self.part, "ab") as self.stream:
            if self.stream.tell() > self.file.size:
                self.stream.seek(0)
                self.stream.truncate()
            begins = self.stream.tell()
            if begins < self.file.size:
                begins = self._complete(url)
            os.fsync(self.stream.fileno())
        self.began = begins
        os.replace(self.part, output_file)

    def _complete(self, url: str) -> int:
        """Append what the server sends; the byte at which that began, 0 where the server knows no ranges.

        Raises:
            _RefusedError: the mirror has something else, or nothing.
            requests.RequestException: it may go on if it is asked again.
            OSError: the part cannot be written.
        """
        headers = {"User-Agent": f"mpisqueeze/{__version__}", "Accept-Encoding": "identity"}
        if self.stream.tell():
            headers["Range"] = f"bytes={self.stream.tell()}-"
        self.begins: int | None = None
        get = pooch.HTTPDownloader(
            chunk_size=_READ_BYTES, headers=headers, timeout=TIMEOUT_S, hooks={"response": self._begin}
        )
        try:
            get(url, self, None)
        except requests.exceptions.ChunkedEncodingError:
            pass  # It ended too early.
        except requests.ConnectionError as error:
            if self.begins is None:
                raise _RefusedError(_why(error)) from None
            raise
        if self.stream.tell() < self.file.size:
            raise requests.ConnectionError("it ended too early")
        return self.begins or 0

    def _begin(self, response: requests.Response, **_: Any) -> None:
        """Prepare the part for an answer. Raises _RefusedError where it does not answer the question."""
        have, code = self.stream.tell(), response.status_code
        if response.is_redirect:
            return
        if not response.ok:
            reason = f"HTTP {code} {response.reason}".strip()
            if code == requests.codes.requested_range_not_satisfiable and have:
                self.stream.truncate(0)
            elif code not in _PASSING:
                raise _RefusedError(reason)
            raise requests.HTTPError(reason)
        total, self.begins = response.headers.get("Content-Length", "*"), 0
        if code == requests.codes.partial_content:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if not found or int(found[1]) != have:
                raise _RefusedError("it answers with another part than it was asked for")
            total, self.begins = found[2], have
        if total.isdigit() and int(total) != self.file.size:
            raise _RefusedError(f"its file has {total} bytes instead of {self.file.size}")
        # Some servers announce .gz files as compressed on the way, and requests would unpack them.
        response.raw.headers.pop("Content-Encoding", None)
        self.stream.seek(self.begins)
        self.stream.truncate()
        self.watcher.start(self.file, response.url, self.begins)

    def write(self, data: bytes) -> None:
        """Called by HTTPDownloader, which takes this object for its output file."""
        if self.stream.tell() + len(data) > self.file.size:
            raise _RefusedError(f"its file has more than {self.file.size} bytes")
        self.stream.write(data)
        self.watcher.advance(len(data))

    def flush(self) -> None:
        self.stream.flush()


def _why(error: BaseException) -> str:
    """The innermost reason, in a few words on one line."""
    while error.__context__ is not None:
        error = error.__context__
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
