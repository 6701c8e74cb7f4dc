"""A mapping and a checkpoint's headers become a plan, or a list of everything that does not fit. No tensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import MappingMismatch, UsageError
from loftr2flax.mapping.matching import matcher_of
from loftr2flax.mapping.names import IndexValue, natural
from loftr2flax.mapping.nodes import Faults, in_order, nearest
from loftr2flax.mapping.rules import Direction, TensorMapping
from loftr2flax.plan.claims import check_claims, check_outputs, top
from loftr2flax.plan.draft import Draft
from loftr2flax.plan.moves import Move, Plan
from loftr2flax.plan.presence import find_extents, find_groups
from loftr2flax.plan.scope import Names, find_scope
from loftr2flax.plan.sides import Sides


@dataclass(frozen=True)
class Wishes:
    """What a user, or an output's own provenance, may say about a plan.

    Attributes:
      prefix: where the mapping's names begin in the input (forward), or what to put before them (reverse).
      dtype: the element type for floating-point leaves, or None to keep each as it is.
      choose: for a tied index, the one value whose copy is taken, instead of demanding that all are equal.
      groups: groups that the output of an earlier conversion holds, as `Plan.present` lists them.
    """

    prefix: str | None = None
    dtype: str | None = None
    choose: Mapping[str, IndexValue] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


def build_plan(
    mapping: TensorMapping,
    infos: Mapping[str, LeafInfo],
    direction: Direction = "forward",
    wishes: Wishes | None = None,
    path: str = "checkpoint",
) -> Plan:
    """Fits a mapping to a checkpoint.

    Args:
      mapping: the mapping.
      infos: the input's headers by name, in its own order.
      direction: "forward" (PyTorch to Flax) or "reverse".
      wishes: what the user asks for beyond the mapping.
      path: the input's name, for messages.

    Raises:
      MappingMismatch: with every fault, each at its place in the mapping file.
      PrefixNotFound: nothing stands under ``wishes.prefix``.
      UsageError: ``wishes`` cannot be meant.
    """
    wishes = wishes or Wishes()
    _check_wishes(mapping, wishes)
    sides = Sides.of(direction)
    forward = direction == "forward"
    names = Names.split(infos, sides.separator, mapping.aliases if forward else {})
    prefix = wishes.prefix if forward else None
    scope = find_scope(names, matcher_of(mapping, sides.input_name), mapping.at, prefix, path)
    faults = Faults()
    for one, other in scope.clashes:
        faults.add(top(mapping), f"{one} and {other} are one name once the aliases are applied")
    groups = find_groups(mapping, scope, sides.input_name, wishes.groups, faults)
    extents = find_extents(mapping, scope, groups, faults)
    check_claims(mapping, scope, groups, sides, faults)
    draft = Draft(mapping, sides, scope, groups, extents, infos, wishes.dtype, wishes.choose)
    draft.run(faults)
    check_outputs(mapping, draft.moves, sides, faults)
    if faults.noted:
        raise _mismatch(mapping, path, faults)
    return Plan(
        mapping,
        direction,
        sides.separator.join(scope.root),
        tuple(_ordered(draft.moves, infos, forward)),
        draft.dropped,
        scope.outside,
        groups.present,
        groups.absent,
        scope.spelling if forward else {},
    )


def _check_wishes(mapping: TensorMapping, wishes: Wishes) -> None:
    if wishes.dtype is not None and wishes.dtype not in dtypes.FLOATING:
        hint = nearest(wishes.dtype, dtypes.FLOATING) or f"one of {', '.join(dtypes.FLOATING)}"
        raise UsageError(f"--dtype {wishes.dtype}: not a floating-point type", hint)
    for name, value in wishes.choose.items():
        index = mapping.indices.get(name)
        if index is None or not index.tied:
            tied = [i.name for i in mapping.indices.values() if i.tied]
            hint = f"{mapping.name} ties {', '.join(tied)}" if tied else f"{mapping.name} ties nothing"
            raise UsageError(f"--choose {name}={value}: {name} is no tied index", hint)
        if index.values is not None and value not in index.values:
            hint = f"{name} is one of {', '.join(map(str, index.values))}"
            raise UsageError(f"--choose {name}={value}: no such value", hint)


def _mismatch(mapping: TensorMapping, path: str, faults: Faults) -> MappingMismatch:
    found = in_order(faults.found)
    count = "one fault" if len(found) == 1 else f"{len(found)} faults"
    hint = "`loftr2flax inspect` shows what the file holds, `mapping explain KEY` what a line does"
    shown = "\n".join(f"  {fault}" for fault in found)
    return MappingMismatch(f"{path}: {mapping.name} does not fit, {count}\n{shown}", hint, found)


def _ordered(moves: list[Move], infos: Mapping[str, LeafInfo], forward: bool) -> list[Move]:
    """Forward: as the inputs lie, so that a file is read from front to back. Reverse: by module, natural order."""
    if forward:
        position = {name: n for n, name in enumerate(infos)}
        return sorted(moves, key=lambda m: min((position[i] for i in m.inputs), default=len(position)))
    number = {id(move): n for n, move in enumerate(moves)}
    return sorted(moves, key=lambda m: (natural(m.leaf.rpartition(".")[0]), number[id(m)]))
