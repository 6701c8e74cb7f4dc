"""How `diff` shows what it found: leaves that are alike folded into one row, the worst of them measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loftr2flax.cli.output import emit, leaves, name_of, plural, table
from loftr2flax.compare.branches import DEEPEST, branch
from loftr2flax.compare.values import KINDS
from loftr2flax.dtypes import SHORT
from loftr2flax.folding import fold, fold_line

if TYPE_CHECKING:
    from loftr2flax.compare.values import CheckpointDiff, Finding, Measures, Seen

_BAR = 40
_QUIET_KINDS = ("same", "dropped", "outside")
"""Kinds that are told by number, not by name, where they are what one expects."""


@dataclass(frozen=True, slots=True)
class Row:
    """Findings that are alike, under one folded name."""

    label: str
    findings: tuple[Finding, ...]
    remark: str = ""

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
    rows = _unfolded(found.findings) if full else _rows(found, limit)
    _tell([_cells(row) for row in rows], rows, None if full else limit)
    if rows:
        emit()
    emit(name_of(found.summary))


def show_stat(found: CheckpointDiff, limit: int, *, full: bool) -> None:
    """Like `git diff --stat`: how many numbers changed (~), came (+) and went (-), leaf by leaf or fold by fold."""
    differences = found.differences
    rows = _unfolded(differences) if full else _short(differences, limit)
    counts = [sum(_numbers(finding) for finding in row.findings) for row in rows]
    most = max(counts, default=0) or 1
    bars = [_sign(row) * max(bool(count), round(_BAR * count / most)) for row, count in zip(rows, counts, strict=True)]
    cells = [
        (f" {row.label or row.remark}", "|", f"{count:,}", bar or row.first.kind)
        for row, count, bar in zip(rows, counts, bars, strict=True)
    ]
    _tell(cells, rows, None if full else limit)
    emit(f" {leaves(len(differences))} of {len(found.findings):,} differ, {sum(counts):,} numbers")
    emit(f" {name_of(found.summary)}")


def _tell(cells: Sequence[Sequence[str]], rows: Sequence[Row], limit: int | None) -> None:
    stat = bool(cells) and len(cells[0]) == 4  # name | numbers bar; else kind, name, form, count, remark
    table(cells[:limit], right=(2,) if stat else (), names=0 if stat else 1)
    if hidden := rows[len(cells[:limit]) :]:
        count = sum(len(row.findings) for row in hidden)
        emit(f"and {plural(len(hidden), 'more row')}, {leaves(count)}; --full shows them all")


def _sign(row: Row) -> str:
    return {"added": "+", "removed": "-"}.get(row.first.kind, "~")


def _numbers(finding: Finding) -> int:
    """How many numbers a difference is about."""
    if finding.measures:
        return finding.measures.changed
    seen = finding.right or finding.left
    return math.prod(seen.shape) if seen and finding.kind != "renamed" else 0


def _rows(found: CheckpointDiff, limit: int) -> list[Row]:
    """Differences folded, by kind; of what is accepted, the layouts that a mapping names and what it dropped."""
    rows = _short([f for f in found.findings if f.kind not in _QUIET_KINDS], limit)
    for kind in _QUIET_KINDS:
        grouped: dict[str, list[Finding]] = {}
        for finding in found.findings:
            if finding.kind == kind and finding.reason:
                grouped.setdefault(finding.reason, []).append(finding)
        rows += [Row("", tuple(some), reason) for reason, some in grouped.items()]
    return rows


def _short(findings: Sequence[Finding], limit: int) -> list[Row]:
    """Rows of leaves that are alike; where they are too many, rows of whole branches, cut as deep as the limit lets."""
    moved = _moved(findings)
    apart = {id(finding) for row in moved for finding in row.findings}
    findings = [finding for finding in findings if id(finding) not in apart]
    rows = _folded(findings)
    for depth in range(DEEPEST, 0, -1):
        if len(rows) + len(moved) <= limit:
            break
        rows = _branches(findings, depth)
    return sorted([*rows, *moved], key=lambda row: list(KINDS).index(row.first.kind))


def _moved(findings: Sequence[Finding]) -> list[Row]:
    """One row for all leaves that lie the same under another prefix."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.kind == "renamed" and not finding.guess and not finding.layout and finding.left and finding.right:
            groups.setdefault(_heads(finding.left.name, finding.right.name), []).append(finding)
    return [
        Row("", tuple(some), f"the same numbers: {head}* → {new}*")
        for (head, new), some in groups.items()
        if len(some) > 1 and "" in (head, new)
    ]


def _heads(one: str, other: str) -> tuple[str, str]:
    """What stands before the longest end that two names share."""
    if one.endswith(other):
        return one.removesuffix(other), ""
    return ("", other.removesuffix(one)) if other.endswith(one) else (one, other)


def _branches(findings: Sequence[Finding], depth: int) -> list[Row]:
    rows = []
    for kind in KINDS:
        under: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.kind == kind:
                under.setdefault(branch(finding.leaf, depth), []).append(finding)
        for label, names in fold(under).items():
            some = tuple(finding for name in names for finding in under[name])
            rows.append(Row(label if some[0].leaf in names else f"{label}…", some))
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
    count = f"×{len(row.findings):,}" if len(row.findings) > 1 else ""
    if not row.label:
        return row.first.kind, leaves(len(row.findings)), "", "", row.remark
    forms = {_form(finding) for finding in row.findings}
    return row.first.kind, row.label, forms.pop() if len(forms) == 1 else "", count, _remark(row)


def _form(finding: Finding) -> str:
    """Shape and dtype as the side has them that the leaf's name is from; both dtypes where they differ."""
    sides = [seen for seen in (finding.left, finding.right) if seen]
    own = next((seen for seen in sides if seen.name == finding.leaf), sides[0])
    types = dict.fromkeys(SHORT.get(seen.dtype, seen.dtype) for seen in sides)
    return f"{own.shape} {' → '.join(types)}"


def _remark(row: Row) -> str:
    if len(row.findings) == 1:
        return row.first.reason
    reasons = dict.fromkeys(finding.reason for finding in row.findings)
    if len(reasons) == 1:
        return row.first.reason
    if row.first.kind == "renamed" and not row.first.guess:
        return f"the same numbers: now {fold_line([f.right.name for f in row.findings if f.right], 2)}"
    worst = row.worst
    if row.first.kind == "cast" or worst is None:
        return "; ".join(list(reasons)[:2]) + ("; …" if len(reasons) > 2 else "")
    valued = sum(f.measures is not None for f in row.findings)
    if others := len(row.findings) - valued:
        return f"{others:,} of another shape, {valued:,} of other values"
    return _measured(row, worst)


def _measured(row: Row, worst: Measures) -> str:
    """What the leaves of a row have in common, in numbers: the worst of them."""
    changed = sum(f.measures.changed for f in row.findings if f.measures)
    every = sum(f.measures.elements for f in row.findings if f.measures)
    words = [f"{'all' if changed == every else f'{changed:,} of {every:,}'} elements differ"]
    words += [f"max abs up to {max(f.measures.max_abs or 0.0 for f in row.findings if f.measures):.3g}"]
    words += [f"rel L2 up to {worst.rel_l2:.3g}"] if worst.rel_l2 is not None else []
    words += [f"cosine {worst.cosine:.4f}"] if worst.cosine is not None else []
    return ("perhaps renamed: " if row.first.guess else "") + ", ".join(words)
