"""One array's verdict: how many times torch's own rounding error it is away from the float64 oracle.

    r = rmse(candidate32, torch64) / rmse(torch32, torch64)

The denominator is what float32 costs torch on the same inputs, so r asks for what can be asked for, on any network and
at any depth, without a tolerance for anyone to tune. Order of summation is free, and torch's library chooses it by the
processor: where torch is also run with its sums in plain order, the larger of both errors counts (`Rounding.widest`),
so that the verdict does not hang on the machine. The rules, in the order in which they are applied:

1. Shapes are equal. An array without elements, or without one finite number, is never a pass: nothing was compared.
2. NaN stands where the oracle has NaN, and infinities with their sign where it has them, in the candidate and in
   torch's float32. A NaN on one side is a failure, not a gap to step over.
3. Where torch's float32 makes no error at all, every number is one that float32 holds and that takes no rounding (a
   window cut from a map, zeros at padding), so the candidate must be equal to the bit: r is 0 or inf.
4. Else r ≤ 2: the candidate may add its numbers in another order, and order costs up to about as much again.
5. The limit is higher where few elements carry the error. An rmse over n independent errors varies by about
   1 / sqrt(2 n) of itself, but errors are not equally large: a confidence matrix of 18,000 elements may owe its rmse to
   three. n is therefore the *effective size* (Σ e²)² / Σ e⁴, the smaller of both sides' (`limit_for`).
6. Where few carry it, torch's error may be small by luck: at one element, chance alone makes one of ten ratios larger
   than 6. The denominator is then at least the error that torch makes *relative* to each element, the median of all
   that float32 holds with all its digits, times the size of the elements that count (`_expected`).
7. No single element is further off than `WORST` times torch's worst, limits and effective sizes alike: a border that is
   wrong in one cell of a large map would drown in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loftr2flax.parity.values import Judgement, Spot

LIMIT = 2.0
"""What r may be where many elements carry the error (facts of `torch._dynamo.utils.same`, which uses the same rule)."""
MANY = 100
"""Elements from which on the error counts as carried by many."""
WORST = 16.0
"""What the largest error may be, in torch's largest: far above what chance gives, far below a mistake."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """What float32 costs torch on one array.

    Attributes:
      rmse: against the oracle, or what is to be expected of it where few elements carry it; 0 where every number is
        exact, NaN where float32 and float64 disagree on what is finite.
      few: effective size of the error, inf where there is none.
      largest: the largest error of one element.
    """

    rmse: float
    few: float
    largest: float

    @classmethod
    def of(cls, reference: np.ndarray, oracle: np.ndarray) -> Rounding:
        """The error of torch's float32 result against its float64 result, arrays of one shape."""
        if not _same_special(reference, oracle):
            return cls(math.nan, math.inf, math.nan)
        error = _error(reference, oracle)
        rmse, few, largest = _rms(error), effective_size(error), float(np.abs(error).max(initial=0.0))
        if few < MANY:
            expected = _expected(error, oracle[np.isfinite(oracle)])
            rmse, largest = max(rmse, expected), max(largest, expected * math.sqrt(error.size))
        return cls(rmse, few, largest)

    @classmethod
    def widest(cls, found: Sequence[Rounding]) -> Rounding:
        """The largest of several: float32 may cost as much as it costs in any order of summation."""
        for one in found:
            if math.isnan(one.rmse):
                return one
        return replace(max(found, key=lambda one: one.rmse), largest=max(one.largest for one in found))


def effective_size(error: np.ndarray) -> float:
    """How many elements carry the error: (Σ e²)² / Σ e⁴, from 1 to the size; inf where there is no error."""
    largest = np.abs(error).max(initial=0.0)
    if not largest:
        return math.inf
    square = np.square(error / largest)  # scaled, so that fourth powers of 1e-90 do not vanish
    return float(square.sum() ** 2 / np.square(square).sum())


def limit_for(few: float) -> float:
    """What r may be where ``few`` elements carry the error: 2 for many, 2.4 for 99, 6 for one."""
    return LIMIT if few >= MANY else LIMIT * (1 + 2 / math.sqrt(max(few, 1.0)))


def judge(name: str, actual: np.ndarray, oracle: np.ndarray, rounding: Rounding) -> Judgement:
    """The verdict on one array.

    Args:
      name: the array's name.
      actual: the candidate's result, any float type.
      oracle: torch's float64 result.
      rounding: what float32 costs torch here.
    """
    if actual.shape != oracle.shape:
        return _refused(name, f"shape {actual.shape} instead of {oracle.shape}")
    if not actual.size:
        return _refused(name, "no elements: nothing was compared")
    if math.isnan(rounding.rmse):
        return _refused(name, "torch's float32 has NaN or inf where its float64 has not: it is no judge here")
    if not _same_special(actual, oracle):
        return _refused(name, _special_difference(actual, oracle))
    finite = np.isfinite(oracle)
    if not finite.any():
        return _refused(name, "no finite number: nothing was compared")
    ours, exact = actual[finite].astype(np.float64), oracle[finite]
    error = ours - exact
    rmse, largest = _rms(error), float(np.abs(error).max())
    limit = limit_for(min(rounding.few, effective_size(error)))
    ratio = 0.0 if not rmse else rmse / rounding.rmse if rounding.rmse else math.inf
    reason = ""
    if ratio == math.inf:
        reason = "torch's float32 is exact here, and this is not"
    elif ratio > limit:
        reason = f"r {ratio:.3g} is above {limit:.3g}"
    elif largest > WORST * rounding.largest:
        reason = f"the largest error is {largest / rounding.largest:.3g} times torch's largest"
    return Judgement(
        name, ratio, limit, reason, rmse, rounding.rmse, ours.size, *_worst(actual, oracle), _cosine(ours, exact)
    )


def judge_choice(name: str, actual: np.ndarray, oracle: np.ndarray) -> Judgement:
    """The verdict on whole numbers and truth values, which have no rounding error: they are equal, or they are not."""
    if actual.shape != oracle.shape:
        return _refused(name, f"shape {actual.shape} instead of {oracle.shape}")
    if not actual.size:
        return _refused(name, "no elements: nothing was compared")
    unequal = int((actual != oracle).sum())
    reason = f"{unequal:,} of {actual.size:,} choices differ" if unequal else ""
    return Judgement(name, math.inf if unequal else 0.0, LIMIT, reason, elements=actual.size)


def _refused(name: str, reason: str) -> Judgement:
    return Judgement(name, math.inf, LIMIT, reason)


def _same_special(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether NaN and infinities stand in the same places, infinities with the same sign."""
    if np.isfinite(one).all() and np.isfinite(other).all():
        return True
    inf = np.isinf(one)
    return (
        np.array_equal(np.isnan(one), np.isnan(other))
        and np.array_equal(inf, np.isinf(other))
        and np.array_equal(np.signbit(one[inf]), np.signbit(other[inf]))
    )


def _special_difference(actual: np.ndarray, oracle: np.ndarray) -> str:
    one_sided = np.isnan(actual) != np.isnan(oracle)
    what = "NaN" if one_sided.any() else "inf"
    where = one_sided if one_sided.any() else (np.isinf(actual) | np.isinf(oracle)) & (actual != oracle)
    index = [int(n) for n in np.unravel_index(int(where.argmax()), where.shape)]
    place = tuple(index)
    return (
        f"{what} on one side in {int(where.sum()):,} places, first at {index}: {actual[place]} for {oracle[place]:.6g}"
    )


def _error(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    finite = np.isfinite(other)
    difference: np.ndarray = one[finite].astype(np.float64) - other[finite]
    return difference


def _rms(error: np.ndarray) -> float:
    largest = float(np.abs(error).max(initial=0.0))
    return largest * float(np.sqrt(np.mean(np.square(error / largest)))) if largest else 0.0


def _expected(error: np.ndarray, exact: np.ndarray) -> float:
    """The rmse of errors that are as large, relative to their elements, as most are: 1.48 medians are one deviation.

    Numbers below float32's range lose all digits whoever computes them: most of a sharp confidence matrix are such, and
    their relative error of 1 says nothing of the few that count.
    """
    there = np.abs(exact) >= np.finfo(np.float32).tiny
    if not there.any():
        return 0.0
    relative = 1.48 * float(np.median(np.abs(error[there] / exact[there])))
    return relative * _rms(exact)


def _worst(actual: np.ndarray, oracle: np.ndarray) -> tuple[Spot, Spot, Spot]:
    """The largest absolute error, relative error and distance in float32 steps."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.abs(actual.astype(np.float64) - oracle)
        relative = np.where(error == 0, 0, error / np.abs(oracle))
        steps = np.spacing(np.maximum(np.abs(oracle).astype(np.float32), np.finfo(np.float32).tiny))
        ulp = error / steps.astype(np.float64)
    first, second, third = (_spot(measure, actual, oracle) for measure in (error, relative, ulp))
    return first, second, third


def _spot(measure: np.ndarray, actual: np.ndarray, oracle: np.ndarray) -> Spot:
    measure = np.where(np.isfinite(oracle), measure, -1.0)
    index = tuple(int(n) for n in np.unravel_index(int(measure.argmax()), measure.shape))
    return Spot(float(measure[index]), index, float(oracle[index]), float(actual[index]))


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else math.nan
