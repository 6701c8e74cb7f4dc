"""How far two arrays are apart, gathered block by block: memory does not follow the size of the leaf."""

from __future__ import annotations

import math

import numpy as np

from loftr2flax import dtypes
from loftr2flax.compare.leaves import told_apart
from loftr2flax.compare.values import Measures

_MANY = 4
_LOOKED_AT = 1000


def bits_of(array: np.ndarray) -> np.ndarray:
    """The elements as unsigned integers, one for each (two for complex128): what bit-for-bit means."""
    width = array.dtype.itemsize
    return array.view(f"u{min(width, 8)}")


def both_nan(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where both are NaN; of complex numbers, where each part is equal in both or NaN in both, and one is NaN."""
    if one.dtype.kind != "c":
        nan: np.ndarray = np.isnan(one) & np.isnan(other)
        return nan
    real, imaginary = both_nan(one.real, other.real), both_nan(one.imag, other.imag)
    alike = (real | (one.real == other.real)) & (imaginary | (one.imag == other.imag))
    both: np.ndarray = alike & (real | imaginary)
    return both


def cosine(dot: float, one: float, other: float) -> float | None:
    """The cosine of two vectors from their product and lengths; None where one of them is zero or out of range."""
    lengths = one * other
    return max(-1.0, min(1.0, dot / lengths)) if lengths and math.isfinite(lengths) else None


def ulp_distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Steps of the type between elements of two floating-point arrays, as uint64: 0 for equal ones and for −0 and 0."""
    one, other = _rank(left), _rank(right)
    high, low = (part.astype(np.int64).view(np.uint64) for part in (np.maximum(one, other), np.minimum(one, other)))
    distance: np.ndarray = high - low
    return distance


def _rank(array: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of the floats, one step apart where these are; −0 and 0 are both 0."""
    bits = array.view(f"i{array.dtype.itemsize}")
    sign = bits >> (8 * bits.itemsize - 1)  # all ones for a negative number
    ranks: np.ndarray = (bits ^ (sign & np.iinfo(bits.dtype).max)) - sign
    return ranks


class Gathering:
    """Takes two leaves of one shape block by block, and ends in `Measures`."""

    def __init__(self, shape: tuple[int, ...], left: str, right: str) -> None:
        self._shape = shape
        self._alike = left == right
        self._steps = self._alike and left in dtypes.FLOATING and left != "float8_e8m0fnu"  # that one has no sign
        self._seen = self._changed = self._one_sided = 0
        self._max_abs, self._max_ulp, self._scale = 0.0, 0, 0.0
        self._at: tuple[int, str, str] | None = None
        self._distinct: set[bytes] = set()
        self._sums = np.zeros(4)  # of squares: left, right, their difference; of products

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """The next block of each, one-dimensional and of one size."""
        with np.errstate(all="ignore"):
            if self._alike and not _unequal_bits(left, right).any():
                self._add_equal(left)
            else:
                self._add(left, right)
        self._seen += left.size

    def _add_equal(self, block: np.ndarray) -> None:
        numbers = _wide(block)
        numbers = numbers[np.isfinite(numbers)]
        square = _square(numbers)
        self._scale = max(self._scale, float(np.abs(numbers).max(initial=0)))
        self._sums += [square, square, 0, square]

    def _add(self, left: np.ndarray, right: np.ndarray) -> None:
        one, other = _wide(left), _wide(right)
        finite = np.isfinite(one) & np.isfinite(other)
        if finite.all():
            unequal = _unequal_bits(left, right) if self._alike else one != other
        else:
            apart = (one != other) & ~both_nan(one, other)
            unequal = _unequal_bits(left, right) if self._alike else apart
            self._one_sided += int((~finite & apart).sum())
            one, other = (np.where(finite, array, 0) for array in (one, other))
        self._sum(one, other)
        count = int(unequal.sum())
        if not count:
            return
        self._changed += count
        self._note_place(left, right, unequal, np.abs(other - one))
        if self._steps:
            self._max_ulp = max(self._max_ulp, int(ulp_distance(left, right)[finite].max(initial=0)))
        if len(self._distinct) < _MANY:
            pairs = zip(left[unequal][:_LOOKED_AT], right[unequal][:_LOOKED_AT], strict=True)
            self._distinct |= {one.tobytes() + other.tobytes() for one, other in pairs}

    def _sum(self, one: np.ndarray, other: np.ndarray) -> None:
        self._scale = max(self._scale, float(np.abs(one).max(initial=0)), float(np.abs(other).max(initial=0)))
        dot = float(np.vdot(one, other).real)
        self._sums += [_square(one), _square(other), _square(other - one), dot]

    def _note_place(self, left: np.ndarray, right: np.ndarray, unequal: np.ndarray, error: np.ndarray) -> None:
        worst = int(error.argmax())
        if error[worst] > self._max_abs:
            self._max_abs = float(error[worst])
            self._at = (self._seen + worst, *told_apart(left[worst], right[worst]))
        elif self._at is None:
            first = int(unequal.argmax())
            self._at = (self._seen + first, *told_apart(left[first], right[first]))

    @property
    def varied(self) -> bool:
        """Whether elements differ in more than a few ways: one alone can look like rounding by chance."""
        return len(self._distinct) >= _MANY

    def measures(self) -> Measures:
        """What came out."""
        length, other, error = (float(n) for n in np.sqrt(self._sums[:3]))
        at, left, right = self._at if self._at else (None, "", "")
        index = tuple(int(n) for n in np.unravel_index(at, self._shape)) if at is not None else None
        known = all(math.isfinite(n) for n in self._sums)
        return Measures(
            self._seen,
            self._changed,
            self._max_abs or None,
            index,
            left,
            right,
            error / length if length and known else None,
            cosine(float(self._sums[3]), length, other) if known else None,
            self._max_ulp if self._steps else None,
            min(self._scale, float(np.finfo(np.float64).max)),
            self._one_sided,
        )


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _square(array: np.ndarray) -> float:
    return float(np.vdot(array, array).real)


def _unequal_bits(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    unequal: np.ndarray = (bits_of(left) != bits_of(right)).reshape(left.size, -1).any(axis=1)
    return unequal
