"""Nothing is left over, missing, claimed twice or written twice: the faults that names alone can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loftr2flax.errors import Place
from loftr2flax.folding import fold, fold_line
from loftr2flax.mapping.nodes import Faults, closest
from loftr2flax.mapping.rules import Rule, TensorMapping
from loftr2flax.plan.moves import Move
from loftr2flax.plan.presence import Groups
from loftr2flax.plan.scope import Scope
from loftr2flax.plan.sides import Sides

_MOST_TOLD = 20


def check_claims(mapping: TensorMapping, scope: Scope, groups: Groups, sides: Sides, faults: Faults) -> None:
    """Every name in scope is claimed by exactly one line that holds, under one setting of its indices."""
    twice: dict[tuple[int, int], list[str]] = {}
    for name, found in scope.claims.items():
        if len(found) > 1:
            holding = [number for number, _ in found if groups.active(mapping.rules[number])]
            if len(holding) > 1:
                twice.setdefault((holding[0], holding[1]), []).append(name)
    for (first, second), names in twice.items():
        one, two = mapping.rules[first], mapping.rules[second]
        if first == second:
            message = f"{fold_line(names)}: {one.line!r} claims it for more than one setting of its indices"
        else:
            message = f"{fold_line(names)} is claimed here and at line {one.place.line}: {one.line!r}"
        faults.add(two.place, message)
    _tell_left_over(mapping, scope, groups, sides, faults)


def unclaimed(mapping: TensorMapping, scope: Scope, groups: Groups) -> list[str]:
    """Names in scope that no line that holds claims."""
    rules = mapping.rules
    return [
        name for name, found in scope.claims.items() if not any(groups.active(rules[number]) for number, _ in found)
    ]


def _tell_left_over(mapping: TensorMapping, scope: Scope, groups: Groups, sides: Sides, faults: Faults) -> None:
    left = unclaimed(mapping, scope, groups)
    lines: dict[str, Rule] = {}
    for rule in mapping.rules:
        if spec := sides.input(rule):
            lines.setdefault(str(spec.name), rule)
    folded = fold(left)
    for label, names in list(folded.items())[:_MOST_TOLD]:
        place, hint = _nearest_line(mapping, scope, groups, lines, names[0])
        faults.add(place, f"left over: {label}" + (f" ({len(names)} in all)" if len(names) > 1 else ""), hint)
    if len(folded) > _MOST_TOLD:
        faults.add(top(mapping), f"left over: {len(left)} names in all, of which {_MOST_TOLD} kinds are shown")


def _nearest_line(
    mapping: TensorMapping, scope: Scope, groups: Groups, lines: Mapping[str, Rule], name: str
) -> tuple[Place, str]:
    """Where to look for a name that is left over, and why."""
    rule = next((mapping.rules[number] for number, _ in scope.claims[name]), None)
    if rule is not None and rule.group is not None:  # claimed, but by a line that does not hold
        group, choice = rule.group
        return rule.place, f"{choice!r} has it, but {groups.chosen.get(group)!r} of {group!r} fits best"
    near = closest(name, lines)
    if near:
        return lines[near].place, f"the nearest line has {near}"
    return top(mapping), "claim it with a line, or put it under `drop:`"


def tell_missing(
    mapping: TensorMapping,
    scope: Scope,
    groups: Groups,
    missing: Mapping[int, Sequence[str]],
    halves: Mapping[int, int],
    hints: Mapping[int, str],
    sides: Sides,
    faults: Faults,
) -> None:
    """One fault for each line, whatever the number of its leaves that are missing.

    ``halves`` says of optional lines how many of their leaves are there, ``hints`` why some lines may lack theirs.
    """
    if not missing:
        return
    free = [names[0] for names in fold(unclaimed(mapping, scope, groups)).values()]
    for number, names in missing.items():
        rule = mapping.rules[number]
        near = closest(names[0], free)
        hint = hints.get(number) or (f"the nearest free {sides.leaf} is {near}" if near else "")
        told = f", named by {rule.line!r}"
        if count := halves.get(number):
            others = "one other of {!r} is" if count == 1 else f"{count} others of {{!r}} are"
            told = f": {others.format(rule.line)} there"
            hint = hint or "what is optional is there for all values of the indices or for none"
        faults.add(rule.place, f"missing {sides.leaf} {fold_line(names)}{told}", hint)


def check_outputs(mapping: TensorMapping, moves: Sequence[Move], sides: Sides, faults: Faults) -> None:
    """No two moves make one leaf, no leaf of a tree is a branch too, and there is something to write."""
    first: dict[str, Move] = {}
    twice: dict[tuple[int, int], list[tuple[Move, Move]]] = {}
    for move in moves:
        other = first.setdefault(move.leaf, move)
        if other is not move:
            twice.setdefault((id(other.rule), id(move.rule)), []).append((other, move))
    for pairs in twice.values():
        one, two = pairs[0]
        names = fold_line([move.leaf for _, move in pairs])
        faults.add(two.rule.place, f"{names} is written here and at line {one.rule.place.line}: {one.rule.line!r}")
    if sides.separator == ".":  # a tree is being written
        _check_branches(first, faults)
    if not moves and not faults.noted:
        message = "nothing would be written: no line that makes a leaf holds for this checkpoint"
        faults.add(top(mapping), message)


def _check_branches(moves: Mapping[str, Move], faults: Faults) -> None:
    both: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for leaf, move in moves.items():
        end = leaf.find("/")
        while end >= 0:
            if leaf[:end] in moves:
                both.setdefault((id(moves[leaf[:end]].rule), id(move.rule)), []).append((leaf[:end], leaf))
            end = leaf.find("/", end + 1)
    for pairs in both.values():
        leaves, below = (fold_line(tuple(dict.fromkeys(column))) for column in zip(*pairs, strict=True))
        other = moves[pairs[0][0]].rule.place
        faults.add(
            moves[pairs[0][1]].rule.place, f"{leaves} is a leaf (line {other.line}), and a branch of {below} too"
        )


def top(mapping: TensorMapping) -> Place:
    """Where faults stand that no single line is to blame for."""
    return Place(mapping.path.name, 1, 1)
