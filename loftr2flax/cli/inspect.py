"""`loftr2flax inspect`: what a checkpoint holds, what it looks like, and what to run next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import complain, emit, emit_json, error_values, leaves, name_of, size_text, table
from loftr2flax.errors import Loftr2FlaxError

if TYPE_CHECKING:
    from loftr2flax.checkpoint import LeafInfo
    from loftr2flax.inspection import Inspection

_FORMATS = {
    "torch": "PyTorch (zip)",
    "torch-legacy": "PyTorch (before 1.6)",
    "safetensors": "safetensors",
    "npz": "npz",
    "msgpack": "Flax msgpack",
}
_MOST_OBSTACLES = 8


def inspect(
    files: Annotated[list[Path], options.checkpoint("FILE…", "Checkpoints of any format.")],
    flat: Annotated[bool, typer.Option("--flat", help="Every leaf on its own line; layers are not folded.")] = False,
    state_dict: options.StateDict = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a checkpoint holds, from its headers alone, and the next command to run."""
    from loftr2flax.inspection import inspect_checkpoint

    found: list[Inspection] = []
    refused: list[Loftr2FlaxError] = []
    for path in files:
        try:
            found.append(inspect_checkpoint(path, state_dict))
        except Loftr2FlaxError as error:  # the other files are shown all the same
            refused.append(error)
    if json and found:
        errors = list(map(error_values, refused))
        emit_json("inspect", {"files": [_describe(inspection) for inspection in found], "errors": errors})
    for number, inspection in enumerate([] if json else found):
        if number:
            emit()
        _show(inspection, flat)
    if refused and not found:
        raise refused[0]
    for fault in refused:
        complain(fault.message, fault.hint)
    if refused:
        raise typer.Exit(refused[0].exit_code)


def _show(found: Inspection, flat: bool) -> None:
    numbers = sum(info.size for info in found.infos.values())
    counted = f"{leaves(len(found.infos))}, {numbers:,} numbers"
    emit(f"{name_of(str(found.path))}: {_FORMATS[found.format]}, {size_text(found.file_bytes)}, {counted}")
    emit()
    if flat:
        table([_cells(name, info, 1) for name, info in found.infos.items()], right=(4,))
    else:
        table([_cells(row.name, row.info, row.count) for row in found.rows], right=(4,))
    emit()
    table(list(_facts(found)))


def _cells(name: str, info: LeafInfo, count: int) -> tuple[str, ...]:
    from loftr2flax.dtypes import SHORT

    repeated = f"×{count}" if count > 1 else ""
    remarks = [info.layout] if info.layout else []
    remarks += [f"shares storage with {info.shares}"] if info.shares else []
    remarks += [f"cannot be read: {info.refused}"] if info.refused else []
    dtype = SHORT.get(info.dtype, info.dtype)
    return name, str(info.shape), dtype, repeated, size_text(info.nbytes * count), ", ".join(remarks)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """The lines below the table: a word and what it is about."""
    totals = [f"{leaves(n)} of {dtype} ({size_text(b)})" for dtype, (n, _, b) in found.totals.items()]
    yield "total", ", ".join(totals)
    if found.containers:
        several = len(found.containers) > 1
        shown = [
            f"{c.path or 'the file itself'} ({c.tensors}{', shown' if several and c.path == found.container else ''})"
            for c in found.containers
        ]
        yield "tensors in", ", ".join(shown)
    if found.prefix:
        yield "prefix", found.prefix + ("." if found.direction == "forward" else "/")
    if found.unread:
        yield "not loaded", "; ".join(f"{name_of(unread.path)}: {unread.what}" for unread in found.unread)
    if found.foreign:
        yield "not run", ", ".join(map(name_of, found.foreign))
    if found.provenance:
        yield "made by", _maker(found.provenance)
    if found.looks_like:
        yield "looks like", found.looks_like
    if found.fits:
        total = len(found.infos)
        fits = [f"{fit.mapping} ({', '.join([f'{fit.claims} of {total}', *_lacks(fit.absent)])})" for fit in found.fits]
        yield "fits", ", ".join(fits)
    for fault in found.obstacles[:_MOST_OBSTACLES]:
        yield "fits not", str(fault)
    for note in found.notes:
        yield "note", note
    for words in found.next_options:
        yield "next", shlex.join(("loftr2flax", *words))
    if not found.fits:
        yield "next", "write a mapping for it; `loftr2flax mapping show loftr_coarse` is one to start from"


def _lacks(absent: tuple[str, ...]) -> list[str]:
    return [f"no {group}" for group in absent]


def _maker(record: Mapping[str, Any]) -> str:
    mapping, source = (part if isinstance(part := record.get(n), dict) else {} for n in ("mapping", "source"))
    made = f"{record.get('tool', 'loftr2flax')}, {mapping.get('name', '?')}, {record.get('direction', '?')}"
    return f"{made}, from a {source.get('format', '?')} file with sha256 {str(source.get('sha256', '?'))[:16]}…"


def _describe(found: Inspection) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "format": found.format,
        "bytes": found.file_bytes,
        "container": found.container,
        "containers": [{"path": c.path, "tensors": c.tensors} for c in found.containers],
        "unread": [{"path": u.path, "what": u.what} for u in found.unread],
        "foreign": list(found.foreign),
        "notes": list(found.notes),
        "provenance": found.provenance,
        "prefix": found.prefix,
        "looks_like": found.looks_like,
        "fits": [{"mapping": f.mapping, "claims": f.claims, "absent": list(f.absent)} for f in found.fits],
        "obstacles": [str(fault) for fault in found.obstacles],
        "next": [["loftr2flax", *words] for words in found.next_options],
        "leaves": {name: _leaf(info) for name, info in found.infos.items()},
    }


def _leaf(info: LeafInfo) -> dict[str, Any]:
    return {
        "shape": list(info.shape),
        "dtype": info.dtype,
        "bytes": info.nbytes,
        "layout": info.layout,
        "shares": info.shares,
        "refused": info.refused,
    }
