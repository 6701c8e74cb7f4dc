"""What a checkpoint holds, and what to do with it: from headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loftr2flax.checkpoint import Checkpoint, Container, LeafInfo, Unread
from loftr2flax.convert.fitting import fitting_plans
from loftr2flax.errors import Fault, MappingMismatch
from loftr2flax.folding import fold
from loftr2flax.formats import open_checkpoint
from loftr2flax.identity import identify
from loftr2flax.mapping.rules import Direction
from loftr2flax.plan import Plan, Wishes


@dataclass(frozen=True, slots=True)
class Row:
    """Leaves that are alike, under one folded name."""

    name: str
    info: LeafInfo
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return self.info.nbytes * self.count


@dataclass(frozen=True, slots=True)
class Fit:
    """A shipped mapping that fits, and how many of the leaves it claims."""

    mapping: str
    claims: int
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
      path, format: the file and how it is written.
      file_bytes: size of all its files.
      infos: every leaf by name.
      container, containers, unread, foreign, notes, provenance: see `loftr2flax.checkpoint.Contents`.
      direction: the way a conversion would go.
      prefix: what stands before the names that the best mapping knows ("matcher").
      looks_like: a sentence on the model, or "".
      fits: shipped mappings that fit, those that claim all leaves first.
      obstacles: why the nearest mapping does not fit, where none does.
      asked: the container that the caller asked for, or None.
    """

    path: Path
    format: str
    file_bytes: int
    infos: Mapping[str, LeafInfo]
    container: str
    containers: tuple[Container, ...]
    unread: tuple[Unread, ...]
    foreign: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, Any] | None
    direction: Direction
    prefix: str
    looks_like: str
    fits: tuple[Fit, ...]
    obstacles: tuple[Fault, ...]
    asked: str | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The leaves, folded where name, shape, dtype and layout repeat; in the file's order."""
        alike: dict[LeafInfo, list[str]] = {}
        for name, info in self.infos.items():
            alike.setdefault(info, []).append(name)
        position = {name: n for n, name in enumerate(self.infos)}
        rows = [
            (position[names[0]], Row(label, info, len(names)))
            for info, group in alike.items()
            for label, names in fold(group).items()
        ]
        return tuple(row for _, row in sorted(rows, key=lambda item: item[0]))

    @property
    def totals(self) -> dict[str, tuple[int, int, int]]:
        """By dtype: leaves, numbers, bytes."""
        totals: dict[str, tuple[int, int, int]] = {}
        for info in self.infos.values():
            leaves, numbers, nbytes = totals.get(info.dtype, (0, 0, 0))
            totals[info.dtype] = (leaves + 1, numbers + info.size, nbytes + info.nbytes)
        return totals

    @property
    def next_options(self) -> list[tuple[str, ...]]:
        """The arguments of the commands that would come next, best first."""
        if not self.fits:
            return []
        stem = self.path.name.split(".")[0]
        best = [fit for fit in self.fits if fit.claims == self.fits[0].claims]
        output, back = (f"{stem}.npz", ()) if self.direction == "forward" else (f"{stem}_torch.ckpt", ("--reverse",))
        chosen = () if self.asked is None else ("--state-dict", self.asked)
        return [("convert", str(self.path), "-m", fit.mapping, *chosen, *back, "-o", output) for fit in best]

    def __repr__(self) -> str:
        return f"<inspection of {self.path}: {len(self.infos)} leaves, {self.looks_like or 'no known model'}>"


def inspect_checkpoint(path: str | os.PathLike[str], state_dict: str | None = None) -> Inspection:
    """Looks at a file of any format; no tensor is read.

    Args:
      path: the file.
      state_dict: the container to look into; None to choose.

    Raises:
      Loftr2FlaxError: the file is refused.
    """
    with open_checkpoint(path, state_dict) as checkpoint:
        contents = checkpoint.contents
        direction: Direction = "forward" if checkpoint.separator == "." else "reverse"
        plans, refused = _plans(checkpoint, direction)
        best = plans[0] if plans else None
        return Inspection(
            checkpoint.path,
            checkpoint.format,
            sum(file.stat().st_size for file in checkpoint.files),
            checkpoint.infos,
            contents.container,
            contents.containers,
            contents.unread,
            contents.foreign,
            contents.notes,
            contents.provenance,
            direction,
            best.root if best else "",
            identify(best) if best else "",
            tuple(Fit(p.mapping.stem, len(checkpoint.infos) - len(p.outside), p.absent) for p in plans),
            _obstacles(refused) if not plans else (),
            state_dict,
        )


def _plans(checkpoint: Checkpoint, direction: Direction) -> tuple[list[Plan], list[MappingMismatch]]:
    plans, refused = fitting_plans(checkpoint.infos, direction, Wishes(), str(checkpoint.path), every=True)
    return sorted(plans, key=lambda plan: len(plan.outside)), refused


def _obstacles(refused: list[MappingMismatch]) -> tuple[Fault, ...]:
    """The faults of the mapping that came nearest; none where no name of the file is known to any."""
    close = [error.faults for error in refused if error.faults]
    return min(close, key=len) if close else ()
