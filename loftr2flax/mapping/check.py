"""What can be said against a mapping's lines from the file alone, before any checkpoint is seen."""

from __future__ import annotations

import math
from collections.abc import Set

from loftr2flax.errors import Place
from loftr2flax.mapping.axes import ELLIPSIS, Layout
from loftr2flax.mapping.names import Hole, Segment
from loftr2flax.mapping.nodes import Faults, nearest
from loftr2flax.mapping.rules import Index, Rule, Spec, TensorMapping

_MOST_NAMES = 100_000  # of one line
_MOST_IN_ALL = 400_000  # all are written out


def check_rules(mapping: TensorMapping, faults: Faults, spoken: Set[str] = frozenset()) -> bool:
    """Adds a fault for each line that cannot mean anything, and says whether every line that was read is sound.

    ``spoken`` holds the words of lines of which some could not be read, so that their indices do not pass for unused.
    """
    unread = faults.noted
    sound = True
    names = 0
    for rule in mapping.rules:
        before = faults.noted
        for spec in (rule.source, rule.target):
            if spec is not None:
                _check_name(mapping, rule, spec, faults)
        if faults.noted == before:
            _check_line(mapping, rule, faults)
            names += sum(_count(mapping, spec) for spec in (rule.source, rule.target) if spec is not None)
        sound = sound and faults.noted == before
    if names > _MOST_IN_ALL:
        message = f"the lines together stand for more than {_MOST_IN_ALL} names"
        faults.add(Place(mapping.path.name, 1, 1), message, "leave an index open: `0..`")
        sound = False
    named = {
        name for rule in mapping.rules for spec in (rule.source, rule.target) if spec for name in spec.name.indices
    }
    if named <= mapping.indices.keys():  # else one that seems unused is likely meant by a name that is misspelt
        _check_unused(mapping, faults, spoken)
    if not mapping.rules and not unread:
        faults.add(Place(mapping.path.name, 1, 1), "no line maps anything")
    return sound


def _check_line(mapping: TensorMapping, rule: Rule, faults: Faults) -> None:
    if rule.source and rule.target:
        _check_axes(mapping, rule.source, rule.target, ("torch", "flax"), rule.line, faults)
        _check_axes(mapping, rule.target, rule.source, ("flax", "torch"), rule.line, faults)
        _check_ragged(mapping, rule, rule.source, rule.target, faults)
    elif rule.target:
        _check_constant(mapping, rule, rule.target, "source", "filled leaf", faults)
    elif rule.source and rule.constant is not None:
        _check_constant(mapping, rule, rule.source, "target", "dropped tensor", faults)


def _check_name(mapping: TensorMapping, rule: Rule, spec: Spec, faults: Faults) -> None:
    unknown = [name for name in spec.name.indices if name not in mapping.indices]
    for name in unknown:
        hint = nearest(name, mapping.indices) or f"declare it: `index: {{{name}: 0..}}`"
        faults.add(spec.place, f"index {name} in {rule.line!r} is not declared", hint)
    if unknown:
        return
    for segment in spec.name.segments:
        for part in segment:
            if isinstance(part, Hole):
                _check_hole(part, [mapping.indices[name] for _, name in part.terms], spec, faults)
        if _open_side_by_side(segment, mapping):
            message = f"two open indices stand side by side in {rule.line!r}; digits cannot tell where one ends"
            faults.add(spec.place, message, "give one of them an end: `0..1`")
    both = [name for name in spec.name.indices if name in spec.layout.names]
    if both:
        faults.add(spec.place, f"{both[0]} stands in the name and in the brackets of '{spec}'")
    if _count(mapping, spec) > _MOST_NAMES:
        message = f"{rule.line!r} stands for more than {_MOST_NAMES} names"
        faults.add(spec.place, message, "leave an index open: `0..`")


def _count(mapping: TensorMapping, spec: Spec) -> int:
    """The names that one side of a line stands for, an open index counted once."""
    closed = (mapping.indices[name].values for name in spec.name.indices)
    return math.prod(len(values) for values in closed if values is not None)


def _check_hole(hole: Hole, indices: list[Index], spec: Spec, faults: Faults) -> None:
    if sum(index.is_open for index in indices) > 1:
        message = f"{hole} has two open indices; a number cannot tell them apart"
        faults.add(spec.place, message, "give one of them an end: `0..1`")
    if hole.is_plain:
        return
    words = [i.name for i in indices if any(isinstance(value, str) for value in i.values or ())]
    if words:
        faults.add(spec.place, f"{hole} counts with {words[0]}, whose values are words")
        return
    least = {i.name: i.start if i.values is None else min(int(value) for value in i.values) for i in indices}
    lowest = int(hole.fill(least))
    if lowest < 0:
        faults.add(spec.place, f"{hole} is {lowest} for the first of its values", "let the index begin later: `1..`")


def _open_side_by_side(segment: Segment, mapping: TensorMapping) -> bool:
    """Whether two numbers of open range have nothing between them but, perhaps, digits."""
    pending = False
    for part in segment:
        if isinstance(part, str):
            pending = pending and part.isdigit()
        elif any(mapping.indices[name].is_open for _, name in part.terms):
            if pending:
                return True
            pending = True
    return False


def _check_axes(
    mapping: TensorMapping, here: Spec, there: Spec, sides: tuple[str, str], line: str, faults: Faults
) -> None:
    side, other = sides
    for atom in here.layout.atoms:
        if atom.name in there.layout.names or atom.name in there.name.indices:
            continue
        if atom.name == ELLIPSIS:
            faults.add(here.place, f"'...' stands on the {side} side only, in {line!r}")
        else:
            hint = f"nothing on the {other} side says where it goes"
            faults.add(here.place, f"axis {atom.label} stands on the {side} side only, in {line!r}", hint)
    for name in here.name.indices:
        if name not in there.name.indices and name not in there.layout.names and not mapping.indices[name].tied:
            hint = f"if these are copies, say so: move it from `index:` to `tied: {{{name}: …}}`"
            faults.add(here.place, f"index {name} stands on the {side} side only, in {line!r}", hint)


def _check_ragged(mapping: TensorMapping, rule: Rule, source: Spec, target: Spec, faults: Faults) -> None:
    for name, index in mapping.ragged(rule).items():
        if not index:
            several = " and ".join(mapping.indices_of(rule, mapping.sizes[name].table or {}))
            fits = f"fits {several} alike" if several else "fits no index"
            hint = "its words must be the values of one index"
            faults.add(rule.place, f"the table of size {name} {fits}, in {rule.line!r}", hint)
            continue
        for spec in (source, target):
            if index in spec.layout.names and not _begins_axis(spec.layout, index, name):
                message = (
                    f"{name} differs along {index}, so {index} must begin the merged axis of {name} in {spec.layout}"
                )
                faults.add(spec.place, message, f"write ({index} {name} …)")


def _begins_axis(layout: Layout, index: str, ragged: str) -> bool:
    return any(axis and axis[0].name == index and ragged in [atom.name for atom in axis] for axis in layout.axes)


def _check_constant(mapping: TensorMapping, rule: Rule, spec: Spec, told_by: str, what: str, faults: Faults) -> None:
    """A leaf that is made from nothing: the mapping must tell its sizes, and other lines how many there are."""
    for atom in spec.layout.atoms:
        size = mapping.sizes.get(atom.name)
        if atom.name == ELLIPSIS:
            faults.add(
                rule.place, f"the shape of the {what} {str(spec.name)!r} is unknown", "write its axes; [] is a scalar"
            )
        elif size is None or size.number is None:
            hint = f"give it: `let: {{{atom.label}: 256}}`"
            faults.add(rule.place, f"the size of axis {atom.label} of the {what} {str(spec.name)!r} is unknown", hint)
    others = [other for line in mapping.rules if (other := getattr(line, told_by)) is not None]
    told = {name for other in others for name in (*other.name.indices, *other.layout.names)}
    for name in spec.name.indices:
        if mapping.indices[name].is_open and name not in told:
            message = f"nothing tells how far index {name} of the {what} {str(spec.name)!r} runs"
            faults.add(rule.place, message, "give it an end: `0..7`")


def _check_unused(mapping: TensorMapping, faults: Faults, spoken: Set[str]) -> None:
    used = {name for rule in mapping.rules for name in rule.spans}
    for index in mapping.indices.values():
        if index.name not in used and index.name not in spoken:
            faults.add(index.place, f"index {index.name} is used by no line")
    axes = {atom.name for r in mapping.rules for s in (r.source, r.target) if s for atom in s.layout.atoms}
    for size in mapping.sizes.values():
        if size.name in mapping.indices:
            faults.add(size.place, f"{size.name} is an index; its size is the number of its values")
        elif size.name not in axes and size.name not in spoken:
            hint = nearest(size.name, [name for name in axes if name.isidentifier()])
            faults.add(size.place, f"size {size.name} is used by no line", hint)
