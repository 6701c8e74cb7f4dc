"""Holding tensor claims against their storages, and reading what passed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo, Scratch
from loftr2flax.errors import CorruptFile
from loftr2flax.formats.source_file import FETCH_AGAIN
from loftr2flax.formats.torch_globals import TensorClaim

MAX_DIMENSIONS = 32
"""numpy 1 has no more."""

_SPAN = 32 << 20  # bytes fetched at once for a tensor that does not lie in one piece
_TOO_MANY = 1 << 62
_STAND_INS = {
    "qint8": "int8", "quint8": "uint8", "qint32": "int32", "bits16": "uint16", "complex32": "uint32",
}  # fmt: skip

ReadBytes = Callable[[str, np.ndarray, int], None]
"""``read(key, out, start)`` fills ``out``, uint8, with a storage's bytes from ``start`` on."""


class TensorPlace(NamedTuple):
    """A checked claim: where the elements lie. Offset in bytes from the storage's beginning, strides in elements."""

    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    flags: tuple[str, ...]


def check_claim(claim: TensorClaim, where: str) -> tuple[LeafInfo, TensorPlace | None]:
    """What is known of a leaf, and where it lies; None for one that is refused, with the reason in its info.

    ``where`` names file and leaf in errors. Sharing is not filled in: it takes the other leaves to see it.

    Raises:
      CorruptFile: sizes that are no sizes, or elements past the storage's end.
    """
    refused = claim.refused or ("" if claim.dtype in dtypes.NAMES else _refusal(claim.dtype))
    dtype = claim.dtype if claim.dtype in dtypes.NAMES else _STAND_INS.get(claim.dtype, "uint8")
    shape = _numbers(claim.shape, where, "size")
    if refused or claim.storage is None or len(shape) > MAX_DIMENSIONS:
        return LeafInfo(shape, dtype, refused=refused or f"tensor of {len(shape)} dimensions"), None
    stride, (offset,) = _numbers(claim.stride, where, "stride"), _numbers((claim.offset,), where, "offset")
    if len(stride) != len(shape):
        raise CorruptFile(f"{where}: {len(shape)} sizes and {len(stride)} strides", FETCH_AGAIN)
    width, size = dtypes.itemsize(dtype), math.prod(shape)
    if size * width >= _TOO_MANY:
        raise CorruptFile(f"{where}: {_times(shape)} elements are more than any machine can address", FETCH_AGAIN)
    end = (offset + _extent(shape, stride)) * width
    if size and end > claim.storage.nbytes:
        raise CorruptFile(
            f"{where}: the tensor would end at byte {end} of storage {claim.storage.key!r}, "
            f"which has {claim.storage.nbytes}",
            FETCH_AGAIN,
        )
    place = TensorPlace(claim.storage.key, claim.storage.start + offset * width, shape, stride, dtype, claim.flags)
    return LeafInfo(shape, dtype, layout=_layout(shape, stride, offset, claim.flags)), place


def read_tensor(place: TensorPlace, read: ReadBytes, scratch: Scratch | None, *, swap: bool = False) -> np.ndarray:
    """The tensor as a C-contiguous array; with ``swap`` the stored numbers are of the other byte order.

    A tensor that lies in one piece is read straight into its array; another through pieces of at most 32 MiB.
    """
    width = dtypes.itemsize(place.dtype)
    nbytes = math.prod(place.shape) * width
    plain = nbytes == 0 or is_contiguous(place.shape, place.stride)
    room = 0 if plain else min(_extent(place.shape, place.stride) * width, _SPAN)
    padded = -(-nbytes // 64) * 64
    buffer = scratch.take(padded + room) if scratch is not None and room else None
    if buffer is None:
        buffer = scratch.take(nbytes) if scratch is not None else np.empty(nbytes, np.uint8)
    out = buffer[:nbytes]
    if plain and nbytes:
        read(place.key, out, place.offset)
    elif nbytes:
        span = buffer[padded:] if buffer.size > nbytes else np.empty(room, np.uint8)
        words = out.view(f"V{width}").reshape(place.shape)
        _gather(words, place.offset, place.stride, span, lambda piece, start: read(place.key, piece, start))
    if swap:
        part = width // 2 if place.dtype.startswith("complex") else width
        out.view(f"u{part}").byteswap(inplace=True)
    array = out.view(dtypes.numpy_dtype(place.dtype)).reshape(place.shape)
    if "conj" in place.flags:
        np.conjugate(array, out=array)
    if "neg" in place.flags:
        np.negative(array, out=array)
    return array


def _gather(
    out: np.ndarray, start: int, stride: tuple[int, ...], span: np.ndarray, read: Callable[[np.ndarray, int], None]
) -> None:
    """Fill ``out``, whatever its own layout, from elements ``stride`` apart that begin at byte ``start``.

    What fits into ``span`` is read at once; otherwise the axis that reaches farthest is halved.
    """
    width = out.dtype.itemsize
    extent = _extent(out.shape, stride) * width
    if extent <= span.size:
        piece = span[:extent]
        read(piece, start)
        strides = tuple(step * width for step in stride)
        out[...] = np.lib.stride_tricks.as_strided(piece.view(out.dtype), out.shape, strides, writeable=False)
        return
    reach = [(size - 1) * step for size, step in zip(out.shape, stride, strict=True)]
    axis = reach.index(max(reach))
    half = out.shape[axis] // 2
    first, second = np.split(out, [half], axis)
    _gather(first, start, stride, span, read)
    _gather(second, start + half * stride[axis] * width, stride, span, read)


def _refusal(dtype: str) -> str:
    return "quantized tensor" if dtype.startswith(("qint", "quint")) else f"tensor of type {dtype}"


def _numbers(values: object, where: str, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)):
        raise CorruptFile(f"{where}: the tensor's {what}s are not a tuple", FETCH_AGAIN)
    for value in values:
        if type(value) is not int or not 0 <= value < _TOO_MANY:
            shown = value if type(value) is int and abs(value) < 1 << 64 else f"a {type(value).__name__}"
            raise CorruptFile(f"{where}: the tensor has the {what} {shown}", FETCH_AGAIN)
    return tuple(values)


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "1"


def _extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last, both included; 0 for an empty tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether elements with these strides lie in one row, in C order."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _layout(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, flags: tuple[str, ...]) -> str:
    """The words for `LeafInfo.layout`."""
    words = []
    if 0 not in shape and not is_contiguous(shape, stride):
        turned = len(shape) == 2 and is_contiguous(shape[::-1], stride[::-1])
        words.append("transposed" if turned else f"strided {stride}")
    if offset:
        words.append(f"offset {offset}")
    return ", ".join([*words, *flags])
