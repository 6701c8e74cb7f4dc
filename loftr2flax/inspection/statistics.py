"""What the numbers of one leaf are like, gathered block by block: memory does not follow the leaf's size."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from loftr2flax.checkpoint import LeafInfo

BLOCK = 1 << 18
"""Elements looked at together: 2 MiB of float64."""


class LeafStats(NamedTuple):
    """The numbers of one leaf; of complex ones, their magnitudes.

    Attributes:
      minimum, maximum: of the finite elements, exact; None where there are none.
      mean, std: of the finite elements, in float64 (std of the population); None where there are none, or past float64.
      zeros, nans, infinities: how many elements are so; −0 is a zero.
      constant: whether all elements are one and the same number; False for fewer than two.
      channels: how many output channels the leaf has; 0 where it has no such axis.
      dead_channels: those that hold nothing but zeros.
    """

    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nans: int
    infinities: int
    constant: bool
    channels: int = 0
    dead_channels: int = 0


class StatsGathering:
    """Takes a leaf's elements in C order, one-dimensional blocks of any size, and ends in `LeafStats`.

    Args:
      info: the leaf.
      channel_axis: the axis of its output channels, 0 or −1; None where it has none.
    """

    def __init__(self, info: LeafInfo, channel_axis: int | None) -> None:
        self._axis = channel_axis
        self._channels = info.shape[channel_axis] if channel_axis is not None else 0
        self._inner = info.size // max(self._channels, 1)  # elements of one channel
        self._alive = np.zeros(self._channels, bool)
        self._whole = info.dtype.startswith(("int", "uint", "bool"))
        self._seen = self._finite = self._zeros = self._nans = 0
        self._low: float | None = None
        self._high: float | None = None
        self._mean = self._squares = 0.0
        self._first: np.ndarray | None = None
        self._constant = True

    def add(self, block: np.ndarray) -> None:
        """The next elements."""
        with np.errstate(all="ignore"):
            for start in range(0, block.size, BLOCK):
                self._add(block[start : start + BLOCK])

    def _add(self, block: np.ndarray) -> None:
        if self._first is None:
            self._first = block[:1].copy()
        self._constant = self._constant and bool((block == self._first).all())
        alive = block != 0  # NaN is not zero
        self._zeros += block.size - int(np.count_nonzero(alive))
        self._note_channels(alive)
        self._seen += block.size
        numbers = (np.abs(block) if block.dtype.kind == "c" else block).astype(np.float64)
        finite = np.isfinite(numbers)
        if not finite.all():
            self._nans += int(np.isnan(numbers).sum())
            block, numbers = block[finite], numbers[finite]
        if numbers.size:
            self._note_range(block if self._whole else numbers)
            self._merge(numbers)

    def _note_range(self, finite: np.ndarray) -> None:
        low, high = finite.min().item(), finite.max().item()
        self._low = low if self._low is None else min(self._low, low)
        self._high = high if self._high is None else max(self._high, high)

    def _merge(self, numbers: np.ndarray) -> None:
        """Mean and sum of squares of two parts together (Chan, Golub and LeVeque 1979)."""
        mean = float(numbers.mean())
        numbers -= mean
        squares = float(np.dot(numbers, numbers))
        total = self._finite + numbers.size
        off = mean - self._mean
        self._squares += squares + off * off * self._finite * numbers.size / total
        self._mean += off * numbers.size / total
        self._finite = total

    def _note_channels(self, alive: np.ndarray) -> None:
        if self._axis == 0:
            first, last = self._seen // self._inner, (self._seen + alive.size - 1) // self._inner
            starts = [max(channel * self._inner - self._seen, 0) for channel in range(first, last + 1)]
            self._alive[first : last + 1] |= np.logical_or.reduceat(alive, starts)
        elif self._axis is not None:
            self._alive[(self._seen + np.flatnonzero(alive)) % self._channels] = True

    def stats(self) -> LeafStats:
        """What came out."""
        mean = std = None
        if self._finite:
            mean, std = self._mean, math.sqrt(self._squares / self._finite)
        infinities = self._seen - self._finite - self._nans
        constant = self._constant and self._seen > 1
        if constant and mean is not None:
            mean, std = float(self._low or 0), 0.0  # not what a sum's rounding makes of it
        dead = int(self._channels - np.count_nonzero(self._alive))
        low, high = (None if end is None else end + 0 for end in (self._low, self._high))  # True is 1
        return LeafStats(
            low, high, _known(mean), _known(std), self._zeros, self._nans, infinities, constant, self._channels, dead
        )


def _known(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
