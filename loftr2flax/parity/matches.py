"""Matches as sets. A match that one side alone has is a tie where rounding decides it, and a difference where not.

A pair of cells is a match while its confidence is above the threshold and above every other in its row and in its
column. The *margin* of a flip is how far the oracle would have to move to see it the other way: down to the nearest of
these edges where it is a match, up over the farthest one where it is not. Its *noise* is what torch's own
float32 makes of the confidences that decide it, times the limit of r: the candidate's errors do not enter, so that a
candidate that is far off cannot excuse itself.
"""

from __future__ import annotations

import numpy as np

from loftr2flax.parity.judge import LIMIT
from loftr2flax.parity.values import Flip, MatchComparison, Points

STEPS = 4
"""Confidences are told apart from so many float32 steps on, however exact torch happens to be at a place."""


def compare_matches(
    theirs: np.ndarray,
    ours: np.ndarray,
    oracle: np.ndarray,
    torch32: np.ndarray,
    threshold: float,
    points: tuple[Points, Points],
) -> MatchComparison:
    """Compares two sets of matches.

    Args:
      theirs, ours: ids [3, M] of torch in float32 and of the candidate.
      oracle, torch32: the confidence matrix [B, L, S] in float64 and in torch's float32.
      threshold: a match has a confidence above it.
      points: both sets as points.
    """
    first, second = _as_set(theirs), _as_set(ours)
    flips = [_flip(ids, "torch", oracle, torch32, threshold) for ids in sorted(first - second)]
    flips += [_flip(ids, "flax", oracle, torch32, threshold) for ids in sorted(second - first)]
    return MatchComparison(len(first & second), tuple(flips), *points)


def _as_set(ids: np.ndarray) -> set[tuple[int, int, int]]:
    return {(int(b), int(i), int(j)) for b, i, j in ids.T}


def _flip(ids: tuple[int, int, int], side: str, oracle: np.ndarray, torch32: np.ndarray, threshold: float) -> Flip:
    batch, i, j = ids
    row, column, here = oracle[batch, i], oracle[batch, :, j], float(oracle[ids])
    rivals = (np.delete(row, j).max(initial=0.0), np.delete(column, i).max(initial=0.0), threshold)
    margin = abs(min(here - float(edge) for edge in rivals))
    off = max(_error(torch32[batch, i], row), _error(torch32[batch, :, j], column))
    noise = 2 * max(LIMIT * off, STEPS * float(np.spacing(np.float32(here))))  # both of two rivals may be off
    return Flip(ids, "torch" if side == "torch" else "flax", margin, noise)


def _error(single: np.ndarray, oracle: np.ndarray) -> float:
    return float(np.abs(single.astype(np.float64) - oracle).max())
