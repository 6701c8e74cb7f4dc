"""A mapping and a checkpoint's headers become a plan, or a list of everything that does not fit. No tensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import Fault, MappingMismatch, Place, UsageError
from loftr2flax.folding import fold, fold_line
from loftr2flax.mapping.matching import Matcher
from loftr2flax.mapping.names import Bindings, IndexValue, natural
from loftr2flax.mapping.nodes import Faults, nearest
from loftr2flax.mapping.rules import Direction, Rule, Spec, TensorMapping
from loftr2flax.plan.links import Linker, Sides
from loftr2flax.plan.moves import Move, Plan
from loftr2flax.plan.presence import Groups, assignments, find_extents, find_groups
from loftr2flax.plan.scope import Names, Scope, find_scope
from loftr2flax.plan.sizes import Sizes, open_in, sizes_of


@dataclass(frozen=True)
class Wishes:
    """What a user, or an output's own provenance, may say about a plan.

    Attributes:
      prefix: where the mapping's names begin in the input (forward), or what to put before them (reverse).
      dtype: the element type for floating-point leaves, or None to keep each as it is.
      choose: for a tied index, the one value whose copy is taken, instead of demanding that all are equal.
      groups: groups that the output of an earlier conversion holds, as `Plan.present` lists them.
    """

    prefix: str | None = None
    dtype: str | None = None
    choose: Mapping[str, IndexValue] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


def build_plan(
    mapping: TensorMapping,
    infos: Mapping[str, LeafInfo],
    direction: Direction = "forward",
    wishes: Wishes | None = None,
    path: str = "checkpoint",
) -> Plan:
    """Fits a mapping to a checkpoint.

    Args:
      mapping: the mapping.
      infos: the input's headers by name, in its own order.
      direction: "forward" (PyTorch to Flax) or "reverse".
      wishes: what the user asks for beyond the mapping.
      path: the input's name, for messages.

    Raises:
      MappingMismatch: with every fault, each at its place in the mapping file.
      PrefixNotFound: nothing stands under ``wishes.prefix``.
      UsageError: ``wishes`` cannot be meant.
    """
    wishes = wishes or Wishes()
    _check_wishes(mapping, wishes)
    sides = Sides.of(direction)
    specs = [(n, spec) for n, rule in enumerate(mapping.rules) if (spec := sides.input(rule))]
    matcher = Matcher(((n, spec.name) for n, spec in specs), mapping.indices)
    forward = direction == "forward"
    names = Names.split(infos, sides.separator, mapping.aliases if forward else {})
    prefix = wishes.prefix if forward else None
    scope = find_scope(names, matcher, mapping.at if forward else (), prefix, path)
    faults = Faults()
    for one, other in scope.clashes:
        faults.add(None, f"{one} and {other} are one name once the aliases are applied")
    groups = find_groups(mapping, scope, sides.input_name, wishes.groups, faults)
    extents = find_extents(mapping, scope, groups, faults)
    _check_claims(mapping, scope, groups, faults)
    draft = _Draft(mapping, sides, scope, groups, extents, infos, wishes, faults)
    draft.read_open_sizes()
    draft.run()
    _check_outputs(draft.moves, sides, faults)
    if faults.found:
        raise _mismatch(mapping, path, faults)
    return Plan(
        mapping,
        direction,
        sides.separator.join(scope.root),
        tuple(_ordered(draft.moves, infos, forward)),
        draft.dropped,
        scope.outside,
        groups.present,
        groups.absent,
        {canonical: spelled for canonical, spelled in _spelling(scope, sides) if canonical != spelled},
    )


@dataclass
class _Draft:
    """A plan while it is being made."""

    mapping: TensorMapping
    sides: Sides
    scope: Scope
    groups: Groups
    extents: dict[str, tuple[IndexValue, ...]]
    infos: Mapping[str, LeafInfo]
    wishes: Wishes
    faults: Faults
    moves: list[Move] = field(default_factory=list)
    dropped: dict[str, Rule] = field(default_factory=dict)
    missing: dict[tuple[Place, str], list[str]] = field(default_factory=dict)

    def run(self) -> None:
        linker = Linker(self.mapping, self.sides, self.scope.members, self.infos, self.extents, self.wishes.choose)
        for rule in self.mapping.rules:
            if not self.groups.active(rule):
                continue
            if rule.is_link:
                self._link(linker, rule)
            elif spec := self.sides.input(rule):
                self._drop(rule, spec)
            elif (spec := self.sides.output(rule)) and rule.constant:
                self._constant(rule, spec)
        self._tell_missing()

    def read_open_sizes(self) -> None:
        """Indices of open range that stand in brackets on the input side: the shapes tell how far they run."""
        for number, rule in enumerate(self.mapping.rules):
            spec = self.sides.input(rule)
            unknown = open_in(spec.layout, self.mapping.indices) if spec and rule.is_link else []
            if not unknown or spec is None or not self.groups.active(rule):
                continue
            for canonical, found in self.scope.claims.items():
                for bindings in (b for n, b in found if n == number):
                    self._open_sizes(rule, spec, canonical, bindings, unknown)

    def _open_sizes(self, rule: Rule, spec: Spec, canonical: str, bindings: Bindings, unknown: list[str]) -> None:
        leaf = self.scope.members[canonical]
        sizes = sizes_of(self.mapping, rule, self.extents)
        sizes.solve([(leaf, spec.layout, self.infos[leaf].shape, bindings)])
        if sizes.problems:
            self._problems(rule, sizes, canonical)
        for name in (n for n in unknown if n in sizes.known and n not in self.extents):
            start = self.mapping.indices[name].start
            self.extents[name] = tuple(range(start, start + sizes.known[name]))

    def _link(self, linker: Linker, rule: Rule) -> None:
        missing: list[str] = []
        for component in linker.components(rule):
            if not component.present:
                missing += [] if rule.optional else component.missing
                continue
            missing += component.missing
            if component.missing:
                continue
            moves = linker.moves(component, self.wishes.dtype)
            if component.sizes.problems:
                self._problems(rule, component.sizes, component.inputs[0])
            self.moves += moves
        self._missing(rule, missing)

    def _drop(self, rule: Rule, spec: Spec) -> None:
        names = [spec.name.format(bindings) for bindings in assignments(spec.name.indices, self.extents)]
        self.dropped |= {self.scope.members[name]: rule for name in names if name in self.scope.members}
        if not rule.optional:
            self._missing(rule, [name for name in names if name not in self.scope.members])

    def _constant(self, rule: Rule, spec: Spec) -> None:
        assert rule.constant
        for bindings in assignments(spec.name.indices, self.extents):
            sizes = sizes_of(self.mapping, rule, self.extents)
            shape = tuple(sizes.known[name] for name in spec.layout.names)
            info = LeafInfo(shape, rule.constant.dtype)
            self.moves.append(Move(spec.name.format(bindings), info, (), rule.constant, (), rule, info.dtype))

    def _missing(self, rule: Rule, names: list[str]) -> None:
        if names:
            self.missing.setdefault((rule.place, rule.line), []).extend(names)

    def _tell_missing(self) -> None:
        """One fault for each line, whatever the number of its leaves that are missing."""
        left = [n for n, found in self.scope.claims.items() if not any(self.groups.active(self.mapping.rules[k]) for k, _ in found)]
        what = "tensor" if self.sides.separator == "." else "leaf"
        for (place, line), names in self.missing.items():
            self.faults.add(place, f"missing {what} {fold_line(names)}, named by {line!r}", nearest(names[0], left))

    def _problems(self, rule: Rule, sizes: Sizes, leaf: str) -> None:
        known = {(f.place, _kind_of(f.message)) for f in self.faults.found}
        for message, hint in sizes.problems:
            if (rule.place, _kind_of(message)) not in known:
                self.faults.add(rule.place, f"{message}, in {rule.line!r}", hint)


def _kind_of(message: str) -> str:
    """What a size fault is about, without the leaf: the same fault in eight layers is told once."""
    words = [word for word in message.split(", in ")[0].split() if not any(c.isdigit() for c in word)]
    return " ".join(word for word in words if "." not in word and "/" not in word)


def _check_wishes(mapping: TensorMapping, wishes: Wishes) -> None:
    if wishes.dtype is not None and wishes.dtype not in dtypes.FLOATING:
        hint = nearest(wishes.dtype, dtypes.FLOATING) or f"one of {', '.join(dtypes.FLOATING)}"
        raise UsageError(f"--dtype {wishes.dtype}: not a floating-point type", hint)
    for name, value in wishes.choose.items():
        index = mapping.indices.get(name)
        if index is None or not index.tied:
            tied = [i.name for i in mapping.indices.values() if i.tied]
            hint = f"{mapping.name} ties {', '.join(tied)}" if tied else f"{mapping.name} ties nothing"
            raise UsageError(f"--choose {name}={value}: {name} is no tied index", hint)
        if index.values is not None and value not in index.values:
            raise UsageError(f"--choose {name}={value}: no such value", f"{name} is one of {', '.join(map(str, index.values))}")


def _check_claims(mapping: TensorMapping, scope: Scope, groups: Groups, faults: Faults) -> None:
    left: list[str] = []
    for name, found in scope.claims.items():
        rules = list(dict.fromkeys(n for n, _ in found if groups.active(mapping.rules[n])))
        if not rules:
            left.append(name)
        elif len(rules) > 1:
            first, second = (mapping.rules[n] for n in rules[:2])
            faults.add(second.place, f"{name} is claimed here and at line {first.place.line}: {first.line!r}")
    known = {str(spec.name): rule for rule in mapping.rules for spec in (rule.source, rule.target) if spec}
    for label, names in list(fold(left).items())[:20]:
        close = nearest(names[0], known).removeprefix("did you mean ").rstrip("?")
        hint = f"the nearest line is {close}" if close else "claim it with a line, or put it under `drop:`"
        faults.add(None, f"left over: {label}" + (f" ({len(names)} tensors)" if len(names) > 1 else ""), hint)
    if len(fold(left)) > 20:
        faults.add(None, f"left over: {len(left)} tensors in all")


def _check_outputs(moves: list[Move], sides: Sides, faults: Faults) -> None:
    first: dict[str, Move] = {}
    for move in moves:
        if move.leaf in first:
            line = first[move.leaf].rule.place.line
            faults.add(move.rule.place, f"{move.leaf} is written here and at line {line}: {first[move.leaf].rule.line!r}")
        first.setdefault(move.leaf, move)
    if sides.separator == ".":  # a tree is being written, and a leaf cannot be a branch too
        for leaf, move in first.items():
            for end in (n for n, c in enumerate(leaf) if c == "/"):
                if leaf[:end] in first:
                    faults.add(move.rule.place, f"{leaf[:end]} is a leaf, and a branch of {leaf} too")


def _mismatch(mapping: TensorMapping, path: str, faults: Faults) -> MappingMismatch:
    unique: list[Fault] = list(dict.fromkeys(faults.found))
    count = "one fault" if len(unique) == 1 else f"{len(unique)} faults"
    hint = "`loftr2flax inspect` shows what the file holds, `mapping explain KEY` what a line does"
    return MappingMismatch(f"{path}: {mapping.name} does not fit, {count}\n" + "\n".join(f"  {f}" for f in unique), hint, unique)


def _ordered(moves: list[Move], infos: Mapping[str, LeafInfo], forward: bool) -> list[Move]:
    """Forward: as the inputs lie, so that a file is read from front to back. Reverse: by module, natural order."""
    if forward:
        position = {name: n for n, name in enumerate(infos)}
        return sorted(moves, key=lambda m: min((position[i] for i in m.inputs), default=len(position)))
    number = {id(move): n for n, move in enumerate(moves)}
    return sorted(moves, key=lambda m: (natural(m.leaf.rpartition(".")[0]), number[id(m)]))


def _spelling(scope: Scope, sides: Sides) -> list[tuple[str, str]]:
    depth = len(scope.root)
    return [(c, sides.separator.join(s.split(sides.separator)[depth:])) for c, s in scope.members.items()]
