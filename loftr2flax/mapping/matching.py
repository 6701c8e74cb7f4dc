"""Finding the rules that claim a name: a trie over segments, so that the cost follows the name and not the rules.

Indices with a fixed list of values are written out when the trie is built; only open ranges are solved at match
time. A name may be claimed by several rules; saying so is the caller's business.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loftr2flax.mapping.names import Hole, IndexValue, NamePattern, Segment
from loftr2flax.mapping.rules import Index

Found = tuple[int, dict[str, IndexValue]]
"""A rule's number, and the index values under which it claims the name."""


@dataclass(slots=True)
class _Node:
    literal: dict[str, list[tuple[dict[str, IndexValue], _Node]]] = field(default_factory=dict)
    open: list[tuple[_OpenSegment, _Node]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _OpenSegment:
    """A segment with numbers of open range in it; ``fixed`` holds its other indices."""

    expression: re.Pattern[str]
    holes: tuple[Hole, ...]
    fixed: tuple[tuple[str, IndexValue], ...]
    starts: tuple[tuple[str, int], ...]

    def solve(self, text: str) -> dict[str, IndexValue] | None:
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
        self._indices = indices
        self._root = _Node()
        for number, pattern in patterns:
            self._insert(self._root, pattern.segments, number)

    def match(self, segments: Sequence[str]) -> list[Found]:
        """Every rule that claims the name with these segments."""
        return list(self._walk(self._root, segments, 0, {}))

    def _walk(self, node: _Node, segments: Sequence[str], depth: int, bound: dict[str, IndexValue]) -> Iterator[Found]:
        if depth == len(segments):
            for number in node.ends:
                yield number, bound
            return
        segment = segments[depth]
        for bindings, child in node.literal.get(segment, ()):
            merged = _merge(bound, bindings)
            if merged is not None:
                yield from self._walk(child, segments, depth + 1, merged)
        for edge, child in node.open:
            solved = edge.solve(segment)
            merged = None if solved is None else _merge(bound, solved)
            if merged is not None:
                yield from self._walk(child, segments, depth + 1, merged)

    def _insert(self, node: _Node, segments: Sequence[Segment], number: int) -> None:
        if not segments:
            node.ends.append(number)
            return
        for child in self._children(node, segments[0]):
            self._insert(child, segments[1:], number)

    def _children(self, node: _Node, segment: Segment) -> Iterator[_Node]:
        names = dict.fromkeys(name for part in segment if isinstance(part, Hole) for _, name in part.terms)
        closed = {name: self._indices[name].values or () for name in names if not self._indices[name].is_open}
        starts = tuple((name, self._indices[name].start) for name in names if self._indices[name].is_open)
        for values in itertools.product(*closed.values()):
            bindings = dict(zip(closed, values, strict=True))
            if not starts:
                text = "".join(part if isinstance(part, str) else part.fill(bindings) for part in segment)
                yield _literal_child(node, text, bindings)
            else:
                yield _open_child(node, segment, tuple(bindings.items()), starts)


def _literal_child(node: _Node, text: str, bindings: dict[str, IndexValue]) -> _Node:
    edges = node.literal.setdefault(text, [])
    for known, child in edges:
        if known == bindings:
            return child
    edges.append((bindings, _Node()))
    return edges[-1][1]


def _open_child(
    node: _Node, segment: Segment, fixed: tuple[tuple[str, IndexValue], ...], starts: tuple[tuple[str, int], ...]
) -> _Node:
    closed = dict(fixed)
    expression, holes = "", []
    for part in segment:
        if isinstance(part, str):
            expression += re.escape(part)
        elif all(name in closed for _, name in part.terms):
            expression += re.escape(part.fill(closed))
        else:
            expression += "(0|[1-9][0-9]{0,8})"
            holes.append(part)
    edge = _OpenSegment(re.compile(expression), tuple(holes), fixed, starts)
    for known, child in node.open:
        if known == edge:
            return child
    node.open.append((edge, _Node()))
    return node.open[-1][1]


def _merge(left: dict[str, IndexValue], right: Mapping[str, IndexValue]) -> dict[str, IndexValue] | None:
    if not right:
        return left
    if any(left.get(name, value) != value for name, value in right.items()):
        return None
    return {**left, **right}
