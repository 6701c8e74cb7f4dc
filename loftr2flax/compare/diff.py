"""Two checkpoints of any format or framework, leaf by leaf."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.compare.globs import Globs
from loftr2flax.compare.matching import compare_sides
from loftr2flax.compare.sides import MappedSide, OneSide, Side
from loftr2flax.compare.through import opened_through
from loftr2flax.compare.unmapped import dropped_findings, outside_findings
from loftr2flax.compare.values import COMPARED, CheckpointDiff, Finding, SideInfo
from loftr2flax.convert.provenance import made_with
from loftr2flax.errors import MappingMismatch, UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.open import has_containers
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.mapping import TensorMapping, shipped_names

Both = str | tuple[str | None, str | None] | None
"""One word for both sides, or one for each."""
Progress = Callable[[int, int], None]
_NO_MAPPING = "no shipped mapping fits, so names are compared as they are; `--mapping` takes one of your own"


def diff_checkpoints(
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    mapping: str | os.PathLike[str] | TensorMapping | None = None,
    *,
    tolerance: float = 0.0,
    only: Sequence[str] = (),
    ignore: Sequence[str] = (),
    prefix: Both = None,
    state_dict: Both = None,
    progress: Progress | None = None,
    limits: Limits = DEFAULT,
) -> CheckpointDiff:
    """Compares two checkpoints bit for bit, and says what each leaf of the one is to the other's.

        diff_checkpoints("before.ckpt", "after.ckpt").summary      # "only layers.{0..3} changed: 40 of 194 leaves"
        diff_checkpoints("official.ckpt", "loftr.npz").same        # through the mapping that made loftr.npz

    A state dict and a Flax tree are compared through a mapping; any other two name by name. Memory is a few megabytes
    where leaves lie in their files as they are, else about two leaves.

    Args:
      left, right: files of any format.
      mapping: a shipped name, a path, or None for the one that the tree's record names or that fits.
      tolerance: a changed leaf is accepted where no element is off by more than this times the largest magnitude in
        the leaf, and NaN and infinities agree; whole numbers are never accepted. 0 for bit for bit.
      only, ignore: shell patterns over names; a leaf takes part if it matches any of ``only`` and none of ``ignore``.
      prefix: name by name, what to take off the names, leaving out those without it; through a mapping, where its names
        begin on the torch side.
      state_dict: the container to take in a PyTorch file.
      progress: called with bytes of the left side done, and in all.
      limits: what each file may ask of this machine.

    Raises:
      UsageError: options that cannot be meant.
      Loftr2FlaxError: a file is refused or damaged, or the mapping does not fit.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance {tolerance}: not a number from 0 on", "such as `--tolerance 1e-3`")
    wishes = _Wishes(Globs(only, ignore), _each(prefix), _state_dicts(state_dict, left, right, limits), limits)
    with _opened(left, right, mapping, wishes) as table:
        compared, notes = compare_sides(table.left, table.right, tolerance, progress)
        findings = (*compared, *table.more)
        idle = [f"{option} {glob!r} matches no leaf on either side" for option, glob in wishes.globs.idle]
        numbers = sum(_size(finding) for finding in findings if finding.kind in COMPARED)
        return CheckpointDiff(
            table.infos[0], table.infos[1], table.mapping, tolerance, findings, numbers, table.left_out,
            (*table.notes, *notes, *idle),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Wishes:
    globs: Globs
    prefixes: tuple[str | None, str | None]
    state_dicts: tuple[str | None, str | None]
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Table:
    """Both sides laid out for comparison, and what is to be said of leaves that have no partner by the mapping."""

    left: Side
    right: Side
    infos: tuple[SideInfo, SideInfo]
    left_out: int
    mapping: str = ""
    more: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@contextmanager
def _opened(
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    mapping: str | os.PathLike[str] | TensorMapping | None,
    wishes: _Wishes,
) -> Iterator[_Table]:
    with ExitStack() as stack:
        files = [
            stack.enter_context(open_checkpoint(path, name, wishes.limits))
            for path, name in zip((left, right), wishes.state_dicts, strict=True)
        ]
        trees = [any("/" in name for name in file.infos) for file in files]
        if not (trees[0] != trees[1] and all(file.infos for file in files)):
            if mapping is not None:
                raise UsageError(_no_mapping(files, trees[0]), "leave out --mapping")
            yield _by_name(files, wishes, ())
            return
        try:
            table = stack.enter_context(_through(files, trees.index(False), mapping, wishes))
        except MappingMismatch:
            if mapping is not None or wishes.prefixes != (None, None) or _made_by_a_strange_one(files):
                raise
            table = _by_name(files, wishes, (_NO_MAPPING,))
        yield table


def _made_by_a_strange_one(files: Sequence[Checkpoint]) -> bool:
    """Whether a file says that it was made by a mapping that does not ship: then its user has it, and can give it."""
    makers = {made_with(file).split("/")[0] for file in files}
    return bool(makers - {"", *shipped_names()})


def _no_mapping(files: Sequence[Checkpoint], trees: bool) -> str:
    what = "Flax trees" if trees else "state dicts"
    return f"{files[0].path} and {files[1].path}: both are {what}, which are compared name by name"


def _by_name(files: Sequence[Checkpoint], wishes: _Wishes, notes: tuple[str, ...]) -> _Table:
    prefixes = [_narrowing(file, prefix) for file, prefix in zip(files, wishes.prefixes, strict=True)]
    asked = wishes.prefixes
    idle = [number for number in (0, 1) if asked[number] and not prefixes[number]]
    if idle and (asked[0] != asked[1] or len(idle) == 2):  # one word for both sides may be on one alone
        where = "on either side" if len(idle) == 2 else f"in {files[idle[0]].path}"
        message = f"--prefix {asked[idle[0]]}: no leaf {where} begins so"
        raise UsageError(message, "`loftr2flax inspect` lists them")
    sides, left_out = [], 0
    for file, prefix in zip(files, prefixes, strict=True):
        names = {name.removeprefix(prefix): name for name in file.infos if name.startswith(prefix)}
        names = {short: name for short, name in names.items() if wishes.globs.keep(name)}
        left_out += len(file.infos) - len(names)
        sides.append(OneSide(file, names))
    return _Table(sides[0], sides[1], (_side(files[0]), _side(files[1])), left_out, notes=notes)


def _narrowing(file: Checkpoint, prefix: str | None) -> str:
    """The prefix with its separator, as this file's names have it; "" where none has."""
    stem = (prefix or "").strip("./")
    return next((stem + s for s in "./" if stem and any(name.startswith(stem + s) for name in file.infos)), "")


@contextmanager
def _through(
    files: Sequence[Checkpoint],
    torch: int,
    mapping: str | os.PathLike[str] | TensorMapping | None,
    wishes: _Wishes,
) -> Iterator[_Table]:
    """``torch`` is the number of the side that is a state dict, 0 or 1."""
    tree, keep = files[1 - torch], wishes.globs.keep
    prefix, state_dict = wishes.prefixes[torch], wishes.state_dicts[torch]
    through = opened_through(
        files[torch].path, tree, mapping, prefix=prefix, state_dict=state_dict, cast=False, limits=wishes.limits
    )
    with through as job:
        plan, source = job.plan, job.source
        keys = {move.leaf: move.inputs for move in plan.moves}
        moved = MappedSide(plan, source, [leaf for leaf, inputs in keys.items() if keep(leaf, *inputs)])
        made = OneSide(tree, {name: name for name in tree.infos if keep(name, *keys.get(name, ()))})
        dropped = [name for name in plan.dropped if keep(name)]
        outside = [name for name in plan.outside if keep(name)]
        left_out = sum(
            len(all_of) - len(kept)
            for all_of, kept in (
                (keys, moved.infos), (tree.infos, made.infos), (plan.dropped, dropped), (plan.outside, outside)
            )
        )  # fmt: skip
        more = (
            *dropped_findings(plan, source, tree, dropped, torch=torch),
            *outside_findings(plan, source, outside, torch=torch),
        )
        name = plan.mapping.name
        notes = () if mapping is not None else (f"compared through the mapping {name}",)
        sides, infos = [moved, made], [_side(source), _side(tree)]
        if torch:
            sides.reverse()
            infos.reverse()
        yield _Table(sides[0], sides[1], (infos[0], infos[1]), left_out, name, more, notes)


def _side(file: Checkpoint) -> SideInfo:
    return SideInfo(file.path, file.format, file.contents.container, len(file.infos))


def _each(both: Both) -> tuple[str | None, str | None]:
    return both if isinstance(both, tuple) else (both, both)


def _state_dicts(
    both: Both, left: str | os.PathLike[str], right: str | os.PathLike[str], limits: Limits
) -> tuple[str | None, str | None]:
    """One word is for every PyTorch file; of two, each is for its side."""
    if both is None or isinstance(both, tuple):
        return _each(both)
    able = [has_containers(path, limits) for path in (left, right)]
    if not any(able):
        raise UsageError(f"--state-dict {both}: neither file has state dicts to choose from", "leave out --state-dict")
    return (both if able[0] else None, both if able[1] else None)


def _size(finding: Finding) -> int:
    seen = finding.left or finding.right
    return math.prod(seen.shape) if seen else 0
