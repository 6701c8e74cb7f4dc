"""One file over HTTP: a limit, and a connection that may break on the way.

A broken connection is taken up where it broke if the server can say that its file is still the same (a range under
``If-Range``); if it cannot, the file is begun anew. There is no half file on the disk to go on from another day.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from loftr2flax.errors import LimitExceeded
from loftr2flax.fetch.http import ELSEWHERE, Broken, NotThere, Unavailable, answer, blaming, opened
from loftr2flax.fetch.urls import shown
from loftr2flax.formats.atomic import NewFile

if TYPE_CHECKING:
    import requests

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those there will be; 0 where the server does not say."""

_PIECE = 1 << 16
_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_DIGITS = 19
"""A length of more is none."""
_BUSY = (429, 500, 502, 503, 504)


class Terms(NamedTuple):
    """How far a download may go.

    Attributes:
      timeout: seconds to wait for a connection, and for each piece of the answer.
      retries: how often a broken connection or a busy server is tried again.
      max_bytes: the largest file that is taken.
    """

    timeout: float = 30.0
    retries: int = 5
    max_bytes: int = 2 << 30


class StartOver(Exception):
    """The server's file is not the one that was begun, or cannot be had from the middle."""


class Receiver:
    """The file as far as it has come, over as many connections as it takes.

    Attributes:
      sha256: of the bytes so far.
    """

    def __init__(self, file: NewFile, look: Callable[[bytes], None]) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file
        self._look = look
        self._looked = False
        self._validator = ""

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.position

    def receive(self, session: requests.Session, url: str, terms: Terms, progress: Progress | None) -> None:
        """The rest of the file, by one connection.

        Raises:
          Broken, StartOver: it was not all.
          Unavailable, NotThere, LimitExceeded: it cannot be had.
        """
        headers = {"Accept-Encoding": "identity"}
        if self.size:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": self._validator}
        with blaming(url, terms.timeout), answer(session, url, headers, terms.timeout) as got:
            self._check(got, url)
            total = _length(got)
            total += self.size if total else 0
            if total > terms.max_bytes:
                raise _too_large(url, f"{total:,} bytes", terms)
            for piece in got.iter_content(_PIECE):
                self._add(piece)
                if self.size > terms.max_bytes:
                    raise _too_large(url, f"more than {terms.max_bytes:,} bytes", terms)
                if progress is not None:
                    progress(self.size, total)
        if not self.size:
            raise NotThere(f"{shown(url)}: is empty", f"check the address, {ELSEWHERE}")
        self._look_once()

    def _check(self, answer: requests.Response, url: str) -> None:
        """Whether what follows are the bytes that are missing."""
        status = answer.status_code
        if status in _BUSY:
            raise Broken(f"answers {status} {answer.reason}")
        if self.size and not (status == 206 and _goes_on(answer, self.size, self._validator)):
            raise StartOver
        if not self.size and status != 200:
            raise NotThere(f"{shown(url)}: the server answers {status} {answer.reason}", _hint_for(status))
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Unavailable(
                f"{shown(url)}: comes compressed, which was not asked for", f"use another source, {ELSEWHERE}"
            )
        if not self.size:
            self._validator = _validator(answer)

    def _add(self, piece: bytes) -> None:
        self._file.write(piece)
        self.sha256.update(piece)
        if self.size >= 1 << 10:
            self._look_once()

    def _look_once(self) -> None:
        if not self._looked:
            self._looked = True
            self._look(bytes(self._file.head))

    @property
    def resumable(self) -> bool:
        """Whether a further connection can go on where this one broke."""
        return bool(self._validator) or not self.size


def download(
    url: str, receiver: Receiver, terms: Terms, tries: Iterator[float], progress: Progress | None = None
) -> None:
    """The file at ``url``, by as many connections as ``tries`` allows.

    Args:
      url: http or https.
      receiver: takes the bytes; complete when this returns.
      terms: see there.
      tries: seconds to wait before each further attempt; shared by downloads that start over.
      progress: see `Progress`.

    Raises:
      StartOver: the file has to be begun anew.
      Unavailable, NotThere, LimitExceeded: it cannot be had.
      EnvironmentFault: requests is not installed, or the disk is full.
    """
    with opened() as session:
        while True:
            try:
                return receiver.receive(session, url, terms, progress)
            except Broken as broken:
                pause = next(tries, None)
                if pause is None:
                    came = f" after {receiver.size:,} bytes" if receiver.size else ""
                    raise Unavailable(f"{shown(url)}: {broken}{came}", f"try again later, {ELSEWHERE}") from None
            time.sleep(pause)
            if not receiver.resumable:
                raise StartOver


def pauses(terms: Terms) -> Iterator[float]:
    """Seconds to wait before each further attempt: twice as long each time."""
    return (min(_PAUSE * 2**n, _LONGEST_PAUSE) for n in range(terms.retries))


def _validator(answer: requests.Response) -> str:
    """What the server can be asked by whether its file is still the same; "" where it has nothing that is sure."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _goes_on(answer: requests.Response, start: int, validator: str) -> bool:
    """Whether a partial answer begins where we are, and is of the same file."""
    header = "ETag" if validator.startswith('"') else "Last-Modified"
    begins = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    return begins and answer.headers.get(header, validator) == validator


def _length(answer: requests.Response) -> int:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and len(text) < _DIGITS else 0


def _hint_for(status: int) -> str:
    if status in (401, 403):
        return f"the server wants to know who asks: put name and password into ~/.netrc, {ELSEWHERE}"
    return f"check the address; `loftr2flax fetch --list` shows those that are known, {ELSEWHERE}"


def _too_large(url: str, what: str, terms: Terms) -> LimitExceeded:
    return LimitExceeded(f"{shown(url)}: has {what}, the limit is {terms.max_bytes:,}", "raise it: --max-bytes SIZE")
