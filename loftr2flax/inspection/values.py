"""What `inspect` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from loftr2flax.checkpoint import Container, LeafInfo, Location, Unread
from loftr2flax.errors import Fault
from loftr2flax.identity import Identity
from loftr2flax.inspection.alarms import Remarks
from loftr2flax.inspection.rows import Branch, Part, Row, branch_of, fold_rows, parts_of
from loftr2flax.inspection.statistics import LeafStats
from loftr2flax.mapping.rules import Direction


class Fit(NamedTuple):
    """A shipped mapping that fits, how many of the leaves it claims, and which of its optional groups are absent."""

    mapping: str
    claims: int
    absent: tuple[str, ...]


class LeafReading(NamedTuple):
    """What only a leaf's bytes tell; "" and None for what was not asked for.

    Attributes:
      sha256: of its elements in C order, little-endian.
      stats: what its numbers are like.
      remarks: what they give cause to say.
    """

    sha256: str
    stats: LeafStats | None
    remarks: Remarks | None


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found. Everything but ``readings`` and ``sha256`` comes from headers.

    Attributes:
      path, format: the file and how it is written.
      file_bytes: size of all its files.
      infos: every leaf by name, in the file's order.
      names: the leaves that were asked for, in the order that was asked for; all of them without a filter.
      container, containers, unread, foreign, notes, provenance: see `loftr2flax.checkpoint.Contents`.
      direction: the way a conversion would go.
      prefix: what stands before the names that the best mapping knows ("matcher").
      model: what network it is, as far as shapes tell.
      fits: shipped mappings that fit, those that claim all leaves first.
      obstacles: why the nearest mapping does not fit, where none does.
      asked: the container that the caller asked for, or None.
      readings: by name, what was read; empty where nothing was asked for.
      locations: by name, where the bytes lie; empty where it was not asked for.
      sha256: of the file (of its files, one after the other), or "".
      idle: patterns that no name matched.
    """

    path: Path
    format: str
    file_bytes: int
    infos: Mapping[str, LeafInfo]
    names: tuple[str, ...]
    container: str
    containers: tuple[Container, ...]
    unread: tuple[Unread, ...]
    foreign: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, Any] | None
    direction: Direction
    prefix: str
    model: Identity
    fits: tuple[Fit, ...]
    obstacles: tuple[Fault, ...]
    asked: str | None = None
    readings: Mapping[str, LeafReading] = field(default_factory=dict)
    locations: Mapping[str, Location] = field(default_factory=dict)
    sha256: str = ""
    idle: tuple[str, ...] = ()

    @property
    def separator(self) -> str:
        """What joins the segments of a name."""
        return "." if self.direction == "forward" else "/"

    @property
    def rows(self) -> tuple[Row, ...]:
        """The leaves, folded where name, shape, dtype and layout repeat; in the order of ``names``."""
        return fold_rows(self.infos, self.names)

    @property
    def tree(self) -> Branch:
        """The leaves as a tree, branches that are alike folded; in the order of ``names``."""
        return branch_of(self.infos, self.names, self.separator)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What lies in each branch of the names, below what all of them have in common; the largest first."""
        return parts_of(self.infos, self.names, self.separator)

    @property
    def totals(self) -> dict[str, tuple[int, int, int]]:
        """By dtype: leaves, numbers, bytes."""
        totals: dict[str, tuple[int, int, int]] = {}
        for info in map(self.infos.__getitem__, self.names):
            leaves, numbers, nbytes = totals.get(info.dtype, (0, 0, 0))
            totals[info.dtype] = (leaves + 1, numbers + info.size, nbytes + info.nbytes)
        return totals

    @property
    def looks_like(self) -> str:
        """A sentence on the model, or ""."""
        return self.model.sentence

    @property
    def has_optimizer(self) -> bool:
        """Whether an optimizer's state lies beside the tensors."""
        return any("optimizer" in unread.path.rpartition(".")[2] for unread in self.unread)

    @property
    def warnings(self) -> dict[str, tuple[str, ...]]:
        """By name, what looks broken in the leaves that were read."""
        return {name: r.remarks.warnings for name, r in self.readings.items() if r.remarks and r.remarks.warnings}

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

    def _repr_html_(self) -> str:
        from loftr2flax.notebook import table_of

        rows = [(r.name, str(r.info.shape), r.info.dtype, f"×{r.count}", f"{r.nbytes:,}") for r in self.rows]
        said = f"{self.path}: {len(self.infos):,} leaves, {self.looks_like or 'no known model'}"
        return table_of(said, ("leaf", "shape", "dtype", "", "bytes"), rows)
