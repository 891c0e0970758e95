"""An HTTP server for tests of downloads, as good or as bad as it is told to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Resource:
    """The answer of a path.

    Attributes:
        ranges: it serves ranges.
        announced: it says how long the body is.
        at_most: bytes of a body after which it hangs up; None: never.
        failures: codes that it answers with first.
        shift: by which a range begins later than was asked.
        pause: seconds before each kilobyte.
        headers: further ones.
    """

    content: bytes
    ranges: bool = True
    announced: bool = True
    at_most: int | None = None
    failures: list[int] = field(default_factory=list)
    shift: int = 0
    pause: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FileServer:
    """Resources by path, and the requests: (path, Range or "")."""

    url: str
    resources: dict[str, Resource] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def offer(self, folder: str, contents: dict[str, bytes], **how: object) -> str:
        """Serve files in a folder; its address."""
        for name, content in contents.items():
            self.resources[f"/{folder}{name}"] = Resource(content, **how)  # type: ignore[arg-type]
        return self.url + folder


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # A proxy is asked for whole addresses.
            path, asked = urlsplit(self.path).path, self.headers.get("Range", "")
            server.requests.append((self.path, asked))
            resource = server.resources.get(path)
            self.close_connection = True
            if resource is None or resource.failures:
                self.send_error(resource.failures.pop(0) if resource else 404)
                return
            body, total = resource.content, len(resource.content)
            if asked and resource.ranges:
                first = int(asked.removeprefix("bytes=").removesuffix("-")) + resource.shift
                if first >= total:
                    self.send_error(416)
                    return
                body = body[first:]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
            else:
                self.send_response(200)
            if resource.announced:
                self.send_header("Content-Length", str(len(body)))
            for name, value in resource.headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            for start in range(0, len(body[: resource.at_most]), 1024):
                time.sleep(resource.pause)
                try:
                    self.wfile.write(body[: resource.at_most][start : start + 1024])
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server on this host, until the end."""
    state = FileServer("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
