"""The answer in one line: what is the same, and what alone has changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from loftr2flax.compare.branches import DEEPEST, branch, last_segment
from loftr2flax.folding import fold

if TYPE_CHECKING:
    from loftr2flax.compare.values import CheckpointDiff

_STATISTICS = re.compile(r"(^|[./])(running_mean|running_var|num_batches_tracked)$|(^|/)batch_stats/")
_MOST_LABELS = 3


def summarise(diff: CheckpointDiff) -> str:
    """One line for people; `CheckpointDiff.same` and `exit_code` are for programs."""
    tolerated = f" (tolerance {diff.tolerance:g})" if diff.tolerance else ""
    if diff.same:
        return _same(diff) + tolerated
    if diff.exit_code == 5:
        return "nothing was compared" + tolerated
    kinds = {finding.kind for finding in diff.differences}
    counted = ", ".join(f"{count:,} {kind}" for kind, count in diff.counts.items())
    if len(kinds) > 1:
        where = _only_changed(diff) if "changed" in kinds else ""
        return counted + (f"; of values, {where}" if where else "") + tolerated
    (kind,) = kinds
    only = _ONLY[kind](diff) if kind in _ONLY else ""
    return (f"{only}: {counted}" if only else counted) + tolerated


def _same(diff: CheckpointDiff) -> str:
    counts = diff.counts
    exact, close = counts.get("same", 0), counts.get("close", 0)
    moved = sum(1 for finding in diff.findings if finding.kind == "same" and finding.layout)
    numbers = f", {diff.numbers:,} {'number' if diff.numbers == 1 else 'numbers'}" if not close else ""
    words = [f"same, bit for bit: {_leaves(exact)}{numbers}"] if exact or not close else []
    words += [f"{moved:,} of them in the mapping's other layout"] if moved else []
    words += [f"{_leaves(close)} within the tolerance"] if close else []
    words += [f"{counts['dropped']:,} dropped by the mapping"] if "dropped" in counts else []
    words += [f"{counts['outside']:,} out of its scope"] if "outside" in counts else []
    return ", ".join(words)


def _only_changed(diff: CheckpointDiff) -> str:
    changed = [finding.leaf for finding in diff.findings if finding.kind == "changed"]
    if all(_STATISTICS.search(name) for name in changed):
        return "only BatchNorm statistics changed"
    if len(changed) == 1:
        return f"only {changed[0]} changed"
    others = [finding.leaf for finding in diff.findings if finding.kind != "changed"]
    label, covered = min(_candidates(changed, others), key=lambda found: found[1], default=("", len(others)))
    if not others or covered == len(others):
        return ""
    if covered:
        return f"all changes lie in {label} ({len(changed):,} of {_leaves(len(changed) + covered)} there)"
    return f"only {label} changed"


def _candidates(changed: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Ways to say where the changes are, each with how many unchanged leaves it takes in."""
    for number in range(1, DEEPEST):
        branches = fold(branch(name, number) for name in changed)
        if len(branches) <= _MOST_LABELS:
            inside = {branch(name, number) for name in changed}
            yield _listed(branches), sum(branch(name, number) in inside for name in others)
    lasts = {last_segment(name) for name in changed}
    if len(lasts) <= _MOST_LABELS:
        yield _listed(f"*{last}" for last in sorted(lasts)), sum(last_segment(name) in lasts for name in others)


def _listed(labels: Iterable[str]) -> str:
    *most, last = labels
    return f"{', '.join(most)} and {last}" if most else last


def _only_cast(diff: CheckpointDiff) -> str:
    reasons = dict.fromkeys(finding.reason for finding in diff.differences)
    pairs = [(finding.left, finding.right) for finding in diff.differences]
    if any(left and right and left.dtype == right.dtype for left, right in pairs):
        return "only rounding differs" + (f" ({next(iter(reasons))})" if len(reasons) == 1 else "")
    changes = dict.fromkeys(f"{left.dtype} → {right.dtype}" for left, right in pairs if left and right)
    return f"only dtype changed ({', '.join(changes)})"


def _only_layout(diff: CheckpointDiff) -> str:
    return "only the layout changed"


def _only_renamed(diff: CheckpointDiff) -> str:
    return "" if any(finding.guess for finding in diff.differences) else "only names changed"


def _only_added(diff: CheckpointDiff) -> str:
    return "only leaves of the right's own are new" if diff.compared else ""


def _only_removed(diff: CheckpointDiff) -> str:
    return "only leaves of the left's own are gone" if diff.compared else ""


_ONLY: dict[str, Callable[[CheckpointDiff], str]] = {
    "changed": _only_changed,
    "cast": _only_cast,
    "layout": _only_layout,
    "renamed": _only_renamed,
    "added": _only_added,
    "removed": _only_removed,
}
"""What to say where all differences are of one kind."""


def _leaves(count: int) -> str:
    return f"{count:,} {'leaf' if count == 1 else 'leaves'}"
