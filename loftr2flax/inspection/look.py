"""Looking at a file: its headers, what they look like, and, where asked for, its bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.convert.facts import recorded_facts
from loftr2flax.convert.fitting import fitting_plans
from loftr2flax.errors import CorruptFile, Fault, MappingMismatch, UsageError
from loftr2flax.filehash import FileHash
from loftr2flax.formats import open_checkpoint
from loftr2flax.identity import UNKNOWN, identify
from loftr2flax.inspection.reading import Progress, read_leaves
from loftr2flax.inspection.rows import ORDERS, in_order
from loftr2flax.inspection.values import Fit, Inspection
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.mapping.rules import Direction
from loftr2flax.plan import Plan, Wishes


def inspect_checkpoint(
    path: str | os.PathLike[str],
    state_dict: str | None = None,
    *,
    only: Sequence[str] = (),
    order: str = "name",
    stats: bool = False,
    hashes: bool = False,
    locate: bool = False,
    limits: Limits = DEFAULT,
    progress: Progress | None = None,
) -> Inspection:
    """Looks at a file of any format. No tensor is read but for ``stats`` and ``hashes``.

        inspect_checkpoint("outdoor_ds.ckpt").looks_like
        inspect_checkpoint("run.pt", only=["*.bias"], stats=True).warnings

    Args:
      path: the file.
      state_dict: the container to look into; None to choose.
      only: shell patterns over names, ``*`` reaching over dots and slashes; leaves that match any of them are listed.
      order: one of `loftr2flax.inspection.rows.ORDERS`.
      stats: what the numbers of each listed leaf are like, and what looks broken.
      hashes: the SHA-256 of each listed leaf, and of the file.
      locate: where the bytes of each listed leaf lie.
      limits: what the file may ask of this machine.
      progress: called with bytes read, and to be read.

    Raises:
      UsageError: there is no such order.
      Loftr2FlaxError: the file is refused or, where its tensors are read, damaged.
    """
    if order not in ORDERS:
        raise UsageError(f"--sort {order}: not an order", f"one of {', '.join(ORDERS)}")
    with open_checkpoint(path, state_dict, limits) as checkpoint, _hashing(checkpoint, hashes) as whole:
        contents = checkpoint.contents
        direction: Direction = "forward" if checkpoint.separator == "." else "reverse"
        plans, refused = _plans(checkpoint, direction)
        best = plans[0] if plans else None
        stated, damage = _stated(checkpoint, best)
        matched, idle = _matched(checkpoint, only)
        names = in_order(checkpoint.infos, matched, order, checkpoint.separator)
        wanted = (
            read_leaves(checkpoint, names, stats=stats, hashes=hashes, progress=progress) if stats or hashes else {}
        )
        places = ((name, checkpoint.locate(name)) for name in names) if locate else ()
        return Inspection(
            checkpoint.path,
            checkpoint.format,
            sum(file.stat().st_size for file in checkpoint.files),
            checkpoint.infos,
            tuple(names),
            contents.container,
            contents.containers,
            contents.unread,
            contents.foreign,
            (*contents.notes, *damage),
            contents.provenance,
            direction,
            best.root if best else "",
            identify(best, checkpoint.infos, stated) if best else UNKNOWN,
            tuple(Fit(p.mapping.stem, len(checkpoint.infos) - len(p.outside), p.absent) for p in plans),
            _obstacles(refused) if not plans else (),
            state_dict,
            wanted,
            {name: place for name, place in places if place},
            whole.hexdigest() if whole else "",
            idle,
        )


def _stated(checkpoint: Checkpoint, best: Plan | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The facts in the file's record; a damaged one is a note, since it makes no file unreadable."""
    try:
        return (recorded_facts(checkpoint, best.mapping) if best else {}), ()
    except CorruptFile as error:
        return {}, (error.message.removeprefix(f"{checkpoint.path}: "),)


def _hashing(checkpoint: Checkpoint, hashes: bool) -> AbstractContextManager[FileHash | None]:
    """The hash of the whole file, on a thread of its own while leaves are read."""
    return FileHash(checkpoint.files) if hashes else nullcontext()


def _plans(checkpoint: Checkpoint, direction: Direction) -> tuple[list[Plan], list[MappingMismatch]]:
    plans, refused = fitting_plans(checkpoint.infos, direction, Wishes(), str(checkpoint.path), every=True)
    return sorted(plans, key=lambda plan: len(plan.outside)), refused


def _obstacles(refused: list[MappingMismatch]) -> tuple[Fault, ...]:
    """The faults of the mapping that came nearest; none where no name of the file is known to any."""
    close = [error.faults for error in refused if error.faults]
    return min(close, key=len) if close else ()


def _matched(checkpoint: Checkpoint, only: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Names that match, in the file's order, and the patterns that match none."""
    if not only:
        return list(checkpoint.infos), ()
    hits = {glob: {name for name in checkpoint.infos if fnmatchcase(name, glob)} for glob in only}
    matched = set().union(*hits.values())
    return [name for name in checkpoint.infos if name in matched], tuple(glob for glob in hits if not hits[glob])
