"""What is to be said of torch tensors that a mapping gives no leaf: dropped ones, and those out of its scope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.compare.leaves import bit_difference
from loftr2flax.compare.values import Finding, Kind, Seen
from loftr2flax.convert.provenance import Kept, Memory
from loftr2flax.plan import Plan


def dropped_findings(
    plan: Plan, source: Checkpoint, tree: Checkpoint, names: Sequence[str], *, torch: int
) -> Iterator[Finding]:
    """One for each dropped tensor, held against the value in the tree's record where it keeps one.

    Raises:
      CorruptFile: the record, or the source, is damaged.
    """
    kept = Memory.of(tree).of_mapping(plan.mapping).dropped
    depth = len(plan.root) + 1 if plan.root else 0
    for name in names:
        record = kept.get(name[depth:])
        if record is None or source.infos[name].refused:
            yield _finding(source, name, "dropped", "the mapping gives it no leaf; no record of its value", torch)
        else:
            yield _finding(source, name, *_against(record, source.read(name)), torch)


def outside_findings(plan: Plan, source: Checkpoint, names: Sequence[str], *, torch: int) -> Iterator[Finding]:
    """One for each tensor that the mapping does not speak of."""
    for name in names:
        yield _finding(source, name, "outside", f"not in the scope of {plan.mapping.name}", torch)


def _against(record: Kept, array: np.ndarray) -> tuple[Kind, str]:
    difference = bit_difference("", record.value, array)
    if difference is None:
        return "dropped", "the mapping gives it no leaf; the record keeps the same value"
    if difference.index is None:
        return "changed", f"the mapping gives it no leaf; the record keeps another: {difference.reason}"
    what = f"{difference.actual} here, {difference.expected} there"
    return "changed", f"the mapping gives it no leaf; the record keeps another value: {what}"


def _finding(source: Checkpoint, name: str, kind: Kind, reason: str, torch: int) -> Finding:
    info = source.infos[name]
    seen = Seen(name, info.shape, info.dtype)
    return Finding(name, kind, reason, None if torch else seen, seen if torch else None)
