"""The zip reader: agrees with `zipfile` on sound archives, refuses the rest by record and reason."""

from __future__ import annotations

import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_files import write_zip

from loftr2flax.errors import CorruptFile, LimitExceeded, Loftr2FlaxError, MissingInput, UnsupportedFile
from loftr2flax.formats import Limits, source_file
from loftr2flax.formats.zip_archive import ZipArchive

LONG = bytes(range(256)) * 5000
SOUND = {"t/a": b"alpha" * 7, "t/empty": b"", "t/long": LONG, "t/ünïcode ☃": b"\0\1\2"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_what_zipfile_reads(tmp_path: Path, method: int) -> None:
    path = write_zip(tmp_path / "sound.zip", SOUND, method=method)
    with ZipArchive(path) as archive:
        assert list(archive.entries) == list(SOUND)
        for name, data in SOUND.items():
            assert archive.read(name) == data
            assert archive.entries[name].crc == zlib.crc32(data)
            archive.verify(name)
        assert archive.unchecked == ()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("start", "size"), [(0, 0), (0, 1), (3, 700_000), (len(LONG) - 1, 1), (0, len(LONG)), (9, 2)])
def test_reads_any_range(tmp_path: Path, method: int, start: int, size: int) -> None:
    with ZipArchive(write_zip(tmp_path / "sound.zip", SOUND, method=method)) as archive:
        out = np.empty(size, np.uint8)
        archive.read_into("t/long", out, start)
        assert out.tobytes() == LONG[start : start + size]


def test_a_range_past_the_record_is_refused(tmp_path: Path) -> None:
    archive = ZipArchive(write_zip(tmp_path / "sound.zip", SOUND))
    with pytest.raises(CorruptFile, match=r"record 't/a' has 35 bytes, bytes 30 to 36 were to be read"):
        archive.read_into("t/a", np.empty(6, np.uint8), 30)
    with pytest.raises(CorruptFile, match="has no record 't/b'"):
        archive.read("t/b")
    with pytest.raises(LimitExceeded, match="record 't/a' has 35 bytes, the limit is 34"):
        archive.read("t/a", limit=34)


def test_folders_are_left_out_and_the_comment_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("t")
        archive.writestr("t/a", "x")
        archive.comment = b"made by hand PK\x05"
    with ZipArchive(path) as ours:
        assert list(ours.entries) == ["t/a"]
        assert ours.comment == b"made by hand PK\x05"


@pytest.mark.parametrize("rest", [b"", b" and more", b"\0" * 30, b"\0" * 18])
def test_an_end_record_in_the_comment(tmp_path: Path, rest: bytes) -> None:
    """The last case is an empty archive, and whole, to those who look for the end from the end."""
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t/a", "x")
        archive.comment = b"made by hand PK\x05\x06" + rest
    with pytest.raises(CorruptFile, match=r"comment holds the mark of an end record|bytes were added"):
        ZipArchive(path)


def test_zip64_and_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "wide.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a", "w", force_zip64=True) as record:
        record.write(LONG)
    assert ZipArchive(path).read("a") == LONG
    with open(path, "wb") as file, zipfile.ZipFile(_Unseekable(file), "w") as archive:  # sizes follow the data
        archive.writestr("a", LONG)
    assert ZipArchive(path).read("a") == LONG


class _Unseekable:
    def __init__(self, file: object) -> None:
        self.write, self.flush = file.write, file.flush  # type: ignore[attr-defined]


def test_torch_archives_use_zip64_and_descriptors(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "w.pt")
    with ZipArchive(tmp_path / "w.pt") as ours, zipfile.ZipFile(tmp_path / "w.pt") as theirs:
        assert list(ours.entries) == theirs.namelist()
        assert all(ours.read(name) == theirs.read(name) for name in ours.entries)


def test_records_without_crc_are_read_and_told(tmp_path: Path) -> None:
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(2, 3)}, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(computed)
    with ZipArchive(tmp_path / "w.pt") as archive:
        assert "w/data/0" in archive.unchecked
        assert archive.read("w/data/0") == np.ones(6, np.float32).tobytes()


def test_reads_from_threads(tmp_path: Path) -> None:
    archive = ZipArchive(write_zip(tmp_path / "sound.zip", SOUND))
    wrong: list[int] = []

    def read(start: int) -> None:
        out = np.empty(1000, np.uint8)
        for _ in range(50):
            archive.read_into("t/long", out, start)
            if out.tobytes() != LONG[start : start + 1000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(7919 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_checked_record_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = ZipArchive(write_zip(tmp_path / "sound.zip", SOUND))
    fetched: list[int] = []
    preadv = os.preadv

    def counting(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = preadv(descriptor, buffers, offset)
        fetched.append(count)
        return count

    monkeypatch.setattr(source_file.os, "preadv", counting)
    archive.read_into("t/long", np.empty(len(LONG), np.uint8))
    assert sum(fetched) == len(LONG)
    archive.verify("t/long")
    archive.read_into("t/long", np.empty(10, np.uint8), 5)
    assert sum(fetched) == len(LONG) + 10


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(source_file.os, "preadv", lambda d, buffers, offset: preadv(d, [buffers[0][:777]], offset))
    assert ZipArchive(write_zip(tmp_path / "sound.zip", SOUND)).read("t/long") == LONG


def test_a_file_cut_short_while_open_is_corrupt(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "sound.zip", SOUND)
    archive = ZipArchive(path)
    os.truncate(path, 1000)
    with pytest.raises(CorruptFile, match=r"record 't/long' would end at byte \d+, the file ends at byte 1000"):
        archive.read("t/long")


def test_a_file_changed_while_open_is_corrupt(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "sound.zip", SOUND)
    archive = ZipArchive(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorruptFile, match="the file changed while it was being read"):
        archive.read("t/a")


def test_reading_after_close_is_an_error(tmp_path: Path) -> None:
    archive = ZipArchive(write_zip(tmp_path / "sound.zip", SOUND))
    archive.close()
    archive.close()
    with pytest.raises(ValueError, match="read after close"):
        archive.read("t/a")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file"):
        ZipArchive(tmp_path / "absent")
    with pytest.raises(MissingInput, match="is a directory"):
        ZipArchive(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedFile, match="is not a regular file"):
        ZipArchive(tmp_path / "pipe")


# Archives with one fault each. A function makes the bytes of the fault from a sound archive's.

_CENTRAL_NAME, _LOCAL_NAME = 46, 30


def _central(data: bytes, name: bytes) -> int:
    """Where the central header of ``name`` begins."""
    at = data.rfind(name) - _CENTRAL_NAME
    assert data[at : at + 4] == b"PK\x01\x02"
    return at


def _patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def truncated(data: bytes) -> bytes:
    return data[:-30]


def junk_after(data: bytes) -> bytes:
    return data + b"junk"


def junk_before(data: bytes) -> bytes:
    return b"junk" + data


def empty(data: bytes) -> bytes:
    return b""


def wrong_crc(data: bytes) -> bytes:
    at = data.find(b"alpha")
    return _patched(data, at, b"Alpha")


def duplicate_name(data: bytes) -> bytes:
    return data.replace(b"t/b", b"t/a")


def local_name_differs(data: bytes) -> bytes:
    return _patched(data, data.find(b"t/a"), b"t/z")


def local_size_differs(data: bytes) -> bytes:
    return _patched(data, 22, struct.pack("<I", 34))


def outside(data: bytes) -> bytes:
    return data.replace(b"t/../x", b"../../").replace(b"t/b", b"../")


def absolute(data: bytes) -> bytes:
    return data.replace(b"t/b", b"/tb")


def nul_in_name(data: bytes) -> bytes:
    return data.replace(b"t/b", b"t\0b")


def encrypted(data: bytes) -> bytes:
    return _patched(data, _central(data, b"t/a") + 8, b"\x01\x00")


def unknown_method(data: bytes) -> bytes:
    return _patched(data, _central(data, b"t/a") + 10, b"\x0e\x00")


def size_lies(data: bytes) -> bytes:
    return _patched(data, _central(data, b"t/a") + 24, struct.pack("<I", 1 << 31))


def past_the_end(data: bytes) -> bytes:
    return _patched(data, _central(data, b"t/b") + 20, struct.pack("<2I", 1 << 20, 1 << 20))


def header_elsewhere(data: bytes) -> bytes:
    return _patched(data, _central(data, b"t/b") + 42, struct.pack("<I", 5))


def overlapping(data: bytes) -> bytes:
    """The second record inside the first one's data, with a header of its own there."""
    inner = data.find(b"alpha")
    second = data.find(b"PK\x03\x04", 4)
    header = data[second : second + 33]  # header and name of t/b, whose data is 5 bytes
    data = _patched(data, inner, header)
    return _patched(data, _central(data, b"t/b") + 42, struct.pack("<I", inner))


def directory_count_lies(data: bytes) -> bytes:
    return _patched(data, len(data) - 14, struct.pack("<2H", 1, 1))


def directory_count_bomb(data: bytes) -> bytes:
    return _patched(data, len(data) - 14, struct.pack("<2H", 60000, 60000))


def split_archive(data: bytes) -> bytes:
    return _patched(data, len(data) - 18, struct.pack("<H", 1))


def missing_zip64(data: bytes) -> bytes:
    return _patched(data, _central(data, b"t/a") + 24, b"\xff" * 4)


FAULTS: dict[Callable[[bytes], bytes], str] = {
    empty: "no end record",
    truncated: "no end record: truncated, or something was added after it",
    junk_after: "no end record: truncated, or something was added after it",
    junk_before: r"directory should end at byte \d+ and ends at byte \d+: bytes were added or lost",
    wrong_crc: r"record 't/a' fails its check: CRC [0-9a-f]{8}, [0-9a-f]{8} was written",
    duplicate_name: "record 't/a' stands twice",
    local_name_differs: "the header of record 't/a' disagrees with the archive's directory",
    local_size_differs: "the header of record 't/a' disagrees with the archive's directory",
    outside: "record name '../' points outside the archive",
    absolute: "record name '/tb' points outside the archive",
    nul_in_name: r"record name 't\\x00b' points outside the archive",
    encrypted: "record 't/a' is encrypted",
    unknown_method: "record 't/a' is compressed by method 14",
    size_lies: "record 't/a' claims 2147483648 bytes from 50",
    past_the_end: r"record 't/b' would end at byte \d+, the records end at byte \d+|disagrees",
    header_elsewhere: "the header of record 't/b' is not at byte 5",
    overlapping: "records 't/a' and 't/b' overlap",
    directory_count_lies: "directory holds more than its 1 records",
    directory_count_bomb: r"directory of \d+ bytes cannot hold 60000 records",
    split_archive: "part of an archive split over several files",
    missing_zip64: "record 't/a' lacks its zip64 sizes",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_refused_by_name(tmp_path: Path, fault: Callable[[bytes], bytes]) -> None:
    path = write_zip(tmp_path / "bad.zip", {"t/a": b"alpha" * 10, "t/b": b"gamma"})
    path.write_bytes(fault(path.read_bytes()))
    with pytest.raises((CorruptFile, UnsupportedFile), match=FAULTS[fault]) as caught:
        for_all_records(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def for_all_records(path: Path) -> dict[str, bytes]:
    with ZipArchive(path) as archive:
        return {name: archive.read(name) for name in archive.entries}


def test_junk_before_with_offsets_that_count_it(tmp_path: Path) -> None:
    """A self-extracting archive: sound for `zipfile`, and yet no archive to those who look at the first bytes."""
    path = tmp_path / "sfx.zip"
    path.write_bytes(b"#!/bin/sh\n")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("t/a", "x")
    with pytest.raises(CorruptFile, match="something stands before the archive"):
        ZipArchive(path)


def test_deflated_data_that_lies_about_its_size(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bomb.zip", {"t/a": bytes(1 << 20)}, method=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    for size in (100, (1 << 20) - 1, (1 << 20) + 1):
        lie = struct.pack("<I", size)
        path.write_bytes(_patched(_patched(data, 22, lie), _central(data, b"t/a") + 24, lie))
        with pytest.raises(CorruptFile, match=f"record 't/a' does not inflate to exactly its {size} bytes"):
            for_all_records(path)


def test_deflated_data_that_is_garbled(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "garbled.zip", {"t/a": LONG}, method=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    path.write_bytes(_patched(data, 33, b"\xff\xff\xff"))
    with pytest.raises(CorruptFile, match="record 't/a' does not inflate: "):
        for_all_records(path)


def test_too_many_records(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "many.zip", {f"t/{i}": b"" for i in range(111)})
    with pytest.raises(LimitExceeded, match="more than 10 tensors and what stands beside them: it has 111 records"):
        ZipArchive(path, Limits(tensors=10))


def test_every_byte_mutated(tmp_path: Path) -> None:
    """Refused, or the records are what they were: a wrong number never passes."""
    records = {"t/a": b"alpha", "t/b": b"0123456789"}
    path = write_zip(tmp_path / "m.zip", records)
    data = path.read_bytes()
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(_patched(data, at, bytes([data[at] ^ flip])))
            try:
                found = for_all_records(path)
            except Loftr2FlaxError:
                continue
            assert list(found.values()) == list(records.values()), f"byte {at} xor {flip:#x}"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(Loftr2FlaxError):
            for_all_records(path)
