"""Which leaf of the one side is which of the other, where their names do not agree.

In the order of how much it proves: a prefix that one side has before all its names, then equal content, then, as a
guess, equal shape with alike statistics.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.compare.branches import common_tail, last_segment
from loftr2flax.compare.layouts import fingerprint
from loftr2flax.compare.leaf_pair import ELEMENTS, Pair
from loftr2flax.compare.sides import Side

_SEPARATOR = re.compile(r"[./]")
_ALIKE = 0.05
"""How far mean and root mean square may be apart, in root mean squares, for a guess."""
_FLAT = 1e-6
"""A spread below this share of the root mean square is taken for rounding error."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What one pass over a leaf leaves behind.

    Attributes:
      print: `fingerprint`, which does not depend on the order of the elements.
      mean, rms: of the finite elements.
      constant: whether all elements have the same bits; equal content then proves little.
    """

    print: int
    mean: float
    rms: float
    constant: bool

    def alike(self, other: Sketch) -> float:
        """How far mean and rms are apart, in the larger rms: 0 for equal ones."""
        scale = max(self.rms, other.rms)
        if not scale or not math.isfinite(scale):
            return math.inf
        return max(abs(self.mean - other.mean), abs(self.rms - other.rms)) / scale

    def correlation(self, other: Sketch, cosine: float) -> float:
        """Pearson's correlation of two leaves whose cosine is known: that of scales, all near 1, says nothing."""
        spreads = [math.sqrt(max(s.rms**2 - s.mean**2, 0.0)) for s in (self, other)]
        if min(spreads) <= _FLAT * max(self.rms, other.rms):
            return 0.0
        return (cosine * self.rms * other.rms - self.mean * other.mean) / (spreads[0] * spreads[1])


def sketch(blocks: Iterable[np.ndarray]) -> Sketch:
    """Reads a leaf once."""
    total, count, sums, squares, constant = 0, 0, 0.0, 0.0, True
    first: bytes | None = None
    for block in blocks:
        total += fingerprint(block)
        if first is None:
            first = block[:1].tobytes()
        constant = constant and block.tobytes() == first * block.size
        with np.errstate(all="ignore"):
            numbers = np.abs(block) if block.dtype.kind == "c" else block
            wide = numbers.astype(np.float64)
            wide = wide[np.isfinite(wide)]
            sums, squares, count = sums + float(wide.sum()), squares + float(wide @ wide), count + wide.size
    return Sketch(total % (1 << 64), sums / max(count, 1), math.sqrt(squares / max(count, 1)), constant)


def common_prefix(left: Sequence[str], right: Sequence[str]) -> tuple[str, str]:
    """What stands before the names of one side, and the other's names lack: ("module.", ""), ("", "model/"), ("", "").

    Only what explains most of the smaller side's names counts, and only if it does not go both ways.
    """
    (ours, before), (theirs, after) = _before(left, right), _before(right, left)
    if ours == theirs or 2 * max(ours, theirs) <= min(len(left), len(right)):
        return "", ""
    return (before, "") if ours > theirs else ("", after)


def _before(names: Sequence[str], others: Sequence[str]) -> tuple[int, str]:
    """The prefix without which most of the names are among the others, and how many; 0 and "" where there is none."""
    known = set(others)
    found = Counter(name[: m.end()] for name in names for m in _SEPARATOR.finditer(name) if name[m.end() :] in known)
    return max(((count, prefix) for prefix, count in found.items()), default=(0, ""))


def by_prefix(left: Sequence[str], right: Sequence[str], prefix: tuple[str, str]) -> list[Pair]:
    """The pairs of names that are equal once each side's prefix is gone."""
    before, after = prefix
    there = set(right)
    names = ((name, after + name.removeprefix(before)) for name in left if name.startswith(before))
    return [Pair(name, other) for name, other in names if other in there]


class Sketches:
    """Sketches of the leaves that names leave unpaired, read when asked for and once only."""

    def __init__(self, left: Side, right: Side) -> None:
        self._sides = (left, right)
        self._made: dict[tuple[int, str], Sketch] = {}

    def of(self, side: int, name: str) -> Sketch:
        """The sketch of a leaf of the left (0) or the right (1)."""
        key = (side, name)
        if key not in self._made:
            self._made[key] = sketch(self._sides[side].blocks(name, ELEMENTS))
        return self._made[key]

    def candidates(
        self, left: Sequence[str], right: Sequence[str], kind: Callable[[LeafInfo], object]
    ) -> Iterator[tuple[list[str], list[str]]]:
        """Leaves of both sides that are of one ``kind``, by their headers."""
        groups: dict[object, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for number, names in enumerate((left, right)):
            for name in names:
                info = self._sides[number].infos[name]
                if not info.refused and info.size:
                    groups[kind(info)][number].append(name)
        yield from ((ours, theirs) for ours, theirs in groups.values() if ours and theirs)


def by_content(sketches: Sketches, left: Sequence[str], right: Sequence[str]) -> Iterator[Pair]:
    """Pairs of leaves whose elements are the same, perhaps in another order; the names nearest to each other first."""

    def kind(info: LeafInfo) -> object:
        return info.dtype, sorted_sizes(info)

    for ours, theirs in sketches.candidates(left, right, kind):
        waiting: Mapping[int, list[str]] = defaultdict(list)
        for name in theirs:
            waiting[sketches.of(1, name).print].append(name)
        for name in ours:
            mine = sketches.of(0, name)
            equal = waiting.get(mine.print, [])
            if mine.constant:
                equal = [other for other in equal if last_segment(other) == last_segment(name)]
            if equal:
                nearest = max(equal, key=lambda other: common_tail(name, other))
                waiting[mine.print].remove(nearest)
                yield Pair(name, nearest)


def by_statistics(sketches: Sketches, left: Sequence[str], right: Sequence[str]) -> Iterator[Pair]:
    """Pairs of leaves of one shape, dtype and last name whose mean and rms are near, the nearest first. Guesses."""
    names = {*left, *right}

    def kind(info: LeafInfo) -> object:
        return info.dtype, info.shape

    for ours, theirs in sketches.candidates(left, right, kind):
        distances = sorted(
            (distance, -common_tail(one, other), one, other)
            for one in ours
            for other in theirs
            if last_segment(one) == last_segment(other)
            and (distance := sketches.of(0, one).alike(sketches.of(1, other))) < _ALIKE
        )
        for _, _, one, other in distances:
            if one in names and other in names:
                names -= {one, other}
                yield Pair(one, other)


def sorted_sizes(info: LeafInfo) -> tuple[int, ...]:
    """The sizes of a leaf's axes in order, without those of 1."""
    return tuple(sorted(size for size in info.shape if size != 1))
