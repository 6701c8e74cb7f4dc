"""`loftr2flax verify parity`: the verdict first, then the two curves, then where the mistake is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import machine, options
from loftr2flax.cli.output import emit, emit_json, leaves, name_of, plural, say, table
from loftr2flax.errors import UsageError

if TYPE_CHECKING:
    from loftr2flax.parity import Judgement, PairRun, ParityReport, StageRow
    from loftr2flax.parity.values import Spot

_SHOWN = 20


@options.limited
def parity(
    source: Annotated[Path, options.checkpoint("FILE", "The torch checkpoint; with --golden, the conversion.")],
    target: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="The conversion.", show_default=False)] = None,
    mapping: options.MappingName = None,
    images: Annotated[
        tuple[Path, Path] | None, typer.Option("--images", metavar="A B", help="Two photographs to run on.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the pictures that are made where none are given.")] = 0,
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", metavar="HxW,…", help="Sizes of the images: 96x136,240x320. A run for each."),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Every array of every stage, with its worst place.")
    ] = False,
    gradients: Annotated[bool, typer.Option("--gradients", help="Compare gradients, leaf by leaf, too.")] = False,
    facts: Annotated[
        list[str] | None,
        typer.Option("--fact", metavar="NAME=VALUE", help="What the weights cannot show, such as heads=4. Repeatable."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="HTML", help="Write the report as one HTML file, too.")
    ] = None,
    save_golden: Annotated[
        Path | None, typer.Option("--save-golden", metavar="NPZ", help="Save what torch said, to verify without torch.")
    ] = None,
    golden: Annotated[
        Path | None, typer.Option("--golden", metavar="NPZ", help="Judge by a saved bundle; torch is not needed.")
    ] = None,
    torch: Annotated[
        str | None, typer.Option("--torch", metavar="MODULE:FACTORY", help="Your own torch network; it is imported.")
    ] = None,
    flax: Annotated[
        str | None, typer.Option("--flax", metavar="MODULE:FACTORY", help="Your own Flax network; it is imported.")
    ] = None,
    prefix: options.Prefix = None,
    state_dict: options.StateDict = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a report or a bundle that is there.")] = False,
    form: machine.Format = None,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the torch and the Flax network on the same inputs, and judge every stage by torch's own rounding error."""
    machine.one_form(json, form)
    stated = options.parse_facts(facts or [])
    if golden is not None:
        others = {"--images": images, "--torch": torch, "--save-golden": save_golden, "--gradients": gradients}
        if clash := [name for name, value in others.items() if value]:
            raise UsageError(
                f"{clash[0]} has no meaning with --golden", "the bundle has the inputs and torch's answers"
            )
        found = _by_golden(golden, source, target, stated, flax, limits)
    else:
        if target is None:
            raise UsageError("missing the conversion", "`loftr2flax verify parity official.ckpt loftr.npz`")
        from loftr2flax.parity import verify_parity

        found = verify_parity(
            source,
            target,
            mapping,
            prefix=prefix,
            state_dict=state_dict,
            facts=stated,
            images=images or (),
            seed=seed,
            sizes=parse_sizes(sizes) if sizes else (),
            gradients=gradients,
            torch=torch,
            flax=flax,
            save_golden=save_golden,
            force=force,
            limits=limits,
        )
    if report is not None:
        _write_report(found, report, force)
    if form:
        from loftr2flax.findings import of_parity

        machine.show(of_parity(found), form)
    elif json:
        emit_json("verify.parity", as_json(found))
    else:
        _as_text(found, per_layer)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """``"96x136,240x320"`` → rows and columns.

    Raises:
      UsageError: an entry is not HxW.
    """
    sizes = []
    for entry in text.split(","):
        height, cross, width = entry.strip().lower().replace("×", "x").partition("x")
        if not (cross and height.isdecimal() and width.isdecimal()):
            raise UsageError(f"--sizes {entry}: not rows and columns", "such as `--sizes 96x136,240x320`")
        sizes.append((int(height), int(width)))
    return sizes


def _by_golden(
    golden: Path, source: Path, target: Path | None, facts: dict[str, Any], flax: str | None, limits: options.Limits
) -> ParityReport:
    from loftr2flax.parity import verify_golden

    return verify_golden(golden, target if target is not None else source, facts=facts, flax=flax, limits=limits)


def _write_report(found: ParityReport, path: Path, force: bool) -> None:
    from loftr2flax.report import write_report

    write_report(found, path, force=force)
    say(f"the report is in {path}")


def _as_text(report: ParityReport, per_layer: bool) -> None:
    emit(_verdict(report))
    if report.culprit is not None:
        where = f"{report.culprit.stage}: " if report.culprit.stage else ""
        emit(name_of(f"culprit: {where}{report.culprit.cause}"))
        if report.culprit.evidence:
            emit(name_of(f"  {report.culprit.evidence}"))
    emit()
    weights = report.weights
    equal = "equal bit for bit" if weights.passed else plural(len(weights.findings), "finding")
    emit(f"weights    {leaves(weights.compared)}, {weights.numbers:,} numbers through {report.mapping}: {equal}")
    for finding in weights.findings[:_SHOWN]:
        emit(name_of(f"  {finding.cause}: {finding.detail}"))
    if len(weights.findings) > _SHOWN:
        emit(f"  and {len(weights.findings) - _SHOWN} more")
    for run in report.runs:
        emit()
        _run_as_text(run, per_layer)
    emit()
    _rest_as_text(report, per_layer)


def _verdict(report: ParityReport) -> str:
    if report.passed:
        assert report.worst is not None
        _, curve, worst = report.worst
        shown = f"{worst.array}, {curve}: r {_ratio(worst.ratio)} of {worst.limit:.3g}"
        return f"PASS  {report.compared} arrays of {plural(len(report.runs), 'run')}; nearest to its limit {shown}"
    if not report.compared and not report.weights.findings:
        return "NOTHING WAS COMPARED"
    judged = [row for run in report.runs for row in run.stages]
    wrong = sum(not row.passed for row in judged)
    return f"FAIL  {wrong} of {plural(len(judged), 'stage')} beyond the limit"


def _run_as_text(run: PairRun, per_layer: bool) -> None:
    emit(name_of(f"{run.inputs.title} ({run.inputs.origin})"))
    rows = [["  stage", "drift r", "own r", "limit", "max abs", "max ulp", ""]]
    for row in run.stages:
        rows.append(_stage_line(row))
        if per_layer:
            rows += [
                _array_line(curve, one) for curve, some in (("drift", row.drift), ("own", row.own)) for one in some
            ]
    table(rows, right=(1, 2, 3, 4, 5))
    if run.matches is not None:
        found = run.matches
        ties = f", {found.ties} ties" if found.ties else ""
        emit(f"  matches: {found.common} on both sides{ties}, {plural(found.differences, 'real difference')}")


def _stage_line(row: StageRow) -> list[str]:
    worst = row.worst_own
    if worst is None or row.missing:
        return [f"  {row.stage}", "", "", "", "", "", f"ABSENT: {', '.join(row.missing) or row.stage}"]
    failed = [judgement.reason for judgement in (*row.own, *row.drift) if judgement.reason]
    note = f"FAIL {failed[0]}" if failed else ""
    return [
        f"  {row.stage}", _ratio(row.drift_ratio), _ratio(row.own_ratio), f"{worst.limit:.2f}",
        _error(worst.max_abs), _steps(worst.max_ulp), note,
    ]  # fmt: skip


def _array_line(curve: str, one: Judgement) -> list[str]:
    ratios = [_ratio(one.ratio), ""] if curve == "drift" else ["", _ratio(one.ratio)]
    note = one.reason or _place(one.max_abs) + f"  cosine {one.cosine:.9f}"
    return [f"    {one.array}", *ratios, f"{one.limit:.2f}", _error(one.max_abs), _steps(one.max_ulp), note]


def _rest_as_text(report: ParityReport, per_layer: bool) -> None:
    found = report.gradients
    if found is not None:
        worst = max(found.leaves, key=lambda leaf: leaf.excess, default=None)
        wrong = [leaf for leaf in found.leaves if not leaf.passed]
        shown = f"largest r {_ratio(worst.ratio)} of {worst.limit:g} at {worst.array}" if worst else "nothing compared"
        emit(
            name_of(f"gradients  {leaves(len(found.leaves))} on {found.inputs}: {len(wrong)} beyond the limit; {shown}")
        )
        for leaf in wrong[:_SHOWN]:
            emit(name_of(f"  {leaf.array}: {leaf.reason}"))
        if per_layer:
            table(
                [[f"  {leaf.array}", _ratio(leaf.ratio), _error(leaf.max_abs)] for leaf in found.leaves], right=(1, 2)
            )
    if report.coverage is not None:
        reached = len(report.coverage.exercised) - len(report.coverage.unreached)
        emit(f"coverage   {reached} of {leaves(len(report.coverage.exercised))} exercised")
        for path in report.coverage.unreached[:_SHOWN]:
            emit(name_of(f"  no output depends on {path}"))
    for note in report.notes:
        emit(f"note       {name_of(note)}")
    emit(f"network    {report.network}")
    emit(f"with       {', '.join(f'{name} {value}' for name, value in report.environment.items())}")
    emit(f"took       {report.seconds:.1f} s")


def _ratio(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return str(value)
    return f"{value:.3f}" if value < 100 else f"{value:.3g}"


def _error(spot: Spot | None) -> str:
    return "" if spot is None else f"{spot.error:.2e}"


def _steps(spot: Spot | None) -> str:
    return "" if spot is None else f"{spot.error:.3g}"


def _place(spot: Spot | None) -> str:
    return "" if spot is None else f"at {list(spot.index)} {spot.actual:.9g} for {spot.expected:.9g}"


def as_json(report: ParityReport) -> dict[str, Any]:
    """The report as plain values; numbers that are not finite are text, which JSON has no other word for."""
    culprit, weights = report.culprit, report.weights
    return {
        "source": report.source,
        "target": report.target,
        "mapping": report.mapping,
        "network": report.network,
        "passed": report.passed,
        "exit_code": report.exit_code,
        "compared": report.compared,
        "culprit": None if culprit is None else {
            "stage": culprit.stage, "cause": culprit.cause, "kind": culprit.kind, "evidence": culprit.evidence,
            "leaves": list(culprit.leaves), "run": culprit.run,
        },
        "weights": {
            "passed": weights.passed, "compared": weights.compared, "numbers": weights.numbers,
            "findings": [
                {"leaf": f.leaf, "stage": f.stage, "cause": f.cause, "detail": f.detail} for f in weights.findings
            ],
        },
        "runs": [_run_as_json(run) for run in report.runs],
        "gradients": None if report.gradients is None else {
            "passed": report.gradients.passed, "inputs": report.gradients.inputs,
            "leaves": [_judgement_as_json(leaf) for leaf in report.gradients.leaves],
        },
        "coverage": None if report.coverage is None else {
            "passed": report.coverage.passed, "exercised": dict(report.coverage.exercised),
            "unreached": list(report.coverage.unreached),
        },
        "config": dict(report.config),
        "environment": dict(report.environment),
        "notes": list(report.notes),
        "seconds": round(report.seconds, 3),
    }  # fmt: skip


def _run_as_json(run: PairRun) -> dict[str, Any]:
    matches = run.matches
    return {
        "inputs": {
            "title": run.inputs.title, "origin": run.inputs.origin, "sha256": run.inputs.sha256,
            "arrays": {name: list(shape) for name, shape in run.inputs.arrays.items()},
        },
        "passed": run.passed,
        "stages": [
            {
                "stage": row.stage, "passed": row.passed, "drift_r": _number(row.drift_ratio),
                "own_r": _number(row.own_ratio), "missing": list(row.missing),
                "drift": [_judgement_as_json(one) for one in row.drift],
                "own": [_judgement_as_json(one) for one in row.own],
            }
            for row in run.stages
        ],
        "matches": None if matches is None else {
            "passed": matches.passed, "common": matches.common, "ties": matches.ties,
            "differences": matches.differences,
            "flips": [
                {"ids": list(f.ids), "side": f.side, "margin": f.margin, "noise": f.noise, "tie": f.tie}
                for f in matches.flips
            ],
        },
    }  # fmt: skip


def _judgement_as_json(one: Judgement) -> dict[str, Any]:
    return {
        "array": one.array, "r": _number(one.ratio), "limit": one.limit, "passed": one.passed, "reason": one.reason,
        "rmse": _number(one.rmse), "reference_rmse": _number(one.reference_rmse), "elements": one.elements,
        "max_abs": _spot(one.max_abs), "max_rel": _spot(one.max_rel), "max_ulp": _spot(one.max_ulp),
        "cosine": _number(one.cosine),
    }  # fmt: skip


def _spot(spot: Spot | None) -> dict[str, Any] | None:
    if spot is None:
        return None
    values = {"error": spot.error, "expected": spot.expected, "actual": spot.actual}
    return {"index": list(spot.index)} | {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
