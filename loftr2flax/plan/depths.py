"""Why a line with an open index may lack leaves: its parts have different depths, or one depth alone has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loftr2flax.mapping.names import Bindings, Hole, IndexValue, Segment
from loftr2flax.mapping.rules import Rule, Spec, TensorMapping
from loftr2flax.plan.presence import assignments
from loftr2flax.plan.scope import Scope

Extents = Mapping[str, Sequence[IndexValue]]


def depth_hints(mapping: TensorMapping, scope: Scope, extents: Extents, specs: Mapping[int, Spec]) -> dict[int, str]:
    """What can be said of the lines that lack leaves, by their numbers; ``specs`` holds their input sides."""
    separator = next((spec.name.separator for spec in specs.values()), ".")
    places = {name[:n] for name in scope.members for n in _ends(name, separator)}
    hints = {}
    for number, spec in specs.items():
        settings = list(assignments(spec.name.indices, extents))
        for name in spec.name.indices:
            if mapping.indices[name].is_open and name in extents and number not in hints:
                found = _alone(mapping.rules[number], spec, name, settings, extents, scope)
                if found := found or _shallow(mapping, spec, name, settings, scope, places):
                    hints[number] = found
    return hints


def _ends(name: str, separator: str) -> list[int]:
    """Where the segments of a name end."""
    return [n for n, letter in enumerate(name) if letter == separator] + [len(name)]


def _alone(rule: Rule, spec: Spec, name: str, settings: Sequence[Bindings], extents: Extents, scope: Scope) -> str:
    """A line that is met several times, under one value of the index only, such as the first block of each stage."""
    met = [bindings[name] for bindings in settings if spec.name.format(bindings) in scope.members]
    few = len(extents[name]) < 3 and not (rule.optional or rule.group)
    if few or len(met) < 2 or len(set(met)) > 1:
        return ""
    return f"it is there for {name}={met[0]} only: write {met[0]} instead of {{{name}}}"


def _shallow(
    mapping: TensorMapping, spec: Spec, name: str, settings: Sequence[Bindings], scope: Scope, places: set[str]
) -> str:
    """A part that ends before the index does: nothing at all is there from some value on, but the first is."""
    depth = next(n for n, segment in enumerate(spec.name.segments) if _speaks(segment, name))
    start = mapping.indices[name].start
    for bindings in settings:
        here = spec.name.format(bindings)
        if here in scope.members:
            continue
        first = spec.name.format({**bindings, name: start})
        if _head(here, spec, depth) in places or _head(first, spec, depth) not in places:
            return ""
    return f"index {name} has one range for the whole file; give parts of different depth an index each"


def _speaks(segment: Segment, name: str) -> bool:
    return any(name == term for part in segment if isinstance(part, Hole) for _, term in part.terms)


def _head(name: str, spec: Spec, depth: int) -> str:
    """A name up to the segment of that number."""
    return spec.name.separator.join(name.split(spec.name.separator)[: depth + 1])
