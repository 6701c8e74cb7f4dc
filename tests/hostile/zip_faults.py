"""Archives: the container lies, hides or swells. Each begins as a sound checkpoint of one matrix, ``layer.weight``."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from formats.torch_files import Claim, Stored, pickled, write_checkpoint
from hostile.catalogue import FAULTS, add, fault

WEIGHT = Claim(Stored(), (2, 3), (3, 1))
NUMBERS = np.arange(6, dtype=np.float32).tobytes()
_RECORD = b"x/data/0"


def sound(path: Path) -> Path:
    return write_checkpoint(path, {"layer.weight": WEIGHT})


def _local(data: bytes, name: bytes = _RECORD) -> int:
    return data.find(name) - 30


def _central(data: bytes, name: bytes = _RECORD) -> int:
    return data.rfind(name) - 46


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _patched(name: str, patch: Callable[[bytes], bytes]) -> None:
    add(f"zip_{name}", lambda path: path.write_bytes(patch(sound(path).read_bytes())))


_patched("truncated", lambda data: data[:-40])
_patched("truncated_in_a_record", lambda data: data[: _local(data) + 50])
_patched("junk_before", lambda data: b"junk" + data)
_patched("junk_after", lambda data: data + b"junk")
_patched("end_record_in_the_comment", lambda data: data[:-2] + b"\x09\0PK\5\6crash")
_patched("wrong_crc", lambda data: data.replace(NUMBERS, NUMBERS[:-1] + b"\x41"))
_patched("local_name_differs", lambda data: _put(data, _local(data) + 30, b"x/data/1"))
_patched("local_crc_differs", lambda data: _put(data, _local(data) + 14, b"\1\2\3\4"))
_patched("local_size_differs", lambda data: _put(data, _local(data) + 22, struct.pack("<I", 99)))
_patched("encrypted", lambda data: _put(data, _central(data) + 8, b"\1\0"))
_patched("version_of_the_format_unknown", lambda data: _put(data, _central(data) + 6, b"\x63\0"))
_patched("patched_data", lambda data: _put(data, _central(data) + 8, b"\x20\0"))
_patched("unknown_method", lambda data: _put(data, _central(data) + 10, b"\x0e\0"))
_patched("size_lies", lambda data: _put(data, _central(data) + 24, struct.pack("<I", 1 << 31)))
_patched("header_elsewhere", lambda data: _put(data, _central(data) + 42, struct.pack("<I", 7)))
_patched("split_over_disks", lambda data: _put(data, len(data) - 18, b"\1\0"))
_patched("entry_count_lies", lambda data: _put(data, len(data) - 14, struct.pack("<2H", 60_000, 60_000)))
_patched("sizes_of_zip64_missing", lambda data: _put(data, _central(data) + 24, b"\xff" * 4))
_patched(
    "name_not_utf8", lambda data: _put(_put(data, _central(data) + 8, b"\0\x08"), _central(data) + 46, b"\xff/\xff")
)


def _crc_absent(data: bytes) -> bytes:
    """What `torch.serialization.set_crc32_options(False)` writes: zeros."""
    for at in (_local(data) + 14, _central(data) + 16):
        data = _put(data, at, bytes(4))
    return data


_patched("crc_absent", _crc_absent)


def _overlapping(data: bytes) -> bytes:
    """The record's header and data inside the pickle, whose own extent covers them."""
    start = data.find(b"\x80\x02")
    record = data[_local(data) : _local(data) + 38]
    return _put(_put(data, start, record), _central(data) + 42, struct.pack("<I", start))


_patched("overlapping", _overlapping)


def _records(name: str, method: int = zipfile.ZIP_STORED, value: object = None, **records: bytes) -> None:
    """A checkpoint with these records added or replaced; ``__`` in a keyword stands for a slash."""

    def make(path: Path) -> None:
        inside = {"data.pkl": pickled(value or {"layer.weight": WEIGHT}), "data/0": NUMBERS, "version": b"3\n"}
        inside |= {key.replace("__", "/"): content for key, content in records.items()}
        with zipfile.ZipFile(path, "w", method) as archive:
            for key, content in inside.items():
                archive.writestr(zipfile.ZipInfo(f"x/{key}"), content, method)

    add(f"zip_{name}", make)


_records("deflated", zipfile.ZIP_DEFLATED)
_records("compressed_by_bzip2", zipfile.ZIP_BZIP2)
_records("byteorder_unknown", byteorder=b"middle")
_records("byteorder_huge", byteorder=b"little" * 1000)
_records("byteorder_big", byteorder=b"big")
_records("version_unknown", version=b"99\n")
_records("version_is_text", version=b"three\n")
_records("torchscript", code__net=b"def forward(self): ...")


def _named(name: str, record: str) -> None:
    def make(path: Path) -> None:
        sound(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo("x/other"), b"data")
        longest = record.encode().ljust(7, b"_")
        path.write_bytes(path.read_bytes().replace(b"x/other", longest[:7]))

    add(f"zip_{name}", make)


_named("name_goes_up", "x/../up")
_named("name_is_absolute", "/tmp/ab")
_named("name_with_nul", "x/a\0b/c")
_named("name_of_windows", "\\\\ab\\cd")


@fault
def zip_duplicate_name(path: Path) -> None:
    sound(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo("x/data/9"), bytes(24))
    path.write_bytes(path.read_bytes().replace(b"x/data/9", b"x/data/0"))


@fault
def zip_two_checkpoints(path: Path) -> None:
    sound(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y/data.pkl", pickled({}))


@fault
def zip_a_million_entries(path: Path) -> None:
    data = sound(path).read_bytes()
    at = _central(data)
    header = data[at : at + 54]
    offset = struct.unpack_from("<I", data, len(data) - 6)[0]
    directory = header * 1_000_000
    wide = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, len(directory), offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, offset + len(directory), 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:offset] + directory + wide + locator + end)


@fault
def zip_zip64(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled({"layer.weight": WEIGHT})), ("data/0", NUMBERS), ("version", b"3")):
            with archive.open(f"x/{name}", "w", force_zip64=True) as record:
                record.write(content)


@fault
def zip_zip64_end_record_lies(path: Path) -> None:
    zip_a_million_entries(path)
    data = path.read_bytes()
    at = data.rfind(b"PK\x06\x06")
    path.write_bytes(_put(data, at + 48, struct.pack("<Q", 5)))


def _zeros(path: Path, name: str, size: int, value: object) -> None:
    """A record of ``size`` zeros, deflated a thousandfold."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    chunk = bytes(1 << 20)
    packed = b"".join([*(stream.compress(chunk) for _ in range(size >> 20)), stream.flush()])
    crc = 0
    for _ in range(size >> 20):
        crc = zlib.crc32(chunk, crc)
    with zipfile.ZipFile(path, "w") as archive:
        if name != "data.pkl":
            archive.writestr("x/data.pkl", pickled(value))
        archive.writestr("x/version", b"3\n")
        archive.writestr(zipfile.ZipInfo(f"x/{name}"), packed)
    data = path.read_bytes()
    record = f"x/{name}".encode()
    for at, shift in ((_local(data, record), 0), (_central(data, record), 2)):
        data = _put(data, at + 8 + shift, struct.pack("<H", 8))
        data = _put(data, at + 14 + shift, struct.pack("<3I", crc, len(packed), size))
    path.write_bytes(data)


@fault
def zip_ratio_bomb(path: Path) -> None:
    """Half a megabyte that unpacks to half a gigabyte of weights."""
    claim = Claim(Stored(count=1 << 27), (1 << 14, 1 << 13), (1 << 13, 1))
    _zeros(path, "data/0", 1 << 29, {"layer.weight": claim})


@fault
def zip_ratio_bomb_in_the_pickle(path: Path) -> None:
    _zeros(path, "data.pkl", 1 << 29, None)


@fault
def zip_deflated_to_less_than_it_claims(path: Path) -> None:
    FAULTS["zip_deflated"](path)
    data = path.read_bytes()
    for at in (_local(data) + 22, _central(data) + 24):
        data = _put(data, at, struct.pack("<I", 20))
    path.write_bytes(data)
