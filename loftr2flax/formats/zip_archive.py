"""Reading records of a zip archive, each checked against its CRC, with memory bounded by the caller's own buffer."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from zlib_ng.zlib_ng import crc32

from loftr2flax.checkpoint import Location
from loftr2flax.errors import CorruptFile, LimitExceeded
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.formats.zip_directory import STORED, ZipEntry, read_directory
from loftr2flax.limits import DEFAULT, Limits

__all__ = ["ZipArchive", "ZipEntry"]

_CHUNK = 1 << 20
_SMALL_RECORD = 16 << 20


class ZipArchive:
    """A read-only archive whose directory has been checked in full; see `zip_directory`.

    Reads may come from several threads at once. A record's CRC is checked before its first byte is handed out,
    and once only.

    Raises:
      MissingInput, EnvironmentFault: the file is not there, or cannot be opened.
      CorruptFile, UnsupportedFile, LimitExceeded: its directory is refused.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT) -> None:
        self._source = SourceFile(path)
        self.path = self._source.path
        try:
            entries, comment = read_directory(self._source, limits)
        except BaseException:
            self._source.close()
            raise
        self.entries: Mapping[str, ZipEntry] = MappingProxyType(entries)
        """Records by name, in the directory's order; folders are left out."""
        self.comment: bytes = comment
        """The comment of the whole archive."""
        self._checked: set[str] = set()

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Names of the records that carry no CRC: a stored 0 beside data. torch writes it when told not to compute."""
        return tuple(name for name, entry in self.entries.items() if entry.size and not entry.crc)

    def read(self, name: str, limit: int = _SMALL_RECORD) -> bytes:
        """The whole of a small record.

        Raises:
          LimitExceeded: it has more than ``limit`` bytes.
          CorruptFile: there is no such record, or it fails its CRC.
        """
        entry = self._entry(name)
        if entry.size > limit:
            raise LimitExceeded(
                f"{self.path}: record {name!r} has {entry.size} bytes, the limit is {limit}",
                "no checkpoint is known that needs more; save it in parts if it is yours",
            )
        buffer = np.empty(entry.size, np.uint8)
        self.read_into(name, buffer)
        return buffer.tobytes()

    def read_into(self, name: str, out: np.ndarray, start: int = 0) -> None:
        """Fill ``out`` (uint8, contiguous) with the record's bytes from ``start`` to ``start + out.size``.

        Raises:
          CorruptFile: the record is absent or too short, or fails its CRC, or the file ends within it.
        """
        entry = self._entry(name)
        if start < 0 or start + out.size > entry.size:
            raise CorruptFile(
                f"{self.path}: record {name!r} has {entry.size} bytes, "
                f"bytes {start} to {start + out.size} were to be read",
                FETCH_AGAIN,
            )
        if entry.method != STORED:
            self._inflate_into(entry, out, start)
        elif out.size == entry.size:  # the whole record: its CRC is taken on the way, without a second pass
            crc = 0
            for at in range(0, entry.size, _CHUNK):
                chunk = out[at : at + _CHUNK].data
                self._source.read_into(chunk, entry.offset + at, f"record {name!r}")
                crc = crc32(chunk, crc)
            self._check_crc(entry, crc)
        else:
            self.verify(name)
            self._source.read_into(out.data, entry.offset + start, f"record {name!r}")

    def pieces(self, name: str, start: int, nbytes: int, size: int) -> Iterator[np.ndarray] | None:
        """``nbytes`` of a stored record from ``start`` on, ``size`` at a time; None for a record that is deflated.

        Each piece is a uint8 array that is valid until the next. The CRC of the whole record is checked on the way, and
        is known once the iterator has ended.

        Raises:
          CorruptFile: while iterating, as for `read_into`.
        """
        entry = self._entry(name)
        return self._stored_pieces(entry, start, nbytes, size) if entry.method == STORED else None

    def _stored_pieces(self, entry: ZipEntry, start: int, nbytes: int, size: int) -> Iterator[np.ndarray]:
        what = f"record {entry.name!r}"
        on_the_way = start + nbytes == entry.size and entry.name not in self._checked
        if not on_the_way:  # what follows would be missed
            self.verify(entry.name)
        crc = crc32(self._source.read(start, entry.offset, what)) if on_the_way else 0
        for piece in self._source.pieces([(entry.offset + start, nbytes)], size, what):
            if on_the_way:
                crc = crc32(piece.data, crc)
            yield piece
        if on_the_way:
            self._check_crc(entry, crc)

    def locate(self, name: str, start: int) -> Location:
        """Where byte ``start`` of a record lies in the file.

        Raises:
          CorruptFile: there is no such record.
        """
        entry = self._entry(name)
        return Location(self.path, entry.offset + start if entry.method == STORED else None, name)

    def verify(self, name: str) -> None:
        """Check a record's CRC, in chunks of a megabyte; a record that passed is not read again.

        Raises:
          CorruptFile: the CRC is another, or the file ends within the record.
        """
        entry = self._entry(name)
        if name in self._checked or (entry.method == STORED and not entry.crc):
            return
        crc = 0
        for chunk in self._inflate(entry) if entry.method != STORED else self._chunks(entry):
            crc = crc32(chunk, crc)
        self._check_crc(entry, crc)

    def close(self) -> None:
        """Let go of the file; a second time does nothing."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, name: str) -> ZipEntry:
        try:
            return self.entries[name]
        except KeyError:
            raise CorruptFile(f"{self.path}: the archive has no record {name!r}", FETCH_AGAIN) from None

    def _check_crc(self, entry: ZipEntry, crc: int) -> None:
        if entry.crc and crc != entry.crc:
            raise CorruptFile(
                f"{self.path}: record {entry.name!r} fails its check: CRC {crc:08x}, {entry.crc:08x} was written",
                FETCH_AGAIN,
            )
        self._checked.add(entry.name)

    def _chunks(self, entry: ZipEntry) -> Iterator[memoryview]:
        """The record's bytes as they stand in the file; each chunk is valid until the next."""
        buffer = memoryview(bytearray(min(_CHUNK, entry.compressed_size)))
        for start in range(0, entry.compressed_size, _CHUNK):
            chunk = buffer[: min(_CHUNK, entry.compressed_size - start)]
            self._source.read_into(chunk, entry.offset + start, f"record {entry.name!r}")
            yield chunk

    def _inflate(self, entry: ZipEntry) -> Iterator[bytes]:
        """The decompressed bytes in chunks of at most a megabyte: never more of them than the directory says."""
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        produced = 0
        try:
            for packed in self._chunks(entry):
                waiting = bytes(packed)
                while waiting and not stream.eof:
                    chunk = stream.decompress(waiting, _CHUNK)
                    waiting = stream.unconsumed_tail
                    produced += len(chunk)
                    if produced > entry.size:
                        break
                    yield chunk
                if waiting or stream.unused_data:
                    break
        except zlib.error as error:
            raise CorruptFile(f"{self.path}: record {entry.name!r} does not inflate: {error}", FETCH_AGAIN) from None
        if produced != entry.size or not stream.eof or stream.unused_data:
            raise CorruptFile(
                f"{self.path}: record {entry.name!r} does not inflate to exactly its {entry.size} bytes", FETCH_AGAIN
            )

    def _inflate_into(self, entry: ZipEntry, out: np.ndarray, start: int) -> None:
        """Inflate the record from its beginning, keep the range asked for, and check all of it on the way."""
        crc, at = 0, 0
        for chunk in self._inflate(entry):
            crc = crc32(chunk, crc)
            low, high = max(at, start), min(at + len(chunk), start + out.size)
            if low < high:
                out[low - start : high - start] = np.frombuffer(chunk, np.uint8)[low - at : high - at]
            at += len(chunk)
        self._check_crc(entry, crc)
