"""The immutable plan: which leaves of the input make each leaf of the output, and how their axes move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.mapping.rules import Constant, Direction, LineClass, Rule, TensorMapping

Select = tuple[int | slice, ...]


class View(NamedTuple):
    """A part of an array with its merged axes taken apart: ``array[cut].reshape(atoms)[select]``.

    ``cut`` takes a block of a ragged axis; ``select`` takes one value of an axis that is an index.
    """

    cut: tuple[slice, ...]
    atoms: tuple[int, ...]
    select: Select

    @property
    def is_whole(self) -> bool:
        """Whether the view covers its array."""
        whole = all(not isinstance(s, int) or size == 1 for s, size in zip(self.select, self.atoms, strict=True))
        return whole and all(c == slice(None) for c in self.cut)


class Piece(NamedTuple):
    """One input leaf's share of an output leaf: its view, in another order of axes, some of them run backwards."""

    leaf: str
    view: View
    order: tuple[int, ...]
    flips: tuple[int, ...]
    into: View

    @property
    def is_copy(self) -> bool:
        """Whether the bytes stay as they lie."""
        return self.order == tuple(range(len(self.order))) and not self.flips


class Move(NamedTuple):
    """How one output leaf comes about.

    Attributes:
      leaf: the output's name.
      info: its shape and dtype.
      pieces: the inputs that fill it, or () for a constant.
      constant: the value of a fill, or of a dropped tensor on the way back.
      copies: pairs of inputs that the mapping says are equal; the first of a pair is used.
      rule: the line behind it.
      stored: the dtype that the inputs have (a cast follows when it differs from ``info.dtype``).
      blind: what a wrong layout could do without changing a shape ("o=i": two axes could change places).
      first: the setting of the tied indices whose copy is used ("j=0"), or "".
    """

    leaf: str
    info: LeafInfo
    pieces: tuple[Piece, ...]
    constant: Constant | None
    copies: tuple[tuple[str, str], ...]
    rule: Rule
    stored: str
    blind: tuple[str, ...] = ()
    first: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input leaves, in order of use."""
        if len(self.pieces) == 1:
            return (self.pieces[0].leaf,)
        return tuple(dict.fromkeys(piece.leaf for piece in self.pieces))


class Plan(NamedTuple):
    """A mapping fitted to a checkpoint's headers, checked in full; running it is dull.

    Attributes:
      mapping, direction: what is run, and which way.
      root: what stands before the names in scope ("matcher" or "matcher.loftr_coarse"), on the input side.
      moves: one for each output leaf, in the order in which the inputs lie in their file.
      dropped: inputs that the mapping drops, each with its line.
      outside: inputs that are not in scope.
      present, absent: the groups that were found, as "group" or "group: choice", and those that were not.
      spelling: canonical key -> key as the input spells it, where they differ (aliases).
    """

    mapping: TensorMapping
    direction: Direction
    root: str
    moves: tuple[Move, ...]
    dropped: Mapping[str, Rule]
    outside: tuple[str, ...]
    present: tuple[str, ...]
    absent: tuple[str, ...]
    spelling: Mapping[str, str]

    @property
    def infos(self) -> dict[str, LeafInfo]:
        """The output's headers."""
        return {move.leaf: move.info for move in self.moves}

    @property
    def blind(self) -> tuple[Move, ...]:
        """Moves whose output would have the same shape with its layout wrong."""
        return tuple(move for move in self.moves if move.blind)

    def line_class(self, move: Move) -> LineClass:
        """The class of one move: its line's, or approximate where a cast narrows."""
        if move.info.dtype != move.stored and move.pieces:
            return "approximate"
        return self.mapping.line_class(move.rule)

    def __repr__(self) -> str:
        return f"<plan {self.mapping.name} {self.direction}: {len(self.moves)} leaves, root {self.root!r}>"

    def _repr_html_(self) -> str:
        from loftr2flax.notebook import table_of

        rows = [(", ".join(move.inputs), move.leaf, str(move.info.shape), move.info.dtype) for move in self.moves]
        said = f"{self.mapping.name}, {self.direction}: {len(self.moves)} leaves, {len(self.dropped)} inputs dropped"
        return table_of(said, ("reads", "writes", "shape", "dtype"), rows)
