"""Solving the sizes of axes: each axis of each leaf says that a product of atoms equals a number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loftr2flax.mapping.axes import ELLIPSIS, Axis, Layout
from loftr2flax.mapping.names import Bindings, IndexValue
from loftr2flax.mapping.rules import Index, Rule, TensorMapping
from loftr2flax.plan.problems import Problem

_Equation = tuple[str, Axis, int, Bindings]
"""An axis of a leaf, its size, and the values of the indices in the leaf's name."""


class Ragged(NamedTuple):
    """The tables of one rule's ragged axes: ``sizes[axis][value of over[axis]]``."""

    over: Mapping[str, str]
    tables: Mapping[str, Mapping[IndexValue, int]]

    def size(self, axis: str, bindings: Bindings) -> int:
        """The size of a ragged axis where its index has one value."""
        return self.tables[axis][bindings[self.over[axis]]]


def ragged_of(mapping: TensorMapping, rule: Rule) -> Ragged:
    """The ragged axes of a rule that has passed the mapping's own checks."""
    over = mapping.ragged(rule)
    return Ragged(over, {axis: mapping.sizes[axis].table or {} for axis in over})


@dataclass
class Sizes:
    """Sizes found so far, with the leaf that each was read from, and what went wrong."""

    ragged: Ragged
    extents: Mapping[str, Sequence[IndexValue]]
    indices: Collection[str] = ()
    known: dict[str, int] = field(default_factory=dict)
    rest: tuple[int, ...] | None = None
    origin: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(
        cls, mapping: TensorMapping, rule: Rule, extents: Mapping[str, Sequence[IndexValue]], told_by: Mapping[str, str]
    ) -> Sizes:
        """The sizes that a rule starts from: those under ``let``, and the lengths of its indices.

        ``told_by`` names the leaf whose shape told how far an index runs.
        """
        sizes = cls(ragged_of(mapping, rule), extents, mapping.indices)
        for name in rule.spans:
            size = mapping.sizes.get(name)
            if size is not None and size.number is not None:
                sizes.known[name] = size.number
            elif name in extents:
                sizes.known[name] = len(extents[name])
                if name in told_by:
                    sizes.origin[name] = told_by[name]
        return sizes

    def solve(self, leaves: Sequence[tuple[str, Layout, tuple[int, ...], Bindings]]) -> None:
        """Reads what the shapes of some leaves of one rule say; ``problems`` then holds what is wrong."""
        equations = [e for leaf, layout, shape, bound in leaves for e in self._equations(leaf, layout, shape, bound)]
        while equations and not self.problems:
            waiting = [equation for equation in equations if not self._settle(*equation)]
            if len(waiting) == len(equations):
                self._underdetermined(*waiting[0][:3])
            equations = waiting

    def block(self, axis: Axis, bindings: Bindings) -> int:
        """The size of a merged axis where the indices have these values; an index that leads a ragged one counts 1."""
        leader = self.leader(axis)
        return math.prod(self.atom(atom.name, bindings) for atom in axis if atom.name != leader)

    def leader(self, axis: Axis) -> str | None:
        """The index at the head of a merged axis that a ragged atom of the axis depends on."""
        if not self.ragged.over or not axis:
            return None
        over = {self.ragged.over[atom.name] for atom in axis if atom.name in self.ragged.over}
        return axis[0].name if axis[0].name in over else None

    def atom(self, name: str, bindings: Bindings) -> int:
        """The size of one atom."""
        return self.ragged.size(name, bindings) if name in self.ragged.over else self.known[name]

    def _equations(self, leaf: str, layout: Layout, shape: tuple[int, ...], bound: Bindings) -> list[_Equation]:
        axes, sizes = list(layout.axes), list(shape)
        spread = next((n for n, axis in enumerate(axes) if axis and axis[0].name == ELLIPSIS), None)
        wrong = len(sizes) < len(axes) - 1 if spread is not None else len(sizes) != len(axes)
        if wrong:
            self.problems.append(Problem(f"{{0}} has {_axes(len(sizes))} {shape}, the line says {layout}", (leaf,)))
            return []
        if spread is not None:
            width = len(sizes) - len(axes) + 1
            window = tuple(sizes[spread : spread + width])
            if self.rest is None:
                self.rest, self.origin[ELLIPSIS] = window, leaf
            elif self.rest != window:
                text = f"'...' is {window} in {{0}} and {self.rest} in {{1}}"
                self.problems.append(Problem(text, (leaf, self.origin[ELLIPSIS])))
            del axes[spread], sizes[spread : spread + width]
        return [(leaf, axis, size, bound) for axis, size in zip(axes, sizes, strict=True)]

    def _settle(self, leaf: str, axis: Axis, size: int, bound: Bindings) -> bool:
        """Checks an equation, or solves its one unknown; False when there are more."""
        unknown = [a for a in axis if a.name not in self.known and a.name not in self.ragged.over]
        leader = self.leader(axis)
        fixed = [a.name for a in axis if a not in unknown and a.name != leader]
        if leader:
            factor = sum(math.prod(self.atom(n, {**bound, leader: v}) for n in fixed) for v in self.extents[leader])
        else:
            factor = math.prod(self.atom(name, bound) for name in fixed)
        if not unknown:
            if factor != size:
                self._disagree(leaf, axis, size, factor)
            return True
        if len(unknown) > 1:
            return False
        value, remainder = divmod(size, factor) if factor else (0, size)
        if remainder:
            text = f"axis {unknown[0].label} of {{0}} is not whole: {size} is no multiple of {factor}"
            self.problems.append(Problem(text, (leaf,)))
        self.known[unknown[0].name], self.origin[unknown[0].name] = value, leaf
        return True

    def _disagree(self, leaf: str, axis: Axis, size: int, expected: int) -> None:
        label = " × ".join(a.label for a in axis) or "1"
        where = sorted({self.origin[a.name] for a in axis if a.name in self.origin} - {leaf})
        if where:
            problem = Problem(f"axis {label} is {size} in {{0}} and {expected} in {{1}}", (leaf, where[0]))
        else:
            problem = Problem(f"axis {label} is {size} in {{0}} and {expected} by the mapping", (leaf,))
        self.problems.append(problem)

    def _underdetermined(self, leaf: str, axis: Axis, size: int) -> None:
        unknown = [a for a in axis if a.name not in self.known and a.name not in self.ragged.over]
        one = next((a for a in unknown if a.name not in self.indices), unknown[0])
        hint = f"give it: `let: {{{one.label}: …}}`"
        if one.name in self.indices:
            hint = f"give index {one.label} an end: `0..7`"
        product = " × ".join(a.label for a in axis)
        self.problems.append(
            Problem(f"{size} = {product} of {{0}} does not tell the size of {one.label}", (leaf,), hint)
        )


def open_in(layout: Layout, indices: Mapping[str, Index]) -> list[str]:
    """The indices of open range among a layout's axes; the shape tells how many values they have."""
    return [name for name in layout.names if name in indices and indices[name].is_open]


def _axes(count: int) -> str:
    return "one axis" if count == 1 else f"{count} axes" if count else "no axes"
