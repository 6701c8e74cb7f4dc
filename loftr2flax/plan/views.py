"""From layouts and sizes to views: which part of an array one assignment of the indices means."""

from __future__ import annotations

import math
from collections.abc import Set

from loftr2flax.mapping.axes import ELLIPSIS, Axis, Layout
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
            cut.append(_ragged_cut(axis, leader, sizes, bindings))
            axis = axis[1:]
        else:
            cut.append(slice(None))
        if not axis:  # an axis of size 1 carries nothing
            atoms.append(1)
            select.append(0)
        for atom in axis:
            atoms.append(sizes.atom(atom.name, bindings))
            if atom.name in chosen:
                position = list(sizes.extents[atom.name]).index(bindings[atom.name])
                select.append(atoms[-1] - 1 - position if atom.flipped else position)
            else:
                select.append(slice(None))
                labels.append(atom.name)
    return View(tuple(cut), tuple(atoms), tuple(select)), tuple(labels)


def _ragged_cut(axis: Axis, leader: str, sizes: Sizes, bindings: Bindings) -> slice:
    """The block of a ragged axis that belongs to one value of the index at its head."""
    start = 0
    values = reversed(sizes.extents[leader]) if axis[0].flipped else iter(sizes.extents[leader])
    for value in values:
        width = sizes.block(axis, {**bindings, leader: value})
        if value == bindings[leader]:
            return slice(start, start + width)
        start += width
    raise AssertionError(f"{bindings[leader]!r} is no value of {leader}")


def piece_of(
    leaf: str, layout: Layout, into: Layout, sizes: Sizes, bindings: Bindings, chosen: tuple[Set[str], Set[str]]
) -> Piece:
    """One input leaf's share of one output leaf, where the indices have these values."""
    view, have = view_of(layout, sizes, bindings, chosen[0])
    place, want = view_of(into, sizes, bindings, chosen[1])
    flipped = {a.name for a in layout.atoms if a.flipped} ^ {a.name for a in into.atoms if a.flipped}
    order = tuple(have.index(label) for label in want)
    flips = tuple(
        n for n, label in enumerate(want) if label in flipped or (label.startswith(ELLIPSIS) and ELLIPSIS in flipped)
    )
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


def blind_spots(layout: Layout, into: Layout, sizes: Sizes, bindings: Bindings) -> tuple[str, ...]:
    """What a wrong layout could do to a leaf without changing any shape.

    "o=i": two axes of equal size (not 1) could change places. "(p h d)": a merged axis could be made of its atoms in
    another order. "-h": an axis could run the other way. ``...`` is kept together; only its direction can be wrong.
    """
    atoms = [a for a in layout.atoms if a.name != ELLIPSIS and a.name in into.names]
    size = {a.name: sizes.atom(a.name, bindings) for a in atoms}
    spots = [
        f"{one.label}={other.label}"
        for n, one in enumerate(atoms)
        for other in atoms[n + 1 :]
        if size[one.name] == size[other.name] != 1
    ]
    for here, there in ((layout, into), (into, layout)):
        for axis in here.axes:
            if (
                axis not in there.axes
                and sum(sizes.atom(atom.name, bindings) != 1 for atom in axis if atom.name != ELLIPSIS) > 1
            ):
                spots.append("(" + " ".join(atom.label for atom in axis) + ")")
    flipped = {a.name for a in layout.atoms if a.flipped} ^ {a.name for a in into.atoms if a.flipped}
    for atom in into.atoms:
        window = any(n != 1 for n in sizes.rest or ()) if atom.name == ELLIPSIS else size.get(atom.name, 1) != 1
        if atom.name in flipped and window:
            spots.append(f"-{atom.label}")
    return tuple(spots)
