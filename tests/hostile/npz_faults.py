"""Archives of numpy arrays: headers that lie, arrays of objects, names that numpy stumbles over."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from hostile.catalogue import add, fault

_ARRAY = np.arange(6, dtype="<f4").reshape(3, 2)


def _npy(header: bytes, data: bytes = _ARRAY.tobytes(), version: bytes = b"\1\0") -> bytes:
    width = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + data


def _header(descr: str = "'<f4'", fortran: str = "False", shape: str = "(3, 2)", more: str = "") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}".encode()
    return text + b" " * (117 - len(text)) + b"\n" if len(text) < 118 else text


def _archive(path: Path, records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)


def _record(name: str, content: bytes) -> None:
    add(f"npz_{name}", lambda path: _archive(path, {"layer/kernel.npy": content}))


def _saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


_record("sound", _saved(_ARRAY))
_record("fortran_order", _saved(np.asfortranarray(_ARRAY)))
_record("big_endian", _saved(_ARRAY.astype(">f4")))
_record("object_array", _saved(np.array([[None, 1], [2, 3], [4, 5]], object)))
_record("text_array", _saved(np.array([["a", "b"], ["c", "d"], ["e", "f"]])))
_record("structured_array", _saved(np.zeros((3, 2), [("a", "<f4"), ("b", "<i4")])))
_record("nameless_lumps", _npy(_header("'|V4'")))
_record("times", _saved(np.zeros((3, 2), "<M8[s]")))
_record("long_double", _npy(_header("'<f16'"), bytes(96)))
_record("shape_too_large", _npy(_header(shape="(3, 9)")))
_record("shape_too_small", _npy(_header(shape="(3, 1)")))
_record("shape_negative", _npy(_header(shape="(-3, -2)")))
_record("shape_overflows", _npy(_header(shape="(1 << 62, 4)".replace("1 << 62", str(1 << 62)))))
_record("shape_no_tuple", _npy(_header(shape="6")))
_record("shape_of_truth_values", _npy(_header(shape="(True, 6)")))
_record("order_no_truth_value", _npy(_header(fortran="0")))
_record("header_calls", _npy(_header(shape="__import__('booby_trap').go()")))
_record("header_nested_deeply", _npy(_header(shape="(" * 3000)))
_record("header_with_more", _npy(_header(more="'x': 1, ")))
_record("header_without_descr", _npy(b"{'fortran_order': False, 'shape': (3, 2)}\n"))
_record("header_of_gigabytes", _npy(_header(), version=b"\2\0").replace(b"\2\0\x76\0\0\0", b"\2\0\xff\xff\xff\x7f"))
_record("header_past_the_end", _npy(_header())[:60])
_record("version_9", _npy(_header(), version=b"\x09\0"))
_record("truth_values_that_are_neither", _npy(_header("'|b1'"), b"\0\1\2\0\1\0"))
_record("no_npy", b"not an array at all")
_record("empty", b"")


def _named(name: str, *records: str) -> None:
    inside = {record: _saved(_ARRAY) for record in records}
    add(f"npz_name_{name}", lambda path: _archive(path, inside))


_named("file", "layer/kernel.npy", "file.npy")
_named("allow_pickle", "layer/kernel.npy", "allow_pickle.npy")
_named("a_beside_a_npy", "layer/kernel.npy", "a.npy", "a.npy.npy")
_named("of_a_branch_and_a_leaf", "layer/kernel.npy", "layer/kernel/more.npy")
_named("without_npy", "layer/kernel.npy", "notes.txt")
_named("empty", "layer/kernel.npy", ".npy")
_named("goes_up", "layer/kernel.npy", "../up.npy")


@fault
def npz_truncated(path: Path) -> None:
    _archive(path, {"layer/kernel.npy": _saved(_ARRAY)})
    path.write_bytes(path.read_bytes()[:-30])


@fault
def npz_wrong_crc(path: Path) -> None:
    _archive(path, {"layer/kernel.npy": _saved(_ARRAY)})
    path.write_bytes(path.read_bytes().replace(_ARRAY.tobytes(), _ARRAY.tobytes()[:-1] + b"\x41"))


@fault
def npz_ratio_bomb(path: Path) -> None:
    np.savez_compressed(path.with_suffix(".npz"), **{"layer/kernel": np.zeros((1 << 14, 1 << 12), np.float32)})
    path.with_suffix(".npz").rename(path)


@fault
def npz_bomb_of_headers(path: Path) -> None:
    """Two thousand headers of structures, each of which takes a while to understand."""
    fields = ", ".join(f"('f{n}', '<f4')" for n in range(500))
    _archive(path, {f"a{n}.npy": _npy(_header(f"[('a{n}', '<f4'), {fields}]"), b"") for n in range(2000)})


@fault
def npz_header_of_a_hundred_kilobytes(path: Path) -> None:
    fields = ", ".join(f"('f{n}', '<f4')" for n in range(5000))
    _archive(path, {"layer/kernel.npy": _npy(_header(f"[{fields}]"), version=b"\2\0")})


@fault
def npz_bomb_of_names(path: Path) -> None:
    _archive(path, {f"{n}{'k' * 60_000}.npy": b"" for n in range(300)})
