"""Whether two lines, or one line twice, claim the same name, or two choices the same names.

It is tried on names that the lines themselves give: closed indices are written out (long ones at both ends), open ones
at their first values; what such samples do not show, the plan does for the names that a checkpoint has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

from loftr2flax.errors import Place
from loftr2flax.mapping.matching import matcher_of
from loftr2flax.mapping.names import IndexValue
from loftr2flax.mapping.nodes import Faults
from loftr2flax.mapping.rules import Rule, Spec, TensorMapping

_MOST_SAMPLES = 4096


def check_overlaps(mapping: TensorMapping, faults: Faults) -> None:
    """Adds a fault for each pair of lines that can hold at once and claim one name."""
    sides: tuple[tuple[Literal["source", "target"], str], ...] = (("source", "torch key"), ("target", "flax leaf"))
    for side, what in sides:
        specs = [(n, spec) for n, rule in enumerate(mapping.rules) if (spec := getattr(rule, side)) is not None]
        matcher = matcher_of(mapping, side)
        told: set[tuple[Place, Place]] = set()
        for number, spec in specs:
            for name in _samples(mapping, spec):
                segments = name.split(spec.name.separator)
                if side == "source":
                    _check_aliases(mapping, mapping.rules[number], segments, faults)
                found = [other for other, _ in matcher.match(segments)]
                for other in dict.fromkeys(found):
                    one, two = mapping.rules[min(number, other)], mapping.rules[max(number, other)]
                    pair = (one.place, two.place)  # one fault for two lines, not for each leaf of their kinds
                    if pair in told or not mapping.compatible(one, two):
                        continue
                    place = getattr(two, side).place
                    if other != number:
                        told.add(pair)
                        line = getattr(one, side).place.line
                        faults.add(place, f"{what} {name} is claimed here and at line {line}: {one.line!r}")
                    elif found.count(number) > 1:
                        told.add(pair)
                        message = f"{one.line!r} names {name} for more than one setting of its indices"
                        faults.add(place, message, "every value must give a name of its own")


def check_choices(mapping: TensorMapping, faults: Faults) -> None:
    """Adds a fault for each pair of choices with the same torch keys: no checkpoint could tell which is meant."""
    for group in mapping.groups:
        met: dict[frozenset[tuple[str, bool, bool]], str] = {}
        for choice in group.choices:
            keys = _keys(mapping, (group.name, choice))
            first = met.setdefault(keys, choice)
            if keys and first != choice:
                message = f"{group.name}: {first!r} and {choice!r} have the same torch keys"
                faults.add(group.place, message, "no file could tell which is meant: leave one out")


def _keys(mapping: TensorMapping, choice: tuple[str, str]) -> frozenset[tuple[str, bool, bool]]:
    """Torch keys of a choice, each with whether it is optional, and whether it stands for any number of them."""
    keys = set()
    for rule in mapping.rules:
        if rule.group == choice and rule.source is not None:
            opened = any(mapping.indices[name].is_open for name in rule.source.name.indices)
            keys |= {(name, rule.optional, opened) for name in _samples(mapping, rule.source)}
    return frozenset(keys)


def _check_aliases(mapping: TensorMapping, rule: Rule, segments: Sequence[str], faults: Faults) -> None:
    for segment in segments:
        if segment in mapping.aliases:
            message = f"{rule.line!r} is never met: the alias makes {segment!r} into {mapping.aliases[segment]!r}"
            faults.add(rule.place, message, "lines use the spelling on the alias's right side")


def _samples(mapping: TensorMapping, spec: Spec) -> Iterator[str]:
    ranges: list[Sequence[IndexValue]] = []
    for name in spec.name.indices:
        index = mapping.indices[name]
        ranges.append((index.start, index.start + 1) if index.values is None else index.values)
    if math.prod(map(len, ranges)) > _MOST_SAMPLES:
        ranges = [values if len(values) <= 8 else (*values[:4], *values[-4:]) for values in ranges]
    for values in itertools.islice(itertools.product(*ranges), _MOST_SAMPLES):
        yield spec.name.format(dict(zip(spec.name.indices, values, strict=True)))
