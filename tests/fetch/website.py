"""A web server on the loopback address, whose pages misbehave as the tests ask."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Page = Callable[[BaseHTTPRequestHandler], None]
TAG = '"first"'


class Website:
    """Pages by path; what was asked is noted."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str]] = []
        """The method and path of each request, and its range."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, self.headers.get("Range", "")))
                site.pages.get(self.path, status(404))(self)

            def do_CONNECT(self) -> None:
                site.asked.append((f"CONNECT {self.path}", ""))
                self.send_error(403)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # clients leave as they like
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def open(self) -> Iterator[Website]:
        """Serves during the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def whole(data: bytes, *, tag: str = TAG, length: bool = True, kind: str = "application/octet-stream") -> Page:
    """All of it, or the range that is asked for while the tag is still the same."""

    def page(handler: BaseHTTPRequestHandler) -> None:
        start = _start(handler, tag)
        _head(handler, data, start, tag, length, kind)
        handler.wfile.write(data[start:])

    return page


def cut(data: bytes, *lengths: int, tag: str = TAG, ranges: bool = True, then: Page | None = None) -> Page:
    """A connection that breaks after so many bytes, the next after so many, and then `then` (all of it)."""
    left = list(lengths)

    def page(handler: BaseHTTPRequestHandler) -> None:
        if not left:
            (then or whole(data, tag=tag))(handler)
            return
        start = _start(handler, tag) if ranges else 0
        _head(handler, data, start, tag if ranges else "", True, "application/octet-stream")
        handler.wfile.write(data[start : start + left.pop(0)])

    return page


def status(code: int) -> Page:
    """That and no more."""
    return lambda handler: handler.send_error(code)


def redirect(target: str, code: int = 302) -> Page:
    """Leads elsewhere."""

    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return page


def stalling(data: bytes, after: int, seconds: float = 3600) -> Page:
    """Some bytes, and then nothing while the test lasts or the client stays."""

    def page(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, data, 0, "", True, "application/octet-stream")
        handler.wfile.write(data[:after])
        handler.wfile.flush()
        end = time.monotonic() + seconds
        handler.connection.settimeout(0.05)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                if not handler.connection.recv(1):
                    return

    return page


def _start(handler: BaseHTTPRequestHandler, tag: str) -> int:
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    return int(asked[1]) if asked and handler.headers.get("If-Range") == tag else 0


def _head(handler: BaseHTTPRequestHandler, data: bytes, start: int, tag: str, length: bool, kind: str) -> None:
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    if tag:
        handler.send_header("ETag", tag)
    if length:
        handler.send_header("Content-Length", str(len(data) - start))
    handler.send_header("Content-Type", kind)
    handler.end_headers()
