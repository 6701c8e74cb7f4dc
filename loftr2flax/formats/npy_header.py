"""The header of an ``.npy`` record: written as numpy writes it, read without evaluating anything.

numpy has no bfloat16 and no float8; left alone it stores them as nameless 2- and 1-byte lumps. Here they are stored as
a structure of one unsigned integer whose field name is the type's: ``[('bfloat16', '<u2')]``. The bits come back in
plain numpy with ``array["bfloat16"].view(ml_dtypes.bfloat16)``, and by themselves through this package.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from typing import Any, NamedTuple

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.formats.leaf_bytes import is_shape

HEAD = 128
"""Bytes that hold the whole header of nearly every record."""

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # as numpy has it: no more is worth the time that it takes to read
_DESCR = re.compile(r"([<>|=])([a-zA-Z])(\d{1,9})")
_KINDS = {f"{np.dtype(name).kind}{np.dtype(name).itemsize}": name for name in dtypes.NAMES if dtypes.is_native(name)}


class BadHeader(Exception):
    """A header that is not one; the text says why. The caller adds file and leaf."""


class NpyHeader(NamedTuple):
    """What a record's header says.

    Attributes:
      info: shape and type, or why the leaf is refused.
      data_at: where in the record the elements begin, in bytes.
      fortran: whether the first index moves fastest.
      swapped: whether the bytes of each element are in the other order than this machine's.
    """

    info: LeafInfo
    data_at: int
    fortran: bool
    swapped: bool


def encode_header(info: LeafInfo) -> bytes:
    """The header of version 1.0 for ``info``, padded so that the elements begin at a multiple of 64 bytes."""
    if dtypes.is_native(info.dtype):
        descr = repr(np.dtype(info.dtype).newbyteorder("<").str)
    else:
        size = dtypes.itemsize(info.dtype)
        descr = repr([(info.dtype, f"{'<' if size > 1 else '|'}u{size}")])
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {info.shape!r}, }}"
    length = -(-(len(text) + 11) // 64) * 64 - 10
    return _MAGIC + b"\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


def header_size(head: bytes) -> int:
    """Bytes of the whole header, from the first 12 of the record or all where it has fewer.

    Raises:
      BadHeader: these are not the first bytes of an ``.npy`` record.
    """
    if len(head) < 10 or head[:6] != _MAGIC or head[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise BadHeader("is not an .npy record of version 1, 2 or 3")
    width = 2 if head[6] == 1 else 4
    size = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    if size > _MAX_HEADER:
        raise BadHeader(f"has a header of {size} bytes; {_MAX_HEADER} are the limit")
    return size


@functools.lru_cache(maxsize=1024)  # a model's leaves share few shapes and types
def decode_header(header: bytes) -> NpyHeader:
    """The whole ``header`` as a value.

    Raises:
      BadHeader: it is not what numpy writes.
    """
    text = header[10 if header[6] == 1 else 12 :]
    try:
        fields = ast.literal_eval(text.decode("utf-8" if header[6] == 3 else "latin-1"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise BadHeader("has a header that is not a dict") from None
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise BadHeader("has a header without exactly descr, fortran_order and shape")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not is_shape(shape) or not isinstance(fortran, bool):
        raise BadHeader(f"has a header with shape {shape!r:.80} and fortran_order {fortran!r:.80}")
    dtype, order, refused = _decode_descr(fields["descr"])
    swapped = order == (">" if sys.byteorder == "little" else "<")
    return NpyHeader(LeafInfo(tuple(shape), dtype, refused=refused), len(header), fortran, swapped)


def _decode_descr(descr: Any) -> tuple[str, str, str]:
    """Type name, byte order, and why such elements are refused ("" where they are not)."""
    if isinstance(descr, list) and len(descr) == 1 and isinstance(descr[0], tuple) and len(descr[0]) == 2:
        name, stored = descr[0]
        if name in dtypes.NAMES and not dtypes.is_native(name):
            match = _DESCR.fullmatch(stored) if isinstance(stored, str) else None
            if match and match[2] == "u" and int(match[3]) == dtypes.itemsize(name):
                return name, match[1], ""
    if not isinstance(descr, str):
        return "uint8", "|", f"structured elements {descr!r:.60}"
    if descr == "|O":
        return "uint8", "|", "an object array: its elements are pickled, and pickles from strangers run code"
    match = _DESCR.fullmatch(descr)
    if match is None:
        return "uint8", "|", f"elements of type {descr!r:.60}"
    order, kind, size = match.groups()
    if kind == "V":
        return "uint8", "|", f"nameless elements of {size} bytes: numpy loses the name of bfloat16 and float8"
    name = _KINDS.get(f"{kind}{int(size)}")
    return (name, order, "") if name else ("uint8", "|", f"elements of type {descr!r:.60}")
