"""`loftr2flax diff`: what each leaf of one checkpoint is to the other's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import machine, options
from loftr2flax.cli.output import emit_json, progress_bar, say
from loftr2flax.errors import UsageError

if TYPE_CHECKING:
    from loftr2flax.compare.values import CheckpointDiff, Finding, Measures, Seen, SideInfo

Left = Annotated[Path, options.checkpoint("A", "A checkpoint of any format.")]
Right = Annotated[Path, options.checkpoint("B", "Another.")]
Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance",
        metavar="T",
        help="Accept a leaf whose elements are off by at most T times its largest magnitude.",
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="GLOB", help="Compare leaves of such names alone. Repeatable.")
]
Ignore = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="GLOB", help="Leave leaves of such names out. Repeatable.")
]
Prefix = Annotated[
    list[str] | None,
    typer.Option(
        "--prefix",
        metavar="NAMES",
        help="Compare what stands below this; through a mapping, where its names begin. Twice: for A, for B.",
    ),
]
StateDict = Annotated[
    list[str] | None,
    typer.Option(
        "--state-dict", metavar="NAME", help="Which dict of tensors to take in a PyTorch file. Twice: for A, for B."
    ),
]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="End with 0 where the two differ, too.")]
Stat = Annotated[bool, typer.Option("--stat", help="A bar for each changed leaf or fold, like git's.")]
Full = Annotated[bool, typer.Option("--full", help="Every leaf on its own line, those that are the same too.")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Rows to show; --full shows all.")]


@options.limited
def diff(
    left: Left,
    right: Right,
    mapping: options.MappingName = None,
    tolerance: Tolerance = 0.0,
    only: Only = None,
    ignore: Ignore = None,
    prefix: Prefix = None,
    state_dict: StateDict = None,
    stat: Stat = False,
    full: Full = False,
    limit: Limit = 40,
    exit_zero: ExitZero = False,
    form: machine.Format = None,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare two checkpoints of any format or framework, leaf by leaf and bit for bit."""
    from loftr2flax.cli import diff_page

    machine.one_form(json, form)
    from loftr2flax.compare.diff import diff_checkpoints
    from loftr2flax.compare.values import DIFFERENT

    with progress_bar("comparing") as progress:
        found = diff_checkpoints(
            left,
            right,
            mapping,
            tolerance=tolerance,
            only=only or (),
            ignore=ignore or (),
            prefix=_both("--prefix", prefix),
            state_dict=_both("--state-dict", state_dict),
            progress=progress,
            limits=limits,
        )
    if form:
        from loftr2flax.findings import of_diff

        machine.show(of_diff(found), form)
    elif json:
        emit_json("diff", describe(found))
    else:
        for note in found.notes:
            say(f"note: {note}")
        diff_page.show_stat(found, limit, full=full) if stat else diff_page.show(found, limit, full=full)
    if found.exit_code and not (exit_zero and found.exit_code == DIFFERENT):
        raise typer.Exit(found.exit_code)


def _both(option: str, words: list[str] | None) -> str | tuple[str | None, str | None] | None:
    """One word for both sides, or one for each."""
    if not words:
        return None
    if len(words) == 1:
        return words[0]
    if len(words) > 2:
        raise UsageError(f"{option} is given {len(words)} times", "once for both sides, or twice: for A, then for B")
    return words[0], words[1]


def describe(found: CheckpointDiff) -> dict[str, Any]:
    """The JSON document; docs/diff.md describes it."""
    return {
        "left": _side(found.left),
        "right": _side(found.right),
        "mapping": found.mapping or None,
        "tolerance": found.tolerance,
        "same": found.same,
        "exit_code": found.exit_code,
        "summary": found.summary,
        "compared": found.compared,
        "numbers": found.numbers,
        "left_out": found.left_out,
        "counts": found.counts,
        "notes": list(found.notes),
        "findings": [_finding(finding) for finding in found.findings],
    }


def _side(side: SideInfo) -> dict[str, Any]:
    return {"path": str(side.path), "format": side.format, "container": side.container, "leaves": side.leaves}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "leaf": finding.leaf,
        "kind": finding.kind,
        "accepted": finding.accepted,
        "guess": finding.guess,
        "reason": finding.reason,
        "layout": finding.layout or None,
        "left": _seen(finding.left),
        "right": _seen(finding.right),
        "measures": _measures(finding.measures),
    }


def _seen(seen: Seen | None) -> dict[str, Any] | None:
    return {"name": seen.name, "shape": list(seen.shape), "dtype": seen.dtype} if seen else None


def _measures(m: Measures | None) -> dict[str, Any] | None:
    if m is None:
        return None
    return {
        "elements": m.elements,
        "changed": m.changed,
        "share": m.share,
        "one_sided": m.one_sided,
        "max_abs": _finite(m.max_abs),
        "index": None if m.index is None else list(m.index),
        "left": m.left,
        "right": m.right,
        "rel_l2": _finite(m.rel_l2),
        "cosine": m.cosine,
        "max_ulp": m.max_ulp,
        "scale": m.scale,
    }


def _finite(number: float | None) -> float | None:
    """JSON has no infinity: a difference beyond the range of float64 is null."""
    return number if number is not None and math.isfinite(number) else None
