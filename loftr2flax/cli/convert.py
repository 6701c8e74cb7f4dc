"""`loftr2flax convert`: PyTorch to Flax, or back with --reverse."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import emit, emit_json, name_of, plural, progress_bar, say, size_text, table
from loftr2flax.errors import UsageError


def convert(
    source: options.Source,
    out: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="The file to write; its ending tells the format.")] = None,
    mapping: options.MappingName = None,
    format: Annotated[str | None, typer.Option("--format", help="npz, msgpack or safetensors; torch or safetensors with --reverse.")] = None,
    prefix: options.Prefix = None,
    state_dict: options.StateDict = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Cast floating-point leaves, e.g. bfloat16.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    reverse: Annotated[bool, typer.Option("--reverse", help="From Flax to PyTorch, by the same mapping.")] = False,
    choose: Annotated[list[str] | None, typer.Option("--choose", metavar="INDEX=VALUE", help="Take one of several tied copies that differ, e.g. j=0.")] = None,
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="With --reverse: accept that changed `fill` leaves are lost.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert a PyTorch checkpoint to Flax (.npz, .msgpack, .safetensors), or back with --reverse."""
    from loftr2flax.convert import Order, prepared
    from loftr2flax.plan import PrefixNotFound

    if out is None and not dry_run:
        raise UsageError("no output is named", f"loftr2flax convert {shlex.quote(str(source))} -o out.npz")
    order = Order(mapping, format, prefix, state_dict, dtype, reverse, force, options.parse_choices(choose or []), allow_loss)
    try:
        with prepared(source, out, order) as job:
            _introduce(job)
            if dry_run:
                _show_plan(job, json)
                return
            with progress_bar("converting") as progress:
                job.write(progress)
            result = job.conversion(written=True)
    except PrefixNotFound as error:
        error.hint = _command(source, out, mapping, error.found[0])
        raise
    if json:
        emit_json("convert", {**_describe(result), "output_bytes": result.output.stat().st_size if result.output else 0})
        return
    counted = plural(len(result.plan.moves), "tensor" if reverse else "leaf", "tensors" if reverse else "leaves")
    assert result.output is not None
    say(f"wrote {result.output}: {counted}, {size_text(result.output.stat().st_size)}, {result.plan.mapping.name}, {_fidelity(result.plan)}")


def _introduce(job: Any) -> None:
    """What was chosen, found or left out: all that a user did not say himself."""
    plan, contents = job.plan, job.source.contents
    forward = plan.direction == "forward"
    if forward and len(contents.containers) > 1:
        others = ", ".join(f"{c.path or 'the file itself'} ({c.tensors})" for c in contents.containers if c.path != contents.container)
        say(f"took {contents.container or 'the file itself'}; also there: {others} (--state-dict)")
    if job.found:
        say(f"mapping {plan.mapping.name} fits, {plan.root + '.' if plan.root else 'no prefix'} before its names" if forward else f"mapping {plan.mapping.name} fits")
    for group in plan.absent:
        say(f"absent: {group} (the file has none of it)")
    if plan.outside:
        say(f"not in scope: {plural(len(plan.outside), 'other tensor' if forward else 'other leaf', 'other tensors' if forward else 'other leaves')}, e.g. {name_of(plan.outside[0])}")
    if forward and plan.dropped:
        kept = job.conversion(written=False).kept
        say(f"dropped: {plural(len(plan.dropped), 'tensor')}, {kept} of them kept in the output's record for the way back")
    for note in job.conversion(written=False).notes:
        say(f"note: {note}")


def _show_plan(job: Any, json: bool) -> None:
    result = job.conversion(written=False)
    if json:
        emit_json("convert", _describe(result))
        return
    from loftr2flax.folding import fold

    rows = [("INPUT", "", "OUTPUT", "SHAPE", "DTYPE", "CLASS")]
    lines: dict[tuple[Any, ...], list[Any]] = {}
    for move in result.plan.moves:
        lines.setdefault((move.rule.line, move.rule.source, move.info, result.plan.line_class(move)), []).append(move)
    for (_, _, info, kind), moves in lines.items():
        inputs = ", ".join(fold(dict.fromkeys(name for move in moves for name in move.inputs))) or f"= {moves[0].constant.value}"
        rows.append((inputs, "→", ", ".join(fold(move.leaf for move in moves)), str(info.shape), info.dtype, kind))
    table(rows)
    emit(f"{plural(len(result.plan.moves), 'leaf', 'leaves')}, {size_text(result.nbytes)}, {_fidelity(result.plan)}; nothing was written")


def _fidelity(plan: Any) -> str:
    from loftr2flax.mapping.rules import CLASSES

    worst = max((plan.line_class(move) for move in plan.moves), key=CLASSES.index)
    return {"exact": "bit for bit", "tied": "bit for bit, with tied copies", "approximate": "cast to another dtype", "one-way": "one way"}[worst]


def _describe(result: Any) -> dict[str, Any]:
    plan = result.plan
    return {
        "source": str(result.source),
        "output": str(result.output) if result.output else None,
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
        "leaves": {
            move.leaf: {
                "inputs": list(move.inputs),
                "shape": list(move.info.shape),
                "dtype": move.info.dtype,
                "class": plan.line_class(move),
                "line": str(move.rule.place),
            }
            for move in plan.moves
        },
    }


def _command(source: Path, out: Path | None, mapping: str | None, prefix: str) -> str:
    words = ["loftr2flax", "convert", str(source), *(["-m", mapping] if mapping else []), "-o", str(out or "out.npz"), "--prefix", prefix]
    return shlex.join(words)
