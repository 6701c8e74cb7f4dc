"""`loftr2flax mapping`: the mapping language's own tools."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import completion, options
from loftr2flax.cli.output import complain, emit, emit_json, error_values, leaves, name_of, plural, say, table
from loftr2flax.errors import Loftr2FlaxError, MappingMismatch
from loftr2flax.fetch import source

if TYPE_CHECKING:
    from loftr2flax.explain import Claim
    from loftr2flax.mapping import Direction, Rule, TensorMapping
    from loftr2flax.plan import Plan

app = typer.Typer(no_args_is_help=True, help="List, show, check and explain mappings.")
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="A shipped mapping, or a YAML file.",
        show_default=False,
        autocompletion=completion.mappings,
    ),
]
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME|FILE… [CHECKPOINT]",
        help="Mappings, and a checkpoint to fit them to.",
        show_default=False,
        autocompletion=completion.mappings,
    ),
]
Key = Annotated[
    str, typer.Argument(metavar="KEY", help="A torch key or a Flax path, with or without prefix.", show_default=False)
]
Sizes = Annotated[Path | None, typer.Option("--file", "-f", help="A checkpoint, to show the sizes.")]


@app.command("list")
def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """The mappings that ship, a line each."""
    from loftr2flax.mapping import load_mapping, shipped_names

    found = [load_mapping(name) for name in shipped_names()]
    if json:
        shipped = [{"name": m.name, "about": m.about, "class": m.file_class} for m in found]
        emit_json("mapping.list", {"mappings": shipped})
        return
    table([(m.stem, m.file_class, m.about) for m in found])


@app.command("show")
def show(name: Name, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """A mapping file's text."""
    from loftr2flax.mapping import load_mapping

    path = load_mapping(name).path
    text = path.read_text("utf-8")
    if json:
        emit_json("mapping.show", {"path": str(path), "text": text})
        return
    emit(text.rstrip("\n"))


@app.command("check")
@options.limited
def check(
    names: Names,
    prefix: options.Prefix = None,
    state_dict: options.StateDict = None,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check mappings: each line's class and, with a checkpoint, that they fit and which leaves no shape protects."""
    from loftr2flax.mapping import load_mapping

    names, file = _parted(names)
    sound: list[tuple[TensorMapping, Plan | None]] = []
    refused: list[Loftr2FlaxError] = []
    for name in names:
        try:
            mapping = load_mapping(name)
            sound.append((mapping, _fit(mapping, file, prefix, state_dict, limits) if file else None))
        except Loftr2FlaxError as error:
            if len(names) == 1:
                raise
            refused.append(error)  # the others are checked all the same
    if json:
        checked = [_describe(mapping, plan) for mapping, plan in sound]
        emit_json("mapping.check", {"mappings": checked, "errors": list(map(error_values, refused))})
    for number, (mapping, plan) in enumerate([] if json else sound):
        if number:
            emit()
        _show_checked(mapping, plan, file)
    for fault in refused:
        complain(fault.message, fault.hint)
    if refused:
        raise typer.Exit(refused[0].exit_code)


def _parted(words: list[str]) -> tuple[list[str], Path | None]:
    """Mappings, and the checkpoint that stands behind them: a last word that names no mapping."""
    from loftr2flax.mapping import shipped_names

    last = words[-1]
    if len(words) == 1 or last.endswith((".yaml", ".yml")) or last in shipped_names():
        return words, None
    return words[:-1], source.checkpoint(last)


def _show_checked(mapping: TensorMapping, plan: Plan | None, file: Path | None) -> None:
    from loftr2flax.mapping import is_shipped

    table(
        [("LINE", "KIND", "CLASS", "TORCH", "", "FLAX"), *(_line(mapping, rule) for rule in mapping.rules)], right=(0,)
    )
    classes = Counter(mapping.line_class(rule) for rule in mapping.rules)
    emit()
    emit(f"{mapping.name}: {mapping.file_class} ({', '.join(f'{n} {c}' for c, n in classes.items())})")
    if plan is None:
        risky = sum(_moves_axes(rule) for rule in mapping.rules)
        emit(f"{plural(risky, 'line moves', 'lines move')} axes; where their sizes are equal, no shape shows a mistake")
        known = mapping.stem if is_shipped(mapping.path) else mapping.path
        say(f"with a checkpoint the leaves themselves are listed: `loftr2flax mapping check {known} FILE`")
    else:
        _show_blind(plan, file)


def _line(mapping: TensorMapping, rule: Rule) -> tuple[str, ...]:
    value = "" if rule.constant is None else f" {rule.constant.value}"
    left = (str(rule.source) if rule.source else f"fill{value}") + ("?" if rule.optional else "")
    right = str(rule.target) if rule.target else f"drop{value}"
    return str(rule.place.line), rule.kind, mapping.line_class(rule), left, "→", right


def _moves_axes(rule: Rule) -> bool:
    if rule.source is None or rule.target is None:
        return False
    return sum(name in rule.target.layout.names for name in rule.source.layout.names) > 1


def _show_blind(plan: Plan, file: Path | None) -> None:
    from loftr2flax.folding import fold

    matrices = sum(len(move.info.shape) > 1 for move in plan.moves)
    emit(f"fits {name_of(str(file))}: {leaves(len(plan.moves))}, {plural(matrices, 'weight')} of two axes or more")
    if not plan.blind:
        emit("blind: none; a wrong layout would show in every shape")
        return
    emit(f"blind: {len(plan.blind)} of {matrices} would keep their shape with the layout wrong;")
    emit("only a run of both models can protect these:")
    alike: dict[tuple[str, ...], list[str]] = {}
    for move in plan.blind:
        alike.setdefault(move.blind, []).append(move.leaf)
    table([(f"  {label}", ", ".join(pairs)) for pairs, names in alike.items() for label in fold(names)])


@app.command("schema")
def schema(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """The JSON Schema of mapping files, by which editors complete and check them."""
    from json import dumps

    from loftr2flax.mapping.schema import mapping_schema

    if json:
        emit_json("mapping.schema", {"json_schema": mapping_schema()})
    else:
        emit(dumps(mapping_schema(), indent=2))


@app.command("explain")
@options.limited
def explain(
    key: Key,
    mapping: options.MappingName = None,
    file: Sizes = None,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say which line claims a key, how its axes move, and where it lands."""
    from loftr2flax.explain import explain_key
    from loftr2flax.mapping import load_mapping, shipped_names

    loaded = {m.name: m for m in map(load_mapping, [mapping] if mapping else shipped_names())}
    found = [claim for candidate in loaded.values() for claim in explain_key(candidate, key)]
    if not found:
        where = mapping or "any shipped mapping"
        raise MappingMismatch(f"{key}: no line of {where} claims it", "`loftr2flax mapping check NAME` lists the lines")
    if json:
        emit_json("mapping.explain", {"key": key, "claims": [_claim(claim) for claim in found]})
        return
    for number, claim in enumerate(found):
        if number:
            emit()
        rows = [
            ("mapping", claim.mapping),
            ("line", f"{claim.rule.place}  {claim.rule.line}"),
            ("kind", claim.rule.kind),
        ]
        rows += [("torch", claim.torch)] if claim.torch else []
        rows += [("flax", path) for path in claim.flax]
        rows += [("axes", claim.layout)] if claim.layout else []
        rows += [("meaning", claim.meaning), ("class", claim.line_class)]
        rows += [("group", f"{claim.rule.group[0]}: {claim.rule.group[1]}")] if claim.rule.group else []
        rows += [("shape", shape) for shape in _shapes(claim, loaded[claim.mapping], file, limits)]
        table(rows)


def _shapes(claim: Claim, mapping: TensorMapping, file: Path | None, limits: options.Limits) -> list[str]:
    if file is None:
        return []
    plan = _fit(mapping, file, None, None, limits)
    wanted = {*claim.flax, *claim.torch.split(", ")}
    return [f"{move.leaf} {move.info.shape} {move.info.dtype}" for move in plan.moves if move.leaf in wanted]


def _fit(
    mapping: TensorMapping, file: Path, prefix: str | None, state_dict: str | None, limits: options.Limits
) -> Plan:
    from loftr2flax.formats import open_checkpoint
    from loftr2flax.plan import Wishes, build_plan

    with open_checkpoint(file, state_dict, limits) as checkpoint:
        direction: Direction = "forward" if checkpoint.separator == "." else "reverse"
        return build_plan(mapping, checkpoint.infos, direction, Wishes(prefix=prefix), str(file))


def _describe(mapping: TensorMapping, plan: Plan | None) -> dict[str, Any]:
    return {
        "name": mapping.name,
        "path": str(mapping.path),
        "class": mapping.file_class,
        "lines": [
            {
                "place": str(rule.place),
                "kind": rule.kind,
                "class": mapping.line_class(rule),
                "torch": str(rule.source) if rule.source else None,
                "flax": str(rule.target) if rule.target else None,
                "optional": rule.optional,
            }
            for rule in mapping.rules
        ],
        "blind": None if plan is None else {move.leaf: list(move.blind) for move in plan.blind},
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "mapping": claim.mapping,
        "place": str(claim.rule.place),
        "line": claim.rule.line,
        "torch": claim.torch,
        "flax": list(claim.flax),
        "layout": claim.layout,
        "meaning": claim.meaning,
        "class": claim.line_class,
    }
