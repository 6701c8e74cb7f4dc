"""What a conversion would lose: values that have no place on the other side, and are not what the mapping says."""

from __future__ import annotations

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import Checkpoint
from loftr2flax.convert.provenance import MOST_KEPT
from loftr2flax.errors import InputError
from loftr2flax.mapping.rules import Constant
from loftr2flax.plan import Plan


def kept_names(plan: Plan, source: Checkpoint) -> list[str]:
    """Dropped tensors that are small enough to go into the output's record."""
    infos = source.infos
    return [name for name in plan.dropped if infos[name].nbytes <= MOST_KEPT and not infos[name].refused]


def check_losses(plan: Plan, source: Checkpoint) -> None:
    """Whether every input without a place in the output has the value that the mapping gives it on the other side.

    Forward these are dropped tensors too large for the record; a `drop` without a value is a loss that the mapping
    declares. On the way back they are filled leaves, which training may have changed.

    Raises:
      InputError: one of them has another value, which would be lost without a word.
    """
    forward = plan.direction == "forward"
    safe = set(kept_names(plan, source)) if forward else set()
    for name, rule in plan.dropped.items():
        if name in safe or rule.constant is None or source.infos[name].refused:
            continue
        if not _is_all(source.read(name), rule.constant):
            there = "a Flax tree" if forward else "a torch file"
            message = f"{name} is not {rule.constant.value} throughout, and {rule.line!r} gives it no place in {there}"
            hint = "accept the loss with `--allow-loss`, or map it with a line of its own"
            raise InputError(f"{source.path}: {message}", hint)


def _is_all(array: np.ndarray, constant: Constant) -> bool:
    """Whether every element has the constant's bits, once the constant is cast to the array's type as a fill is."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        stored = np.full(1, constant.value, dtypes.numpy_dtype(constant.dtype)).astype(array.dtype)
    return bool((array.reshape(-1).view(np.uint8).reshape(array.size, -1) == stored.view(np.uint8)).all())
