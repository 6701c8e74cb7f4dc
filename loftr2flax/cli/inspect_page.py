"""How `inspect` shows what it found: a table, a tree or a plain list, and the facts below it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from loftr2flax.cli.output import emit, leaves, name_of, painted, plural, size_text, table, terminal_width
from loftr2flax.dtypes import SHORT
from loftr2flax.folding import fold_line
from loftr2flax.inspection.rows import Branch, cut

if TYPE_CHECKING:
    from loftr2flax.checkpoint import LeafInfo, Location, Unread
    from loftr2flax.inspection import Inspection
    from loftr2flax.inspection.statistics import LeafStats

_FORMATS = {
    "torch": "PyTorch (zip)",
    "torch-legacy": "PyTorch (before 1.6)",
    "safetensors": "safetensors",
    "npz": "npz",
    "msgpack": "Flax msgpack",
}
_MOST_OBSTACLES = 8
_MOST_WARNINGS = 12
_MOST_PARTS = 6
_AS_IT_IS = ("next",)  # a command is copied: it stays on one line


def show(found: Inspection, *, tree: bool, depth: int | None) -> None:
    """The page of one file: a heading, its leaves, and what they add up to."""
    numbers = sum(info.size for info in map(found.infos.__getitem__, found.names))
    counted = f"{leaves(len(found.names))}, {numbers:,} numbers"
    if len(found.names) < len(found.infos):
        counted += f" (of {leaves(len(found.infos))})"
    emit(
        painted(f"{name_of(str(found.path))}: {_FORMATS[found.format]}, {size_text(found.file_bytes)}, {counted}", "1")
    )
    if found.names:
        emit()
        if tree:
            table(list(_tree_cells(found.tree, depth)), right=(4,))
        elif depth is not None:
            table([_branch_cells(name, branch, n) for name, branch, n in cut(found.tree, depth)], right=(4,))
        elif found.readings or found.locations:
            columns = _Columns(found)
            table([columns.of(name) for name in found.names], right=(3,))
        else:
            table([_cells(row.name, row.info, row.count) for row in found.rows], right=(4,))
    emit()
    _show_facts(list(_facts(found)))


def show_flat(found: Inspection) -> None:
    """The leaves alone. In a pipe, columns are parted by tabs: a long name moves no other line."""
    columns = _Columns(found)
    rows = [columns.of(name) for name in found.names]
    if found.sha256 and rows:
        rows.append(("(the file)", *[""] * (len(rows[0]) - 3), found.sha256, ""))
    if terminal_width() is not None:
        table(rows, right=(3,))
        return
    for row in rows:
        emit("\t".join(map(name_of, row)).rstrip("\t"))


def _show_facts(facts: list[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in facts)
    room = terminal_width()
    for label, text in facts:
        shown = name_of(text)
        lines = [shown]
        if room is not None and label not in _AS_IT_IS:
            lines = textwrap.wrap(shown, max(room - width - 2, 20), break_on_hyphens=False) or [shown]
        colour = "1;33" if label == "warning" else "1"
        emit(f"{painted(label.ljust(width), colour)}  {lines[0]}")
        for line in lines[1:]:
            emit(f"{' ' * width}  {line}")


def _short(dtype: str) -> str:
    return SHORT.get(dtype, dtype)


def _cells(name: str, info: LeafInfo, count: int) -> tuple[str, ...]:
    repeated = f"×{count}" if count > 1 else ""
    return name, str(info.shape), _short(info.dtype), repeated, size_text(info.nbytes * count), _told(info)


def _told(info: LeafInfo) -> str:
    remarks = [info.layout] if info.layout else []
    remarks += [f"shares storage with {info.shares}"] if info.shares else []
    remarks += [f"cannot be read: {info.refused}"] if info.refused else []
    return ", ".join(remarks)


def _branch_cells(name: str, branch: Branch, count: int) -> tuple[str, ...]:
    """A branch in place of its leaves; ``count`` is how many are alike."""
    if branch.info is not None:
        return _cells(name, branch.info, count)
    each = count // branch.count
    repeated = f"×{count}" if count > 1 else ""
    held = leaves(branch.leaves * each)
    return name, held, ", ".join(map(_short, branch.dtypes)), repeated, size_text(branch.nbytes * each), ""


def _tree_cells(tree: Branch, depth: int | None) -> Iterator[tuple[str, ...]]:
    waiting = [(child, 1, 1, 0) for child in reversed(tree.below)]
    while waiting:
        branch, level, times, indent = waiting.pop()
        name, times = branch.name, times * branch.count
        while len(branch.below) == 1 and level != depth:  # a branch of one leaf takes one line
            branch, level = branch.below[0], level + 1
            name, times = name + branch.name, times * branch.count
        shown = "  " * indent + name
        if branch.info is not None:
            yield _cells(shown, branch.info, times)
            continue
        each = times // branch.count
        held = leaves(branch.leaves * each)
        repeated = f"×{times}" if times > 1 else ""
        yield shown, held, "", repeated, size_text(branch.nbytes * each), ""
        if level != depth:
            waiting += [(child, level + 1, times, indent + 1) for child in reversed(branch.below)]


class _Columns:
    """What stands in the line of one leaf, by what was asked for."""

    def __init__(self, found: Inspection) -> None:
        self._found = found
        self._stats = any(reading.stats for reading in found.readings.values())
        self._several = len({location.file for location in found.locations.values()}) > 1

    def of(self, name: str) -> tuple[str, ...]:
        """Name, shape, dtype, size; place, numbers and hash where they were asked for; what there is to say."""
        info, reading = self._found.infos[name], self._found.readings.get(name)
        cells = [name, str(info.shape), _short(info.dtype), size_text(info.nbytes)]
        if self._found.locations:
            cells += self._place(self._found.locations.get(name))
        if self._stats:
            cells += _numbers(reading.stats if reading else None)
        if self._found.sha256:
            cells.append(reading.sha256 if reading else "-")
        said = [f"warning: {warning}" for warning in reading.remarks.warnings] if reading and reading.remarks else []
        said += reading.remarks.notes if reading and reading.remarks else ()
        return (*cells, "; ".join(filter(None, [_told(info), *said])))

    def _place(self, place: Location | None) -> list[str]:
        if place is None:
            return ["-", ""]
        at = "deflated" if place.offset is None else f"at {place.offset:,}"
        return [at, " ".join(filter(None, [place.file.name if self._several else "", place.record]))]


def _numbers(stats: LeafStats | None) -> list[str]:
    if stats is None:
        return ["-", "", "", "", ""]
    shares = [("zero", stats.zeros), ("NaN", stats.nans), ("inf", stats.infinities)]
    counted = [f"{count:,} {what}" for what, count in shares if count]
    ends = [f"{word} {_number(n)}" for word, n in (("min", stats.minimum), ("max", stats.maximum))]
    return [*ends, f"mean {_number(stats.mean)}", f"std {_number(stats.std)}", ", ".join(counted)]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """The lines below the table: a word and what it is about."""
    if found.names:
        totals = [f"{leaves(n)} of {dtype} ({size_text(b)})" for dtype, (n, _, b) in found.totals.items()]
        yield "total", ", ".join(totals)
        yield from _parts(found)
    if found.containers:
        several = len(found.containers) > 1
        shown = [
            f"{c.path or 'the file itself'} ({c.tensors}{', shown' if several and c.path == found.container else ''})"
            for c in found.containers
        ]
        yield "tensors in", ", ".join(shown)
    if found.prefix:
        yield "prefix", found.prefix + found.separator
    if found.unread:
        yield "not loaded", "; ".join(map(_unread, found.unread))
    if found.foreign:
        yield "not run", ", ".join(map(name_of, found.foreign))
    if found.provenance:
        yield "made by", _maker(found.provenance)
    if found.sha256:
        yield "sha256", found.sha256
    yield from _warnings(found)
    yield from _model(found)
    for fault in found.obstacles[:_MOST_OBSTACLES]:
        yield "fits not", str(fault)
    if len(found.obstacles) > _MOST_OBSTACLES:
        yield "fits not", f"and {len(found.obstacles) - _MOST_OBSTACLES:,} more"
    for note in found.notes:
        yield "note", note
    for words in found.next_options:
        yield "next", shlex.join(("loftr2flax", *words))
    if not found.fits:
        yield "next", "write a mapping for it; `loftr2flax mapping show loftr_coarse` is one to start from"


def _parts(found: Inspection) -> Iterator[tuple[str, str]]:
    parts = found.parts
    if len(parts) < 2:
        return
    shown = [f"{part.name} {size_text(part.nbytes)} ({part.leaves:,})" for part in parts[:_MOST_PARTS]]
    more = len(parts) - _MOST_PARTS
    yield "parts", ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _unread(unread: Unread) -> str:
    size = f" ({size_text(unread.nbytes)})" if unread.nbytes else ""
    return f"{name_of(unread.path)}: {unread.what}{size}"


def _warnings(found: Inspection) -> Iterator[tuple[str, str]]:
    """Leaves of which the same is to be said are told together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, said in found.warnings.items():
        alike.setdefault(said, []).append(name)
    lines = [f"{fold_line(names)}: {'; '.join(said)}" for said, names in alike.items()]
    for line in lines[:_MOST_WARNINGS]:
        yield "warning", line
    if len(lines) > _MOST_WARNINGS:
        yield "warning", f"and {plural(len(lines) - _MOST_WARNINGS, 'more', 'more')}"


def _model(found: Inspection) -> Iterator[tuple[str, str]]:
    if found.looks_like:
        yield "looks like", found.looks_like + (", beside an optimizer's state" if found.has_optimizer else "")
        config = {**found.model.config}
        told = [f"resolution {config['resolution']}"] if config.get("resolution") else []
        told += (
            [f"backbone of widths {', '.join(map(str, widths))}"] if (widths := config.get("backbone_widths")) else []
        )
        if told:
            yield "shapes say", "; ".join(told)
        stated, assumed = (
            ", ".join(f"{name} {_fact(value)}" for name, value in facts.items())
            for facts in (found.model.stated, found.model.assumed)
        )
        if stated:
            yield "stated", stated
        if assumed:
            yield "assumed", f"{assumed}; no shape tells, `convert --fact NAME=VALUE` says otherwise"
    if found.fits:
        total = len(found.infos)
        fits = [f"{fit.mapping} ({', '.join([f'{fit.claims} of {total}', *_lacks(fit.absent)])})" for fit in found.fits]
        yield "fits", ", ".join(fits)
        stopping = [name for name, info in found.infos.items() if info.refused]
        if stopping:
            yield "in the way", f"{fold_line(stopping)}: cannot be read"


def _fact(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lacks(absent: tuple[str, ...]) -> list[str]:
    return [f"no {group}" for group in absent]


def _maker(record: Mapping[str, Any]) -> str:
    mapping, source = (part if isinstance(part := record.get(n), dict) else {} for n in ("mapping", "source"))
    made = f"{record.get('tool', 'loftr2flax')}, {mapping.get('name', '?')}, {record.get('direction', '?')}"
    return f"{made}, from a {source.get('format', '?')} file with sha256 {str(source.get('sha256', '?'))[:16]}…"
