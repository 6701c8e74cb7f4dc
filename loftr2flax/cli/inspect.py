"""`loftr2flax inspect`: what a checkpoint holds, what it looks like, and what to run next."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import complain, emit, emit_json, error_values, name_of, progress_bar, say
from loftr2flax.errors import Loftr2FlaxError, UsageError

if TYPE_CHECKING:
    from loftr2flax.inspection import Inspection

_NO_LEAF = 1

Tree = Annotated[bool, typer.Option("--tree", help="Indented by the segments of the names, branches with their sums.")]
Flat = Annotated[
    bool,
    typer.Option(
        "--flat", help="Every leaf on its own line and nothing else, for grep and git; in a pipe, tabs between columns."
    ),
]
Depth = Annotated[
    int | None, typer.Option("--depth", min=1, metavar="N", help="Branches N segments deep in place of their leaves.")
]
Filter = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="GLOB", help="Only leaves whose name matches; `*` reaches over dots. Repeatable."),
]
Sort = Annotated[
    Literal["name", "file", "size", "shape", "dtype"],
    typer.Option("--sort", help="name: in natural order; file: as they lie there; size: the largest first."),
]
Stats = Annotated[
    bool, typer.Option("--stats", help="Read the numbers: least, greatest, mean, std, zeros, and what looks broken.")
]
Hash = Annotated[bool, typer.Option("--hash", help="SHA-256 of each leaf's elements, and of the file.")]
Where = Annotated[bool, typer.Option("--where", help="File, offset of the bytes, and record of each leaf.")]


@options.limited
def inspect(
    files: Annotated[list[Path], options.checkpoint("FILE…", "Checkpoints of any format.")],
    tree: Tree = False,
    flat: Flat = False,
    depth: Depth = None,
    filter_: Filter = None,
    sort: Sort = "name",
    stats: Stats = False,
    hash_: Hash = False,
    where: Where = False,
    state_dict: options.StateDict = None,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a checkpoint holds, from its headers alone, and the next command to run."""
    from loftr2flax.inspection import inspect_checkpoint

    _check(tree, flat, depth, reading=stats or hash_ or where)
    found: list[Inspection] = []
    refused: list[Loftr2FlaxError] = []
    for path in files:
        try:
            with progress_bar("reading") if stats or hash_ else nullcontext() as progress:
                found.append(
                    inspect_checkpoint(
                        path, state_dict, only=filter_ or (), order=sort, stats=stats, hashes=hash_, locate=where,
                        limits=limits, progress=progress,
                    )
                )  # fmt: skip
        except Loftr2FlaxError as error:  # the other files are shown all the same
            refused.append(error)
    if json and found:
        errors = list(map(error_values, refused))
        emit_json("inspect", {"files": [_describe(inspection) for inspection in found], "errors": errors})
    elif found:
        _show_all(found, tree=tree, flat=flat, depth=depth)
    for inspection in found:
        for glob in inspection.idle:
            say(f"note: {name_of(str(inspection.path))}: --filter {glob!r} matches no leaf")
    if refused and not found:
        raise refused[0]
    for fault in refused:
        complain(fault.message, fault.hint)
    if refused:
        raise typer.Exit(refused[0].exit_code)
    if not any(inspection.names for inspection in found):
        raise typer.Exit(_NO_LEAF)


def _check(tree: bool, flat: bool, depth: int | None, *, reading: bool) -> None:
    """Whether these options can be meant together.

    Raises:
      UsageError: they cannot.
    """
    if flat and (tree or depth is not None):
        raise UsageError("--flat shows leaves, --tree and --depth show branches", "leave out one of them")
    if reading and (tree or depth is not None):
        raise UsageError(
            "--stats, --hash and --where tell of leaves, --tree and --depth show branches",
            "leave out --tree or --depth",
        )


def _show_all(found: list[Inspection], *, tree: bool, flat: bool, depth: int | None) -> None:
    from loftr2flax.cli import inspect_page

    for number, inspection in enumerate(found):
        if number:
            emit()
        if flat:
            if len(found) > 1:
                emit(f"{name_of(str(inspection.path))}:")
            inspect_page.show_flat(inspection)
        else:
            inspect_page.show(inspection, tree=tree, depth=depth)


def _describe(found: Inspection) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "format": found.format,
        "bytes": found.file_bytes,
        "sha256": found.sha256 or None,
        "container": found.container,
        "containers": [{"path": c.path, "tensors": c.tensors} for c in found.containers],
        "unread": [{"path": u.path, "what": u.what, "bytes": u.nbytes} for u in found.unread],
        "foreign": list(found.foreign),
        "notes": list(found.notes),
        "provenance": found.provenance,
        "prefix": found.prefix,
        "looks_like": found.looks_like,
        "optimizer": found.has_optimizer,
        "model": {
            "name": found.model.model,
            "config": found.model.config,
            "assumed": found.model.assumed,
            "stated": found.model.stated,
        }
        if found.model.model
        else None,
        "fits": [{"mapping": f.mapping, "claims": f.claims, "absent": list(f.absent)} for f in found.fits],
        "obstacles": [str(fault) for fault in found.obstacles],
        "next": [["loftr2flax", *words] for words in found.next_options],
        "in_all": len(found.infos),
        "idle": list(found.idle),
        "totals": {dtype: {"leaves": n, "numbers": s, "bytes": b} for dtype, (n, s, b) in found.totals.items()},
        "parts": [{"name": p.name, "leaves": p.leaves, "bytes": p.nbytes} for p in found.parts],
        "leaves": {name: _leaf(found, name) for name in found.names},
    }


def _leaf(found: Inspection, name: str) -> dict[str, Any]:
    info, reading, place = found.infos[name], found.readings.get(name), found.locations.get(name)
    remarks = reading.remarks if reading else None
    return {
        "shape": list(info.shape),
        "dtype": info.dtype,
        "bytes": info.nbytes,
        "layout": info.layout,
        "shares": info.shares,
        "refused": info.refused,
        "location": {"file": str(place.file), "offset": place.offset, "record": place.record} if place else None,
        "sha256": reading.sha256 or None if reading else None,
        "stats": reading.stats._asdict() if reading and reading.stats else None,
        "warnings": list(remarks.warnings) if remarks else [],
        "remarks": list(remarks.notes) if remarks else [],
    }
