"""Whether one array is the other rounded to a narrower type, or the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from loftr2flax import dtypes
from loftr2flax.compare.measures import bits_of, both_nan

NARROWER = {
    "float64": ("float32", "bfloat16", "float16"),
    "float32": ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"),
    "float16": ("float8_e4m3fn", "float8_e5m2"),
    "bfloat16": ("float8_e4m3fn", "float8_e5m2"),
}
"""The types that numbers of each type commonly pass through."""


class Cast(NamedTuple):
    """A cast that may lie between two leaves: what to call it, and whether it holds for a block of each."""

    reason: str
    holds: Callable[[np.ndarray, np.ndarray], bool]


def possible_casts(left: str, right: str) -> list[Cast]:
    """The casts to try for leaves of these types, the most telling first."""
    if left == right:
        return [cast for narrow in NARROWER.get(left, ()) for cast in _round_trips(left, narrow)]
    if left.startswith("complex") != right.startswith("complex"):
        return []
    change = f"{left} → {right}"
    there, back = _converted_left(right), _converted_right(left)
    exact = Cast(
        f"{change}, no number changed",
        lambda one, other: there(one, other) and back(one, other) and _same_signs(one, other),
    )
    if not {left, right} <= set(dtypes.FLOATING):
        return [exact]
    return [exact, Cast(f"{change}, rounded", there), Cast(f"{change}, the left is the right one rounded", back)]


def rounded(array: np.ndarray, narrow: str) -> np.ndarray:
    """The array's numbers after a way through a narrower type, in the array's own."""
    with np.errstate(all="ignore"):
        return array.astype(dtypes.numpy_dtype(narrow)).astype(array.dtype)


def same_numbers(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one type and shape are equal bit for bit, any NaN being as good as another."""
    unequal = bits_of(one) != bits_of(other)
    if not unequal.any():
        return True
    nan = both_nan(one, other).reshape(-1)
    return not unequal.reshape(nan.size, -1).any(axis=1)[~nan].any()


def _same_signs(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether negative numbers stand in the same places: whole numbers go there and back through another sign."""
    if "u" not in one.dtype.kind + other.dtype.kind:
        return True
    return not ((one < 0) != (other < 0)).any()


def surviving(casts: Sequence[Cast], left: np.ndarray, right: np.ndarray) -> list[Cast]:
    """Those that hold for one more block."""
    return [cast for cast in casts if cast.holds(left, right)]


def _round_trips(wide: str, narrow: str) -> tuple[Cast, Cast]:
    return (
        Cast(f"{wide} → {narrow} → {wide}", lambda one, other: same_numbers(rounded(one, narrow), other)),
        Cast(f"the left went through {narrow}", lambda one, other: same_numbers(one, rounded(other, narrow))),
    )


def _converted_left(dtype: str) -> Callable[[np.ndarray, np.ndarray], bool]:
    def holds(left: np.ndarray, right: np.ndarray) -> bool:
        with np.errstate(all="ignore"):
            return same_numbers(left.astype(dtypes.numpy_dtype(dtype)), right)

    return holds


def _converted_right(dtype: str) -> Callable[[np.ndarray, np.ndarray], bool]:
    return lambda left, right: _converted_left(dtype)(right, left)
