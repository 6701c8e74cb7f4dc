"""The directory of a zip archive, checked in full before anything is read.

`zipfile` reads what it can; a reader of strangers' files wants the opposite. Here every place where two readers
could see two different archives is an error: duplicate names, records that overlap, a local header that disagrees
with the directory, bytes before or after the archive. (For duplicates torch takes the first, Python the last.)

Layout, all little-endian: records, each a local header and its data; the central directory, one header a record;
with zip64 an end record and a locator; the end-of-directory record, which a comment may follow. The specification
is https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from loftr2flax.errors import CorruptFile, LimitExceeded, UnsupportedFile
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.limits import DEFAULT, Limits

STORED, DEFLATED = 0, 8
"""The two methods that are read."""

_PER_RECORD = 600  # bytes of memory that a record takes, with its name and its header in the directory
_BESIDE = 100  # records beside the leaves: a pickle, a version, a byte order, and what another version may add

_LOCAL = struct.Struct("<4s5H3I2H")  # signature, version, flags, method, time, date, crc, csize, size, name, extra
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END_MARK = b"PK\x05\x06"
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_MAX_COMMENT = 0xFFFF
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "the true value stands in the zip64 record"
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_SIZES_FOLLOW = 0x0008  # a descriptor after the data repeats CRC and sizes; the local header may hold zeros
_UTF8 = 0x0800
_PATCHED = 0x0020
_NEWEST = 63  # version 6.3 of the specification


class ZipEntry(NamedTuple):
    """One record of an archive.

    Attributes:
      name: as the directory spells it.
      offset: where the record's data begins in the file, in bytes.
      size: bytes of the data, decompressed.
      compressed_size: bytes of the data in the file.
      crc: CRC-32 of the decompressed data; 0 with nonempty data means that the writer computed none.
      method: 0 stored, 8 deflated.
    """

    name: str
    offset: int
    size: int
    compressed_size: int
    crc: int
    method: int


class _Directory(NamedTuple):
    """Where the central directory lies, and what the end record says of it."""

    entries: int
    offset: int
    size: int
    comment: bytes


def read_directory(source: SourceFile, limits: Limits = DEFAULT) -> tuple[dict[str, ZipEntry], bytes]:
    """The entries of the archive in directory order, without folders, and the archive's comment.

    Raises:
      CorruptFile: the archive is truncated, or contradicts itself.
      UnsupportedFile: encrypted or split archives, methods other than stored and deflated.
      LimitExceeded: more records, or a larger directory, than ``limits`` allow.
    """
    directory = _find_directory(source)
    if directory.entries > limits.tensors + _BESIDE:
        raise LimitExceeded(
            f"{source.path}: more than {limits.tensors} tensors and what stands beside them: "
            f"it has {directory.entries} records",
            f"if you trust the file, allow more of them with `--max-tensors {directory.entries}`",
        )
    limits.check_memory(3 * directory.size + _PER_RECORD * directory.entries, source.path, "the archive's directory")
    entries: dict[str, ZipEntry] = {}
    extents: list[tuple[int, int, str]] = []
    for raw_name, flags, header_offset, entry in _central_headers(source, directory):
        if entry.name in entries:
            raise CorruptFile(f"{source.path}: record {entry.name!r} stands twice in the archive", FETCH_AGAIN)
        _check_name(source, entry.name)
        _check_method(source, entry, flags)
        offset = _check_local_header(source, entry, raw_name, flags, header_offset)
        end = offset + entry.compressed_size
        if end > directory.offset:
            raise CorruptFile(
                f"{source.path}: record {entry.name!r} would end at byte {end}, "
                f"the records end at byte {directory.offset}",
                FETCH_AGAIN,
            )
        extents.append((header_offset, end, entry.name))
        entries[entry.name] = ZipEntry(entry.name, offset, entry.size, entry.compressed_size, entry.crc, entry.method)
    _check_overlap(source, extents)
    files = {name: entry for name, entry in entries.items() if not (name.endswith("/") and entry.size == 0)}
    return files, directory.comment


def _find_directory(source: SourceFile) -> _Directory:
    """The end record, with zip64's where there is one; the archive must fill the file from first byte to last."""
    tail_start = max(0, source.size - _MAX_COMMENT - _END.size)
    tail = source.read(source.size - tail_start, tail_start, "the end of the archive")
    at = tail.rfind(_END_MARK)
    while at >= 0:
        if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
            break
        at = tail.rfind(_END_MARK, 0, at)
    if at < 0:
        raise CorruptFile(
            f"{source.path}: the archive has no end record: truncated, or something was added after it", FETCH_AGAIN
        )
    _, disk, first_disk, on_disk, entries, size, offset, _ = _END.unpack_from(tail, at)
    comment = tail[at + _END.size :]
    if _END_MARK in comment:
        raise CorruptFile(
            f"{source.path}: the archive's comment holds the mark of an end record, which readers take for one",
            FETCH_AGAIN,
        )
    end = tail_start + at
    wide = _find_zip64(source, end)
    if wide is not None:
        for narrow, value, full in (
            (entries, wide.entries, _FULL16),
            (size, wide.size, _FULL32),
            (offset, wide.offset, _FULL32),
        ):
            if narrow not in (full, value):
                raise CorruptFile(f"{source.path}: the archive's two end records disagree", FETCH_AGAIN)
        end, directory = wide.end, _Directory(wide.entries, wide.offset, wide.size, comment)
    elif disk or first_disk or on_disk != entries:
        raise UnsupportedFile(f"{source.path}: part of an archive split over several files", "join the parts first")
    else:
        directory = _Directory(entries, offset, size, comment)
    if directory.offset + directory.size != end:
        raise CorruptFile(
            f"{source.path}: the archive's directory should end at byte {directory.offset + directory.size} "
            f"and ends at byte {end}: bytes were added or lost",
            FETCH_AGAIN,
        )
    if source.read(4, 0, "the archive") not in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"):
        raise CorruptFile(f"{source.path}: the file does not begin with a record: something stands before the archive")
    return directory


class _Zip64(NamedTuple):
    entries: int
    offset: int
    size: int
    end: int


def _find_zip64(source: SourceFile, end: int) -> _Zip64 | None:
    """What the zip64 end record says, and where it begins; None where no locator stands before the end record."""
    at = end - _LOCATOR.size
    if at < 0:
        return None
    signature, disk, offset, disks = _LOCATOR.unpack(source.read(_LOCATOR.size, at, "the zip64 locator"))
    if signature != b"PK\x06\x07":
        return None
    if disk or disks > 1:
        raise UnsupportedFile(f"{source.path}: part of an archive split over several files", "join the parts first")
    if offset + _END64.size > at:
        raise CorruptFile(f"{source.path}: the zip64 end record would lie past its locator", FETCH_AGAIN)
    fields = _END64.unpack(source.read(_END64.size, offset, "the zip64 end record"))
    signature, length, _, _, disk, first_disk, on_disk, entries, size, directory = fields
    if signature != b"PK\x06\x06" or offset + 12 + length != at or disk or first_disk or on_disk != entries:
        raise CorruptFile(f"{source.path}: the zip64 end record is not where its locator says", FETCH_AGAIN)
    return _Zip64(entries, directory, size, offset)


def _central_headers(source: SourceFile, directory: _Directory) -> Iterator[tuple[bytes, int, int, ZipEntry]]:
    """For each central header: name in bytes, flags, offset of the local header, and the entry without its offset."""
    if directory.entries * _CENTRAL.size > directory.size:
        raise CorruptFile(
            f"{source.path}: the archive's directory of {directory.size} bytes cannot hold {directory.entries} records",
            FETCH_AGAIN,
        )
    data = source.read(directory.size, directory.offset, "the archive's directory")
    at = 0
    for index in range(directory.entries):
        if at + _CENTRAL.size > len(data):
            raise CorruptFile(f"{source.path}: the archive's directory ends within record {index}", FETCH_AGAIN)
        fields = _CENTRAL.unpack_from(data, at)
        signature, _, version, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size = fields[:13]
        disk, _, _, header_offset = fields[13:]
        name_at = at + _CENTRAL.size
        at = name_at + name_size + extra_size + comment_size
        if signature != b"PK\x01\x02" or at > len(data):
            raise CorruptFile(f"{source.path}: the archive's directory is garbled at record {index}", FETCH_AGAIN)
        raw_name = data[name_at : name_at + name_size]
        name = _decode(source, raw_name, flags)
        if version & 0xFF > _NEWEST:  # the high byte names a system
            raise UnsupportedFile(
                f"{source.path}: record {name!r} needs version {version & 0xFF} of the zip format, not yet known",
                FETCH_AGAIN,
            )
        if _FULL32 in (size, packed, header_offset) or disk == _FULL16:
            extra = data[name_at + name_size : name_at + name_size + extra_size]
            size, packed, header_offset = _zip64_values(source, name, extra, (size, packed, header_offset))
        yield raw_name, flags, header_offset, ZipEntry(name, 0, size, packed, crc, method)
    if at != len(data):
        raise CorruptFile(
            f"{source.path}: the archive's directory holds more than its {directory.entries} records", FETCH_AGAIN
        )


def _decode(source: SourceFile, raw_name: bytes, flags: int) -> str:
    try:
        return raw_name.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise CorruptFile(f"{source.path}: record name {raw_name!r} is not UTF-8", FETCH_AGAIN) from None


def _zip64_values(source: SourceFile, name: str, extra: bytes, values: tuple[int, ...]) -> list[int]:
    """``values`` with each saturated one replaced, in order, by the next of the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind != 1:
            continue
        wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
        found = [next(wide, -1) if value == _FULL32 else value for value in values]
        if -1 not in found:
            return found
    raise CorruptFile(f"{source.path}: record {name!r} lacks its zip64 sizes", FETCH_AGAIN)


def _check_name(source: SourceFile, name: str) -> None:
    if not name or "\0" in name or name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise CorruptFile(
            f"{source.path}: record name {name!r} points outside the archive", "the file was made to do harm: delete it"
        )


def _check_method(source: SourceFile, entry: ZipEntry, flags: int) -> None:
    if flags & _ENCRYPTED:
        raise UnsupportedFile(f"{source.path}: record {entry.name!r} is encrypted", "decrypt the archive first")
    if flags & _PATCHED:
        raise UnsupportedFile(f"{source.path}: record {entry.name!r} is a patch to another file", FETCH_AGAIN)
    if entry.method not in (STORED, DEFLATED):
        raise UnsupportedFile(
            f"{source.path}: record {entry.name!r} is compressed by method {entry.method}",
            "stored and deflated records are read: unpack the archive, and pack it again with `zip -0`",
        )
    # deflate cannot do better than 1032 to 1, so a claim beyond that is a lie, and a bomb's
    ceiling = entry.compressed_size if entry.method == STORED else 1032 * entry.compressed_size
    if entry.size > ceiling or (entry.method == STORED and entry.size != entry.compressed_size):
        raise CorruptFile(
            f"{source.path}: record {entry.name!r} claims {entry.size} bytes from {entry.compressed_size}", FETCH_AGAIN
        )


def _check_local_header(source: SourceFile, entry: ZipEntry, raw_name: bytes, flags: int, header_offset: int) -> int:
    """Where the data begins, after a check of the local header against the directory's."""
    what = f"the header of record {entry.name!r}"
    header = source.read(_LOCAL.size + len(raw_name), header_offset, what)
    signature, _, local_flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack_from(header)
    data_offset: int = header_offset + _LOCAL.size + name_size + extra_size
    if signature != b"PK\x03\x04":
        raise CorruptFile(f"{source.path}: {what} is not at byte {header_offset}", FETCH_AGAIN)
    if _FULL32 in (packed, size) and extra_size:
        extra = source.read(extra_size, data_offset - extra_size, what)
        size, packed = _zip64_values(source, entry.name, extra, (size, packed))
    agree = name_size == len(raw_name) and header[_LOCAL.size :] == raw_name
    agree &= method == entry.method and not (local_flags ^ flags) & (_ENCRYPTED | _UTF8 | _SIZES_FOLLOW)
    agree &= (crc, packed, size) == (entry.crc, entry.compressed_size, entry.size) or (
        bool(flags & _SIZES_FOLLOW) and {crc, packed, size} <= {0, entry.crc, entry.compressed_size, entry.size}
    )
    if not agree:
        raise CorruptFile(f"{source.path}: {what} disagrees with the archive's directory", FETCH_AGAIN)
    return data_offset


def _check_overlap(source: SourceFile, extents: list[tuple[int, int, str]]) -> None:
    extents.sort()
    for (_, end, name), (start, _, following) in itertools.pairwise(extents):
        if start < end:
            raise CorruptFile(f"{source.path}: records {name!r} and {following!r} overlap", FETCH_AGAIN)
