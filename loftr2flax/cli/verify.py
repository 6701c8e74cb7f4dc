"""`loftr2flax verify`: whether a conversion is right. `weights` compares numbers, `parity` what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loftr2flax.cli import machine, options, parity
from loftr2flax.cli.output import emit, emit_json, name_of, say

if TYPE_CHECKING:
    from loftr2flax.compare import WeightsVerdict

app = typer.Typer(no_args_is_help=True, help="Check a conversion.")

EXIT_DIFFERENT = 1
EXIT_NOTHING = 5
_SHOWN = 20


@app.callback()
def _verify() -> None:
    """Check a conversion."""


app.command("parity")(parity.parity)


@app.command("weights")
@options.limited
def weights(
    source: options.Source,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The conversion.", show_default=False)],
    mapping: options.MappingName = None,
    prefix: options.Prefix = None,
    state_dict: options.StateDict = None,
    form: machine.Format = None,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that every number in OUT is the number in FILE that the mapping names, bit for bit."""
    machine.one_form(json, form)
    from loftr2flax.compare import verify_weights

    verdict = verify_weights(
        source,
        target,
        mapping,
        prefix=prefix,
        state_dict=state_dict,
        limits=limits,
    )
    if form:
        from loftr2flax.findings import of_weights

        machine.show(of_weights(verdict, str(source), str(target)), form)
    elif json:
        _as_json(source, target, verdict)
    else:
        _as_text(verdict)
    if not verdict.compared:
        raise typer.Exit(EXIT_NOTHING)
    if not verdict.same:
        raise typer.Exit(EXIT_DIFFERENT)


def _as_json(source: Path, target: Path, verdict: WeightsVerdict) -> None:
    differences = [
        {"leaf": d.leaf, "reason": d.reason, "index": d.index, "expected": d.expected, "actual": d.actual}
        for d in verdict.differences
    ]
    document = {
        "source": str(source),
        "target": str(target),
        "mapping": verdict.plan.mapping.name,
        "same": verdict.same,
        "cast_to": list(verdict.cast),
        "compared": verdict.compared,
        "numbers": verdict.numbers,
        "differences": differences,
    }
    emit_json("verify.weights", document)


def _as_text(verdict: WeightsVerdict) -> None:
    for difference in verdict.differences[:_SHOWN]:
        emit(name_of(str(difference)))
    if len(verdict.differences) > _SHOWN:
        emit(f"and {len(verdict.differences) - _SHOWN} more")
    say(verdict.summary)
