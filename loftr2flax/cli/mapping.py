"""`loftr2flax mapping`: the mapping language's own tools."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import emit, emit_json, plural, say, table

if TYPE_CHECKING:
    from loftr2flax.mapping import TensorMapping
    from loftr2flax.plan import Plan

app = typer.Typer(no_args_is_help=True, help="List, show, check and explain mappings.")
Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A shipped mapping, or a YAML file.", show_default=False)]
File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A checkpoint to fit it to.", show_default=False)]


@app.command("list")
def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """The mappings that ship, a line each."""
    from loftr2flax.mapping import load_mapping, shipped_names

    found = [load_mapping(name) for name in shipped_names()]
    if json:
        emit_json("mapping.list", {"mappings": [{"name": m.name, "about": m.about, "class": m.file_class} for m in found]})
        return
    table([(m.stem, m.file_class, m.about) for m in found])


@app.command("show")
def show(name: Name, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """A mapping file's text."""
    from loftr2flax.mapping import find_mapping

    path = find_mapping(name)
    text = path.read_text("utf-8")
    if json:
        emit_json("mapping.show", {"path": str(path), "text": text})
        return
    emit(text.rstrip("\n"))


@app.command("check")
def check(name: Name, file: File = None, prefix: options.Prefix = None, state_dict: options.StateDict = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Check a mapping: the class of each line and, with a checkpoint, that it fits and which leaves no shape protects."""
    from loftr2flax.mapping import load_mapping

    mapping = load_mapping(name)
    plan = _fit(mapping, file, prefix, state_dict) if file else None
    if json:
        emit_json("mapping.check", _describe(mapping, plan))
        return
    rows = [("LINE", "KIND", "CLASS", "TORCH", "", "FLAX")]
    for rule in mapping.rules:
        right = str(rule.target) if rule.target else f"drop {rule.constant.value if rule.constant else ''}"
        left = str(rule.source) if rule.source else f"fill {rule.constant.value if rule.constant else ''}"
        rows.append((f"{rule.place.line}", rule.kind, mapping.line_class(rule), left + ("?" if rule.optional else ""), "→", right))
    table(rows, right=(0,))
    classes = Counter(mapping.line_class(rule) for rule in mapping.rules)
    emit()
    emit(f"{mapping.name}: {mapping.file_class} ({', '.join(f'{n} {c}' for c, n in classes.items())})")
    if plan is None:
        _risk(mapping)
        say(f"with a checkpoint the leaves themselves are listed: `loftr2flax mapping check {name} FILE`")
    else:
        _blind(plan, file)


def _risk(mapping: TensorMapping) -> None:
    risky = [rule for rule in mapping.rules if rule.source and rule.target and _moves_axes(rule)]
    emit(f"blind where sizes are equal: {plural(len(risky), 'line moves', 'lines move')} axes, and a shape shows that only if their sizes differ")


def _moves_axes(rule: Any) -> bool:
    names = [name for name in rule.source.layout.names if name in rule.target.layout.names]
    return len(names) > 1


def _blind(plan: Plan, file: Path | None) -> None:
    from loftr2flax.folding import fold

    matrices = sum(len(move.info.shape) > 1 for move in plan.moves)
    emit(f"fits {file}: {plural(len(plan.moves), 'leaf', 'leaves')}, {plural(matrices, 'weight')} of two axes or more")
    emit(f"blind: {len(plan.blind)} of {matrices} would keep their shape with the layout wrong; only a run of both models can protect these")
    alike: dict[tuple[str, ...], list[str]] = {}
    for move in plan.blind:
        alike.setdefault(move.blind, []).append(move.leaf)
    table([(f"  {label}", ", ".join(pairs)) for pairs, names in alike.items() for label in fold(names)])


@app.command("explain")
def explain(key: Annotated[str, typer.Argument(metavar="KEY", help="A torch key or a Flax path, of the checkpoint or of the mapping.", show_default=False)], mapping: options.MappingName = None, file: Annotated[Path | None, typer.Option("--file", "-f", help="A checkpoint, to show sizes.")] = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Say which line claims a key, how its axes move, and where it lands."""
    from loftr2flax.explain import explain_key
    from loftr2flax.mapping import load_mapping, shipped_names

    found = [claim for name in ([mapping] if mapping else shipped_names()) for claim in explain_key(load_mapping(name), key)]
    if not found:
        from loftr2flax.errors import MappingMismatch

        raise MappingMismatch(f"{key}: no line of {mapping or 'any shipped mapping'} claims it", "`loftr2flax mapping check NAME` lists the lines")
    sizes = _sizes(found, file) if file else {}
    if json:
        emit_json("mapping.explain", {"key": key, "claims": [{"mapping": c.mapping, "place": str(c.rule.place), "line": c.rule.line, "torch": c.torch, "flax": list(c.flax), "layout": c.layout, "class": c.line_class} for c in found]})
        return
    for number, claim in enumerate(found):
        if number:
            emit()
        rows = [("mapping", claim.mapping), ("line", f"{claim.rule.place}  {claim.rule.line}"), ("kind", claim.rule.kind)]
        rows += [("torch", claim.torch)] if claim.torch else []
        rows += [("flax", path) for path in claim.flax]
        rows += [("axes", claim.layout), ("meaning", claim.meaning), ("class", claim.line_class)]
        rows += [("group", f"{claim.rule.group[0]}: {claim.rule.group[1]}")] if claim.rule.group else []
        rows += [("shape", sizes[claim.mapping])] if claim.mapping in sizes else []
        table(rows)


def _sizes(found: list[Any], file: Path | None) -> dict[str, str]:
    from loftr2flax.errors import MappingMismatch
    from loftr2flax.mapping import load_mapping

    sizes = {}
    for claim in found:
        try:
            plan = _fit(load_mapping(claim.mapping.split("/")[0]), file, None, None)
        except MappingMismatch:
            continue
        shapes = [f"{move.leaf} {move.info.shape} {move.info.dtype}" for move in plan.moves if move.leaf in claim.flax]
        sizes[claim.mapping] = ", ".join(shapes)
    return sizes


def _fit(mapping: TensorMapping, file: Path | None, prefix: str | None, state_dict: str | None) -> Plan:
    from loftr2flax.formats import open_checkpoint
    from loftr2flax.plan import Wishes, build_plan

    assert file is not None
    with open_checkpoint(file, state_dict) as checkpoint:
        direction = "forward" if checkpoint.separator == "." else "reverse"
        return build_plan(mapping, checkpoint.infos, direction, Wishes(prefix=prefix), str(file))


def _describe(mapping: TensorMapping, plan: Plan | None) -> dict[str, Any]:
    return {
        "name": mapping.name,
        "path": str(mapping.path),
        "class": mapping.file_class,
        "lines": [
            {"place": str(r.place), "kind": r.kind, "class": mapping.line_class(r), "torch": str(r.source) if r.source else None, "flax": str(r.target) if r.target else None, "optional": r.optional}
            for r in mapping.rules
        ],
        "blind": None if plan is None else {move.leaf: list(move.blind) for move in plan.blind},
    }
