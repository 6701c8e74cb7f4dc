"""From layouts and sizes to views: which part of an array one assignment of the indices means."""

from __future__ import annotations

import math
from collections.abc import Set

from loftr2flax.mapping.axes import ELLIPSIS, Layout
from loftr2flax.mapping.names import Bindings
from loftr2flax.plan.moves import Piece, View
from loftr2flax.plan.sizes import Sizes

Labels = tuple[str, ...]


def view_of(layout: Layout, sizes: Sizes, bindings: Bindings, chosen: Set[str]) -> tuple[View, Labels]:
    """The view, and the names of the axes that are left in it.

    ``chosen`` names the indices that have one value here because they stand in the other side's name.
    """
    cut: list[slice] = []
    atoms: list[int] = []
    select: list[int | slice] = []
    labels: list[str] = []
    for axis in layout.axes:
        if axis and axis[0].name == ELLIPSIS:
            rest = sizes.rest or ()
            cut += [slice(None)] * len(rest)
            atoms += rest
            select += [slice(None)] * len(rest)
            labels += [f"{ELLIPSIS}{n}" for n in range(len(rest))]
            continue
        leader = sizes.leader(axis)
        if leader and leader in chosen:
            starts = [0]
            for value in sizes.extents[leader]:
                starts.append(starts[-1] + sizes.block(axis, {**bindings, leader: value}))
            position = list(sizes.extents[leader]).index(bindings[leader])
            cut.append(slice(starts[position], starts[position + 1]))
            axis = axis[1:]
        else:
            cut.append(slice(None))
        if not axis:  # an axis of size 1 carries nothing
            atoms.append(1)
            select.append(0)
        for atom in axis:
            atoms.append(sizes.atom(atom.name, bindings))
            if atom.name in chosen:
                select.append(list(sizes.extents[atom.name]).index(bindings[atom.name]))
            else:
                select.append(slice(None))
                labels.append(atom.name)
    return View(tuple(cut), tuple(atoms), tuple(select)), tuple(labels)


def piece_of(
    leaf: str, layout: Layout, into: Layout, sizes: Sizes, bindings: Bindings, chosen: tuple[Set[str], Set[str]]
) -> Piece:
    """One input leaf's share of one output leaf, where the indices have these values."""
    view, have = view_of(layout, sizes, bindings, chosen[0])
    place, want = view_of(into, sizes, bindings, chosen[1])
    flipped = {a.name for a in layout.atoms if a.flipped} ^ {a.name for a in into.atoms if a.flipped}
    order = tuple(have.index(label) for label in want)
    flips = tuple(n for n, label in enumerate(want) if label in flipped or (label.startswith(ELLIPSIS) and ELLIPSIS in flipped))
    return Piece(leaf, view, order, flips, place)


def shape_of(layout: Layout, sizes: Sizes, bindings: Bindings) -> tuple[int, ...]:
    """The shape of a leaf with this layout."""
    shape: list[int] = []
    for axis in layout.axes:
        if axis and axis[0].name == ELLIPSIS:
            shape += sizes.rest or ()
        elif leader := sizes.leader(axis):
            shape.append(sum(sizes.block(axis, {**bindings, leader: value}) for value in sizes.extents[leader]))
        else:
            shape.append(math.prod(sizes.atom(atom.name, bindings) for atom in axis))
    return tuple(shape)


def blind_pairs(layout: Layout, into: Layout, sizes: Sizes, bindings: Bindings) -> tuple[str, ...]:
    """Pairs of axes of equal size (not 1) that a wrong layout could swap without changing the shape.

    Only lines that could go wrong count: those with two named axes or more. ``...`` is kept together, so it is one.
    """
    atoms = [a for a in layout.atoms if a.name != ELLIPSIS and a.name in into.names]
    pairs = []
    for n, one in enumerate(atoms):
        for other in atoms[n + 1 :]:
            size = sizes.atom(one.name, bindings)
            if size == sizes.atom(other.name, bindings) and size != 1:
                pairs.append(f"{one.label}={other.label}")
    return tuple(pairs)
