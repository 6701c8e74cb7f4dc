"""The page: a parity report as one HTML document."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files

from loftr2flax.formats.atomic import new_file
from loftr2flax.markup import Markup, counted, element, joined, trusted
from loftr2flax.parity.values import Coverage, GradientCheck, Judgement, PairRun, ParityReport
from loftr2flax.report.curves import curves
from loftr2flax.report.pairs import flips_told, match_pictures
from loftr2flax.report.tables import badge, finding_table, pairs, stage_table, worst_table
from loftr2flax.report.tracks import tracks
from loftr2flax.report.verdict import banner, headline
from loftr2flax.version import VERSION

_MOST_WORST = 12
_MOST_FINDINGS = 60
_MOST_PICTURES = 4
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing is fetched and no script is run, whatever a file's names may hold."""


def write_report(report: ParityReport, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Writes `render_report` to a new file, whole or not at all.

    Raises:
      OutputExists: something is there, and ``force`` is not set.
      UsageError, EnvironmentFault: it cannot be written there.
    """
    page = render_report(report).encode("utf-8")
    with new_file(path, force=force) as file:
        file.write(page)


def render_report(report: ParityReport) -> str:
    """The report as HTML: no script, nothing from elsewhere, light and dark, for screens of any width."""
    style = (files("loftr2flax.report") / "style.css").read_text("utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{headline(report).split('.')[0]} · {report.target}"),
        element("style", trusted(style)),
    )
    body = element("body", element("main", _header(report), banner(report), *_sections(report)), _footer(report))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(report: ParityReport) -> Markup:
    title = element("h1", "Parity of ", element("code", report.target), " with ", element("code", report.source))
    about = " · ".join(part for part in (report.network, f"mapping {report.mapping}" if report.mapping else "") if part)
    eyebrow = element("p", "loftr2flax verify parity", class_="eyebrow")
    return element("header", eyebrow, title, element("p", about, class_="about"))


def _sections(report: ParityReport) -> Iterator[Markup]:
    if report.notes:
        yield _section("Notes", element("ul", *(element("li", note) for note in report.notes)))
    if report.runs:
        yield _curves(report)
    if report.weights.findings:
        yield _findings(report)
    yield from _pictures(report)
    if worst := _worst(report):
        told = "The arrays nearest to their limit or furthest beyond it, each with its worst element."
        yield _section("Worst arrays", element("p", told), worst_table(worst))
    if report.runs:
        opened = next((n for n, run in enumerate(report.runs) if not run.passed), 0)
        yield _section("Stages", *(_run(run, n == opened) for n, run in enumerate(report.runs)))
    if report.gradients is not None:
        yield _gradients(report.gradients)
    if report.coverage is not None:
        yield _coverage(report.coverage)
    yield _section("Inputs", *map(_inputs, report.runs)) if report.runs else joined()
    if report.environment:
        yield _section("Versions and flags", pairs(report.environment))
    if report.config:
        yield _section("Network", pairs(report.config))


def _curves(report: ParityReport) -> Markup:
    legend = element(
        "ul",
        element("li", "drift: the free run, each stage fed by the one before it", class_="drift"),
        element("li", "own error: each stage fed with torch’s own input, so that mistakes show where they are made",
                class_="own"),
        class_="legend",
    )  # fmt: skip
    told = (
        "r counts how many times torch’s own rounding error the candidate makes, both measured against torch in "
        "float64. 1 is torch itself; beyond the limit it is a mistake and not rounding."
    )
    if len(report.runs) > 1:
        told += f" Lines join the worst of {len(report.runs)} runs; small dots are the single runs."
    culprit = report.culprit.stage if report.culprit else ""
    return _section("The two curves", element("p", told), legend, curves(tracks(report.runs), culprit))


def _findings(report: ParityReport) -> Markup:
    found = report.weights.findings
    more = len(found) - _MOST_FINDINGS
    told = f"Not the tensor that the mapping names: {len(found):,} of {report.weights.compared:,} leaves."
    rest = element("p", f"and {more:,} more") if more > 0 else None
    return _section("Leaves that differ", element("p", told), finding_table(found[:_MOST_FINDINGS]), rest)


def _pictures(report: ParityReport) -> Iterator[Markup]:
    """Matches of the runs that have images and matches, those that differ first; the first is unfolded."""
    ranked = sorted(enumerate(report.runs), key=lambda entry: entry[1].matches is None or entry[1].matches.passed)
    drawn = [(run, picture) for n, run in ranked if (picture := match_pictures(run, n)) is not None][:_MOST_PICTURES]
    if not drawn:
        return
    parts = []
    for place, (run, picture) in enumerate(drawn):
        assert run.matches is not None
        told = element("p", flips_told([run.matches]) + ".")
        parts.append(element("details", _summary(run, run.matches.passed), told, picture, open=place == 0))
    key = element(
        "ul",
        element("li", "sure", class_="sure"),
        element("li", "less sure", class_="unsure"),
        element("li", "on one side only", class_="alone"),
        class_="legend",
    )
    yield _section("Matches, torch and Flax", key, *parts)


def _worst(report: ParityReport) -> list[tuple[str, str, Judgement]]:
    entries = [
        (run.inputs.title, curve, judgement)
        for run in report.runs
        for row in run.stages
        for curve, judged in (("drift", row.drift), ("own error", row.own))
        for judgement in judged
    ]
    return sorted(entries, key=lambda entry: -entry[2].excess)[:_MOST_WORST]


def _run(run: PairRun, opened: bool) -> Markup:
    return element("details", _summary(run, run.passed), stage_table(run), open=opened)


def _summary(run: PairRun, passed: bool) -> Markup:
    return element("summary", element("span", run.inputs.title, class_="name"), badge(passed))


def _gradients(check: GradientCheck) -> Markup:
    ranked = sorted(check.leaves, key=lambda leaf: -leaf.excess)[:_MOST_WORST]
    told = f"{counted(len(check.leaves), 'leaf', 'leaves')}, the gradient of one scalar of all outputs; the worst:"
    title = joined("Gradients ", badge(check.passed))
    return _section(title, element("p", told), worst_table([(check.inputs, "gradient", leaf) for leaf in ranked]))


def _coverage(coverage: Coverage) -> Markup:
    ranked = sorted(coverage.exercised.items(), key=lambda entry: entry[1])[:_MOST_WORST]
    least = [element("li", element("code", leaf), f" {share:.1%}") for leaf, share in ranked if share < 1]
    parts = [element("p", "A leaf that no output depends on cannot be judged by outputs.")]
    if coverage.unreached:
        listed = (element("li", element("code", leaf)) for leaf in coverage.unreached[:_MOST_FINDINGS])
        parts.append(
            element("p", f"Not reached: {counted(len(coverage.unreached), 'leaf', 'leaves')}.", class_="reason")
        )
        parts.append(element("ul", *listed, class_="leaves"))
    if least:
        parts += [
            element("p", "Leaves not all of whose numbers have a gradient, the least first:"),
            element("ul", *least, class_="leaves"),
        ]
    elif not coverage.unreached:
        parts.append(element("p", "Every number of every leaf has a gradient."))
    return _section(joined("Coverage ", badge(coverage.passed)), *parts)


def _inputs(run: PairRun) -> Markup:
    inputs = run.inputs
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in inputs.arrays.items())
    listed = {"from": inputs.origin, "arrays": shapes} | ({"sha256": inputs.sha256} if inputs.sha256 else {})
    return joined(element("h3", inputs.title), pairs(listed, long=True))


def _section(title: str, *content: Markup | None) -> Markup:
    return element("section", element("h2", title), *content)


def _footer(report: ParityReport) -> Markup:
    return element("footer", f"loftr2flax {VERSION}, {report.seconds:.1f} s")
