"""A file read by position: no seek state, threads share it; no map: a file cut short is an error, not a signal."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from loftr2flax.errors import CorruptFile, EnvironmentFault, MissingInput, UnsupportedFile

FETCH_AGAIN = "fetch or copy the file again; nothing else makes it readable"
"""The hint beside every contradiction in a file's bytes."""


class SourceFile:
    """A regular file open for reading at any offset, from several threads at once.

    Raises:
      MissingInput: nothing is there, or a directory is.
      UnsupportedFile: a pipe, a socket or a device is there; they cannot be read by position.
      EnvironmentFault: the system does not let us read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            # without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingInput(f"{path}: no such file", "check the path") from None
        except OSError as error:
            raise EnvironmentFault(f"{path}: cannot be opened: {error.strerror}", "check its permissions") from None
        self._descriptor = descriptor
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            if stat.S_ISDIR(status.st_mode):
                raise MissingInput(f"{path}: is a directory", "name a file in it")
            raise UnsupportedFile(f"{path}: is not a regular file", "copy its content to a file first")
        self.size = status.st_size
        """Bytes in the file when it was opened."""
        self._stamp = status.st_mtime_ns

    def read(self, size: int, offset: int, what: str) -> bytes:
        """``size`` bytes from ``offset`` on; ``what`` names them in an error ("record 'x/data/0'").

        Raises:
          CorruptFile: the file ends before them.
        """
        if offset + size > self.size:  # before any memory is asked for: a size in a header is a claim
            raise self.truncated(what, offset + size)
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset, what)
        return bytes(buffer)

    def read_into(self, out: memoryview, offset: int, what: str) -> None:
        """Fill ``out`` (bytes, contiguous) with the bytes from ``offset`` on.

        Raises:
          CorruptFile: the file ends before ``out`` is full, or has changed since it was opened.
        """
        if not self._finalizer.alive:
            raise ValueError(f"{self.path}: read after close")
        done = 0
        while done < len(out):
            try:
                count = os.preadv(self._descriptor, [out[done:]], offset + done)
            except OSError as error:
                raise EnvironmentFault(f"{self.path}: {what} cannot be read: {error.strerror}") from None
            if count == 0:
                raise self.truncated(what, offset + len(out))
            done += count
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._stamp):
            raise CorruptFile(
                f"{self.path}: {what}: the file changed while it was being read",
                "wait until whatever writes it is done, then run this again",
            )

    def pieces(self, extents: Iterable[tuple[int, int]], size: int, what: str) -> Iterator[np.ndarray]:
        """The bytes of some extents, (offset, bytes) each, as if they stood in one row: ``size`` at a time.

        Each piece is a uint8 array that is valid until the next.

        Raises:
          CorruptFile: as for `read_into`.
        """
        room = np.empty(0, np.uint8)
        filled = 0
        left = list(extents)
        total = sum(count for _, count in left)
        for offset, count in left:
            while count:
                if not room.size:
                    room = np.empty(min(size, total), np.uint8)
                part = min(count, min(size, total) - filled)
                self.read_into(room[filled : filled + part].data, offset, what)
                offset, count, filled = offset + part, count - part, filled + part
                if filled == min(size, total):
                    yield room[:filled]
                    total -= filled
                    filled = 0

    def truncated(self, what: str, end: int) -> CorruptFile:
        """The error for content that would end at byte ``end``, past the end of the file."""
        size = os.fstat(self._descriptor).st_size
        return CorruptFile(f"{self.path}: {what} would end at byte {end}, the file ends at byte {size}", FETCH_AGAIN)

    def close(self) -> None:
        """Let go of the file; a second time does nothing."""
        self._finalizer()
