"""Each rule of the judge can say no."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loftr2flax.parity.judge import LIMIT, Rounding, effective_size, judge, judge_choice, limit_for
from loftr2flax.parity.run import record, replay
from loftr2flax.parity.values import ParityReport, WeightsCheck

RNG = np.random.default_rng(0)
ORACLE = RNG.standard_normal((40, 50))
NOISE = 1e-7 * RNG.standard_normal((40, 50))
TORCH = ORACLE + NOISE


def verdict(actual: np.ndarray, oracle: np.ndarray = ORACLE, torch: np.ndarray = TORCH):
    return judge("x", actual, oracle, Rounding.of(torch, oracle))


def test_the_same_rounding_error_in_another_order_passes():
    found = verdict(ORACLE + NOISE[::-1])
    assert found.passed
    assert found.ratio == pytest.approx(1)
    assert found.limit == LIMIT
    assert found.cosine == pytest.approx(1)
    assert found.elements == 2000


def test_three_times_the_rounding_error_fails():
    found = verdict(ORACLE + 3 * NOISE[::-1])
    assert found.ratio == pytest.approx(3)
    assert found.reason == "r 3 is above 2"


def test_the_worst_element_is_named_with_both_values():
    actual = TORCH.copy()
    actual[7, 9] += 1
    found = verdict(actual)
    assert found.max_abs.index == (7, 9)
    assert found.max_abs.error == pytest.approx(1)
    assert (found.max_abs.expected, found.max_abs.actual) == (ORACLE[7, 9], actual[7, 9])
    assert found.max_rel.error >= found.max_abs.error / abs(ORACLE).max()
    assert found.max_ulp.error > 1e5


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_or_inf_on_one_side_fails(special):
    actual = TORCH.copy()
    actual[3, 4] = special
    assert "on one side in 1 places, first at [3, 4]" in verdict(actual).reason
    oracle, torch = ORACLE.copy(), TORCH.copy()
    oracle[3, 4] = torch[3, 4] = special
    assert "on one side" in verdict(TORCH, oracle, torch).reason


def test_equal_nan_masks_pass_and_do_not_count():
    arrays = [array.copy() for array in (ORACLE + NOISE[::-1], ORACLE, TORCH)]
    for array in arrays:
        array[:5] = np.nan
    found = verdict(*arrays)
    assert found.passed
    assert found.elements == 35 * 50


def test_inf_of_the_other_sign_fails():
    arrays = [array.copy() for array in (TORCH, ORACLE, TORCH)]
    for array, value in zip(arrays, (np.inf, -np.inf, -np.inf), strict=True):
        array[0, 0] = value
    assert "inf on one side" in verdict(*arrays).reason


def test_nothing_but_nan_is_no_pass():
    nothing = np.full((4, 4), np.nan)
    assert "nothing was compared" in verdict(nothing, nothing, nothing).reason


def test_no_elements_are_no_pass():
    empty = np.zeros((0, 3))
    assert "nothing was compared" in verdict(empty, empty, empty).reason
    assert not judge_choice("ids", np.zeros((3, 0), int), np.zeros((3, 0), int)).passed


def test_another_shape_fails_even_where_it_would_broadcast():
    assert verdict(TORCH[:1]).reason == "shape (1, 50) instead of (40, 50)"


def test_where_torch_is_exact_only_equal_numbers_pass():
    exact = ORACLE.astype(np.float32).astype(np.float64)
    assert verdict(exact, exact, exact).ratio == 0
    found = verdict(np.nextafter(exact.astype(np.float32), np.float32(9)), exact, exact)
    assert math.isinf(found.ratio)
    assert "torch's float32 is exact here" in found.reason


def test_zeros_for_a_result_fail():
    assert not verdict(np.zeros_like(ORACLE)).passed
    assert verdict(np.zeros_like(ORACLE)).excess > 1e5


def test_where_torch_itself_overflows_it_is_no_judge():
    torch = TORCH.copy()
    torch[0, 0] = np.inf
    assert "no judge here" in verdict(TORCH, ORACLE, torch).reason


def test_one_wrong_cell_of_a_large_map_does_not_drown():
    oracle = RNG.standard_normal(1_000_000)
    noise = 1e-7 * RNG.standard_normal(1_000_000)
    actual = oracle + noise[::-1]
    actual[12] += 1e-4 * 0.9
    found = verdict(actual, oracle, oracle + noise)
    assert found.ratio < LIMIT
    assert "the largest error is" in found.reason


def test_an_error_that_few_elements_carry_may_vary_more():
    assert effective_size(np.ones(500)) == pytest.approx(500)
    assert effective_size(np.array([1.0, 1e-9, 1e-9])) == pytest.approx(1)
    assert math.isinf(effective_size(np.zeros(3)))
    assert [limit_for(n) for n in (100, 1)] == [2.0, 6.0]
    assert limit_for(0.5) == 6.0


def test_a_lucky_digit_of_torch_does_not_make_a_limit():
    """One confidence near 1 among thousands of small ones: its error is all there is, and in torch it is tiny."""
    oracle = np.abs(RNG.standard_normal(2000)) * 1e-6
    relative = 1e-6 * RNG.standard_normal(2000)
    oracle[5], relative[5] = 0.9, 1e-9
    torch = oracle * (1 + relative)
    usual, off = oracle * (1 - relative), oracle * (1 - relative)
    usual[5], off[5] = 0.9 * (1 + 1e-6), 0.9 * (1 + 1e-4)
    assert verdict(usual, oracle, torch).passed
    assert not verdict(off, oracle, torch).passed


def test_numbers_that_float32_has_no_room_for_say_nothing_of_its_error():
    """Most of a sharp confidence matrix is below 1e-38, where torch's float32 is off by all of the number."""
    oracle = np.abs(RNG.standard_normal(2000)) * 1e-60
    oracle[:400] *= 1e54
    oracle[5] = 0.9
    torch = (oracle * (1 + 1e-6 * RNG.standard_normal(2000))).astype(np.float32)
    actual = oracle.copy()
    actual[5] *= 1 + 1e-6
    assert verdict(actual, oracle, torch).passed
    actual[5] = 0.8
    assert not verdict(actual, oracle, torch).passed


def test_errors_too_small_to_be_squared_still_count():
    oracle = np.full(200, 1e-200)
    assert verdict(oracle * (1 + 3e-7), oracle, oracle * (1 + 1e-7)).ratio == pytest.approx(3, rel=1e-3)


def test_choices_are_equal_or_not():
    ids = np.arange(6).reshape(3, 2)
    assert judge_choice("ids", ids, ids).passed
    assert judge_choice("ids", ids + 1, ids).reason == "6 of 6 choices differ"


class Doubling:
    """Two stages; what the second makes can be left out."""

    stage_names = ("double", "again")

    def __init__(self, kind: type, leave_out: bool = False) -> None:
        self.kind, self.leave_out = kind, leave_out

    def stage(self, name, given):
        if name == "double":
            return {"double": (given["x"] / self.kind(3)).astype(self.kind)}
        return {} if self.leave_out else {"again": (given["double"] / self.kind(7)).astype(self.kind)}


def test_an_array_that_is_not_there_is_no_pass():
    said = record(Doubling(np.float64), Doubling(np.float32), {"x": RNG.standard_normal(300).astype(np.float32)})
    right = replay(said, Doubling(np.float32))
    assert [row.passed for row in right.rows] == [True, True]
    lacking = replay(said, Doubling(np.float32, leave_out=True)).rows[1]
    assert not lacking.passed
    assert lacking.missing == ("again",)
    assert lacking.wrong_by_itself


def test_a_report_of_nothing_is_no_pass():
    nothing = ParityReport("a", "b", "m/1", "", (), WeightsCheck(0, 0))
    assert not nothing.passed
    assert nothing.exit_code == 5
