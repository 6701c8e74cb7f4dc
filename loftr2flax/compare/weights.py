"""Whether every number of a converted file is the number that the mapping names, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from loftr2flax.checkpoint import Checkpoint, Scratch
from loftr2flax.compare.leaves import Difference, bit_difference
from loftr2flax.convert import Order, fitting_plans, prepared
from loftr2flax.convert.job import shipped_maker
from loftr2flax.convert.provenance import made_with
from loftr2flax.convert.stream import stream
from loftr2flax.errors import UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.mapping import TensorMapping
from loftr2flax.plan import Plan, Wishes


@dataclass(frozen=True)
class WeightsVerdict:
    """What `verify weights` found.

    Attributes:
      plan: the plan that says which tensor each leaf should be.
      compared: leaves present on both sides.
      numbers: elements compared.
      differences: leaves that differ, are missing in the target, or have no place in the plan.
    """

    plan: Plan
    compared: int
    numbers: int
    differences: tuple[Difference, ...]

    @property
    def cast(self) -> tuple[str, ...]:
        """The types that the conversion cast leaves to; numbers are compared after the same cast."""
        return tuple(dict.fromkeys(move.info.dtype for move in self.plan.moves if move.info.dtype != move.stored))

    @property
    def same(self) -> bool:
        """Whether something was compared, and all of it is equal."""
        return self.compared > 0 and not self.differences

    def __repr__(self) -> str:
        return f"<{self.compared} leaves compared by {self.plan.mapping.name}: {len(self.differences)} differ>"


def verify_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    mapping: str | os.PathLike[str] | TensorMapping | None = None,
    *,
    prefix: str | None = None,
    state_dict: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WeightsVerdict:
    """Compares a torch checkpoint with its conversion, through the mapping, leaf by leaf.

    Args:
      source: the torch checkpoint.
      target: the Flax tree.
      mapping: a shipped name or a path; None for the one that the target's provenance names, else the one that fits.
      prefix: as for `convert_checkpoint`.
      state_dict: the container of the source; None for the one that the target's provenance names, if it is there.
      progress: called after each leaf with leaves done and leaves in all.

    Raises:
      Loftr2FlaxError: a file is refused, or the mapping does not fit the source.
    """
    with open_checkpoint(target) as actual:
        if actual.format.startswith("torch"):
            raise UsageError(f"{target}: is a PyTorch file", "`loftr2flax verify weights FILE OUT`: OUT is a Flax tree")
        made = actual.contents.provenance or {}
        mapping = mapping if mapping is not None else shipped_maker(actual, made_with(actual))
        with open_checkpoint(source, state_dict) as checkpoint:
            state_dict = state_dict if state_dict is not None else _container(checkpoint, made)
        if mapping is None or prefix is None:
            with open_checkpoint(source, state_dict) as checkpoint:
                mapping = mapping if mapping is not None else _likeliest(checkpoint, actual)
                prefix = prefix if prefix is not None else _root(checkpoint, made)
        dtype = made["dtype"] if isinstance(made.get("dtype"), str) else None
        order = Order(mapping, format="npz", prefix=prefix, state_dict=state_dict, dtype=dtype)
        with prepared(source, None, order) as job:
            return _compare(job.plan, job.source, actual, progress)


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


def _compare(
    plan: Plan, source: Checkpoint, actual: Checkpoint, progress: Callable[[int, int], None] | None
) -> WeightsVerdict:
    wanted = {move.leaf for move in plan.moves}
    differences = [
        Difference(name, "the mapping names no tensor for it") for name in actual.infos if name not in wanted
    ]
    compared = numbers = 0
    scratch = Scratch()
    with closing(stream(plan.moves, source)) as made:
        for count, (move, expected) in enumerate(made, 1):
            if move.leaf in actual.infos:
                found = bit_difference(move.leaf, expected, actual.read(move.leaf, scratch))
                compared += 1
                numbers += move.info.size
            else:
                found = Difference(move.leaf, "missing")
            if found:
                differences.append(found)
            if progress is not None:
                progress(count, len(plan.moves))
    return WeightsVerdict(plan, compared, numbers, tuple(differences))
