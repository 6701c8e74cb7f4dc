"""A zip archive of stored records, streamed: no clock, no file name, no system in it, and data on 64-byte borders.

Aligned data can be mapped into memory as arrays, which torch does. The padding is an extra field in the record's
local header, with torch's own id for it. Zip64 fields are there only where a number needs them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from zlib_ng.zlib_ng import crc32

from loftr2flax.formats.atomic import NewFile

ALIGNMENT = 64
"""Each record's data begins at a multiple of this many bytes."""

MAX_NAME = 65_535
"""Bytes that a record's name can have."""

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_CRC_AT = 14  # where the CRC stands in a local header
_CHUNK = 1 << 20  # bytes that are still in the cache when they are written, after their CRC has been taken
_PADDING_ID = 0x4246  # "FB", as torch pads
_UTF8 = 0x0800
_DATE = 0x0021  # 1980-01-01, the first day that zip knows
_PLAIN, _WIDE = 20, 45  # versions needed: 2.0, and 4.5 for zip64
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


def _crc(parts: Iterable[bytes | memoryview]) -> int:
    crc = 0
    for part in parts:
        crc = crc32(part, crc)
    return crc


class ZipWriter:
    """Writes records one after the other, each in one call, then the directory."""

    def __init__(self, file: NewFile) -> None:
        self._file = file
        self._directory = bytearray()
        self._records = 0

    def record(self, name: str, *parts: bytes | memoryview) -> None:
        """Add the record ``name``, its data being ``parts`` one after the other."""
        size = sum(map(len, parts))
        late = size > _CHUNK  # the CRC is taken on the way, and written into the header afterwards
        crc = 0 if late else _crc(parts)
        raw_name = name.encode()
        flags = 0 if name.isascii() else _UTF8
        offset = self._file.position
        narrow = min(size, _FULL32)
        wide = struct.pack("<2H2Q", 1, 16, size, size) if size >= _FULL32 else b""
        padding = -(offset + _LOCAL.size + len(raw_name) + len(wide) + 4) % ALIGNMENT
        extra = wide + struct.pack("<2H", _PADDING_ID, padding) + bytes(padding)
        version = _WIDE if wide else _PLAIN
        self._file.write(
            _LOCAL.pack(b"PK\x03\x04", version, flags, 0, 0, _DATE, crc, narrow, narrow, len(raw_name), len(extra))
        )
        self._file.write(raw_name + extra)
        for part in parts:
            for start in range(0, len(part), _CHUNK):
                chunk = part[start : start + _CHUNK]
                crc = crc32(chunk, crc) if late else crc
                self._file.write(chunk)
        if late:
            self._file.rewrite(offset + _CRC_AT, struct.pack("<I", crc))
        self._list(raw_name, flags, crc, size, offset)

    def end(self, comment: bytes = b"") -> None:
        """Write the directory, and the archive's ``comment``."""
        offset, size, records = self._file.position, len(self._directory), self._records
        self._file.write(self._directory)
        if records >= _FULL16 or size >= _FULL32 or offset >= _FULL32:
            end64 = self._file.position
            fields = (44, _WIDE, _WIDE, 0, 0, records, records, size, offset)
            self._file.write(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", *fields))
            self._file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end64, 1))
        short = min(records, _FULL16)
        numbers = (0, 0, short, short, min(size, _FULL32), min(offset, _FULL32), len(comment))
        self._file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", *numbers) + comment)

    def _list(self, raw_name: bytes, flags: int, crc: int, size: int, offset: int) -> None:
        """Add a record to the directory; a number that does not fit moves to the zip64 field, in zip's order."""
        saturated = [size, size] * (size >= _FULL32) + [offset] * (offset >= _FULL32)
        wide = struct.pack(f"<2H{len(saturated)}Q", 1, 8 * len(saturated), *saturated) if saturated else b""
        version = _WIDE if wide else _PLAIN
        narrow = min(size, _FULL32)
        header = (b"PK\x01\x02", version, version, flags, 0, 0, _DATE, crc, narrow, narrow)
        self._directory += _CENTRAL.pack(*header, len(raw_name), len(wide), 0, 0, 0, 0, min(offset, _FULL32))
        self._directory += raw_name + wide
        self._records += 1
