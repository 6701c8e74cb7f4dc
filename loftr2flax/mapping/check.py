"""What can be said against a mapping's lines from the file alone, before any checkpoint is seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from loftr2flax.mapping.axes import ELLIPSIS, Layout
from loftr2flax.mapping.matching import Matcher
from loftr2flax.mapping.names import Hole
from loftr2flax.mapping.nodes import Faults, nearest
from loftr2flax.mapping.rules import Rule, Spec, TensorMapping


def check_rules(mapping: TensorMapping, faults: Faults) -> None:
    """Adds a fault for each line that cannot mean anything, and for each pair that claims one leaf."""
    sound = True
    for rule in mapping.rules:
        before = len(faults.found)
        for spec in (rule.source, rule.target):
            if spec is not None:
                _check_name(mapping, rule, spec, faults)
        if len(faults.found) == before and rule.is_link:
            _check_axes(mapping, rule, faults)
            _check_ragged(mapping, rule, faults)
        elif len(faults.found) == before:
            _check_constant(mapping, rule, faults)
        sound = sound and len(faults.found) == before
    _check_unused(mapping, faults)
    if not mapping.rules:
        faults.add(None, "no line maps anything")
    if sound:
        _check_overlaps(mapping, faults, "source", "torch key")
        _check_overlaps(mapping, faults, "target", "flax leaf")


def _check_name(mapping: TensorMapping, rule: Rule, spec: Spec, faults: Faults) -> None:
    for segment in spec.name.segments:
        for hole in (part for part in segment if isinstance(part, Hole)):
            unknown = [name for _, name in hole.terms if name not in mapping.indices]
            for name in unknown:
                hint = nearest(name, mapping.indices) or f"declare it: `index: {{{name}: 0..}}`"
                faults.add(spec.place, f"index {name} in {rule.line!r} is not declared", hint)
            if unknown:
                continue
            indices = [mapping.indices[name] for _, name in hole.terms]
            if sum(index.is_open for index in indices) > 1:
                faults.add(spec.place, f"{hole} has two open indices; a number cannot tell them apart", "give one of them an end: `0..1`")
            words = [i.name for i in indices if any(isinstance(value, str) for value in i.values or ())]
            if words and not hole.is_plain:
                faults.add(spec.place, f"{hole} counts with {words[0]}, whose values are words")
    both = [name for name in spec.name.indices if name in spec.layout.names]
    if both:
        faults.add(spec.place, f"{both[0]} stands in the name and in the brackets of {spec}")


def _check_axes(mapping: TensorMapping, rule: Rule, faults: Faults) -> None:
    assert rule.source and rule.target
    for here, there, side in ((rule.source, rule.target, "torch"), (rule.target, rule.source, "flax")):
        other = "flax" if side == "torch" else "torch"
        for name in here.layout.names:
            if name in there.layout.names or name in there.name.indices:
                continue
            if name == ELLIPSIS:
                faults.add(here.place, f"'...' stands on the {side} side only, in {rule.line!r}")
            else:
                faults.add(here.place, f"axis {name} stands on the {side} side only, in {rule.line!r}", f"nothing on the {other} side says where it goes")
        for name in here.name.indices:
            if name in there.name.indices or name in there.layout.names or mapping.indices[name].tied:
                continue
            faults.add(
                here.place,
                f"index {name} stands on the {side} side only, in {rule.line!r}",
                f"if these are copies, say so: move it from `index:` to `tied: {{{name}: …}}`",
            )


def _check_ragged(mapping: TensorMapping, rule: Rule, faults: Faults) -> None:
    assert rule.source and rule.target
    for name, index in mapping.ragged(rule).items():
        if not index:
            faults.add(rule.place, f"the table of size {name} fits no index of {rule.line!r}", "its words must be an index's values")
            continue
        for spec in (rule.source, rule.target):
            if index in spec.layout.names and not _begins_axis(spec.layout, index, name):
                faults.add(
                    spec.place,
                    f"{name} differs along {index}, so {index} must begin the merged axis that {name} is in: {spec.layout}",
                    f"write ({index} {name} …)",
                )


def _begins_axis(layout: Layout, index: str, ragged: str) -> bool:
    return any(axis and axis[0].name == index and ragged in [atom.name for atom in axis] for axis in layout.axes)


def _check_constant(mapping: TensorMapping, rule: Rule, faults: Faults) -> None:
    if rule.target is not None:
        for name in rule.target.layout.names:
            size = mapping.sizes.get(name)
            if size is None or size.number is None:
                faults.add(rule.place, f"the size of axis {name} of a filled leaf is unknown", f"give it: `let: {{{name}: 256}}`")
    elif rule.source is not None and rule.constant is not None:
        for name in rule.source.layout.names:
            if name not in mapping.sizes:
                faults.add(rule.place, f"the size of axis {name} of a dropped tensor is unknown on the way back", f"give it: `let: {{{name}: 256}}`")


def _check_unused(mapping: TensorMapping, faults: Faults) -> None:
    used = {name for rule in mapping.rules for name in rule.spans}
    for index in mapping.indices.values():
        if index.name not in used:
            faults.add(index.place, f"index {index.name} is used by no line")
    for size in mapping.sizes.values():
        if size.name not in used:
            faults.add(size.place, f"size {size.name} is used by no line", nearest(size.name, used))
        elif size.name in mapping.indices:
            faults.add(size.place, f"{size.name} is an index; its size is the number of its values")


def _check_overlaps(mapping: TensorMapping, faults: Faults, side: str, what: str) -> None:
    specs = [(number, getattr(rule, side)) for number, rule in enumerate(mapping.rules) if getattr(rule, side)]
    matcher = Matcher(((number, spec.name) for number, spec in specs), mapping.indices)
    told: set[tuple[int, int]] = set()
    for number, spec in specs:
        for name in _samples(mapping, spec):
            for other, _ in matcher.match(name.split(spec.name.separator)):
                pair = (min(number, other), max(number, other))
                one, two = mapping.rules[pair[0]], mapping.rules[pair[1]]
                if other == number or pair in told or not mapping.compatible(one, two):
                    continue
                told.add(pair)
                where = getattr(two, side).place
                faults.add(where, f"{what} {name} is claimed here and at line {getattr(one, side).place.line}: {one.line!r}")


def _samples(mapping: TensorMapping, spec: Spec) -> Iterator[str]:
    ranges = []
    for name in spec.name.indices:
        index = mapping.indices[name]
        ranges.append((index.start, index.start + 1) if index.values is None else index.values[:64])
    for values in itertools.product(*ranges):
        yield spec.name.format(dict(zip(spec.name.indices, values, strict=True)))
