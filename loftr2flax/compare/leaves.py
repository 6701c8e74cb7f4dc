"""Two arrays that should be equal bit for bit, and the first place where they are not."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Difference:
    """How one leaf differs.

    Attributes:
      leaf: its name.
      reason: one line: "missing", "shape (2, 3) instead of (3, 2)", "12 of 65,536 elements".
      index: the first element that differs, or None where the whole does.
      expected, actual: the two values there, as text that shows every bit.
    """

    leaf: str
    reason: str
    index: tuple[int, ...] | None = None
    expected: str = ""
    actual: str = ""

    def __str__(self) -> str:
        if self.index is None:
            return f"{self.leaf}: {self.reason}"
        return f"{self.leaf}: {self.reason}; at {list(self.index)} {self.actual} instead of {self.expected}"


def bit_difference(leaf: str, expected: np.ndarray, actual: np.ndarray) -> Difference | None:
    """The difference between two arrays, or None where every bit is equal (−0 is not 0; a NaN equals the same NaN)."""
    if expected.shape != actual.shape:
        return Difference(leaf, f"shape {actual.shape} instead of {expected.shape}")
    if expected.dtype != actual.dtype:
        return Difference(leaf, f"{actual.dtype} instead of {expected.dtype}")
    left, right = (
        np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(a.size, a.itemsize) for a in (expected, actual)
    )
    if np.array_equal(left, right):
        return None
    unequal = (left != right).any(axis=1)
    first = int(unequal.argmax())
    index = tuple(int(n) for n in np.unravel_index(first, expected.shape))
    count = int(unequal.sum())
    return Difference(
        leaf,
        f"{count:,} of {expected.size:,} elements differ",
        index,
        *told_apart(expected[index], actual[index]),
    )


def told_apart(expected: np.generic, actual: np.generic) -> tuple[str, str]:
    """Both values as text; with their bits where the text is the same, as it is for two NaNs."""
    texts = _exactly(expected), _exactly(actual)
    if texts[0] != texts[1] or expected.dtype != actual.dtype:
        return texts
    bits = [value.tobytes()[:: 1 if sys.byteorder == "big" else -1].hex() for value in (expected, actual)]
    return f"{texts[0]} (0x{bits[0]})", f"{texts[1]} (0x{bits[1]})"


def _exactly(value: np.generic) -> str:
    """The shortest text that tells the value from its neighbours of the same type."""
    return repr(value.item()) if value.dtype.kind in "biu" else str(value)
