"""Bytes to arrays and back: the one place that knows byte order, views and what an array can hold."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import Checkpoint, LeafInfo
from loftr2flax.errors import CorruptFile
from loftr2flax.formats.source_file import FETCH_AGAIN

MAX_DIMS = 32
"""Dimensions that every supported numpy can hold (1.26: 32, 2.x: 64)."""


def is_shape(value: object) -> TypeGuard[Sequence[int]]:
    """Whether ``value`` is a list or tuple of sizes that a numpy array can have."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= MAX_DIMS
        and all(type(n) is int and n >= 0 for n in value)  # type(), because True is an int too
        and math.prod(n for n in value if n) < 1 << 59  # times 16 bytes of complex128, less than 2**63
    )


def as_array(raw: np.ndarray, info: LeafInfo, path: Path, name: str) -> np.ndarray:
    """The little-endian bytes ``raw`` (uint8) as the leaf that ``info`` describes: a view, but for big-endian machines.

    Raises:
      CorruptFile: a bool is neither 0 nor 1.
    """
    if info.dtype == "bool" and raw.size and raw.max() > 1:
        raise CorruptFile(f"{path}: leaf {name!r}: a bool has the value {raw.max()}", FETCH_AGAIN)
    array = raw.view(dtypes.numpy_dtype(info.dtype)).reshape(info.shape)
    return array if sys.byteorder == "little" else array.byteswap()


def leaf_blocks(checkpoint: Checkpoint, name: str, elements: int) -> Iterator[np.ndarray]:
    """A leaf's elements in C order as one-dimensional arrays of ``elements``, the last of what is left.

    Each is valid until the next. Memory is one such block where the leaf lies in its file as it is, and the whole leaf
    where it does not (strided, deflated, big-endian). What was given is certain once the iterator has ended.

    Raises:
      NoSuchLeaf, UnsupportedTensor, CorruptFile: as for `Checkpoint.read`.
    """
    info = checkpoint.info(name)
    width = dtypes.itemsize(info.dtype)
    pieces = None if info.refused else checkpoint.pieces(name, elements * width)
    if pieces is None:
        flat = checkpoint.read(name).reshape(-1)
        yield from (flat[start : start + elements] for start in range(0, flat.size, elements))
        return
    for piece in pieces:
        yield as_array(piece, LeafInfo((piece.size // width,), info.dtype), checkpoint.path, name)


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """The elements of a C-contiguous ``array``, of any type, as little-endian bytes: a view where the machine is."""
    if sys.byteorder != "little":
        array = array.byteswap()
    return array.reshape(-1).view(np.uint8).data
