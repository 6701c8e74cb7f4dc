"""`loftr2flax verify`: whether a conversion is right. `weights` compares numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import emit, emit_json, name_of, plural, say

app = typer.Typer(no_args_is_help=True, help="Check a conversion.")

EXIT_DIFFERENT = 1
EXIT_NOTHING = 5
_SHOWN = 20


@app.callback()
def _verify() -> None:
    """Check a conversion."""


@app.command("weights")
def weights(
    source: options.Source,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The conversion.", show_default=False)],
    mapping: options.MappingName = None,
    prefix: options.Prefix = None,
    state_dict: options.StateDict = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that every number in OUT is the number in FILE that the mapping names, bit for bit."""
    from loftr2flax.compare import verify_weights

    verdict = verify_weights(source, target, mapping, prefix=prefix, state_dict=state_dict)
    if json:
        differences = [{"leaf": d.leaf, "reason": d.reason, "index": d.index, "expected": d.expected, "actual": d.actual} for d in verdict.differences]
        emit_json("verify.weights", {
            "source": str(source), "target": str(target), "mapping": verdict.plan.mapping.name, "same": verdict.same,
            "compared": verdict.compared, "numbers": verdict.numbers, "differences": differences,
        })  # fmt: skip
    else:
        for difference in verdict.differences[:_SHOWN]:
            emit(name_of(str(difference)))
        if len(verdict.differences) > _SHOWN:
            emit(f"and {len(verdict.differences) - _SHOWN} more")
        judged = f"{plural(verdict.compared, 'leaf', 'leaves')}, {verdict.numbers:,} numbers compared by {verdict.plan.mapping.name}"
        answer = "nothing could be compared" if not verdict.compared else "same, bit for bit" if verdict.same else f"{len(verdict.differences)} differ"
        say(f"{judged}: {answer}")
    if not verdict.compared:
        raise typer.Exit(EXIT_NOTHING)
    if not verdict.same:
        raise typer.Exit(EXIT_DIFFERENT)
