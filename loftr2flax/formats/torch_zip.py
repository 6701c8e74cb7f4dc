"""PyTorch files since 1.6: a zip archive with a pickle, and one record for each storage.

`torch/csrc/jit/serialization` calls the layout: `<top>/data.pkl`, `<top>/data/<key>`, `<top>/version`, and, since 2.1,
`<top>/byteorder`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loftr2flax.checkpoint import Location
from loftr2flax.errors import CorruptFile, UnsupportedFile
from loftr2flax.formats import pickle_machine
from loftr2flax.formats.provenance import from_json
from loftr2flax.formats.source_file import FETCH_AGAIN
from loftr2flax.formats.torch_checkpoint import TorchCheckpoint, Unpickled
from loftr2flax.formats.torch_globals import GlobalFinder, StorageTable
from loftr2flax.formats.zip_archive import ZipArchive
from loftr2flax.limits import DEFAULT, Limits

PROVENANCE_RECORD = "loftr2flax.json"
"""The record in which our own writer says how a file was made."""

_VERSIONS = range(1, 11)  # torch's reader knows no later one, and has read all of these alike
_SAVE_AGAIN = "load it in torch, then `torch.save(model.state_dict(), …)`"


class TorchZip(TorchCheckpoint):
    """An open zip checkpoint. ``state_dict`` names the container, "" the file itself, None the usual choice.

    Raises:
      CorruptFile, UnsupportedFile, LimitExceeded, InputError: the archive, its pickle, or a tensor is refused.
    """

    format = "torch"

    def __init__(self, path: Path, state_dict: str | None = None, limits: Limits = DEFAULT) -> None:
        self._archive = ZipArchive(path, limits)
        try:
            self._top = _find_top(self._archive)
            swap = _check_byteorder(self._archive, self._top) != sys.byteorder
            unpickled = _unpickle(self._archive, self._top, limits)
            super().__init__(self._archive.path, unpickled, state_dict, limits, swap=swap)
        except BaseException:
            self._archive.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._archive.close()

    def _storage_location(self, key: str, start: int) -> Location:
        return self._archive.locate(f"{self._top}/data/{key}", start)

    def _storage_pieces(self, key: str, start: int, nbytes: int, size: int) -> Iterator[np.ndarray] | None:
        return self._archive.pieces(f"{self._top}/data/{key}", start, nbytes, size)

    def _read_storage(self, key: str, out: np.ndarray, start: int) -> None:
        self._archive.read_into(f"{self._top}/data/{key}", out, start)


def _find_top(archive: ZipArchive) -> str:
    """The folder that all records lie in."""
    tops = [name.removesuffix("/data.pkl") for name in archive.entries if name.endswith("/data.pkl")]
    tops = [top for top in tops if "/" not in top]
    if not tops:
        raise UnsupportedFile(
            f"{archive.path}: a zip archive, and not PyTorch's: it has no record data.pkl in a folder",
            "name the checkpoint inside it, after unpacking",
        )
    if len(tops) > 1:
        raise CorruptFile(
            f"{archive.path}: the archive holds two checkpoints, {tops[0]!r} and {tops[1]!r}", FETCH_AGAIN
        )
    top = tops[0]
    if f"{top}/constants.pkl" in archive.entries or any(name.startswith(f"{top}/code/") for name in archive.entries):
        raise UnsupportedFile(
            f"{archive.path}: a TorchScript archive: it holds a program, not a state dict",
            "load it with torch.jit.load, then `torch.save(model.state_dict(), …)`",
        )
    _check_version(archive, top)
    return top


def _check_version(archive: ZipArchive, top: str) -> None:
    name = f"{top}/.data/version" if f"{top}/.data/version" in archive.entries else f"{top}/version"
    text = archive.read(name, limit=64).strip()
    if not text.isdigit() or int(text) not in _VERSIONS:
        raise UnsupportedFile(f"{archive.path}: record {name!r} says {text!r}; versions 1 to 10 are read", _SAVE_AGAIN)


def _check_byteorder(archive: ZipArchive, top: str) -> str:
    """The byte order that the storages were written in; files from before 2.1 do not say, and are little-endian."""
    name = f"{top}/byteorder"
    if name not in archive.entries:
        return "little"
    text = archive.read(name, limit=64)
    if text not in (b"little", b"big"):
        raise UnsupportedFile(f"{archive.path}: record {name!r} says {text!r}, which is no byte order", _SAVE_AGAIN)
    return text.decode()


def _unpickle(archive: ZipArchive, top: str, limits: Limits) -> Unpickled:
    name = f"{top}/data.pkl"
    where = f"{archive.path}: record {name!r}"
    finder, table = GlobalFinder(), StorageTable()
    limits.check_memory(4 * archive.entries[name].size, where, "the pickle")
    data = archive.read(name, limit=limits.pickle)
    value, end = pickle_machine.run(data, where=where, find_global=finder, persistent_load=table, limits=limits)
    if end != len(data):
        raise CorruptFile(f"{where}: {len(data) - end} bytes follow the pickle", FETCH_AGAIN)
    folder = f"{top}/data/"
    sizes = {
        name.removeprefix(folder): entry.size for name, entry in archive.entries.items() if name.startswith(folder)
    }
    unchecked = len(archive.unchecked)
    notes = (f"{unchecked} records carry no CRC, so damage to them cannot be seen",) if unchecked else ()
    record = f"{top}/{PROVENANCE_RECORD}"
    provenance = from_json(archive.read(record)) if record in archive.entries else None
    return Unpickled(value, finder, table, sizes, notes, provenance)
