"""Reading ``.npz``: the leaves are the ``.npy`` records of a zip archive, each found by its header alone."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import Checkpoint, Contents, LeafInfo, Location, Scratch, Unread
from loftr2flax.errors import CorruptFile, UnsupportedTensor
from loftr2flax.formats.leaf_bytes import as_array
from loftr2flax.formats.npy_header import HEAD, BadHeader, NpyHeader, decode_header, header_size
from loftr2flax.formats.provenance import from_comment, read_beside
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.formats.zip_archive import ZipArchive, ZipEntry
from loftr2flax.limits import DEFAULT, Limits

_STORED = 0
_PER_BYTE = 100  # of memory for each byte of a header that is read as a Python literal


class NpzFile(Checkpoint):
    """An ``.npz``, by `numpy.savez`, `numpy.savez_compressed` or this package.

    A record's CRC is checked when its leaf is read; opening reads headers only.

    Raises:
      CorruptFile: the archive or a record's header is not sound.
      LimitExceeded: more records than ``limits`` allow.
    """

    format = "npz"
    separator = "/"

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT) -> None:
        self._archive = ZipArchive(Path(path), limits)
        try:
            self._headers, contents = _read_headers(self._archive, limits)
        except BaseException:
            self._archive.close()
            raise
        super().__init__(self._archive.path, contents)

    def read(self, name: str, scratch: Scratch | None = None) -> np.ndarray:
        """See `Checkpoint.read`."""
        info = self.info(name)
        if info.refused:
            raise UnsupportedTensor(
                f"{self.path}: leaf {name!r}: {info.refused}", "save it again with a plain type, or leave it out"
            )
        header = self._headers[name]
        size = header.data_at + info.nbytes
        record = scratch.take(size) if scratch else np.empty(size, np.uint8)
        self._archive.read_into(f"{name}.npy", record)
        if _parse(self.path, name, record[: header.data_at].tobytes()) != header:
            raise CorruptFile(f"{self.path}: leaf {name!r}: the file changed after it was opened", "run this again")
        return _arrange(record[header.data_at :], header, self.path, name)

    def pieces(self, name: str, size: int) -> Iterator[np.ndarray] | None:
        """See `Checkpoint.pieces`."""
        info, header = self.info(name), self._headers[name]
        if header.fortran or header.swapped:
            return None
        return self._archive.pieces(f"{name}.npy", header.data_at, info.nbytes, size)

    def locate(self, name: str) -> Location | None:
        """See `Checkpoint.locate`."""
        if self.info(name).refused or not self.info(name).nbytes:
            return None
        return self._archive.locate(f"{name}.npy", self._headers[name].data_at)

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._archive.close()


def _read_headers(archive: ZipArchive, limits: Limits) -> tuple[dict[str, NpyHeader], Contents]:
    headers: dict[str, NpyHeader] = {}
    long = 0  # bytes of headers beyond the usual
    unread: list[Unread] = []
    source = SourceFile(archive.path)  # the archive checks a record whole before it gives any of it: too much here
    try:
        for entry in archive.entries.values():
            if entry.name.endswith(".npy"):
                name = entry.name.removesuffix(".npy")
                header = headers[name] = _read_header(source, name, entry)
                long += max(header.data_at - HEAD, 0)
                limits.check_memory(_PER_BYTE * long, source.path, "the headers of its arrays")
            else:
                unread.append(Unread(entry.name, "a record that is not .npy", entry.size))
        inside = from_comment(archive.comment)
        provenance, notes = (inside, ()) if inside else read_beside(source)
    finally:
        source.close()
    infos = {name: header.info for name, header in headers.items()}
    return headers, Contents(infos, unread=tuple(unread), provenance=provenance, notes=notes)


def _read_header(source: SourceFile, name: str, entry: ZipEntry) -> NpyHeader:
    """The header of one record, and a check of what it says against the record's size."""
    head = _head(source, name, entry, HEAD)
    try:
        size = header_size(head)
    except BadHeader as error:
        raise CorruptFile(f"{source.path}: leaf {name!r} {error}", FETCH_AGAIN) from None
    if size > len(head):
        head = _head(source, name, entry, size)
    header = _parse(source.path, name, head[:size])
    data = entry.size - size
    if data < 0 or (not header.info.refused and header.info.nbytes != data):
        raise CorruptFile(
            f"{source.path}: leaf {name!r}: {header.info.dtype} of shape {header.info.shape} needs "
            f"{header.info.nbytes} bytes, its record has {max(data, 0)}",
            FETCH_AGAIN,
        )
    return header


def _head(source: SourceFile, name: str, entry: ZipEntry, size: int) -> bytes:
    """The first ``size`` bytes of a record, or all of a smaller one."""
    what = f"the header of leaf {name!r}"
    if entry.method == _STORED:
        return source.read(min(size, entry.size), entry.offset, what)
    packed = source.read(min(size + 1024, entry.compressed_size), entry.offset, what)
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size)
    except zlib.error as error:
        raise CorruptFile(f"{source.path}: {what} does not inflate: {error}", FETCH_AGAIN) from None


def _parse(path: Path, name: str, header: bytes) -> NpyHeader:
    try:
        return decode_header(header)
    except BadHeader as error:
        raise CorruptFile(f"{path}: leaf {name!r} {error}", FETCH_AGAIN) from None


def _arrange(data: np.ndarray, header: NpyHeader, path: Path, name: str) -> np.ndarray:
    """The record's elements as a native array in C order; a copy only where they lie otherwise."""
    info = header.info
    stored = info.shape[::-1] if header.fortran else info.shape
    if header.data_at % dtypes.itemsize(info.dtype):
        data = data.copy()
    array = as_array(data, LeafInfo(stored, info.dtype), path, name)
    if header.swapped:
        array = array.byteswap()
    if header.fortran:
        array = np.ascontiguousarray(array.T)
    return array.reshape(info.shape)
