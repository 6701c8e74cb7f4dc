"""Axis layouts: ``[(h d) c]`` is two axes, the first made of two; ``-h`` runs backwards; ``...`` is any number.

A layout is a row of axes, an axis a row of atoms (outermost first, C order). Two layouts with the same atoms
are the same numbers in another arrangement: that is all that a mapping line says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from loftr2flax.mapping.names import NameSyntaxError

ELLIPSIS = "..."
_OWN = "~"
_NUMBER = re.compile(r"[0-9]{2,}|[02-9]")
_TOKEN = re.compile(r"-?(?:\.\.\.|[A-Za-z_][A-Za-z_0-9]*)|1|[()]")


class Atom(NamedTuple):
    """A named axis, or ``...``; ``flipped`` when it runs backwards."""

    name: str
    flipped: bool = False

    @property
    def label(self) -> str:
        """The name as people wrote it."""
        return self.name.removeprefix(_OWN)

    @property
    def is_private(self) -> bool:
        """Whether it is an axis of a shipped kind, which no file can mention."""
        return self.name.startswith(_OWN)

    def private(self) -> Atom:
        """The same axis under a name of a shipped kind's own."""
        return self if self.name == ELLIPSIS else Atom(_OWN + self.name, self.flipped)

    def __str__(self) -> str:
        return ("-" if self.flipped else "") + self.label


Axis = tuple[Atom, ...]
"""One axis of an array: its atoms, outermost first. () is an axis of size 1."""


class Layout(NamedTuple):
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
        return Layout(tuple(tuple(atom.private() for atom in axis) for axis in self.axes))

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
    opened = 0
    seen: set[str] = set()
    for position, token in _tokens(text):
        if token == "(":
            if group is not None:
                raise NameSyntaxError("a '(' inside a '('", position)
            group, opened = [], position
        elif token == ")":
            if group is None:
                raise NameSyntaxError("a ')' without its '('", position)
            axes.append(tuple(group))
            group = None
        elif token == "1":
            axes += [()] if group is None else []
        else:
            atom = Atom(token.removeprefix("-"), token.startswith("-"))
            if group is not None and atom.name == ELLIPSIS:
                raise NameSyntaxError("'...' cannot be part of a merged axis", position)
            if atom.name in seen:
                raise NameSyntaxError(f"axis {atom.name} stands twice", position)
            seen.add(atom.name)
            if group is None:
                axes.append((atom,))
            else:
                group.append(atom)
    if group is not None:
        raise NameSyntaxError("'(' is never closed", opened)
    return Layout(tuple(axes))


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    """The words between the brackets with their offsets; spaces or parentheses part them."""
    position, stop = 1, len(text) - 1
    while position < stop:
        if text[position].isspace():
            position += 1
            continue
        if number := _NUMBER.match(text, position, stop):
            name = next((letter for letter in "tnkxyz" if letter not in text), "size")
            hint = f"call the axis {name}, and give its size: `let: {{{name}: {number[0]}}}`"
            raise NameSyntaxError(f"the number {number[0]} cannot stand among axes", position, hint)
        token = _TOKEN.match(text, position, stop)
        if not token:
            raise NameSyntaxError(f"{text[position]!r} cannot stand among axes", position)
        yield position, token[0]
        position = token.end()
        if token[0] not in "()" and position < stop and not (text[position].isspace() or text[position] in "()"):
            raise NameSyntaxError(f"{text[position]!r} cannot stand in an axis", position)


def _show(axis: Axis) -> str:
    if len(axis) == 1:
        return str(axis[0])
    return "1" if not axis else "(" + " ".join(map(str, axis)) + ")"
