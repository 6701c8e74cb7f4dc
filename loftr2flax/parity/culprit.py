"""Where the first mistake is made, and the likely cause, found by testing and not by guessing.

Weights are looked at first: a leaf that is not the tensor that the mapping names is a mistake whatever it does to the
outputs. Where all weights agree, the first stage whose *own* error is beyond the limit is the culprit, and the torch
stage is run again with one change at a time until it agrees with the candidate (`loftr.changes`).

The same knowledge sharpens the verdict: a wrong epsilon may do little more than rounding does and stay within the
limit. Its effect has a direction, which rounding has not, and a stage whose error has it fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from loftr2flax.folding import fold_line
from loftr2flax.parity.run import Record, Replay
from loftr2flax.parity.subject import Explain
from loftr2flax.parity.values import Culprit, LeafFinding, PairRun, ParityReport, StageRow
from loftr2flax.parity.weights import sentence


def hold_against_mistakes(run: PairRun, explain: Explain, record: Record, replay: Replay) -> PairRun:
    """A run in which stages within their limits fail where their error is that of a known mistake."""

    def held(row: StageRow) -> StageRow:
        if row.wrong_by_itself:
            return row
        found = explain(row, record, replay)
        if found is None:
            return row
        worst = max(row.own, key=lambda judgement: judgement.ratio)
        reason = f"within the limit, but {found.cause}: {found.evidence}"
        own = tuple(replace(j, reason=reason) if j is worst else j for j in row.own)
        return replace(row, own=own)

    return replace(run, stages=tuple(held(row) for row in run.stages))


def find_culprit(
    report: ParityReport,
    explain: Explain | None = None,
    records: Sequence[Record] = (),
    replays: Sequence[Replay] = (),
) -> Culprit | None:
    """The culprit of a report, None where all passes.

    Args:
      report: the verdicts.
      explain: looks for a cause in the computation.
      records, replays: of the runs, for ``explain``.
    """
    if report.weights.findings:
        return _wrong_weights(report)
    for number, run in enumerate(report.runs):
        row = run.culprit_row
        if row is None:
            continue
        if row.missing or not row.own:
            names = ", ".join(row.missing) or row.stage
            return Culprit(row.stage, f"the stage gives no {names}", "missing", run=number)
        found = explain(row, records[number], replays[number]) if explain is not None and records else None
        if found is None:
            worst = max(row.own, key=lambda judgement: judgement.excess)
            found = Culprit(row.stage, "no known mistake explains it", "unknown", f"{worst.array}: {worst.reason}")
        return Culprit(found.stage, found.cause, found.kind, found.evidence, found.leaves, number)
    return _elsewhere(report)


def _wrong_weights(report: ParityReport) -> Culprit:
    """The cause of the first stage that reads a wrong leaf, and all leaves of that stage with that cause."""
    findings = report.weights.findings
    order = [row.stage for run in report.runs for row in run.stages]
    first = min(findings, key=lambda f: order.index(f.stage) if f.stage in order else len(order))
    alike: list[LeafFinding] = [f for f in findings if f.cause == first.cause]
    leaves = tuple(finding.leaf for finding in alike)
    evidence = first.detail if len(alike) == 1 else f"{len(leaves)} leaves, the first: {first.detail}"
    kind: Literal["missing", "weights"] = "missing" if first.cause == "missing" else "weights"
    return Culprit(first.stage, sentence(leaves, first.cause), kind, evidence, leaves)


def _elsewhere(report: ParityReport) -> Culprit | None:
    """Every stage is right by itself: what else does not pass."""
    for number, run in enumerate(report.runs):
        row = next((row for row in run.stages if not row.passed), None)
        if row is not None:
            cause = "the error only shows in the free run: small errors of the stages before it add up"
            return Culprit(row.stage, cause, "unknown", run=number)
        if run.matches is not None and not run.matches.passed:
            cause = f"{run.matches.differences} matches differ that rounding does not explain"
            return Culprit("conf_matrix", cause, "unknown", run=number)
    if report.coverage is not None and report.coverage.unreached:
        leaves = report.coverage.unreached
        return Culprit("", f"no output depends on {fold_line(leaves)}", "unknown", leaves=leaves)
    if report.gradients is not None and not report.gradients.passed:
        worst = max(report.gradients.leaves, key=lambda leaf: leaf.excess)
        return Culprit("", "the gradient differs", "unknown", f"{worst.array}: {worst.reason}")
    return None
