"""Which groups of a mapping are there, and how far its open indices run: read from the names alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from loftr2flax.mapping.names import IndexValue
from loftr2flax.mapping.nodes import Faults
from loftr2flax.mapping.rules import Group, Rule, Spec, TensorMapping
from loftr2flax.plan.scope import Scope


class Groups(NamedTuple):
    """The choice taken in each group that is present, and the optional groups that are absent."""

    chosen: Mapping[str, str]
    absent: tuple[str, ...]

    def active(self, rule: Rule) -> bool:
        """Whether a rule holds for this checkpoint."""
        return rule.group is None or self.chosen.get(rule.group[0]) == rule.group[1]

    @property
    def present(self) -> tuple[str, ...]:
        """The groups that are there, with the choice where there was one."""
        return tuple(_label(name, choice) for name, choice in self.chosen.items())


def find_groups(mapping: TensorMapping, scope: Scope, side: str, wanted: Sequence[str], faults: Faults) -> Groups:
    """Decides each group by what the checkpoint holds; ``wanted`` (what an output's provenance says) comes first.

    Of an alternative's complete choices the one with most names is taken; where none is complete, the one with most
    names too, so that what it lacks is reported. Complete choices that have the same torch names are a fault; on the
    way back (two torch layouts may have one Flax side) the first of them is taken.
    """
    met = _met(mapping, scope)
    chosen: dict[str, str] = {}
    absent: list[str] = []
    for group in mapping.groups:
        choice, rivals = _choice(mapping, group, met, side, wanted)
        if choice is not None and rivals and side == "source":
            _check_alike(mapping, scope, group, choice, rivals, faults)
        if choice is not None:
            chosen[group.name] = choice
        elif group.required:
            faults.add(group.place, f"{group.name}: none of {' / '.join(group.choices)} is in the checkpoint")
        else:
            absent.append(group.name)
    return Groups(chosen, tuple(absent))


Settings = frozenset[tuple[tuple[str, IndexValue], ...]]
"""The settings of a rule's closed indices under which some name was met."""


def _met(mapping: TensorMapping, scope: Scope) -> dict[int, Settings]:
    met: dict[int, set[tuple[tuple[str, IndexValue], ...]]] = {}
    for found in scope.claims.values():
        for number, bindings in found:
            closed = tuple((n, v) for n, v in sorted(bindings.items()) if not mapping.indices[n].is_open)
            met.setdefault(number, set()).add(closed)
    return {number: frozenset(settings) for number, settings in met.items()}


def _choice(
    mapping: TensorMapping, group: Group, met: Mapping[int, Settings], side: str, wanted: Sequence[str]
) -> tuple[str | None, list[str]]:
    """The best of a group's choices, and those that are complete and remembered no less than it.

    Complete goes before incomplete, remembered before others, then the number of names met; of equals the first.
    """
    ranks: dict[str, tuple[bool, bool, int]] = {}
    for choice in group.choices:
        rules = [n for n, r in enumerate(mapping.rules) if r.group == (group.name, choice) and getattr(r, side)]
        count = sum(len(met.get(number, ())) for number in rules)
        lacking = any(not mapping.rules[n].optional and len(met.get(n, ())) < _full(mapping, n, side) for n in rules)
        if not count and (rules or not group.required):  # a choice without names (a fill) is there if no other is
            continue
        ranks[choice] = (not lacking, _label(group.name, choice) in wanted, count)
    if not ranks:
        return None, []
    best = max(ranks, key=lambda choice: ranks[choice])
    rivals = [c for c in ranks if c != best and ranks[c][0] and ranks[c][:2] == ranks[best][:2]]
    return best, rivals


def _check_alike(
    mapping: TensorMapping, scope: Scope, group: Group, choice: str, rivals: Sequence[str], faults: Faults
) -> None:
    """No other choice explains the very names that the best one does: which of them is meant, no rule could say."""
    names: dict[str, set[str]] = {one: set() for one in (choice, *rivals)}
    for name, found in scope.claims.items():
        for number, _ in found:
            where = mapping.rules[number].group
            if where is not None and where[0] == group.name and where[1] in names:
                names[where[1]].add(name)
    alike = [one for one in group.choices if one in names and names[one] == names[choice]]
    if names[choice] and len(alike) > 1:
        hint = "nothing in the file tells which is meant: leave one out"
        faults.add(group.place, f"{group.name}: {' and '.join(map(repr, alike))} have the same tensors here", hint)


def _label(name: str, choice: str) -> str:
    """A group's choice as it is listed: an optional group has but one, of its own name."""
    return name if name == choice else f"{name}: {choice}"


def _full(mapping: TensorMapping, number: int, side: str) -> int:
    """How many settings of its closed indices a rule names."""
    spec: Spec = getattr(mapping.rules[number], side)
    return math.prod(len(values) for n in spec.name.indices if (values := mapping.indices[n].values) is not None)


def find_extents(
    mapping: TensorMapping, scope: Scope, groups: Groups, faults: Faults
) -> dict[str, tuple[IndexValue, ...]]:
    """The values of every index; for open ranges those that the names show, which must run without a gap.

    Open indices that stand in brackets alone are left out: shapes tell them.
    """
    extents = {name: index.values for name, index in mapping.indices.items() if index.values is not None}
    seen: dict[str, set[int]] = {}
    witness: dict[str, Rule] = {}
    for found in scope.claims.values():
        for number, bindings in found:
            rule = mapping.rules[number]
            if groups.active(rule):
                for name, value in bindings.items():
                    if mapping.indices[name].is_open:
                        seen.setdefault(name, set()).add(int(value))
                        witness.setdefault(name, rule)
    for name, values in seen.items():
        start, top = mapping.indices[name].start, max(values)
        gaps = _gaps(values, start, top)
        if gaps:
            missing = f"{gaps[0]} is" if len(gaps) == 1 else f"{', '.join(map(str, gaps[:6]))} are"
            message = f"index {name} runs to {top}, but {missing} missing from {witness[name].line!r} and its like"
            faults.add(mapping.indices[name].place, message, f"an open range starts at {start} and has no gap")
        extents[name] = tuple(sorted(values))
    return extents


def _gaps(values: set[int], start: int, top: int) -> list[int]:
    count = top - start + 1 - len(values)
    return list(itertools.islice((n for n in range(start, top + 1) if n not in values), min(count, 7)))


def assignments(names: Sequence[str], extents: Mapping[str, Sequence[IndexValue]]) -> Iterator[dict[str, IndexValue]]:
    """Every combination of values of some indices; an index that nothing was found for has none."""
    for values in itertools.product(*(extents.get(name, ()) for name in names)):
        yield dict(zip(names, values, strict=True))
