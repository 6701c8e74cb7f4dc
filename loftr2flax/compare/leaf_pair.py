"""One pair of leaves: bytes first; numbers, rounding and axes only where the bytes differ."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.compare.casts import possible_casts, surviving
from loftr2flax.compare.layouts import axes_between, fingerprint, total_of_bits
from loftr2flax.compare.measures import Gathering, bits_of
from loftr2flax.compare.sides import Side
from loftr2flax.compare.values import Kind, Measures
from loftr2flax.errors import CopiesDiffer

ELEMENTS = 1 << 17
"""Elements of a block: half a megabyte of float32, so that both sides' blocks stay in a core's cache."""
_LARGE = 8 << 20


class Pair(NamedTuple):
    """Two leaves to hold against each other, by the names that their sides have for them."""

    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What two leaves are to each other; ``reason`` and ``layout`` as in `Finding`.

    ``else_changed`` is what to say of a cast that too few numbers tell of, unless other leaves went the same way.
    """

    kind: Kind
    reason: str = ""
    layout: str = ""
    measures: Measures | None = None
    else_changed: str = ""


class LeafPairs:
    """Judges pairs of leaves of two sides, from several threads; what does not stream is read by one at a time."""

    def __init__(self, left: Side, right: Side, tolerance: float) -> None:
        self._left, self._right = left, right
        self._tolerance = tolerance
        self._whole = threading.RLock()

    def judge(self, pair: Pair) -> Verdict:
        """What the right leaf is to the left one.

        Raises:
          CorruptFile: a file is damaged there.
        """
        one, other = self._left.infos[pair.left], self._right.infos[pair.right]
        if one.refused or other.refused:
            return Verdict("unread", _refusal(one, other))
        streamed = self._left.streamed(pair.left) and self._right.streamed(pair.right)
        large = max(one.nbytes, other.nbytes) > _LARGE
        with self._whole if large and not streamed else nullcontext():
            try:
                return self._judge(pair, one, other)
            except CopiesDiffer as error:
                return Verdict("changed", error.message)

    def _judge(self, pair: Pair, one: LeafInfo, other: LeafInfo) -> Verdict:
        if one.shape == other.shape:
            if one.dtype == other.dtype and self._equal(pair):
                return Verdict("same")
            return self._study(pair, one, other)
        shapes = f"shape {one.shape} → {other.shape}"
        if one.dtype != other.dtype:
            return Verdict("changed", f"{shapes}, {one.dtype} → {other.dtype}")
        permuted = sorted(one.shape) == sorted(other.shape) and self._same_numbers(pair)
        if permuted and (turned := self._turned(pair)):
            return turned
        if one.size == other.size and self._equal(pair):
            return Verdict("layout", f"the same bytes, reshaped: {one.shape} → {other.shape}", "reshaped")
        return Verdict("changed", f"{shapes}, the same numbers in another order" if permuted else shapes)

    def _equal(self, pair: Pair) -> bool:
        """Whether the bytes are equal in a row, whatever the shapes; stops at the first block that differs."""
        with self._blocks(pair) as blocks:
            return all(_equal_bytes(left, right) for left, right in blocks)

    def _study(self, pair: Pair, one: LeafInfo, other: LeafInfo) -> Verdict:
        """Leaves of one shape that are not equal, in one pass over both."""
        gathering = Gathering(one.shape, one.dtype, other.dtype)
        casts = possible_casts(one.dtype, other.dtype)
        alike = one.dtype == other.dtype
        order = 0
        with self._blocks(pair) as blocks:
            for left, right in blocks:
                gathering.add(left, right)
                casts = surviving(casts, left, right) if casts else casts
                order += total_of_bits(left) - total_of_bits(right) if alike else 0
        measures = gathering.measures()
        permuted = alike and order % (1 << 64) == 0 and self._same_numbers(pair)
        if permuted and (turned := self._turned(pair)):
            return turned
        change = "" if alike else f"{one.dtype} → {other.dtype}, "
        if self._tolerance and one.size and _tolerable(one, other) and measures.within(self._tolerance):
            return Verdict("close", f"within {self._tolerance:g}: {change}{measures}", measures=measures)
        more = ", the same numbers in another order" if permuted else ""
        changed = f"{change}{measures}{more}"
        if not casts:
            return Verdict("changed", changed, measures=measures)
        doubtful = alike and not gathering.varied
        return Verdict("cast", casts[0].reason, measures=measures, else_changed=changed if doubtful else "")

    def _same_numbers(self, pair: Pair) -> bool:
        """Whether both hold the same elements, in whatever order."""
        order = 0
        with self._blocks(pair) as blocks:
            for left, right in blocks:
                order += fingerprint(left) - fingerprint(right)
        return order % (1 << 64) == 0

    def _turned(self, pair: Pair) -> Verdict | None:
        with self._whole:
            left, right = self._left.whole(pair.left), self._right.whole(pair.right)
            axes = axes_between(left, right)
        if axes is None:
            return None
        shown = f"axes {list(axes)}"
        turn = "transposed" if axes == (1, 0) else "its axes in another order"
        return Verdict("layout", f"the same numbers, {turn}: {shown} of the left", shown)

    def _blocks(self, pair: Pair) -> closing[Generator[tuple[np.ndarray, np.ndarray]]]:
        return closing(_side_by_side(self._left, self._right, pair))


def _side_by_side(left: Side, right: Side, pair: Pair) -> Generator[tuple[np.ndarray, np.ndarray]]:
    yield from zip_longest(left.blocks(pair.left, ELEMENTS), right.blocks(pair.right, ELEMENTS))


def _equal_bytes(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(_words(left), _words(right))


def _words(block: np.ndarray) -> np.ndarray:
    return block.view(np.uint64) if block.nbytes % 8 == 0 else bits_of(block)


def _tolerable(one: LeafInfo, other: LeafInfo) -> bool:
    """Whether a tolerance can mean something: whole numbers and truth values are equal or not."""
    exact = ("int", "uint", "bool")
    return not (one.dtype.startswith(exact) or other.dtype.startswith(exact))


def _refusal(one: LeafInfo, other: LeafInfo) -> str:
    sides = [f"{info.refused} on the {side}" for side, info in (("left", one), ("right", other)) if info.refused]
    return "cannot be compared: " + ", ".join(sides)
