"""Copying an array whose axes change places, block by block.

Going through the output in its own order reads the input across its rows: of each cache line that is fetched, one
element is used before the line is pushed out again. A block a few cache lines wide in the output, and so tall that
both sides of it stay in the cache, uses every line whole.

Rows of a matrix that are a power of two apart, as they mostly are, all fall into the same few places of the cache. Such
a block first goes, as it lies, into memory of its own whose rows are apart otherwise, and from there across.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

_RUN = 256  # bytes of a block that lie together in the output: four cache lines
_ROWS = 512  # runs of a block: 128 KiB of output, and as much of input
_SMALL = 1 << 16  # an array of fewer bytes stays in the cache as a whole
_CLASH = 512  # rows that a multiple of so many bytes separates share places of the cache
_APART = 64  # bytes from the end of a row to the next in a block's own memory: a cache line


def copy_across(out: np.ndarray, source: np.ndarray) -> None:
    """``out[...] = source``, for arrays of one shape and dtype that do not overlap, whatever their strides."""
    along = _contiguous_axis(out)
    if out.nbytes < _SMALL or along == _contiguous_axis(source):
        out[...] = source
        return
    others = sorted(set(range(out.ndim)) - {along}, key=lambda axis: -abs(source.strides[axis]))
    out, source = (array.transpose(along, *others) for array in (out, source))
    width = max(1, _RUN // out.itemsize)
    if source.strides[0] % _CLASH:
        for block in _blocks(out.shape, width):
            out[block] = source[block]
        return
    room = np.empty((width, _ROWS + _APART // out.itemsize), out.dtype)
    near = room[:0]
    for block in _blocks(out.shape, width):
        part = source[block]
        if near.shape != part.shape:
            near = room[: len(part), : math.prod(part.shape[1:])].reshape(part.shape, copy=False)
        near[...] = part
        out[block] = near


def _contiguous_axis(array: np.ndarray) -> int:
    """The axis along which neighbours lie nearest in memory."""
    return min(range(array.ndim), key=lambda axis: (array.shape[axis] == 1, abs(array.strides[axis])), default=0)


def _blocks(shape: tuple[int, ...], width: int) -> Iterator[tuple[slice, ...]]:
    """The blocks that make up ``shape``: ``width`` along the first axis, at most `_ROWS` over all the others."""
    sizes = [width, *shape[1:]]
    while math.prod(sizes[1:]) > _ROWS:
        longest = max(range(1, len(sizes)), key=sizes.__getitem__)
        sizes[longest] = -(-sizes[longest] // 2)
    first, *others = (range(0, whole, size) for whole, size in zip(shape, sizes, strict=True))
    for *corner, start in product(*others, first):  # neighbours in the output one after the other
        yield tuple(slice(start, start + size) for start, size in zip((start, *corner), sizes, strict=True))
