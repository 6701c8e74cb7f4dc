"""From lines that join two names to moves: every assignment of a line's indices is one piece of one output leaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.mapping.names import Bindings, IndexValue
from loftr2flax.mapping.rules import Direction, Rule, Spec, TensorMapping
from loftr2flax.plan.moves import Move, Piece
from loftr2flax.plan.presence import assignments
from loftr2flax.plan.sizes import Sizes, sizes_of
from loftr2flax.plan.views import blind_pairs, piece_of, shape_of


@dataclass(frozen=True, slots=True)
class Sides:
    """Which side of a line is read and which is written; the one place where a direction is turned into sides."""

    input_name: str
    output_name: str
    separator: str

    @classmethod
    def of(cls, direction: Direction) -> Sides:
        """The sides of a direction; ``separator`` is the input's."""
        return cls("source", "target", ".") if direction == "forward" else cls("target", "source", "/")

    def input(self, rule: Rule) -> Spec | None:
        """What the rule reads."""
        spec: Spec | None = getattr(rule, self.input_name)
        return spec

    def output(self, rule: Rule) -> Spec | None:
        """What the rule writes."""
        spec: Spec | None = getattr(rule, self.output_name)
        return spec


@dataclass(frozen=True)
class Component:
    """The leaves that one setting of the indices common to both names ties together."""

    rule: Rule
    shared: Bindings
    inputs: tuple[str, ...]
    missing: list[str]
    sizes: Sizes

    @property
    def present(self) -> bool:
        """Whether any of its inputs is there."""
        return len(self.missing) < len(self.inputs)


@dataclass(frozen=True)
class Linker:
    """Takes a mapping's lines apart for one checkpoint.

    ``members`` leads from canonical names to the file's own, ``choose`` picks one copy of a tied index.
    """

    mapping: TensorMapping
    sides: Sides
    members: Mapping[str, str]
    infos: Mapping[str, LeafInfo]
    extents: Mapping[str, Sequence[IndexValue]]
    choose: Mapping[str, IndexValue]

    def components(self, rule: Rule) -> Iterator[Component]:
        """One component for each setting of the common indices."""
        here, there = self._specs(rule)
        common = [name for name in here.name.indices if name in there.name.indices]
        own = [name for name in here.name.indices if name not in common]
        for shared in assignments(common, self.extents):
            names = [here.name.format({**shared, **rest}) for rest in assignments(own, self.extents)]
            missing = [name for name in names if name not in self.members]
            yield Component(rule, shared, tuple(names), missing, sizes_of(self.mapping, rule, self.extents))

    def moves(self, component: Component, dtype: str | None) -> list[Move]:
        """The outputs of a component; none if ``component.sizes.problems`` says why there cannot be any."""
        rule, sizes = component.rule, component.sizes
        here, there = self._specs(rule)
        own = [name for name in here.name.indices if name not in component.shared]
        sizes.solve(
            [
                (leaf, here.layout, self.infos[leaf].shape, {**component.shared, **rest})
                for rest in assignments(own, self.extents)
                for leaf in [self.members[here.name.format({**component.shared, **rest})]]
            ]
        )
        self._check_stored(component)
        if sizes.problems:
            return []
        makings: dict[str, _Making] = {}
        tied = [name for name in own if name not in there.layout.names]
        for bindings in assignments(rule.indices, {**self.extents, **{n: [v] for n, v in component.shared.items()}}):
            if any(name in self.choose and bindings[name] != self.choose[name] for name in tied):
                continue
            leaf = there.name.format(bindings)
            making = makings.setdefault(leaf, _Making(bindings, {}, []))
            slot = tuple(value for name, value in bindings.items() if name not in tied)
            source = self.members[here.name.format(bindings)]
            if slot in making.pieces:
                making.copies.append((making.pieces[slot].leaf, source))
            else:
                making.pieces[slot] = self._piece(rule, source, sizes, bindings)
        return [self._move(component, leaf, making, dtype) for leaf, making in makings.items()]

    def _move(self, component: Component, leaf: str, making: _Making, dtype: str | None) -> Move:
        here, there = self._specs(component.rule)
        stored = self.infos[next(iter(making.pieces.values())).leaf].dtype
        info = LeafInfo(shape_of(there.layout, component.sizes, making.bindings), cast_of(stored, dtype))
        blind = blind_pairs(here.layout, there.layout, component.sizes, making.bindings)
        pieces = tuple(making.pieces.values())
        return Move(leaf, info, pieces, None, tuple(making.copies), component.rule, stored, blind)

    def _piece(self, rule: Rule, leaf: str, sizes: Sizes, bindings: Bindings) -> Piece:
        here, there = self._specs(rule)
        chosen = set(there.name.indices), set(here.name.indices)
        return piece_of(leaf, here.layout, there.layout, sizes, bindings, chosen)

    def _check_stored(self, component: Component) -> None:
        kinds = {self.infos[self.members[name]].dtype: self.members[name] for name in component.inputs}
        if len(kinds) > 1:
            (one, leaf), (other, second) = list(kinds.items())[:2]
            component.sizes.problems.append((f"{leaf} is {one} and {second} is {other}, and they make one leaf", ""))

    def _specs(self, rule: Rule) -> tuple[Spec, Spec]:
        here, there = self.sides.input(rule), self.sides.output(rule)
        assert here is not None
        assert there is not None
        return here, there


@dataclass
class _Making:
    """An output leaf while its pieces are found."""

    bindings: Bindings
    pieces: dict[tuple[IndexValue, ...], Piece]
    copies: list[tuple[str, str]]


def cast_of(stored: str, wanted: str | None) -> str:
    """The output's dtype: floating-point leaves take the one asked for, all others stay."""
    return wanted if wanted is not None and stored in dtypes.FLOATING else stored
