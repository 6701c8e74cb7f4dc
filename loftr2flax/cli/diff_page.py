"""How `diff` shows what it found: leaves that are alike folded into one row, the worst of them measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loftr2flax.cli.output import emit, leaves, name_of, table
from loftr2flax.compare.values import KINDS
from loftr2flax.dtypes import SHORT
from loftr2flax.folding import fold

if TYPE_CHECKING:
    from loftr2flax.compare.values import CheckpointDiff, Finding, Kind, Measures, Seen

_BAR = 40
_QUIET_KINDS = ("same", "dropped", "outside")
"""Kinds that are told by number, not by name, where they are what one expects."""


@dataclass(frozen=True, slots=True)
class Row:
    """Findings that are alike, under one folded name."""

    label: str
    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The first of them."""
        return self.findings[0]

    @property
    def worst(self) -> Measures | None:
        """The measures of the leaf that is furthest off, by rel L2."""
        measured = [f.measures for f in self.findings if f.measures]
        return max(measured, key=lambda m: (m.one_sided, m.rel_l2 or 0.0, m.share), default=None)


def show(found: CheckpointDiff, limit: int, *, full: bool) -> None:
    """The page: a row for each difference or fold of them, then the answer."""
    rows = _unfolded(found.findings) if full else _rows(found)
    shown = rows if full else rows[:limit]
    table([_cells(row) for row in shown])
    if len(rows) > len(shown):
        hidden = sum(len(row.findings) for row in rows[len(shown) :])
        emit(f"and {len(rows) - len(shown):,} more rows, {leaves(hidden)}; --full shows them all")
    if shown:
        emit()
    emit(name_of(found.summary))


def show_stat(found: CheckpointDiff, limit: int, *, full: bool) -> None:
    """Like `git diff --stat`: how many numbers changed (~), came (+) and went (-), leaf by leaf or fold by fold."""
    differences = found.differences
    rows = _unfolded(differences) if full else _folded(differences)
    counts = [sum(_numbers(finding) for finding in row.findings) for row in rows]
    most = max(counts, default=0)
    bars = [
        (f" {row.label}", "|", f"{count:,}", _sign(row.first.kind) * max(bool(count), round(_BAR * count / most)))
        for row, count in zip(rows, counts, strict=True)
    ] if most else [(f" {row.label}", "|", "0", row.first.kind) for row in rows]  # fmt: skip
    shown = bars if full else bars[:limit]
    table(shown, right=(2,))
    if len(bars) > len(shown):
        emit(f" … and {len(bars) - len(shown):,} more rows; --full shows them all")
    words = [f"{leaves(len(differences))} of {len(found.findings):,} differ", f"{sum(counts):,} numbers"]
    emit(f" {', '.join(words)}: {name_of(found.summary)}")


def _sign(kind: Kind) -> str:
    return {"added": "+", "removed": "-"}.get(kind, "~")


def _numbers(finding: Finding) -> int:
    """How many numbers a difference is about."""
    import math

    if finding.measures:
        return finding.measures.changed
    if finding.kind in ("renamed", "layout"):
        return 0 if finding.kind == "renamed" else math.prod(finding.left.shape if finding.left else ())
    seen = finding.right or finding.left
    return math.prod(seen.shape) if seen else 0


def _rows(found: CheckpointDiff) -> list[Row]:
    """Differences folded, by kind; of what is accepted, the layouts that a mapping names and what it dropped."""
    rows = _folded([f for f in found.findings if f.kind not in _QUIET_KINDS])
    for kind in _QUIET_KINDS:
        grouped: dict[str, list[Finding]] = {}
        for finding in found.findings:
            if finding.kind == kind and finding.reason:
                grouped.setdefault(finding.reason, []).append(finding)
        rows += [Row("", tuple(some)) for some in grouped.values()]
    return rows


def _unfolded(findings: Sequence[Finding]) -> list[Row]:
    return [Row(finding.leaf, (finding,)) for kind in KINDS for finding in findings if finding.kind == kind]


def _folded(findings: Sequence[Finding]) -> list[Row]:
    """Rows of findings of one kind, shape, dtype and way to differ, where their names fold."""
    return [row for kind in KINDS for row in _folds([finding for finding in findings if finding.kind == kind])]


def _folds(findings: Sequence[Finding]) -> Iterator[Row]:
    groups: dict[object, dict[str, Finding]] = {}
    for finding in findings:
        groups.setdefault(_likeness(finding), {})[finding.leaf] = finding
    position = {finding.leaf: number for number, finding in enumerate(findings)}
    rows = [
        Row(label, tuple(group[name] for name in names))
        for group in groups.values()
        for label, names in fold(group).items()
    ]
    yield from sorted(rows, key=lambda row: position[row.first.leaf])


def _likeness(finding: Finding) -> object:
    """What findings have in common that stand in one row."""
    reason = "" if finding.measures or finding.kind == "renamed" else finding.reason
    return _shape(finding.left), _shape(finding.right), finding.layout, finding.guess, reason


def _shape(seen: Seen | None) -> object:
    return (seen.shape, seen.dtype) if seen else None


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    count = f"×{len(row.findings)}" if len(row.findings) > 1 else ""
    if not row.label:
        return row.first.kind, leaves(len(row.findings)), "", "", row.first.reason
    return row.first.kind, row.label, _form(row.first), count, _remark(row)


def _form(finding: Finding) -> str:
    """Shape and dtype, of both sides where they differ."""
    one, other = (_plain(seen) if seen else "" for seen in (finding.left, finding.right))
    if not (one and other) or one == other or finding.kind == "same":
        return one or other
    return f"{one} → {other}"


def _plain(seen: Seen) -> str:
    return f"{seen.shape} {SHORT.get(seen.dtype, seen.dtype)}"


def _remark(row: Row) -> str:
    if len(row.findings) == 1:
        return row.first.reason
    worst = row.worst
    if worst is None or row.first.kind == "cast":
        return _folded_reason(row)
    changed = sum(f.measures.changed for f in row.findings if f.measures)
    every = sum(f.measures.elements for f in row.findings if f.measures)
    share = "all" if changed == every else f"{changed:,} of {every:,}"
    words = [f"{share} elements differ"]
    words += [f"max abs up to {worst.max_abs:.3g}"] if worst.max_abs is not None else []
    words += [f"rel L2 {worst.rel_l2:.3g}"] if worst.rel_l2 is not None else []
    words += [f"cosine {worst.cosine:.4f}"] if worst.cosine is not None else []
    guess = "perhaps renamed; " if row.first.guess else ""
    return guess + ", ".join(words)


def _folded_reason(row: Row) -> str:
    if row.first.kind != "renamed":
        return row.first.reason
    names = [finding.right.name for finding in row.findings if finding.right]
    return f"the same numbers: now {', '.join(fold(names))}"
