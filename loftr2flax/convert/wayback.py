"""The way back: a plan's keys take the spelling, the order and the dropped values that an output remembers."""

from __future__ import annotations

from loftr2flax.convert.provenance import Kept, Memory
from loftr2flax.mapping.rules import Constant, TensorMapping
from loftr2flax.plan import Move, Plan


def remembered(plan: Plan, memory: Memory, prefix: str | None) -> Plan:
    """The same plan, with torch keys as the original file had them.

    Without a memory the keys are the mapping's own, in natural order, and dropped tensors get the mapping's values.

    Args:
      plan: a reverse plan.
      memory: what the tree's provenance says.
      prefix: what to put before every key, or None for what the original had.
    """
    before = _before(memory, prefix)
    moves = {move.leaf: move for move in plan.moves}
    if not memory.keys:
        return plan._replace(moves=tuple(move._replace(leaf=before + move.leaf) for move in moves.values()))
    ordered: list[Move] = []
    for key in memory.keys:
        canonical = canonical_key(plan.mapping, key)
        move = moves.pop(canonical, None)
        if key in memory.dropped and (move is None or not move.pieces):  # a record never replaces what the tree holds
            move = _kept(plan, canonical, memory.dropped[key])
        if move is not None:
            ordered.append(move._replace(leaf=before + key))
    ordered += [
        m._replace(leaf=before + m.leaf) for m in moves.values() if m.pieces
    ]  # constants that it never had stay away
    return plan._replace(moves=tuple(ordered))


def forgotten(plan: Plan, memory: Memory, prefix: str | None) -> tuple[str, ...]:
    """Keys of the original that the plan does not bring back, because the mapping is another version."""
    before = _before(memory, prefix)
    made = {move.leaf for move in plan.moves}
    return tuple(key for key in memory.keys if before + key not in made)


def _before(memory: Memory, prefix: str | None) -> str:
    root = memory.root if prefix is None else prefix.strip(".")
    return f"{root}." if root else ""


def canonical_key(mapping: TensorMapping, key: str) -> str:
    """A key with the mapping's aliases put right."""
    return ".".join(mapping.aliases.get(segment, segment) for segment in key.split("."))


def _kept(plan: Plan, canonical: str, kept: Kept) -> Move:
    constant = Constant(kept.value, kept.info.dtype)
    rule = next((rule for rule in plan.mapping.rules if rule.target is None), plan.mapping.rules[0])
    return Move(canonical, kept.info, (), constant, (), rule, kept.info.dtype)
