"""Finding the rules that claim a name: a trie over segments, so that the cost follows the name and not the rules.

Indices with a fixed list of values are written out when the trie is built; only open ranges are solved at match
time. A name may be claimed by several rules; saying so is the caller's business.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from loftr2flax.mapping.names import Bindings, Hole, IndexValue, NamePattern, Segment
from loftr2flax.mapping.rules import Index, TensorMapping

Found = tuple[int, Bindings]
"""A rule's number, and the index values under which it claims the name."""


@dataclass(slots=True)
class _Node:
    literal: dict[str, list[tuple[Bindings, _Node]]] = field(default_factory=dict)
    open: list[tuple[_OpenSegment, _Node]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


class _OpenSegment(NamedTuple):
    """A segment with numbers of open range in it; ``fixed`` holds its other indices."""

    expression: re.Pattern[str]
    holes: tuple[Hole, ...]
    fixed: tuple[tuple[str, IndexValue], ...]
    starts: tuple[tuple[str, int], ...]

    def solve(self, text: str) -> Bindings | None:
        found = self.expression.fullmatch(text)
        if not found:
            return None
        bindings = dict(self.fixed)
        starts = dict(self.starts)
        for hole, digits in zip(self.holes, found.groups(), strict=True):
            rest = int(digits) - hole.constant
            unknown = []
            for coefficient, name in hole.terms:
                if name in bindings:
                    rest -= coefficient * int(bindings[name])
                else:
                    unknown.append((coefficient, name))
            if not unknown:
                if rest:
                    return None
                continue
            [(coefficient, name)] = unknown
            value, remainder = divmod(rest, coefficient)
            if remainder or value < starts[name]:
                return None
            bindings[name] = value
        return bindings


class Matcher:
    """Answers which of some numbered patterns a name matches whole."""

    def __init__(self, patterns: Iterable[tuple[int, NamePattern]], indices: Mapping[str, Index]) -> None:
        self._root = _Node()
        for number, pattern in patterns:
            nodes = [self._root]
            for segment in pattern.segments:
                edges = list(_edges(segment, indices))
                nodes = [_child(node, edge) for node in nodes for edge in edges]
            for node in nodes:
                node.ends.append(number)

    def match(self, segments: Sequence[str], start: int = 0) -> list[Found]:
        """Every rule that claims the name with these segments, from ``start`` on."""
        if segments[start] not in self._root.literal and not self._root.open:
            return []  # most names begin otherwise
        states: list[tuple[_Node, Bindings]] = [(self._root, {})]
        for depth in range(start, len(segments)):
            segment = segments[depth]
            following: list[tuple[_Node, Bindings]] = []
            for node, bound in states:
                for bindings, child in node.literal.get(segment, ()):
                    if (merged := _merge(bound, bindings)) is not None:
                        following.append((child, merged))
                for edge, child in node.open:
                    solved = edge.solve(segment)
                    if solved is not None and (merged := _merge(bound, solved)) is not None:
                        following.append((child, merged))
            if not following:
                return []
            states = following
        return [(number, bound) for node, bound in states for number in node.ends]


@functools.lru_cache(maxsize=32)
def matcher_of(mapping: TensorMapping, side: Literal["source", "target"]) -> Matcher:
    """The matcher of all rules' names on one side; made once for each mapping."""
    specs = ((number, getattr(rule, side)) for number, rule in enumerate(mapping.rules))
    return Matcher(((number, spec.name) for number, spec in specs if spec is not None), mapping.indices)


_Edge = tuple[str, Bindings] | _OpenSegment
"""One way in which a segment can be written: a text with the indices' values, or numbers to be solved."""


def _edges(segment: Segment, indices: Mapping[str, Index]) -> Iterator[_Edge]:
    names = dict.fromkeys(name for part in segment if isinstance(part, Hole) for _, name in part.terms)
    closed = {name: indices[name].values or () for name in names if not indices[name].is_open}
    starts = tuple((name, indices[name].start) for name in names if indices[name].is_open)
    for values in itertools.product(*closed.values()):
        bindings = dict(zip(closed, values, strict=True))
        if starts:
            yield _open_edge(segment, bindings, starts)
        else:
            yield "".join(part if isinstance(part, str) else part.fill(bindings) for part in segment), bindings


def _open_edge(segment: Segment, closed: Bindings, starts: tuple[tuple[str, int], ...]) -> _OpenSegment:
    expression, holes = "", []
    for part in segment:
        if isinstance(part, str):
            expression += re.escape(part)
        elif all(name in closed for _, name in part.terms):
            expression += re.escape(part.fill(closed))
        else:
            expression += "(0|[1-9][0-9]{0,8})"
            holes.append(part)
    return _OpenSegment(re.compile(expression), tuple(holes), tuple(closed.items()), starts)


def _child(node: _Node, edge: _Edge) -> _Node:
    """The node that an edge leads to, made if it is not there."""
    if isinstance(edge, _OpenSegment):
        for known, child in node.open:
            if known == edge:
                return child
        node.open.append((edge, _Node()))
        return node.open[-1][1]
    text, bindings = edge
    edges = node.literal.setdefault(text, [])
    for met, child in edges:
        if met == bindings:
            return child
    edges.append((bindings, _Node()))
    return edges[-1][1]


def _merge(left: Bindings, right: Bindings) -> Bindings | None:
    """Both, or None if they disagree. Bindings are never changed, so either may be handed on."""
    if not right:
        return left
    if not left:
        return right
    if any(left.get(name, value) != value for name, value in right.items()):
        return None
    return {**left, **right}
