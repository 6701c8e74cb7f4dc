"""The verdict in words: what a person reads first, and often all that he reads."""

from __future__ import annotations

import math

from loftr2flax.markup import Markup, counted, element, number, ratio
from loftr2flax.parity.values import FAIL, PASS, Culprit, ParityReport
from loftr2flax.report.pairs import flips_told

_STATES = {PASS: "passes", FAIL: "fails"}
_MOST_LEAVES = 8


def banner(report: ParityReport) -> Markup:
    """The headline, the numbers below it, and the culprit where there is one."""
    state = _STATES.get(report.exit_code, "nothing")
    sign = {"passes": "✓", "fails": "✗", "nothing": "∅"}[state]
    return element(
        "section",
        element("p", element("span", sign, class_="sign", aria_hidden="true"), headline(report), class_="headline"),
        element("ul", *(element("li", line) for line in _in_numbers(report)), class_="numbers"),
        _culprit(report.culprit, report) if report.culprit else None,
        class_=f"banner {state}",
        aria_label="verdict",
    )


def headline(report: ParityReport) -> str:
    """One sentence."""
    if report.exit_code == PASS:
        return "Pass: both networks compute the same function."
    if report.exit_code == FAIL:
        return "Fail: the networks do not compute the same function."
    return "Nothing was compared. That is not a pass."


def _in_numbers(report: ParityReport) -> list[str]:
    """What was compared, and how it came out, a sentence each."""
    parts = [_worst(report)] if report.worst else []
    parts.append(f"{counted(report.compared, 'array')} judged in {counted(len(report.runs), 'run')}.")
    weights = report.weights
    if weights.compared:
        found = len(weights.findings)
        said = "all equal bit for bit" if not found else f"{found:,} not what the mapping names"
        leaves = counted(weights.compared, "leaf", "leaves")
        parts.append(f"{leaves} with {counted(weights.numbers, 'number')} compared: {said}.")
    if matched := [run.matches for run in report.runs if run.matches is not None]:
        parts.append(f"{flips_told(matched)}.")
    return parts + _further(report)


def _worst(report: ParityReport) -> str:
    assert report.worst is not None
    run, curve, judgement = report.worst
    where = f"{judgement.array}, {'free run' if curve == 'drift' else 'by itself'}"
    if len(report.runs) > 1:
        where += f", {report.runs[run].inputs.title}"
    if judgement.excess == math.inf:  # no r, or one that is not what failed
        return f"At worst: {where}: {judgement.reason}."
    told = f"At worst {ratio(judgement.ratio)} times torch’s own rounding error, where {number(judgement.limit)}"
    return f"{told} is allowed ({where})."


def _further(report: ParityReport) -> list[str]:
    """What the optional checks say."""
    parts = []
    if report.coverage is not None:
        unreached = len(report.coverage.unreached)
        total = len({*report.coverage.exercised, *report.coverage.unreached})
        reached = f"{total - unreached:,} of {counted(total, 'leaf', 'leaves')} exercised."
        parts.append(reached if unreached else f"All {counted(total, 'leaf', 'leaves')} exercised.")
    if report.gradients is not None:
        wrong = sum(not leaf.passed for leaf in report.gradients.leaves)
        total = len(report.gradients.leaves)
        parts.append(f"{counted(total, 'gradient')} compared: {f'{wrong:,} differ' if wrong else 'all agree'}.")
    return parts


def _culprit(culprit: Culprit, report: ParityReport) -> Markup:
    where = element("code", culprit.stage) if culprit.stage else "the weights"
    leaves = [element("li", element("code", leaf)) for leaf in culprit.leaves[:_MOST_LEAVES]]
    if len(culprit.leaves) > _MOST_LEAVES:
        leaves.append(element("li", f"and {len(culprit.leaves) - _MOST_LEAVES} more"))
    run = report.runs[culprit.run].inputs.title if 0 <= culprit.run < len(report.runs) else ""
    return element(
        "div",
        element("p", "The first mistake is in ", where, f", run {run}" if run and len(report.runs) > 1 else None, ":"),
        element("p", culprit.cause, class_="cause"),
        element("p", culprit.evidence, class_="evidence") if culprit.evidence else None,
        element("ul", *leaves, class_="leaves") if leaves else None,
        class_="culprit",
    )
