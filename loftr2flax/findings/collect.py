"""What the verbs return, as findings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from loftr2flax.findings.values import Finding, Findings

if TYPE_CHECKING:
    from loftr2flax.compare.leaves import Difference
    from loftr2flax.compare.values import CheckpointDiff
    from loftr2flax.compare.values import Finding as LeafPair
    from loftr2flax.compare.weights import WeightsVerdict
    from loftr2flax.errors import Loftr2FlaxError
    from loftr2flax.parity.values import Judgement, ParityReport, StageRow

NOTHING = "nothing was compared"


def of_weights(verdict: WeightsVerdict, source: str, target: str) -> Findings:
    """Of `verify weights`: a finding for each leaf that the mapping names or that the target has."""
    wrong = {difference.leaf: difference for difference in verdict.differences}
    named = [move.leaf for move in verdict.plan.moves]
    items = [
        _weight(wrong[leaf]) if leaf in wrong else Finding(leaf, "weights", "passed")
        for leaf in [*named, *(leaf for leaf in wrong if leaf not in set(named))]
    ]
    if not verdict.compared:
        items.insert(0, _nothing("weights"))
    return Findings("verify weights", f"{target} against {source}", verdict.summary, verdict.same, tuple(items))


def _weight(difference: Difference) -> Finding:
    cause = (
        "different" if difference.index is not None else "missing" if difference.reason == "missing" else "other form"
    )
    return Finding(difference.leaf, "weights", "failed", cause, str(difference).removeprefix(f"{difference.leaf}: "))


def of_diff(found: CheckpointDiff) -> Findings:
    """Of `diff`: a finding for each leaf or pair; what has no place on the other side counts as skipped."""
    items = [_pair(finding) for finding in found.findings]
    if not found.compared:
        items.insert(0, _nothing("leaves"))
    return Findings("diff", f"{found.left.path} and {found.right.path}", found.summary, found.same, tuple(items))


def _pair(finding: LeafPair) -> Finding:
    if finding.accepted:
        skipped = finding.kind in ("dropped", "outside")
        return Finding(finding.leaf, "leaves", "skipped" if skipped else "passed", finding.kind, finding.reason)
    apart = finding.measures.rel_l2 if finding.measures is not None else None
    message = finding.reason or finding.kind
    return Finding(finding.leaf, "leaves", "failed", finding.kind, message, math.inf if apart is None else apart)


def of_parity(report: ParityReport) -> Findings:
    """Of `verify parity`: a finding for each stage of each run, and for each leaf that is wrong."""
    items = list(_of_parity(report))
    if not report.compared:
        items.insert(0, _nothing("stages"))
    answer = "both networks compute the same function" if report.passed else "the networks do not compute the same"
    answer = answer if report.compared else NOTHING
    if report.culprit is not None:
        where = f"{report.culprit.stage}: " if report.culprit.stage else ""
        answer += f"; culprit: {where}{report.culprit.cause}"
    subject = f"{report.target} against {report.source}"
    return Findings("verify parity", subject, answer, report.passed, tuple(items), report.seconds)


def _of_parity(report: ParityReport) -> Iterator[Finding]:
    weights = report.weights
    for leaf in weights.findings:
        yield Finding(leaf.leaf, "weights", "failed", leaf.cause, leaf.detail.removeprefix(f"{leaf.leaf}: "))
    if weights.passed:
        yield Finding(f"{weights.compared:,} leaves", "weights", "passed")
    for run in report.runs:
        for row in run.stages:
            yield _stage(row, run.inputs.title)
        if run.matches is not None:
            passed, count = run.matches.passed, run.matches.differences
            message = "" if passed else f"{count:,} on one side alone, which rounding does not explain"
            yield Finding("matches", run.inputs.title, "passed" if passed else "failed", "matches", message)
    if report.gradients is not None:
        for one in report.gradients.leaves:
            yield _judged(one.array, "gradients", "gradient", one)
    if report.coverage is not None:
        for path in report.coverage.unreached:
            yield Finding(path, "coverage", "failed", "unreached", "no output depends on it")
        if report.coverage.passed:
            yield Finding(f"{len(report.coverage.exercised):,} leaves", "coverage", "passed")


def _stage(row: StageRow, run: str) -> Finding:
    if row.missing or not (row.own or row.drift):
        return Finding(row.stage, run, "failed", "absent", f"absent: {', '.join(row.missing) or row.stage}")
    curves = [(one, "own error") for one in row.own] + [(one, "drift") for one in row.drift]
    one, curve = max(curves, key=lambda entry: entry[0].excess)  # of two alike: the place where it is made
    return _judged(row.stage, run, curve, one)


def _judged(name: str, group: str, cause: str, one: Judgement) -> Finding:
    if one.passed:
        return Finding(name, group, "passed", "", f"r {one.ratio:.3g} of {one.limit:.3g}")
    spot = one.max_abs
    at = "" if spot is None else f", at {list(spot.index)} {spot.actual:.9g} for {spot.expected:.9g}"
    return Finding(name, group, "failed", cause, f"{one.array}: {one.reason}{at}", one.excess)


def of_error(error: Loftr2FlaxError, verb: str) -> Findings:
    """Of a verb that could not do its work."""
    message = " ".join(f"{error.message}; {error.hint}".rstrip("; ").split())
    item = Finding("could not run", "error", "error", type(error).__name__, message)
    return Findings(verb, "could not run", error.message.split("\n")[0], False, (item,))


def _nothing(group: str) -> Finding:
    return Finding("comparison", group, "error", "nothing compared", NOTHING)
