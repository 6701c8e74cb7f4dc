"""Whether every number of a converted file is the number that the mapping names, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from loftr2flax.checkpoint import Checkpoint, Scratch
from loftr2flax.compare.leaves import Difference, bit_difference
from loftr2flax.compare.through import opened_through
from loftr2flax.convert.stream import stream
from loftr2flax.errors import UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.mapping import TensorMapping
from loftr2flax.plan import Plan


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

    @property
    def summary(self) -> str:
        """The answer in one line."""
        count = len(self.differences)
        if not self.compared:
            answer = "nothing could be compared"
        elif count:
            answer = "1 leaf differs" if count == 1 else f"{count:,} leaves differ"
        else:
            answer = "same, bit for bit" + (f" after the cast to {', '.join(self.cast)}" if self.cast else "")
        counted = f"{self.compared:,} {'leaf' if self.compared == 1 else 'leaves'}, {self.numbers:,} numbers"
        return f"{counted} compared by {self.plan.mapping.name}: {answer}"

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
    limits: Limits = DEFAULT,
) -> WeightsVerdict:
    """Compares a torch checkpoint with its conversion, through the mapping, leaf by leaf.

    Args:
      source: the torch checkpoint.
      target: the Flax tree.
      mapping: a shipped name or a path; None for the one that the target's provenance names, else the one that fits.
      prefix: as for `convert_checkpoint`.
      state_dict: the container of the source; None for the one that the target's provenance names, if it is there.
      progress: called after each leaf with leaves done and leaves in all.
      limits: what each file may ask of this machine.

    Raises:
      Loftr2FlaxError: a file is refused, or the mapping does not fit the source.
    """
    with open_checkpoint(target, limits=limits) as actual:
        if actual.format.startswith("torch"):
            raise UsageError(f"{target}: is a PyTorch file", "`loftr2flax verify weights FILE OUT`: OUT is a Flax tree")
        through = opened_through(
            source, actual, mapping, prefix=prefix, state_dict=state_dict, cast=True, limits=limits
        )
        with through as job:
            return _compare(job.plan, job.source, actual, progress)


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
