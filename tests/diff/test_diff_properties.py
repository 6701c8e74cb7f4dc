"""Any two trees: every leaf is told once, a tree is the same as itself, and the order of the two does not matter."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loftr2flax import diff_checkpoints
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.compare.layouts import axes_between, fingerprint
from loftr2flax.compare.values import CheckpointDiff, Seen
from loftr2flax.formats.writer import open_writer

NAMES = st.sampled_from(["a.w", "a.b", "b.w", "b.b", "net.a.w", "net.a.b", "net.b.w", "c.0.w", "c.1.w", "head"])
DTYPES = st.sampled_from(
    [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int8, np.bool_, np.complex64]
)
SHAPES = st.sampled_from([(), (3,), (2, 3), (3, 2), (0, 3), (2, 1, 3), (2, 2)])
VALUES = st.sampled_from([0.0, -0.0, 1.0, -2.0, 0.1, 1e-3, 3e4, float("nan"), float("inf")])


@st.composite
def leaf(draw: st.DrawFn) -> np.ndarray:
    """Few values, so that chance makes equal leaves, permuted ones and rounded ones."""
    dtype, shape = np.dtype(draw(DTYPES)), draw(SHAPES)
    size = int(np.prod(shape))
    values = np.array(draw(st.lists(VALUES, min_size=size, max_size=size)), np.float64)
    if dtype.kind in "iub":
        values = np.clip(np.nan_to_num(values), -100, 100)
    with np.errstate(over="ignore"):
        return values.astype(dtype).reshape(shape)


TREES = st.dictionaries(NAMES, leaf(), max_size=6)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two trees that have leaves in common, under the same names or under others, turned and rounded or not."""
    left, right = draw(TREES), draw(TREES)
    for name, array in left.items():
        change = draw(st.sampled_from(["none", "copy", "move", "turn", "round"]))
        if change == "copy":
            right[name] = array
        elif change == "move":
            right[draw(NAMES)] = array
        elif change == "turn":
            right[name] = np.ascontiguousarray(array.T).reshape(array.T.shape)
        elif change == "round" and array.dtype == np.float32:
            right[name] = array.astype(ml_dtypes.bfloat16).astype(np.float32)
    return left, right


def compare(left: dict[str, np.ndarray], right: dict[str, np.ndarray], **options: object) -> CheckpointDiff:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "left.npz", Path(folder) / "right.npz"]
        for path, leaves in zip(paths, (left, right), strict=True):
            infos = {name: LeafInfo(array.shape, array.dtype.name) for name, array in leaves.items()}
            with open_writer(path, "npz", infos, {}) as writer:
                for name in writer.order:
                    writer.write(name, leaves[name])
        return diff_checkpoints(*paths, **options)  # type: ignore[arg-type]


def names(seen: list[Seen | None]) -> list[str]:
    return sorted(one.name for one in seen if one)


@given(pairs())
@settings(max_examples=100)
def test_every_leaf_is_in_one_finding(trees: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
    left, right = trees
    found = compare(left, right)
    assert names([finding.left for finding in found.findings]) == sorted(left)
    assert names([finding.right for finding in found.findings]) == sorted(right)
    assert sum(found.counts.values()) == len(found.findings)
    for finding in found.findings:
        if finding.left and finding.right:
            one, other = left[finding.left.name], right[finding.right.name]
            equal = (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
            assert (finding.kind == "same") == (equal and finding.left.name == finding.right.name)
            if finding.kind == "layout" and finding.layout.startswith("axes"):
                axes = [int(n) for n in finding.layout[6:-1].split(",")]
                assert np.ascontiguousarray(one.transpose(axes)).tobytes() == other.tobytes()
        assert (finding.kind == "removed") == (finding.right is None)
        assert (finding.kind == "added") == (finding.left is None)
    assert found.exit_code == (0 if found.same else 1 if left or right else 5)


@given(TREES)
@settings(max_examples=50)
def test_a_tree_is_the_same_as_itself(tree: dict[str, np.ndarray]) -> None:
    found = compare(tree, tree)
    assert found.counts == ({"same": len(tree)} if tree else {})
    assert found.exit_code == (0 if tree else 5)


@given(pairs())
@settings(max_examples=60)
def test_the_order_of_the_two_does_not_matter(trees: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
    there, back = Counter(compare(*trees).counts), Counter(compare(*trees[::-1]).counts)
    back["added"], back["removed"] = back["removed"], back["added"]
    assert +there == +back


@given(pairs())
@settings(max_examples=50)
def test_a_tolerance_accepts_no_more_than_it_says(
    trees: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    left, right = trees
    for finding in compare(left, right, tolerance=0.01).findings:
        if finding.kind == "close":
            assert finding.left is not None
            assert finding.right is not None
            one, other = left[finding.left.name], right[finding.right.name]
            one, other = (array.astype(complex) for array in (one, other))
            assert np.array_equal(np.isfinite(one), np.isfinite(other))
            fine = np.isfinite(one)
            scale = max(np.abs(one[fine]).max(initial=0), np.abs(other[fine]).max(initial=0))
            assert (np.abs(one[fine] - other[fine]) <= 0.01 * scale).all()


@given(leaf())
def test_a_fingerprint_knows_the_elements_and_not_their_order(array: np.ndarray) -> None:
    flat = array.reshape(-1)
    mixed = flat.copy()
    np.random.default_rng(0).shuffle(mixed)
    assert fingerprint(flat) == fingerprint(mixed)
    halves = np.split(flat, [flat.size // 2])
    assert sum(map(fingerprint, halves)) % (1 << 64) == fingerprint(flat)
    if flat.size:
        other = flat.copy()
        other.view(np.uint8)[0] ^= 1
        assert fingerprint(other) != fingerprint(flat)


@given(st.permutations(range(4)))
def test_axes_are_found(order: list[int]) -> None:
    left = np.arange(120, dtype=np.float32).reshape(5, 4, 3, 2)
    right = np.ascontiguousarray(left.transpose(order))
    assert axes_between(left, right) == (None if order == [0, 1, 2, 3] else tuple(order))
