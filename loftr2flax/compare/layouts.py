"""Whether one array holds the other's numbers in another order of axes."""

from __future__ import annotations

import itertools

import numpy as np

from loftr2flax.compare.measures import bits_of

_MOST_AXES = 6
"""720 orders are tried for six axes; for more, none."""
_PROBES = 64
_ROWS = 1 << 20


def fingerprint(block: np.ndarray) -> int:
    """A number below 2**64 that depends on the elements' bits and not on their order; of blocks it adds up, modulo.

    Each element's bits go through the mixing step of SplitMix64 (Steele, Lea and Flood 2014) before they are summed.
    """
    bits = bits_of(block).astype(np.uint64)
    if block.dtype.itemsize == 16:  # two words an element, whose order counts
        bits = _mixed(bits[::2]) ^ bits[1::2]
    return int(_mixed(bits).sum(dtype=np.uint64))


def total_of_bits(block: np.ndarray) -> int:
    """The sum of the elements' bits; of blocks it adds up. Where it differs, so do fingerprints."""
    return int(bits_of(block).sum(dtype=np.uint64))


def _mixed(bits: np.ndarray) -> np.ndarray:
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = bits ^ (bits >> np.uint64(31))
    return mixed


def axes_between(left: np.ndarray, right: np.ndarray) -> tuple[int, ...] | None:
    """The order of axes other than their own with which ``left.transpose(order)`` is ``right``, bit for bit; or None.

    Args:
      left, right: C-contiguous arrays of one type.
    """
    if left.dtype != right.dtype or sorted(left.shape) != sorted(right.shape) or left.ndim > _MOST_AXES:
        return None
    own = tuple(range(left.ndim))
    for order in itertools.permutations(own):
        fits = order != own and tuple(left.shape[axis] for axis in order) == right.shape
        if fits and _agree(left.transpose(order), right):
            return order
    return None


def _agree(turned: np.ndarray, right: np.ndarray) -> bool:
    """Equality bit for bit: of a few elements, then of all, some rows at a time."""
    if not right.size:
        return False
    probes = np.unravel_index(np.linspace(0, right.size - 1, min(_PROBES, right.size)).astype(np.int64), right.shape)
    if turned[probes].tobytes() != right[probes].tobytes():
        return False
    step = max(1, _ROWS * len(right) // right.nbytes)
    starts = range(0, len(right), step)
    return all(turned[n : n + step].tobytes() == right[n : n + step].tobytes() for n in starts)
