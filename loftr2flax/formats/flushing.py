"""Bringing a growing file to the disk while it grows, so that little is left to wait for at its end."""

from __future__ import annotations

import os
import threading

_PORTION = 8 << 20
"""Bytes that are brought to the disk at a time; a file smaller than this is not worth a thread."""


class Flusher:
    """A thread that forces a file's data to the disk, portion by portion, while more is being written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._asked = 0
        self._wanted = threading.Semaphore(0)
        self._ended = False
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def reached(self, position: int) -> None:
        """Says how far the file has been written."""
        if position - self._asked < _PORTION:
            return
        self._asked = position
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._wanted.release()

    def end(self) -> None:
        """Stops the thread; the descriptor may be closed afterwards.

        Raises:
          OSError: what the system said of the data, if it could not be written. It says so once only, so that an
            fsync that follows would know nothing of it.
        """
        if self._thread is None:
            return
        self._ended = True
        self._wanted.release()
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while self._wanted.acquire() and not self._ended and self._error is None:
            try:
                _force(self._descriptor)
            except OSError as error:
                self._error = error


_force = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
