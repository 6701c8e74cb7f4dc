"""Axis layouts: ``[(h d) c]`` is two axes, the first made of two; ``-h`` runs backwards; ``...`` is any number.

A layout is a row of axes, an axis a row of atoms (outermost first, C order). Two layouts with the same atoms
are the same numbers in another arrangement: that is all that a mapping line says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loftr2flax.mapping.names import NameSyntaxError

ELLIPSIS = "..."
_OWN = "~"
_TOKEN = re.compile(r"\s*(?:(-?)(\.\.\.|[A-Za-z_]\w*)|(1)|([()]))")


@dataclass(frozen=True, slots=True)
class Atom:
    """A named axis, or ``...``; ``flipped`` when it runs backwards."""

    name: str
    flipped: bool = False

    @property
    def label(self) -> str:
        """The name as people wrote it."""
        return self.name.removeprefix(_OWN)

    def __str__(self) -> str:
        return ("-" if self.flipped else "") + self.label


Axis = tuple[Atom, ...]
"""One axis of an array: its atoms, outermost first. () is an axis of size 1."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of one array."""

    axes: tuple[Axis, ...]

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """All atoms, in memory order."""
        return tuple(atom for axis in self.axes for atom in axis)

    @property
    def names(self) -> tuple[str, ...]:
        """The atoms' names, in memory order."""
        return tuple(atom.name for axis in self.axes for atom in axis)

    @property
    def rank(self) -> int | None:
        """The number of axes, or None when ``...`` leaves it open."""
        return None if ELLIPSIS in self.names else len(self.axes)

    def private(self) -> Layout:
        """The same layout with names that no file can mention: the `i` of a shipped kind is not an index ``{i}``."""
        return Layout(
            tuple(tuple(a if a.name == ELLIPSIS else Atom(_OWN + a.name, a.flipped) for a in axis) for axis in self.axes)
        )

    def __str__(self) -> str:
        return "[" + " ".join(_show(axis) for axis in self.axes) + "]"


WHOLE = Layout(((Atom(ELLIPSIS),),))
"""What a line without brackets says: any number of axes, as they are."""


def parse_layout(text: str) -> Layout:
    """Reads ``[(h d) -c ...]``, brackets included.

    Raises:
      NameSyntaxError: with the offset of what is wrong.
    """
    if not (text.startswith("[") and text.endswith("]")):
        raise NameSyntaxError(f"{text!r} is not a list of axes in brackets", 0)
    axes: list[Axis] = []
    group: list[Atom] | None = None
    position, stop = 1, len(text) - 1
    while text[position:stop].strip():
        token = _TOKEN.match(text, position, stop)
        if not token:
            raise NameSyntaxError(f"{text[position:stop].strip()[0]!r} cannot stand among axes", position)
        minus, name, one, paren = token.groups()
        if paren == "(":
            if group is not None:
                raise NameSyntaxError("a '(' inside a '('", position)
            group = []
        elif paren == ")":
            if group is None:
                raise NameSyntaxError("a ')' without its '('", position)
            axes.append(tuple(group))
            group = None
        elif one:
            if group is None:
                axes.append(())
        elif group is not None and name == ELLIPSIS:
            raise NameSyntaxError("'...' cannot be part of a merged axis", position)
        elif group is not None:
            group.append(Atom(name, bool(minus)))
        else:
            axes.append((Atom(name, bool(minus)),))
        position = token.end()
    if group is not None:
        raise NameSyntaxError("'(' is never closed", text.index("("))
    layout = Layout(tuple(axes))
    twice = next((name for name in layout.names if layout.names.count(name) > 1), None)
    if twice:
        raise NameSyntaxError(f"axis {twice} stands twice in {text}", 0)
    return layout


def _show(axis: Axis) -> str:
    if len(axis) == 1:
        return str(axis[0])
    return "1" if not axis else "(" + " ".join(map(str, axis)) + ")"
