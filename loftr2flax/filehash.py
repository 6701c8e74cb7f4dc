"""The SHA-256 of files, computed while other work goes on: on a second core it costs a conversion next to nothing."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from loftr2flax.errors import CorruptFile, EnvironmentFault, Loftr2FlaxError, UnsupportedFile

STAND_IN = "0" * 64
"""As long as a digest, for a place that is filled once it is known."""

_PORTION = 4 << 20  # hashing a portion lets other threads run; between portions it has to wait for its turn


class FileHash:
    """The SHA-256 of some files, one after the other, on a thread of its own that starts at once.

    It may start before anybody has looked at the files: what is wrong with them is told when the digest is asked for.
    At the end of a ``with`` block it is stopped, wherever it is.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._digest = ""
        self._error: Loftr2FlaxError | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_PORTION))
        for path in self.files:
            try:
                self._add(path, digest.update, buffer)
            except OSError as error:
                self._error = EnvironmentFault(f"{path}: cannot be read: {error.strerror}", "check the disk")
            except Loftr2FlaxError as error:
                self._error = error
        self._digest = digest.hexdigest()

    def _add(self, path: Path, update: Callable[[memoryview], None], buffer: memoryview) -> None:
        # without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnsupportedFile(f"{path}: is not a regular file", "copy its content to a file first")
            before = _stamp(os.fstat(descriptor))
            while not self._given_up and (count := os.readv(descriptor, [buffer])):
                update(buffer[:count])
        finally:
            os.close(descriptor)
        if before != _stamp(os.stat(path)):
            raise CorruptFile(
                f"{path}: the file changed while it was being read",
                "wait until whatever writes it is done, then run this again",
            )

    def hexdigest(self) -> str:
        """The digest, once all is read.

        Raises:
          CorruptFile: a file was changed or replaced meanwhile.
          EnvironmentFault: the system does not let us read it.
          UnsupportedFile: a pipe, a directory or a device is there.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._given_up = True


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written to, or another one takes its name."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
