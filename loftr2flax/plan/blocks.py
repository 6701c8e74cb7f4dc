"""Copying an array whose axes change places, block by block.

Going through the output in its own order reads the input across its rows: of each cache line that is fetched, one
element is used before the line is pushed out again. A block a few cache lines wide in the output, and so tall that
both sides of it stay in the cache, uses every line whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

_RUN = 256  # bytes of a block that lie together in the output: four cache lines
_ROWS = 512  # runs of a block: 128 KiB of output, and as much of input
_SMALL = 1 << 16  # an array of fewer bytes stays in the cache as a whole


def copy_across(out: np.ndarray, source: np.ndarray) -> None:
    """``out[...] = source``, for arrays of one shape and dtype that do not overlap, whatever their strides."""
    along = _contiguous_axis(out)
    if out.nbytes < _SMALL or along == _contiguous_axis(source):
        out[...] = source
        return
    for block in _blocks(out.shape, along, max(1, _RUN // out.itemsize)):
        out[block] = source[block]


def _contiguous_axis(array: np.ndarray) -> int:
    """The axis along which neighbours lie nearest in memory."""
    return min(range(array.ndim), key=lambda axis: (array.shape[axis] == 1, abs(array.strides[axis])), default=0)


def _blocks(shape: tuple[int, ...], along: int, width: int) -> Iterator[tuple[slice, ...]]:
    """The blocks that make up ``shape``: ``width`` along one axis, at most `_ROWS` over all the others."""
    sizes = [width if axis == along else size for axis, size in enumerate(shape)]
    while math.prod(sizes) > _ROWS * width:
        longest = max((axis for axis in range(len(shape)) if axis != along), key=sizes.__getitem__)
        sizes[longest] = -(-sizes[longest] // 2)
    starts = (range(0, whole, size) for whole, size in zip(shape, sizes, strict=True))
    for corner in product(*starts):
        yield tuple(slice(start, start + size) for start, size in zip(corner, sizes, strict=True))
