"""Reading safetensors, every rule of the format checked: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import Checkpoint, Contents, LeafInfo, Location, Scratch
from loftr2flax.errors import CorruptFile, UnsupportedTensor
from loftr2flax.formats.leaf_bytes import as_array, is_shape
from loftr2flax.formats.provenance import KEY, from_json
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.formats.strict_json import parse_json
from loftr2flax.limits import DEFAULT, Limits

DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
"""The format's codes for element types, and ours."""

MAX_HEADER = 100_000_000
"""Bytes of JSON that the format allows."""

METADATA = "__metadata__"
"""The header's one key that is not a tensor."""


class SafetensorsFile(Checkpoint):
    """A ``.safetensors`` file. Names are kept as they are; they are slashed if any of them has a slash.

    Raises:
      CorruptFile: a rule of the format is broken; the message says which, and where.
      LimitExceeded: more tensors, or a larger header, than ``limits`` allow.
    """

    format = "safetensors"

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT) -> None:
        self._source = SourceFile(Path(path))
        try:
            header, data_at = _read_header(self._source, limits)
            self._offsets: dict[str, int] = {}
            contents = self._check(header, data_at, limits)
        except BaseException:
            self._source.close()
            raise
        super().__init__(self._source.path, contents)
        self.separator = "/" if any("/" in name for name in contents.infos) else "."

    def read(self, name: str, scratch: Scratch | None = None) -> np.ndarray:
        """See `Checkpoint.read`."""
        info = self.info(name)
        if info.refused:
            raise UnsupportedTensor(
                f"{self.path}: leaf {name!r}: {info.refused}", "store it as another type, or leave it out"
            )
        raw = scratch.take(info.nbytes) if scratch else np.empty(info.nbytes, np.uint8)
        self._source.read_into(raw.data, self._offsets[name], f"leaf {name!r}")
        return as_array(raw, info, self.path, name)

    def pieces(self, name: str, size: int) -> Iterator[np.ndarray]:
        """See `Checkpoint.pieces`."""
        extent = (self._offsets[name], self.info(name).nbytes)
        return self._source.pieces([extent], size, f"leaf {name!r}")

    def locate(self, name: str) -> Location | None:
        """See `Checkpoint.locate`."""
        if self.info(name).refused or not self.info(name).nbytes:
            return None
        return Location(self.path, self._offsets[name])

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._source.close()

    def _check(self, header: dict[str, Any], data_at: int, limits: Limits) -> Contents:
        """Check the header against the format, and note where each leaf begins."""
        path = self._source.path
        provenance = _check_metadata(path, header.pop(METADATA, {}))
        limits.check_tensors(len(header), path)
        infos: dict[str, LeafInfo] = {}
        extents: list[tuple[int, int, str]] = []
        for name, entry in header.items():
            infos[name], begin, end = _check_entry(path, name, entry)
            extents.append((begin, end, name))
            self._offsets[name] = data_at + begin
        _check_extents(path, extents, self._source.size - data_at)
        return Contents(infos, provenance=provenance)


def _read_header(source: SourceFile, limits: Limits) -> tuple[dict[str, Any], int]:
    """The header as JSON, and where the data begin."""
    path = source.path
    size = int.from_bytes(source.read(8, 0, "the header's length"), "little")
    if size > MAX_HEADER:
        raise CorruptFile(f"{path}: claims a header of {size} bytes; the format allows {MAX_HEADER}", FETCH_AGAIN)
    limits.check_memory(2 * size, path, "the header")
    text = source.read(size, 8, "the header")
    if not text.startswith(b"{"):
        raise CorruptFile(f"{path}: the header does not begin with {{", FETCH_AGAIN)
    header: dict[str, Any] = parse_json(text, path, "the header", limits)
    try:
        "".join(header).encode()  # an escape such as \ud800 makes a name that no file can hold
    except ValueError as error:
        raise CorruptFile(f"{path}: the header is not JSON: {error}", FETCH_AGAIN) from None
    return header, 8 + size


def _check_metadata(path: Path, metadata: Any) -> Mapping[str, Any] | None:
    """Our provenance, if the metadata hold it."""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptFile(f"{path}: {METADATA} does not map strings to strings", FETCH_AGAIN)
    return from_json(metadata.get(KEY, ""))


def _check_entry(path: Path, name: str, entry: Any) -> tuple[LeafInfo, int, int]:
    """One tensor's info, and where its bytes begin and end, counted from the first tensor's."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CorruptFile(f"{path}: leaf {name!r}: the header lacks dtype, shape or data_offsets", FETCH_AGAIN)
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str):
        raise CorruptFile(f"{path}: leaf {name!r}: the dtype {code!r:.40} is not a string", FETCH_AGAIN)
    if not isinstance(shape, list) or not is_shape(shape):
        raise CorruptFile(f"{path}: leaf {name!r}: {shape!r:.80} is not a shape", FETCH_AGAIN)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise CorruptFile(f"{path}: leaf {name!r}: data_offsets {offsets!r:.80} are not two integers", FETCH_AGAIN)
    begin, end = offsets
    if not 0 <= begin <= end:
        raise CorruptFile(f"{path}: leaf {name!r}: data_offsets {offsets!r:.80} are no extent", FETCH_AGAIN)
    if code not in DTYPES:
        return (
            LeafInfo(tuple(shape), "uint8", refused=f"elements of type {code}, which numpy does not have"),
            begin,
            end,
        )
    wanted = math.prod(shape) * dtypes.itemsize(DTYPES[code])
    if end - begin != wanted:
        raise CorruptFile(
            f"{path}: leaf {name!r}: {code} of shape {shape} needs {wanted} bytes, its offsets give {end - begin}",
            FETCH_AGAIN,
        )
    return LeafInfo(tuple(shape), DTYPES[code]), begin, end


def _check_extents(path: Path, extents: list[tuple[int, int, str]], size: int) -> None:
    """The tensors' extents must fill the file from the header to the last byte, without a gap or an overlap."""
    at = 0
    for begin, end, name in sorted(extents):
        if begin != at:
            what = "overlaps the leaf before it" if begin < at else f"leaves a gap of {begin - at} bytes before it"
            raise CorruptFile(f"{path}: leaf {name!r} {what}", FETCH_AGAIN)
        if end > size:
            raise CorruptFile(f"{path}: leaf {name!r} ends at byte {end} of the data, which has {size}", FETCH_AGAIN)
        at = end
    if at != size:
        raise CorruptFile(f"{path}: {size - at} bytes after the last leaf belong to none", FETCH_AGAIN)
