"""What a conversion is asked for, and what it did: values that hold no open file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from loftr2flax.checkpoint import Container
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.mapping import TensorMapping
from loftr2flax.mapping.names import IndexValue
from loftr2flax.plan import Plan

Progress = Callable[[int, int], None]
"""Called after each leaf with the bytes written so far and the bytes in all."""


@dataclass(frozen=True)
class Order:
    """What to convert and how; the options of `convert`, in a value.

    Attributes:
      mapping: a shipped name, a path, a parsed mapping, or None to find the one that fits.
      format: "npz", "msgpack", "safetensors" or "torch"; None to go by the output's ending.
      prefix: where the mapping's names begin (forward), or what to put before the keys (reverse).
      state_dict: the container to read (forward) or to write (reverse); None to choose, or as it was.
      dtype: the type for floating-point leaves; None to keep each.
      facts: what the mapping says that the weights cannot show, where this file differs from it.
      reverse: from Flax to PyTorch.
      force: replace an output that is there.
      choose: the one value to take of a tied index whose copies differ.
      allow_loss: accept that values without a place on the other side are lost: changed `fill` leaves, and large
        dropped tensors that are not what the mapping says.
      max_shard_size: the bytes of leaves that one file may hold (safetensors); None for one file.
      limits: what the source may ask of this machine.
    """

    mapping: str | os.PathLike[str] | TensorMapping | None = None
    format: str | None = None
    prefix: str | None = None
    state_dict: str | None = None
    dtype: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    reverse: bool = False
    force: bool = False
    choose: Mapping[str, IndexValue] = field(default_factory=dict)
    allow_loss: bool = False
    max_shard_size: int | None = None
    limits: Limits = DEFAULT


class Conversion(NamedTuple):
    """A conversion that is planned, or done.

    Attributes:
      source, output: the files; ``output`` is None for a plan without one, and the index of an output in shards.
      format: the output's format.
      plan: what moves where.
      found: whether the mapping was found, not given.
      container: the container that was read (forward) or is written (reverse).
      containers: all that the source holds.
      kept: how many dropped tensors are kept for the way back.
      notes: things to tell, each one line.
      nbytes: bytes of the leaves in all.
      written: whether the output exists now.
      files: the output's files: itself, and its shards if any.
    """

    source: Path
    output: Path | None
    format: str
    plan: Plan
    found: bool
    container: str
    containers: tuple[Container, ...]
    kept: int
    notes: tuple[str, ...]
    nbytes: int
    written: bool
    files: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        state = "written to" if self.written else "planned for"
        made = f"{len(self.plan.moves)} leaves {state} {self.output}"
        return f"<conversion of {self.source} by {self.plan.mapping.name}: {made}>"
