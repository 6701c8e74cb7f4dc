"""Matches as sets: equal, ties, and differences that rounding does not explain."""

from __future__ import annotations

import numpy as np

from loftr2flax.parity.matches import compare_matches
from loftr2flax.parity.values import Points

NONE = Points(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, int))
CONF = np.full((1, 4, 4), 1e-3)
CONF[0, 0, 0], CONF[0, 1, 1], CONF[0, 2, 2], CONF[0, 2, 3] = 0.9, 0.2 + 3e-8, 0.6, 0.6 - 2e-8


def ids(*cells: tuple[int, int]) -> np.ndarray:
    return np.array([[0, i, j] for i, j in cells], np.int32).reshape(-1, 3).T


def compared(theirs: np.ndarray, ours: np.ndarray, error: float = 1e-8):
    return compare_matches(theirs, ours, CONF, CONF + error, 0.2, (NONE, NONE))


def test_equal_sets_in_any_order():
    found = compared(ids((0, 0), (1, 1)), ids((1, 1), (0, 0)))
    assert (found.common, found.ties, found.differences, found.passed) == (2, 0, 0, True)


def test_a_flip_at_the_threshold_is_a_tie():
    found = compared(ids((0, 0), (1, 1)), ids((0, 0)))
    assert (found.common, found.ties, found.passed) == (1, 1, True)
    assert found.flips[0].side == "torch"
    assert found.flips[0].margin < 1e-7


def test_a_flip_between_two_rivals_is_a_tie_on_both_sides():
    found = compared(ids((2, 2)), ids((2, 3)))
    assert [flip.side for flip in found.flips] == ["torch", "flax"]
    assert (found.ties, found.passed) == (2, True)


def test_a_flip_far_from_any_edge_is_a_difference():
    found = compared(ids((0, 0), (1, 1)), ids((1, 1)))
    assert (found.ties, found.differences, found.passed) == (0, 1, False)
    assert found.flips[0].ids == (0, 0, 0)


def test_a_pair_that_nothing_speaks_for_is_a_difference():
    assert compared(ids((0, 0)), ids((0, 0), (3, 1))).differences == 1


def test_a_pair_of_another_image_of_the_batch_is_another_match():
    conf = np.concatenate([CONF, CONF])
    first = ids((0, 0))
    second = np.add(first, [[1], [0], [0]])
    found = compare_matches(first, second, conf, conf + 1e-8, 0.2, (NONE, NONE))
    assert (found.common, found.differences) == (0, 2)
    assert [flip.ids for flip in found.flips] == [(0, 0, 0), (1, 0, 0)]


def test_points_of_one_pair_of_a_batch():
    points = Points(np.arange(6).reshape(3, 2), np.zeros((3, 2)), np.ones(3), np.array([0, 1, 0]))
    assert points.of_pair(0).points0.tolist() == [[0, 1], [4, 5]]
    assert len(points.of_pair(1)) == 1
