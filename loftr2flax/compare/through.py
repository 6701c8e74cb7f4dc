"""A torch file opened with the plan that a tree was made by, or most likely was."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.convert import Order, fitting_plans, prepared
from loftr2flax.convert.job import Job, shipped_maker
from loftr2flax.convert.provenance import made_with
from loftr2flax.dtypes import FLOATING
from loftr2flax.errors import CorruptFile
from loftr2flax.formats import open_checkpoint
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.mapping import TensorMapping
from loftr2flax.plan import Wishes


@contextmanager
def opened_through(
    source: str | os.PathLike[str],
    tree: Checkpoint,
    mapping: str | os.PathLike[str] | TensorMapping | None,
    *,
    prefix: str | None,
    state_dict: str | None,
    cast: bool,
    limits: Limits = DEFAULT,
) -> Iterator[Job]:
    """The source with its plan; closed when the block ends.

    Args:
      source: the torch checkpoint.
      tree: the open Flax tree, whose record fills in what is not given.
      mapping: None for the one that the tree's record names, else the likeliest that fits.
      prefix, state_dict: as for `convert_checkpoint`; None for what the record says, where the source has it.
      cast: whether leaves are cast as the record says that they were.
      limits: what the source may ask of this machine.

    Raises:
      MappingMismatch: the mapping does not fit the source, or none does.
      CorruptFile: the tree's record names a type that is none.
      Loftr2FlaxError: the source is refused.
    """
    made = tree.contents.provenance or {}
    mapping = mapping if mapping is not None else shipped_maker(tree, made_with(tree))
    with open_checkpoint(source, state_dict, limits) as checkpoint:
        state_dict = state_dict if state_dict is not None else _container(checkpoint, made)
    if mapping is None or prefix is None:
        with open_checkpoint(source, state_dict, limits) as checkpoint:
            mapping = mapping if mapping is not None else _likeliest(checkpoint, tree)
            prefix = prefix if prefix is not None else _root(checkpoint, made)
    dtype = made["dtype"] if cast and isinstance(made.get("dtype"), str) else None
    if dtype is not None and dtype not in FLOATING:
        message = f"{tree.path}: its record of provenance is damaged: no floating-point type is called {dtype!r}"
        raise CorruptFile(message, "convert the torch file again")
    order = Order(mapping, format="npz", prefix=prefix, state_dict=state_dict, dtype=dtype, limits=limits)
    with prepared(source, None, order) as job:
        yield job


def _likeliest(source: Checkpoint, actual: Checkpoint) -> TensorMapping | None:
    """The shipped mapping whose leaves a tree without a record holds; None where no such mapping fits the source."""
    plans, _ = fitting_plans(source.infos, "forward", Wishes(), str(source.path), every=True)
    known = [(sum(move.leaf in actual.infos for move in plan.moves), plan.mapping) for plan in plans]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def _root(source: Checkpoint, made: Mapping[str, Any]) -> str | None:
    """What stood before the names when the conversion was made, where it stands there in the source too."""
    root = made.get("root")
    return root if isinstance(root, str) and any(name.startswith(f"{root}.") for name in source.infos) else None


def _container(source: Checkpoint, made: Mapping[str, Any]) -> str | None:
    """The container that the conversion was made from, where the source has it beside others."""
    found = [container.path for container in source.contents.containers]
    return made["container"] if len(found) > 1 and made.get("container") in found else None
