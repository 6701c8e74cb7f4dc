"""`loftr2flax convert`: PyTorch to Flax, or back with --reverse."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.checkpoint import told_choice
from loftr2flax.cli import options
from loftr2flax.cli.output import emit, emit_json, leaves, name_of, plural, progress_bar, say, size_text, table
from loftr2flax.errors import UsageError
from loftr2flax.filehash import FileHash

if TYPE_CHECKING:
    from loftr2flax.convert import Conversion
    from loftr2flax.plan import Move, Plan

_FIDELITY = {
    "exact": "bit for bit",
    "tied": "bit for bit, with tied copies",
    "approximate": "cast to another dtype",
    "one-way": "one way: what is dropped does not come back",
}

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="OUT", help="The file to write; its ending tells the format.")
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="NAMES",
        help="Where the mapping's names begin, if not found. With --reverse: what to put before the keys.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="npz, msgpack or safetensors; torch or safetensors with --reverse."),
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Cast floating-point leaves, e.g. bfloat16.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="From Flax to PyTorch, by the same mapping.")]
Choose = Annotated[
    list[str] | None,
    typer.Option("--choose", metavar="INDEX=VALUE", help="Take one of several tied copies that differ, e.g. j=0."),
]
AllowLoss = Annotated[
    bool, typer.Option("--allow-loss", help="Accept that values without a place on the other side are lost.")
]
Facts = Annotated[
    list[str] | None,
    typer.Option(
        "--fact", metavar="NAME=VALUE", help="What the weights cannot show, where this file differs, e.g. heads=1."
    ),
]
MaxShardSize = Annotated[
    str | None,
    typer.Option("--max-shard-size", metavar="SIZE", help="Several safetensors files and an index, e.g. 2GB, 500MiB."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]


@options.limited
def convert(
    context: typer.Context,
    source: options.Source,
    mapping: options.MappingName = None,
    out: Output = None,
    format: Format = None,
    prefix: Prefix = None,
    state_dict: options.StateDict = None,
    dtype: Dtype = None,
    facts: Facts = None,
    dry_run: DryRun = False,
    reverse: Reverse = False,
    choose: Choose = None,
    allow_loss: AllowLoss = False,
    max_shard_size: MaxShardSize = None,
    force: Force = False,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert a PyTorch checkpoint to Flax (.npz, .msgpack, .safetensors), or back with --reverse."""
    if out is None and not dry_run:
        raise UsageError("no output is named", f"loftr2flax convert {shlex.quote(str(source))} -o out.npz")
    digest = None if dry_run else FileHash([source])  # at work while numpy and the rest are imported

    from loftr2flax.convert import Order, prepared
    from loftr2flax.plan import PrefixNotFound

    order = Order(
        mapping,
        format=format,
        prefix=prefix,
        state_dict=state_dict,
        dtype=dtype,
        facts=options.parse_facts(facts or []),
        reverse=reverse,
        force=force,
        choose=options.parse_choices(choose or []),
        allow_loss=allow_loss,
        max_shard_size=None if max_shard_size is None else options.parse_size("--max-shard-size", max_shard_size),
        limits=limits,
    )
    try:
        with prepared(source, out, order, digest) as job:
            _introduce(job.conversion(written=False))
            if dry_run:
                _show_plan(job.conversion(written=False), json)
                return
            with progress_bar("converting") as progress:
                job.write(progress)
            _conclude(job.conversion(written=True), json)
    except PrefixNotFound as error:
        error.hint = _again(context, prefix=error.found[0])
        raise


def _again(context: typer.Context, **changed: str) -> str:
    """The command as it was given, with some options changed."""
    words = ["loftr2flax", "convert"]
    for parameter in context.command.params:
        value = changed.get(str(parameter.name), context.params[str(parameter.name)])
        option = [] if parameter.param_type_name == "argument" else [min(parameter.opts, key=len)]
        if value is True:
            words += option
        elif value is not None and value is not False:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                words += [*option, str(one)]
    return shlex.join(words)


def _introduce(result: Conversion) -> None:
    """What was chosen, found or left out: all that a user did not say himself."""
    plan = result.plan
    forward = plan.direction == "forward"
    if forward and (choice := told_choice(result.container, result.containers)):
        say(choice)
    if result.found:
        root = f"{plan.root}." if plan.root else "nothing"
        say(f"mapping {plan.mapping.name} fits" + (f", {root} before its names" if forward else ""))
    for group in plan.absent:
        say(f"absent: {group} (the file has none of it)")
    if plan.outside:
        kind = ("other tensor", "other tensors") if forward else ("other leaf", "other leaves")
        say(f"not in scope: {plural(len(plan.outside), *kind)}, e.g. {name_of(plan.outside[0])}")
    if forward and plan.dropped:
        kept = f"{result.kept} of them kept in the output's record for the way back"
        say(f"dropped: {plural(len(plan.dropped), 'tensor')}, {kept}")
    for note in result.notes:
        say(f"note: {note}")


def _conclude(result: Conversion, json: bool) -> None:
    assert result.output is not None
    nbytes = sum(path.stat().st_size for path in result.files)
    if json:
        emit_json("convert", _describe(result, nbytes))
        return
    count = len(result.plan.moves)
    counted = leaves(count) if result.plan.direction == "forward" else plural(count, "tensor")
    shards = f" and {plural(len(result.files) - 1, 'shard')}" if len(result.files) > 1 else ""
    made = f"{counted}, {size_text(nbytes)}, {result.plan.mapping.name}, {_fidelity(result)}"
    say(f"wrote {result.output}{shards}: {made}")


def _show_plan(result: Conversion, json: bool) -> None:
    if json:
        emit_json("convert", _describe(result, None))
        return
    from loftr2flax.folding import fold_line

    rows = [("INPUT", "", "OUTPUT", "SHAPE", "DTYPE", "CLASS")]
    alike: dict[tuple[Any, ...], list[Move]] = {}
    for move in result.plan.moves:
        alike.setdefault((move.rule.line, move.rule.source, move.info), []).append(move)
    for moves in alike.values():
        first = moves[0]
        inputs = fold_line(list(dict.fromkeys(name for move in moves for name in move.inputs)))
        made_of = inputs or f"= {first.constant.value if first.constant else ''}"
        into = fold_line([move.leaf for move in moves])
        rows.append((made_of, "→", into, str(first.info.shape), first.info.dtype, result.plan.line_class(first)))
    table(rows)
    counted = f"{leaves(len(result.plan.moves))}, {size_text(result.nbytes)}"
    emit(f"{counted}, {_fidelity(result)}; nothing was written")


def _fidelity(result: Conversion) -> str:
    from loftr2flax.mapping.rules import CLASSES

    plan = result.plan
    classes = [plan.line_class(move) for move in plan.moves]
    if result.kept < len(plan.dropped):  # what is kept in the record comes back from there
        classes += [plan.mapping.line_class(rule) for rule in plan.dropped.values()]
    return _FIDELITY[max(classes, key=CLASSES.index)]


def _describe(result: Conversion, output_bytes: int | None) -> dict[str, Any]:
    plan = result.plan
    return {
        "source": str(result.source),
        "output": str(result.output) if result.output else None,
        "output_bytes": output_bytes,
        "written": result.written,
        "format": result.format,
        "direction": plan.direction,
        "mapping": plan.mapping.name,
        "mapping_found": result.found,
        "container": result.container,
        "root": plan.root,
        "present": list(plan.present),
        "absent": list(plan.absent),
        "dropped": list(plan.dropped),
        "kept": result.kept,
        "outside": list(plan.outside),
        "notes": list(result.notes),
        "bytes": result.nbytes,
        "leaves": {move.leaf: _leaf(plan, move) for move in plan.moves},
    }


def _leaf(plan: Plan, move: Move) -> dict[str, Any]:
    return {
        "inputs": list(move.inputs),
        "shape": list(move.info.shape),
        "dtype": move.info.dtype,
        "class": plan.line_class(move),
        "line": str(move.rule.place),
    }
