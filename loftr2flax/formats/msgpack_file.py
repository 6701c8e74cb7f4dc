"""Reading Flax's msgpack files: nested maps of arrays, each found by its position and read on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loftr2flax.checkpoint import Checkpoint, Contents, Location, Scratch
from loftr2flax.errors import UnsupportedTensor
from loftr2flax.formats.leaf_bytes import as_array
from loftr2flax.formats.msgpack_scan import scan
from loftr2flax.formats.provenance import read_beside
from loftr2flax.formats.source_file import SourceFile
from loftr2flax.limits import DEFAULT, Limits


class MsgpackFile(Checkpoint):
    """A file by ``flax.serialization.to_bytes`` or ``msgpack_serialize``, or by this package.

    Keys are joined by slashes; lists count as maps from "0", "1", …, as in Flax. Arrays and numpy scalars are leaves;
    what is neither (Python numbers, strings, empty maps) is listed in ``contents.unread``.

    Raises:
      CorruptFile: the bytes are not what Flax writes; the message names the leaf.
      LimitExceeded: more leaves and other values than ``limits`` allow, or maps nested too deeply.
    """

    format = "msgpack"
    separator = "/"

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT) -> None:
        self._source = SourceFile(Path(path))
        try:
            found = scan(self._source, limits)
            provenance, notes = read_beside(self._source)
        except BaseException:
            self._source.close()
            raise
        self._pieces = {name: leaf.pieces for name, leaf in found.leaves.items()}
        infos = {name: leaf.info for name, leaf in found.leaves.items()}
        super().__init__(self._source.path, Contents(infos, unread=found.unread, provenance=provenance, notes=notes))

    def read(self, name: str, scratch: Scratch | None = None) -> np.ndarray:
        """See `Checkpoint.read`."""
        info = self.info(name)
        if info.refused:
            raise UnsupportedTensor(
                f"{self.path}: leaf {name!r}: {info.refused}", "store it as another type, or leave it out"
            )
        raw = scratch.take(info.nbytes) if scratch else np.empty(info.nbytes, np.uint8)
        at = 0
        for offset, size in self._pieces[name]:
            self._source.read_into(raw[at : at + size].data, offset, f"leaf {name!r}")
            at += size
        return as_array(raw, info, self.path, name)

    def pieces(self, name: str, size: int) -> Iterator[np.ndarray]:
        """See `Checkpoint.pieces`."""
        self.info(name)
        return self._source.pieces(self._pieces[name], size, f"leaf {name!r}")

    def locate(self, name: str) -> Location | None:
        """See `Checkpoint.locate`."""
        if self.info(name).refused or not self.info(name).nbytes:
            return None
        return Location(self.path, self._pieces[name][0][0])

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._source.close()
