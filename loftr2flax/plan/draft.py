"""A plan while it is being made: the lines that hold are gone through, and what does not fit is noted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.mapping.axes import WHOLE
from loftr2flax.mapping.names import Bindings, IndexValue
from loftr2flax.mapping.nodes import Faults
from loftr2flax.mapping.rules import Rule, Spec, TensorMapping
from loftr2flax.plan.claims import tell_missing
from loftr2flax.plan.depths import depth_hints
from loftr2flax.plan.links import Linker, cast_of
from loftr2flax.plan.moves import Move
from loftr2flax.plan.presence import Groups, assignments
from loftr2flax.plan.problems import Problems
from loftr2flax.plan.scope import Scope
from loftr2flax.plan.sides import Sides
from loftr2flax.plan.sizes import Sizes, open_in
from loftr2flax.plan.views import shape_of


@dataclass
class Draft:
    """Everything known of one fit; ``run`` fills ``moves`` and ``dropped``.

    ``missing`` holds the names that a line lacks, ``halves`` how many an optional one of them has.
    """

    mapping: TensorMapping
    sides: Sides
    scope: Scope
    groups: Groups
    extents: dict[str, tuple[IndexValue, ...]]
    infos: Mapping[str, LeafInfo]
    dtype: str | None
    choose: Mapping[str, IndexValue]
    moves: list[Move] = field(default_factory=list)
    dropped: dict[str, Rule] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    told_by: dict[str, str] = field(default_factory=dict)
    missing: dict[int, list[str]] = field(default_factory=dict)
    halves: dict[int, int] = field(default_factory=dict)

    def run(self, faults: Faults) -> None:
        """Goes through the lines that hold."""
        self._read_open_sizes()
        linker = Linker(
            self.mapping, self.sides, self.scope.members, self.infos, self.extents, self.told_by, self.choose,
            self.dtype, self.problems,
        )  # fmt: skip
        for number, rule in enumerate(self.mapping.rules):
            here, there = self.sides.input(rule), self.sides.output(rule)
            if not self.groups.active(rule):
                continue
            if here and there:
                self._link(linker, number, rule, here, there)
            elif here:
                self._drop(number, rule, here)
            elif there and rule.constant:
                self._constant(rule, there)
        self.problems.tell(faults)
        lacking = {n: spec for n in self.missing if (spec := self.sides.input(self.mapping.rules[n]))}
        hints = depth_hints(self.mapping, self.scope, self.extents, lacking)
        tell_missing(self.mapping, self.scope, self.groups, self.missing, self.halves, hints, self.sides, faults)

    def _read_open_sizes(self) -> None:
        """Indices of open range that stand in brackets on the input side: the shapes tell how far they run."""
        wanted: dict[int, tuple[Spec, list[str]]] = {}
        for number, rule in enumerate(self.mapping.rules):
            spec = self.sides.input(rule)
            if spec and self.groups.active(rule) and (unknown := open_in(spec.layout, self.mapping.indices)):
                wanted[number] = spec, unknown
        for canonical, found in self.scope.claims.items() if wanted else ():
            for number, bindings in found:
                if number in wanted:
                    self._open_sizes(self.mapping.rules[number], *wanted[number], canonical, bindings)

    def _open_sizes(self, rule: Rule, spec: Spec, unknown: list[str], canonical: str, bindings: Bindings) -> None:
        leaf = self.scope.members[canonical]
        sizes = Sizes.of(self.mapping, rule, self.extents, self.told_by)
        sizes.solve([(leaf, spec.layout, self.infos[leaf].shape, bindings)])
        for name in unknown:
            if name in sizes.known and name not in self.extents and not sizes.problems:
                start = self.mapping.indices[name].start
                self.extents[name] = tuple(range(start, start + sizes.known[name]))
                self.told_by[name] = leaf

    def _link(self, linker: Linker, number: int, rule: Rule, here: Spec, there: Spec) -> None:
        if self._nowhere(number, rule, here):
            return
        wanted, lacking = 0, list[str]()
        for component in linker.components(linker.recipe(rule, here, there)):
            wanted += len(component.inputs)
            lacking += component.missing
            if not component.missing:
                self.moves += linker.moves(component)
        self._lack(number, rule, lacking, wanted)

    def _lack(self, number: int, rule: Rule, lacking: list[str], wanted: int) -> None:
        """Notes what a line lacks; an optional one is there for every setting of its indices, or for none."""
        if not lacking or (rule.optional and len(lacking) == wanted):
            return
        self.missing[number] = lacking
        if rule.optional:
            self.halves[number] = wanted - len(lacking)

    def _nowhere(self, number: int, rule: Rule, here: Spec) -> bool:
        """Whether an open index of the line's names was found nowhere; then at least its first leaf is missing."""
        unknown = [name for name in here.name.indices if name not in self.extents]
        if unknown and not rule.optional:
            starts = {name: (self.mapping.indices[name].start,) for name in unknown}
            first = next(assignments(here.name.indices, {**self.extents, **starts}), None)
            if first is not None:
                self.missing.setdefault(number, []).append(here.name.format(first))
        return bool(unknown)

    def _drop(self, number: int, rule: Rule, here: Spec) -> None:
        if self._nowhere(number, rule, here):
            return
        wanted, lacking = 0, list[str]()
        for bindings in assignments(here.name.indices, self.extents):
            wanted += 1
            name = here.name.format(bindings)
            leaf = self.scope.members.get(name)
            if leaf is None:
                lacking.append(name)
                continue
            self.dropped[leaf] = rule
            self._check_dropped(rule, here, leaf, bindings)
        self._lack(number, rule, lacking, wanted)

    def _check_dropped(self, rule: Rule, here: Spec, leaf: str, bindings: Bindings) -> None:
        """A dropped leaf that is to come back has the shape that the line gives it."""
        if here.layout == WHOLE or rule.constant is None:
            return
        sizes = Sizes.of(self.mapping, rule, self.extents, self.told_by)
        sizes.solve([(leaf, here.layout, self.infos[leaf].shape, bindings)])
        for problem in sizes.problems:
            self.problems.add(rule, problem)

    def _constant(self, rule: Rule, there: Spec) -> None:
        assert rule.constant
        sizes = Sizes.of(self.mapping, rule, self.extents, self.told_by)
        dtype = cast_of(rule.constant.dtype, self.dtype)
        for bindings in assignments(there.name.indices, self.extents):
            info = LeafInfo(shape_of(there.layout, sizes, bindings), dtype)
            self.moves.append(Move(there.name.format(bindings), info, (), rule.constant, (), rule, dtype))
