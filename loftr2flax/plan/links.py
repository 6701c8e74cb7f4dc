"""From lines that join two names to moves: every assignment of a line's indices is one piece of one output leaf."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import Place
from loftr2flax.mapping.axes import Layout
from loftr2flax.mapping.names import Bindings, IndexValue
from loftr2flax.mapping.rules import Rule, Spec, TensorMapping
from loftr2flax.plan.moves import Move, Piece
from loftr2flax.plan.presence import assignments
from loftr2flax.plan.problems import Problem, Problems
from loftr2flax.plan.recipe import Fit, Fits, Recipe
from loftr2flax.plan.sides import Sides
from loftr2flax.plan.sizes import Sizes
from loftr2flax.plan.views import blind_spots, piece_of, shape_of


class Component(NamedTuple):
    """The leaves that one setting of the indices common to both names ties together."""

    recipe: Recipe
    shared: Bindings
    inputs: tuple[str, ...]
    missing: list[str]


@dataclass
class _Making:
    """An output leaf while its pieces are found."""

    bindings: Bindings
    pieces: dict[tuple[IndexValue, ...], Piece] = field(default_factory=dict)
    copies: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Linker:
    """Takes a mapping's lines apart for one checkpoint.

    ``members`` leads from canonical names to the file's own, ``choose`` picks one copy of a tied index, ``told_by``
    names the leaf whose shape told how far an index runs.
    """

    mapping: TensorMapping
    sides: Sides
    members: Mapping[str, str]
    infos: Mapping[str, LeafInfo]
    extents: Mapping[str, Sequence[IndexValue]]
    told_by: Mapping[str, str]
    choose: Mapping[str, IndexValue]
    dtype: str | None
    problems: Problems
    _fits: dict[tuple[Layout, Layout], Fits] = field(default_factory=dict)
    _modules: dict[tuple[Place, tuple[IndexValue, ...], str], tuple[int, str]] = field(default_factory=dict)

    def recipe(self, rule: Rule, here: Spec, there: Spec) -> Recipe:
        """What holds for all leaves of a line."""
        start = Sizes.of(self.mapping, rule, self.extents, self.told_by)
        fits = {} if start.known else self._fits.setdefault((here.layout, there.layout), {})
        return Recipe.of(rule, here, there, start, fits)

    def components(self, recipe: Recipe) -> Iterator[Component]:
        """One component for each setting of the common indices."""
        name = recipe.here.name
        rests = list(assignments(recipe.own, self.extents))
        for shared in assignments(recipe.common, self.extents):
            inputs = tuple(name.format({**shared, **rest}) for rest in rests)
            yield Component(recipe, shared, inputs, [name for name in inputs if name not in self.members])

    def moves(self, component: Component) -> list[Move]:
        """The outputs of a component whose inputs are all there; none if its headers disagree, which is noted."""
        recipe = component.recipe
        fit = self._fit(component)
        if fit is None:
            return []
        makings: dict[str, _Making] = {}
        own = itertools.product(*(self.extents[name] for name in recipe.own))
        sources = {setting: self.members[name] for setting, name in zip(own, component.inputs, strict=True)}
        fixed = {name: (value,) for name, value in component.shared.items()}
        one = recipe.names == recipe.common
        for bindings in (component.shared,) if one else assignments(recipe.names, {**self.extents, **fixed}):
            if self.choose and any(name in self.choose and bindings[name] != self.choose[name] for name in recipe.tied):
                continue
            making = makings.setdefault(recipe.there.name.format(bindings), _Making(bindings))
            slot = tuple(value for name, value in bindings.items() if name not in recipe.tied)
            source = sources[tuple(bindings[name] for name in recipe.own)]
            if slot in making.pieces:
                making.copies.append((making.pieces[slot].leaf, source))
            else:
                making.pieces[slot] = _piece(recipe, fit, source, bindings)
        return [self._move(recipe, fit, leaf, making) for leaf, making in makings.items()]

    def _move(self, recipe: Recipe, fit: Fit, leaf: str, making: _Making) -> Move:
        pieces = tuple(making.pieces.values())
        stored = self.infos[pieces[0].leaf].dtype
        shape, blind = fit.shape, fit.blind
        if fit.piece is None:
            shape = shape_of(recipe.there.layout, fit.sizes, making.bindings)
            blind = blind_spots(recipe.here.layout, recipe.there.layout, fit.sizes, making.bindings)
        first = ", ".join(f"{name}={making.bindings[name]}" for name in recipe.tied)
        info = LeafInfo(shape, cast_of(stored, self.dtype))
        return Move(leaf, info, pieces, None, tuple(making.copies), recipe.rule, stored, blind, first)

    def _fit(self, component: Component) -> Fit | None:
        """Solved sizes for a component; None if the headers disagree."""
        recipe = component.recipe
        leaves = [self.members[name] for name in component.inputs]
        infos = [self.infos[leaf] for leaf in leaves]
        shape = infos[0].shape
        alike = recipe.plain and all(info.shape == shape for info in infos)
        fit = recipe.fits.get(shape) if alike else None
        fit = fit or self._solve(component, leaves)
        if fit is not None and alike:
            recipe.fits[shape] = fit
        sound = self._one_dtype(recipe.rule, leaves, infos)
        if fit is not None:
            sound &= self._one_module(component, fit.sizes, leaves[0])
        return fit if sound else None

    def _solve(self, component: Component, leaves: Sequence[str]) -> Fit | None:
        recipe, sizes = component.recipe, component.recipe.sizes()
        settings = assignments(recipe.own, self.extents)
        sizes.solve(
            [
                (leaf, recipe.here.layout, self.infos[leaf].shape, {**component.shared, **rest})
                for leaf, rest in zip(leaves, settings, strict=True)
            ]
        )
        for problem in sizes.problems:
            self.problems.add(recipe.rule, problem)
        if sizes.problems:
            return None
        if not recipe.plain:
            return Fit(sizes)
        here, there = recipe.here.layout, recipe.there.layout
        piece = piece_of("", here, there, sizes, {}, recipe.chosen)
        return Fit(sizes, piece, shape_of(there, sizes, {}), blind_spots(here, there, sizes, {}))

    def _one_dtype(self, rule: Rule, leaves: Sequence[str], infos: Sequence[LeafInfo]) -> bool:
        """Whether the inputs of a component have one type; they make one leaf, or are copies of each other."""
        for leaf, info in zip(leaves, infos, strict=True):
            if info.dtype != infos[0].dtype:
                text = f"{{0}} is {infos[0].dtype} and {{1}} is {info.dtype}, and they make one leaf"
                self.problems.add(rule, Problem(text, (leaves[0], leaf)))
                return False
        return True

    def _one_module(self, component: Component, sizes: Sizes, leaf: str) -> bool:
        """Whether an axis of a shipped kind has one size in all leaves of one module: the `o` of weight and of bias."""
        rule = component.recipe.rule
        setting = tuple(component.shared.values())
        for atom in component.recipe.private:
            size = sizes.known[atom.name]
            met, where = self._modules.setdefault((rule.place, setting, atom.name), (size, leaf))
            if met != size:
                text = f"axis {atom.label} is {size} in {{0}} and {met} in {{1}}"
                self.problems.add(rule, Problem(text, (leaf, where)))
                return False
        return True


def _piece(recipe: Recipe, fit: Fit, leaf: str, bindings: Bindings) -> Piece:
    if fit.piece is None:
        return piece_of(leaf, recipe.here.layout, recipe.there.layout, fit.sizes, bindings, recipe.chosen)
    return Piece(leaf, fit.piece.view, fit.piece.order, fit.piece.flips, fit.piece.into)


def cast_of(stored: str, wanted: str | None) -> str:
    """The output's dtype: floating-point leaves take the one asked for, all others stay."""
    return wanted if wanted is not None and stored in dtypes.FLOATING else stored
