"""The tables of a report: stages of a run, worst arrays, leaves, and plain pairs of names and values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from loftr2flax.markup import Child, Markup, element, joined, number, ratio
from loftr2flax.parity.values import Judgement, LeafFinding, PairRun, Spot, StageRow


def stage_table(run: PairRun) -> Markup:
    """A row for each stage, with the numbers of its worst array on either curve."""
    head = ("stage", "r drift", "r own", "limit", "max abs error", "relative", "ulp", "cosine", "")
    return _table(head, (_stage(row) for row in run.stages), "stages")


def _stage(row: StageRow) -> Markup:
    drift, own = row.worst_drift, row.worst_own
    shown = drift or own
    limit = min((j.limit for j in (drift, own) if j is not None), default=float("nan"))
    reasons = list(dict.fromkeys(reason for j in (*row.drift, *row.own) if (reason := _untold(j))))
    if row.missing:
        reasons.insert(0, f"absent: {', '.join(row.missing)}")
    cells = (
        _ratio(drift), _ratio(own), _cell(number(limit)), _cell(_error(shown.max_abs if shown else None)),
        _cell(_error(shown.max_rel if shown else None)), _cell(_error(shown.max_ulp if shown else None)),
        _cell(_cosine(shown)),
    )  # fmt: skip
    remarks = [element("p", reason, class_="reason") for reason in reasons[:3]]
    state = "passes" if row.passed else "fails"
    name = element("th", element("code", row.stage), *remarks, scope="row")
    return element("tr", name, *cells, element("td", badge(row.passed)), class_=state)


def worst_table(entries: Sequence[tuple[str, str, Judgement]]) -> Markup:
    """Arrays with their worst element: entries are (run, curve, judgement)."""
    head = ("array", "run", "curve", "r", "limit", "at index", "torch, float64", "candidate", "off by")
    return _table(head, (_worst(*entry) for entry in entries), "worst")


def _worst(run: str, curve: str, judgement: Judgement) -> Markup:
    spot = judgement.max_abs
    values = (
        ("–",) * 4
        if spot is None
        else (index(spot), number(spot.expected, 9), number(spot.actual, 9), number(spot.error))
    )
    reason = element("p", told, class_="reason") if (told := _untold(judgement)) else None
    return element(
        "tr",
        element("th", element("code", judgement.array), reason, scope="row"),
        element("td", run),
        element("td", curve),
        _ratio(judgement),
        _cell(number(judgement.limit)),
        *map(_cell, values),
        class_="passes" if judgement.passed else "fails",
    )


def finding_table(findings: Sequence[LeafFinding]) -> Markup:
    """Leaves that are not what the mapping names."""
    rows = (
        element(
            "tr",
            element("th", element("code", finding.leaf), scope="row"),
            element("td", finding.cause),
            element("td", finding.detail.removeprefix(f"{finding.leaf}: ")),
            element("td", element("code", finding.stage) if finding.stage else None),
            class_="fails",
        )
        for finding in findings
    )
    return _table(("leaf", "cause", "what is different", "stage"), rows, "findings")


def pairs(values: Mapping[str, object], *, long: bool = False) -> Markup:
    """Names and values, as a list of definitions; ``long`` values have the page's width."""
    rows = (element("div", element("dt", name), element("dd", _plain(value))) for name, value in values.items())
    return element("dl", *rows, class_="pairs long" if long else "pairs")


def badge(passed: bool) -> Markup:
    """``✓ pass`` or ``✗ fail``: a word as well as a colour."""
    return element("span", "✓ pass" if passed else "✗ fail", class_=f"badge {'passes' if passed else 'fails'}")


def index(spot: Spot) -> str:
    """``[0, 3, 5]``."""
    return f"[{', '.join(map(str, spot.index))}]"


def _untold(judgement: Judgement) -> str:
    """Why an array fails, where its r does not say it."""
    return judgement.reason if judgement.excess == math.inf else ""


def _ratio(judgement: Judgement | None) -> Markup:
    if judgement is None:
        return element("td", "absent", class_="number failed")
    return element("td", ratio(judgement.ratio), class_="number" if judgement.passed else "number failed")


def _error(spot: Spot | None) -> Child:
    if spot is None:
        return "–"
    told = f"at {index(spot)}: torch {number(spot.expected, 9)}, candidate {number(spot.actual, 9)}"
    return element("span", number(spot.error), title=told)


def _cosine(judgement: Judgement | None) -> str:
    """One minus it where it is close to 1: that is where it differs."""
    if judgement is None or judgement.cosine != judgement.cosine:
        return "–"
    apart = 1 - judgement.cosine
    return f"1 − {number(apart, 2)}" if 0 < apart < 1e-3 else number(judgement.cosine, 4)


def _cell(content: Child) -> Markup:
    return element("td", content, class_="number")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)


def _table(head: Sequence[str], rows: Iterable[Markup], kind: str) -> Markup:
    titles = (element("th", name or element("span", "verdict", class_="unseen"), scope="col") for name in head)
    body = element("tbody", joined(*rows))
    table = element("table", element("thead", element("tr", *titles)), body, class_=kind)
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=kind)
