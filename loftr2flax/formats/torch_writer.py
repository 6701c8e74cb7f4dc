"""Leaves as a state dict that ``torch.load(weights_only=True)`` reads, written without torch.

The file is the archive that torch itself writes: ``archive/data.pkl`` describes the tensors, ``archive/data/<n>`` hold
their elements. Provenance is one more record, which torch does not look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.formats.atomic import NewFile
from loftr2flax.formats.provenance import KEY, Told, to_json
from loftr2flax.formats.zip_writer import ALIGNMENT, ZipWriter

RECORD = f"{KEY}.json"
"""The record that holds the provenance."""

_STORAGES = {
    "bool": "BoolStorage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # the types that came later have no storage class: torch gives them an untyped one and names the type


class TorchEncoder:
    """See `loftr2flax.formats.writer.Encoder`. The dict lies under the dotted ``container``, "" for the file itself."""

    beside = False

    def __init__(self, path: Path, infos: Mapping[str, LeafInfo], provenance: Told, container: str = "") -> None:
        self.order = tuple(infos)
        self._provenance = provenance
        self._pickle = encode_state_dict(infos, container)

    def begin(self, file: NewFile) -> None:
        """Write what precedes the first leaf."""
        self._zip = ZipWriter(file)
        self._leaves = 0
        self._zip.record("archive/data.pkl", self._pickle)
        self._zip.record("archive/.format_version", b"1")
        self._zip.record("archive/.storage_alignment", str(ALIGNMENT).encode())
        self._zip.record("archive/byteorder", b"little")

    def leaf(self, file: NewFile, name: str, data: memoryview) -> None:
        """Write one leaf."""
        self._zip.record(f"archive/data/{self._leaves}", data)
        self._leaves += 1

    def end(self, file: NewFile) -> None:
        """Write what follows the last leaf."""
        self._zip.record("archive/version", b"3\n")
        self._zip.record(f"archive/{RECORD}", to_json(self._provenance()).encode())
        self._zip.end()


def encode_state_dict(infos: Mapping[str, LeafInfo], container: str = "") -> bytes:
    """A pickle of protocol 2: an OrderedDict of tensors, whose storages are numbered in order, inside plain dicts."""
    path = container.split(".") if container else []
    opening = b"".join(b"}" + _text(key) for key in path)
    return b"\x80\x02" + opening + _ORDERED_DICT + b"(" + b"".join(_items(infos)) + b"u" + b"s" * len(path) + b"."


def _items(infos: Mapping[str, LeafInfo]) -> Iterator[bytes]:
    for number, (name, info) in enumerate(infos.items()):
        yield _text(name) + _tensor(info, number)


def _tensor(info: LeafInfo, number: int) -> bytes:
    """A call of the function that torch rebuilds a tensor with, on a contiguous storage of its own."""
    storage = _STORAGES.get(info.dtype)
    if storage:
        function, kind, count, dtype = "_rebuild_tensor_v2", _name("torch", storage), info.size, b""
    else:
        function, kind, count = "_rebuild_tensor_v3", _name("torch.storage", "UntypedStorage"), info.nbytes
        dtype = _name("torch", info.dtype)
    persistent_id = _tuple(_text("storage"), kind, _text(str(number)), _text("cpu"), _int(count)) + b"Q"
    sizes = _tuple(*map(_int, info.shape))
    strides = _tuple(*map(_int, _strides(info.shape)))
    requires_grad, hooks = b"\x89", _ORDERED_DICT
    arguments = (persistent_id, _int(0), sizes, strides, requires_grad, hooks, dtype)
    return _name("torch._utils", function) + _tuple(*arguments) + b"R"


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Strides in elements as torch gives them to a contiguous tensor, where a size of 0 counts as 1."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return strides[::-1]


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _int(value: int) -> bytes:
    if value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little")
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


_ORDERED_DICT = _name("collections", "OrderedDict") + b")R"
