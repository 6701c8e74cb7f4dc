"""What one line says in one direction, worked out once for all its leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from loftr2flax.mapping.axes import Atom
from loftr2flax.mapping.rules import Rule, Spec
from loftr2flax.plan.moves import Piece
from loftr2flax.plan.sizes import Sizes


class Fit(NamedTuple):
    """Solved sizes; where they tell all, also the piece, the output's shape and its blind spots."""

    sizes: Sizes
    piece: Piece | None = None
    shape: tuple[int, ...] = ()
    blind: tuple[str, ...] = ()


Fits = dict[tuple[int, ...], Fit]
"""What is known of a line for inputs of each shape."""


class Recipe(NamedTuple):
    """What holds for all leaves of one line: its sides in this direction, and which index stands where.

    Attributes:
      rule: the line.
      here, there: what is read and what is written.
      common: indices in both names; each setting of them is a `Component`.
      own: indices in the input's name alone; ``tied`` are those of them that number copies.
      names: all indices that are gone through.
      leads: indices in brackets on both sides that a ragged axis differs along; they are gone through like ``own``.
      chosen: for each side, the indices among its axes that have one value in a piece.
      private: axes that are a shipped kind's own.
      start: sizes that are known before any shape is read.
      plain: whether the input's shape alone tells how the axes move, so that equal shapes need be worked out once.
      fits: what was worked out, by shape; lines of one kind share it.
    """

    rule: Rule
    here: Spec
    there: Spec
    common: tuple[str, ...]
    own: tuple[str, ...]
    tied: tuple[str, ...]
    names: tuple[str, ...]
    leads: tuple[str, ...]
    chosen: tuple[frozenset[str], frozenset[str]]
    private: tuple[Atom, ...]
    start: Sizes
    plain: bool
    fits: Fits

    @classmethod
    def of(cls, rule: Rule, here: Spec, there: Spec, start: Sizes, fits: Fits) -> Recipe:
        """Takes a line apart."""
        common = tuple(name for name in here.name.indices if name in there.name.indices)
        own = tuple(name for name in here.name.indices if name not in common)
        tied = tuple(name for name in own if name not in there.layout.names)
        over = dict.fromkeys(start.ragged.over.values())
        leads = tuple(name for name in over if name in here.layout.names and name in there.layout.names)
        names = tuple(dict.fromkeys((*rule.indices, *leads)))
        chosen = frozenset((*there.name.indices, *leads)), frozenset((*here.name.indices, *leads))
        plain = not (over or chosen[0] & set(here.layout.names) or chosen[1] & set(there.layout.names))
        private = tuple(atom for atom in here.layout.atoms if atom.is_private)
        return cls(rule, here, there, common, own, tied, names, leads, chosen, private, start, plain, fits)

    def sizes(self) -> Sizes:
        """Sizes to be solved for one component."""
        return replace(self.start, known=dict(self.start.known), origin=dict(self.start.origin), problems=[])
