"""Running a move: the arrays of its inputs become the array of its output."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import Scratch
from loftr2flax.errors import CopiesDiffer, InputError
from loftr2flax.plan.blocks import copy_across
from loftr2flax.plan.moves import Move, Piece, View

Read = Callable[[str], np.ndarray]
"""Gives an input leaf; the array need only live until the next call."""


def run_move(move: Move, read: Read, scratch: Scratch | None = None) -> np.ndarray:
    """The output leaf, C-contiguous, of the shape and dtype that the plan says.

    It may share memory with what ``read`` gave last, and with ``scratch`` if that is lent.

    Raises:
      CopiesDiffer: inputs that the mapping ties are not equal bit for bit.
      InputError: a cast would turn a finite number into an infinite one.
    """
    for first, other in move.copies:
        _demand_equal(move, first, other, read)
    if move.constant is not None:
        return np.full(move.info.shape, move.constant.value, dtypes.numpy_dtype(move.info.dtype))
    out = _as_it_lies(move, read) if is_plain(move) else _assembled(move, read, scratch)
    return _cast(out, move) if move.info.dtype != move.stored else out


def is_plain(move: Move) -> bool:
    """Whether one input fills the output and its bytes stay as they lie; for moves that have an input."""
    piece = move.pieces[0]
    return len(move.pieces) == 1 and piece.is_copy and piece.into.is_whole and piece.view.is_whole


def _as_it_lies(move: Move, read: Read) -> np.ndarray:
    return read(move.pieces[0].leaf).reshape(move.info.shape)


def _assembled(move: Move, read: Read, scratch: Scratch | None) -> np.ndarray:
    dtype, shape = dtypes.numpy_dtype(move.stored), move.info.shape
    nbytes = math.prod(shape) * dtype.itemsize
    out = np.empty(shape, dtype) if scratch is None else scratch.take(nbytes).view(dtype).reshape(shape)
    for piece in move.pieces:
        copy_across(_view(out, piece.into), _arranged(piece, read))
    return out


def _arranged(piece: Piece, read: Read) -> np.ndarray:
    """An input's share with its axes in the output's order."""
    array = _view(read(piece.leaf), piece.view).transpose(piece.order)
    return np.flip(array, piece.flips) if piece.flips else array


def _view(array: np.ndarray, view: View) -> np.ndarray:
    """The part of an array that a view means; it shares the array's memory, so it can be written to."""
    part = array[view.cut] if view.cut else array
    apart = part if part.shape == view.atoms else np.reshape(part, view.atoms, copy=False)
    selected: np.ndarray = apart[(*view.select, ...)]
    return selected


def _demand_equal(move: Move, first: str, other: str, read: Read) -> None:
    one = read(first).copy()
    two = read(other)
    if one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes():
        return
    raise CopiesDiffer(
        f"{first} and {other} differ, and {move.rule.line!r} makes them one tensor",
        f"take one side: `--choose {move.first}`",
    )


def _cast(array: np.ndarray, move: Move) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        cast = array.astype(dtypes.numpy_dtype(move.info.dtype))
    if not np.array_equal(np.isfinite(array), np.isfinite(cast)):
        raise InputError(
            f"{move.leaf}: a finite number of {move.stored} is out of the range of {move.info.dtype}",
            "choose a --dtype of wider range, such as bfloat16 or float32",
        )
    return cast
