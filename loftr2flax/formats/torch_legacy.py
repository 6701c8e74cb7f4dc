"""PyTorch files before 1.6, and those written since with ``_use_new_zipfile_serialization=False``.

Five pickles stand in a row: a magic number, the protocol 1001, facts of the writing machine, the saved value, and the
keys of its storages. Then, for each key in that order, the storage: a count of elements in 8 bytes, and the elements.
No checksums. torch writes all numbers little-endian, on any machine: it swaps on writing where that is needed, and
what the third pickle says of byte order is the writer's, not the file's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loftr2flax.checkpoint import Location
from loftr2flax.errors import CorruptFile, UnsupportedFile
from loftr2flax.formats import pickle_machine
from loftr2flax.formats.pickle_machine import PickleTruncated
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.formats.torch_checkpoint import TorchCheckpoint, Unpickled
from loftr2flax.formats.torch_globals import GlobalFinder, StorageTable, storage_itemsize
from loftr2flax.limits import DEFAULT, Limits

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
"""The value of the first pickle."""

PROTOCOL = 1001
"""The value of the second."""

_FIRST_GUESS = 1 << 18
_SAVE_AGAIN = "load it in torch, then `torch.save(model.state_dict(), …)`"


class TorchLegacy(TorchCheckpoint):
    """An open legacy checkpoint. ``state_dict`` names the container, "" the file itself, None the usual choice.

    Raises:
      CorruptFile, UnsupportedFile, LimitExceeded, InputError: a pickle, a storage, or a tensor is refused.
    """

    format = "torch-legacy"

    def __init__(self, path: Path, state_dict: str | None = None, limits: Limits = DEFAULT) -> None:
        self._source = SourceFile(path)
        try:
            top, keys, finder, table, end = _read_pickles(self._source, limits)
            self._offsets, end = _find_storages(self._source, keys, table, end)
            sizes = {key: table.storages[key].nbytes for key in self._offsets}
            left = self._source.size - end
            notes = (f"{left} bytes after the last storage were not read",) if left else ()
            unpickled = Unpickled(top, finder, table, sizes, notes)
            super().__init__(self._source.path, unpickled, state_dict, limits, swap=sys.byteorder == "big")
        except BaseException:
            self._source.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def _storage_location(self, key: str, start: int) -> Location:
        return Location(self.path, self._offsets[key] + start)

    def _storage_pieces(self, key: str, start: int, nbytes: int, size: int) -> Iterator[np.ndarray]:
        return self._source.pieces([(self._offsets[key] + start, nbytes)], size, f"storage {key!r}")

    def _read_storage(self, key: str, out: np.ndarray, start: int) -> None:
        self._source.read_into(out.data, self._offsets[key] + start, f"storage {key!r}")


def _read_pickles(source: SourceFile, limits: Limits) -> tuple[object, list[str], GlobalFinder, StorageTable, int]:
    """The saved value, the storages' keys, and where the storages begin.

    How long the pickles are, nobody knows before they have run: they are run on a prefix of the file, and run again
    on a longer one where that was too short.
    """
    size = min(source.size, _FIRST_GUESS)
    while True:
        data = source.read(size, 0, "the pickles")
        try:
            return _run_pickles(source, data, limits)
        except PickleTruncated:
            if size == source.size:
                raise
            if size >= limits.pickle:
                limits.too_much_memory(source.path, "the pickle")
            size = min(source.size, 2 * size)


def _run_pickles(
    source: SourceFile, data: bytes, limits: Limits
) -> tuple[object, list[str], GlobalFinder, StorageTable, int]:
    finder, table = GlobalFinder(), StorageTable()

    def run(start: int, what: str) -> tuple[object, int]:
        where = f"{source.path}: {what}"
        return pickle_machine.run(data, start, where=where, find_global=finder, persistent_load=table, limits=limits)

    _refuse_tar(source, data)
    magic, end = run(0, "the magic number")
    if magic != MAGIC_NUMBER:
        raise UnsupportedFile(f"{source.path}: a pickle, and not PyTorch's: the magic number is missing", _SAVE_AGAIN)
    protocol, end = run(end, "the protocol")
    if protocol != PROTOCOL:
        raise UnsupportedFile(f"{source.path}: not the legacy protocol {PROTOCOL}", _SAVE_AGAIN)
    _, end = run(end, "the facts of the writing machine")
    top, end = run(end, "the saved value")
    keys, end = run(end, "the list of storages")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CorruptFile(f"{source.path}: the list of storages is not a list of text", FETCH_AGAIN)
    return top, keys, finder, table, end


def _refuse_tar(source: SourceFile, data: bytes) -> None:
    """The format before the legacy one, of 2016: a tar archive."""
    ustar = data[257:262] == b"ustar" and not data.startswith(b"\x80")  # a pickle can hold the word there by chance
    if ustar or data.startswith((b"storages\0", b"tensors\0", b"pickle\0")):
        raise UnsupportedFile(f"{source.path}: a checkpoint in the tar format of torch 0.1", _SAVE_AGAIN)


def _find_storages(source: SourceFile, keys: list[str], table: StorageTable, start: int) -> tuple[dict[str, int], int]:
    """Where each storage's elements begin, and where the last ends; each count is held against the pickle's claim."""
    offsets: dict[str, int] = {}
    for key in keys:
        what = f"storage {key!r}"
        claimed = table.storages.get(key)
        if claimed is None or key in offsets:
            reason = "is not one of the saved value's" if claimed is None else "is listed twice"
            raise CorruptFile(f"{source.path}: {what} {reason}", FETCH_AGAIN)
        count = int.from_bytes(source.read(8, start, what), "little", signed=True)
        nbytes = count * storage_itemsize(claimed.dtype)
        if nbytes != claimed.nbytes:
            raise CorruptFile(
                f"{source.path}: {what} has {nbytes} bytes, the pickle claims {claimed.nbytes}", FETCH_AGAIN
            )
        offsets[key] = start + 8
        start += 8 + nbytes
        if start > source.size:
            raise source.truncated(what, start)
    return offsets, start
