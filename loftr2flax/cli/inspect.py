"""`loftr2flax inspect`: what a checkpoint holds, what it looks like, and what to run next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import emit, emit_json, name_of, plural, size_text, table

if TYPE_CHECKING:
    from loftr2flax.inspection import Inspection

_FORMATS = {
    "torch": "PyTorch (zip)",
    "torch-legacy": "PyTorch (before 1.6)",
    "safetensors": "safetensors",
    "npz": "npz",
    "msgpack": "Flax msgpack",
}


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Checkpoints of any format.", show_default=False)],
    flat: Annotated[bool, typer.Option("--flat", help="Every leaf on its own line; layers are not folded.")] = False,
    state_dict: options.StateDict = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a checkpoint holds, from its headers alone, and the next command to run."""
    from loftr2flax.inspection import inspect_checkpoint

    found = [inspect_checkpoint(path, state_dict) for path in files]
    if json:
        emit_json("inspect", {"files": [_describe(inspection) for inspection in found]})
        return
    for number, inspection in enumerate(found):
        if number:
            emit()
        _show(inspection, flat)


def _show(found: Inspection, flat: bool) -> None:
    from loftr2flax import dtypes
    from loftr2flax.inspection import Row

    numbers = sum(info.size for info in found.infos.values())
    emit(f"{name_of(str(found.path))}: {_FORMATS[found.format]}, {size_text(found.file_bytes)}, {plural(len(found.infos), 'leaf', 'leaves')}, {numbers:,} numbers")
    emit()
    rows = [Row(name, info, 1) for name, info in found.infos.items()] if flat else found.rows
    cells = [(row.name, str(row.info.shape), dtypes.SHORT.get(row.info.dtype, row.info.dtype), f"×{row.count}" if row.count > 1 else "", size_text(row.nbytes), _remarks(row)) for row in rows]
    table(cells, right=(4,))
    emit()
    facts = [("total", ", ".join(f"{plural(n, 'leaf', 'leaves')} of {dtype} ({size_text(b)})" for dtype, (n, _, b) in found.totals.items()))]
    facts += [("tensors in", ", ".join(f"{c.path or 'the file itself'} ({c.tensors}{', shown' if c.path == found.container and len(found.containers) > 1 else ''})" for c in found.containers))] if found.containers else []
    facts += [("prefix", f"{found.prefix}.")] if found.prefix else []
    facts += [("not loaded", "; ".join(f"{name_of(u.path)}: {u.what}" for u in found.unread))] if found.unread else []
    facts += [("not run", ", ".join(map(name_of, found.foreign)))] if found.foreign else []
    facts += [("made by", _maker(found.provenance))] if found.provenance else []
    facts += [("looks like", found.looks_like)] if found.looks_like else []
    facts += [("fits", ", ".join(f"{fit.mapping} ({fit.claims} of {len(found.infos)}{''.join(f', no {a}' for a in fit.absent)})" for fit in found.fits))] if found.fits else []
    facts += [("fits not", str(fault)) for fault in found.obstacles[:8]]
    facts += [("note", note) for note in found.notes]
    facts += [("next", shlex.join(("loftr2flax", *words))) for words in found.next_options]
    if not found.fits:
        facts.append(("next", "write a mapping for it: `loftr2flax mapping show loftr_coarse` is one to start from"))
    table(facts)


def _remarks(row: Any) -> str:
    info = row.info
    remarks = [info.layout, f"shares storage with {info.shares}" if info.shares else "", f"cannot be read: {info.refused}" if info.refused else ""]
    return ", ".join(filter(None, remarks))


def _maker(record: Any) -> str:
    mapping, source = record.get("mapping") or {}, record.get("source") or {}
    return f"{record.get('tool', 'loftr2flax')}, {mapping.get('name', '?')}, {record.get('direction', '?')}, from a {source.get('format', '?')} file with sha256 {str(source.get('sha256', '?'))[:16]}…"


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
        "leaves": {
            name: {"shape": list(i.shape), "dtype": i.dtype, "bytes": i.nbytes, "layout": i.layout, "shares": i.shares, "refused": i.refused}
            for name, i in found.infos.items()
        },
    }
