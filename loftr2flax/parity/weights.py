"""Every leaf of the target, bit for bit, against the tensor that the mapping names; and what a wrong one looks like.

This comes before any run: one element that is off by a thousandth of itself can hide below the rounding error of every
stage, and a leaf that is transposed can be told from one that is swapped only by looking at it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.compare.casts import rounded, same_numbers
from loftr2flax.compare.layouts import axes_between
from loftr2flax.compare.leaves import bit_difference
from loftr2flax.folding import fold_line
from loftr2flax.parity.values import LeafFinding, WeightsCheck

StageOf = Callable[[str], str]


@dataclass(frozen=True)
class Leaf:
    """A leaf that differs: what it should be, what it is, and where else both values are found.

    Attributes:
      path: its name.
      expected: the tensor that the mapping names, arranged; None where only its digest is known (a golden bundle).
      actual: what the target has.
      should_be_at: leaves whose tensor has the bytes that stand here.
      is_at: leaves of the target that hold the bytes which belong here.
      heads: attention heads, or 1.
    """

    path: str
    expected: np.ndarray | None
    actual: np.ndarray
    should_be_at: tuple[str, ...]
    is_at: tuple[str, ...]
    heads: int = 1


Guess = Callable[[Leaf], str]
"""Says in one line how a leaf came to be what it is, or "" if it did not come about this way."""


def _constant(leaf: Leaf) -> str:
    values = leaf.actual.ravel()
    same = values.size > 0 and bool((values == values[0]).all())
    return f"every element is {values[0]:g}, as before any weight was loaded" if same and values[0] in (0, 1) else ""


def _belongs_elsewhere(leaf: Leaf) -> str:
    if not leaf.should_be_at:
        return ""
    other = leaf.should_be_at[0]
    if other in leaf.is_at:
        return f"holds what belongs to {other}, which holds what belongs here"
    return f"holds what belongs to {other}"


def _swapped(leaf: Leaf) -> str:
    return _belongs_elsewhere(leaf) if set(leaf.should_be_at) & set(leaf.is_at) else ""


def _statistics(leaf: Leaf) -> str:
    return _belongs_elsewhere(leaf) if "batch_stats" in leaf.path or leaf.path.endswith(("/mean", "/var")) else ""


def _transposed(leaf: Leaf) -> str:
    if leaf.expected is None:
        return ""
    order = axes_between(np.ascontiguousarray(leaf.expected), leaf.actual)
    return f"axes {list(order)} of what it should be" if order else ""


def _unturned(leaf: Leaf) -> str:
    """The bytes in the other layout, read as this one: a reshape where a transpose was due."""
    if leaf.expected is None or leaf.actual.ndim < 2:
        return ""
    for order in itertools.permutations(range(leaf.actual.ndim)):
        turned = np.ascontiguousarray(leaf.expected.transpose(order))
        if order != tuple(range(leaf.actual.ndim)) and _equal(turned.reshape(leaf.actual.shape), leaf.actual):
            return "the same bytes in another order of axes: reshaped where it should have been transposed"
    return ""


def _mirrored(leaf: Leaf) -> str:
    if leaf.expected is None:
        return ""
    axes = range(leaf.actual.ndim)
    for some in itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(1, leaf.actual.ndim + 1)):
        if _equal(np.flip(leaf.expected, some), leaf.actual):
            return f"runs backwards along axes {list(some)}"
    return ""


def _reordered(leaf: Leaf) -> str:
    """Slices of one axis in another order, whole heads or single channels."""
    if leaf.expected is None:
        return ""
    for axis, size in enumerate(leaf.actual.shape):
        blocks = leaf.heads if leaf.heads > 1 and size % leaf.heads == 0 else size
        for count in dict.fromkeys((blocks, size)):
            wanted, found = (_slices(array, axis, count) for array in (leaf.expected, leaf.actual))
            if sorted(wanted) == sorted(found):
                order = [wanted.index(part) for part in found]
                what = "heads" if count == leaf.heads else "slices"
                shown = f"{order}" if len(order) <= 16 else f"{order[:8]} …"
                return f"{what} along axis {axis} are reordered: {shown}"
    return ""


def _heads(leaf: Leaf) -> str:
    found = _reordered(leaf)
    return found if found.startswith("heads") else ""


def _rounded(leaf: Leaf) -> str:
    if leaf.expected is None:
        return ""
    through = (name for name in ("bfloat16", "float16") if same_numbers(rounded(leaf.expected, name), leaf.actual))
    return next((f"its numbers went through {name}" for name in through), "")


def _scaled(leaf: Leaf) -> str:
    if leaf.expected is None or leaf.actual.size < 2:
        return ""
    expected, actual = leaf.expected.astype(np.float64).ravel(), leaf.actual.astype(np.float64).ravel()
    length = float(expected @ expected)
    factor = float(expected @ actual) / length if length else 0.0
    if not factor or factor == 1 or np.abs(actual - factor * expected).max() > 1e-5 * np.abs(actual).max():
        return ""
    return f"{factor:.6g} times what it should be"


def _few_changed(leaf: Leaf) -> str:
    if leaf.expected is None:
        return ""
    unequal = leaf.expected != leaf.actual
    count = int(unequal.sum())
    if not 0 < count < leaf.actual.size:
        return ""
    difference = bit_difference(leaf.path, leaf.expected, leaf.actual)
    assert difference is not None
    shown = f"; at {list(difference.index or ())} {difference.actual} instead of {difference.expected}"
    return f"{count:,} of {leaf.actual.size:,} elements differ{shown}"


def _unrelated(leaf: Leaf) -> str:
    if leaf.expected is None:
        return "not the tensor that the bundle's mapping names"
    expected, actual = leaf.expected.astype(np.float64).ravel(), leaf.actual.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    cosine = float(expected @ actual) / lengths if lengths else 0.0
    if abs(cosine) < 0.5:
        return f"no relation to the tensor that the mapping names (cosine {cosine:.3f}): at its random start?"
    return f"every element differs (cosine {cosine:.6f})"


CAUSES: Mapping[str, tuple[Guess, str]] = {
    "at its initial value": (_constant, "still at the initial value"),
    "swapped": (_swapped, "swapped with another leaf"),
    "statistics of another layer": (_statistics, "filled with the statistics of another layer"),
    "another leaf's tensor": (_belongs_elsewhere, "filled with another leaf's tensor"),
    "transposed": (_transposed, "transposed"),
    "reshaped, not transposed": (_unturned, "reshaped where a transpose was due"),
    "mirrored": (_mirrored, "mirrored"),
    "heads reordered": (_heads, "filled with the attention heads in another order"),
    "slices reordered": (_reordered, "filled with slices in another order"),
    "narrower type": (_rounded, "rounded to a narrower type"),
    "scaled": (_scaled, "scaled by a factor"),
    "elements changed": (_few_changed, "changed in some elements"),
    "unrelated": (_unrelated, "unrelated to the tensor that the mapping names"),
}
"""How a leaf can be wrong: its test, and what to say. They are tried in this order; the last always fits."""

ABSENT: Mapping[str, str] = {
    "missing": "missing in the target",
    "extra": "in the target, and the mapping names no tensor for it",
    "other shape or type": "of another shape or type",
}
"""Findings that need no test, and with which no network can be built: what to say."""


def sentence(leaves: Sequence[str], cause: str) -> str:
    """What is wrong with leaves of one cause: "layers_3/q_proj/kernel is transposed"."""
    predicate = ABSENT.get(cause) or CAUSES[cause][1]
    if len(leaves) == 1:
        return f"{leaves[0]} is {predicate}"
    return f"{len(leaves)} leaves ({fold_line(leaves, most=2)}) are {predicate}"


def check_weights(
    expected: Mapping[str, str],
    arrays: Callable[[str], np.ndarray | None],
    target: Checkpoint,
    stage_of: StageOf,
    heads: int = 1,
) -> WeightsCheck:
    """Compares a target with what the mapping names.

    Args:
      expected: path → digest (`leaf_digest`) of every leaf that the mapping names.
      arrays: gives such a leaf, or None where only the digest is known.
      target: the open target.
      stage_of: the stage that reads a leaf.
      heads: attention heads, for the test of their order.
    """
    actual = {path: leaf_digest(target.read(path)) for path in target.infos if path in expected}
    findings = list(_unpaired(expected, target, stage_of))
    for path, digest in actual.items():
        if digest == expected[path]:
            continue
        found, wanted = target.read(path), arrays(path)
        if wanted is not None and (wanted.shape != found.shape or wanted.dtype != found.dtype):
            difference = bit_difference(path, wanted, found)
            reason = difference.reason if difference else ""
            findings.append(LeafFinding(path, stage_of(path), "other shape or type", f"{path}: {reason}"))
            continue
        elsewhere = tuple(other for other, value in expected.items() if value == digest and other != path)
        holders = tuple(other for other, value in actual.items() if value == expected[path] and other != path)
        leaf = Leaf(path, wanted, found, elsewhere, holders, heads)
        cause, detail = next((name, text) for name, (guess, _) in CAUSES.items() if (text := guess(leaf)))
        findings.append(LeafFinding(path, stage_of(path), cause, f"{path}: {detail}"))
    order = {path: n for n, path in enumerate(expected)}
    findings.sort(key=lambda finding: order.get(finding.leaf, len(order)))
    numbers = sum(target.infos[path].size for path in actual)
    return WeightsCheck(len(actual), numbers, tuple(findings))


def leaf_digest(array: np.ndarray) -> str:
    """SHA-256 of a leaf's type, shape and bytes."""
    head = f"{array.dtype} {array.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _unpaired(expected: Mapping[str, str], target: Checkpoint, stage_of: StageOf) -> Iterator[LeafFinding]:
    for path in expected:
        if path not in target.infos:
            yield LeafFinding(path, stage_of(path), "missing", f"{path}: missing in the target")
    for path in target.infos:
        if path not in expected:
            yield LeafFinding(path, stage_of(path), "extra", f"{path}: the mapping names no tensor for it")


def _slices(array: np.ndarray, axis: int, count: int) -> list[bytes]:
    parts = np.split(np.moveaxis(array, axis, 0), count)
    return [np.ascontiguousarray(part).tobytes() for part in parts]


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.array_equal(one, other)
