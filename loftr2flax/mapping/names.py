"""Names with indices in them: ``layers.{i}.{p}_proj``, ``layers.{2*j+k}``; written out, never a regular expression.

A name is split at its separator ("." on the torch side, "/" on the Flax side) into segments; a segment is
literal text and holes. A hole is one index, or an affine sum of integer ones, which inverts by division.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

IndexValue = int | str
Bindings = Mapping[str, IndexValue]

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
"""What an index can be called."""
TERM = re.compile(
    r" *(?:(N) *\* *(I)|(I) *\* *(N)|(I)|(N)) *".replace("N", "[0-9]{1,9}").replace("I", IDENTIFIER.pattern)
)


class NameSyntaxError(ValueError):
    """A name that cannot be read; ``offset`` counts characters from its start, ``hint`` is what to write instead."""

    def __init__(self, message: str, offset: int, hint: str = "") -> None:
        super().__init__(message)
        self.offset = offset
        self.hint = hint


class Hole(NamedTuple):
    """``{i}`` or ``{2*j+k+1}``: a sum of ``coefficient * index`` and a constant."""

    terms: tuple[tuple[int, str], ...]
    constant: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the hole is one index as it stands, so that its values may be words."""
        return self.constant == 0 and len(self.terms) == 1 and self.terms[0][0] == 1

    def fill(self, bindings: Bindings) -> str:
        """The text that stands in the hole's place."""
        if self.is_plain:
            return str(bindings[self.terms[0][1]])
        return str(self.constant + sum(c * int(bindings[name]) for c, name in self.terms))

    def __str__(self) -> str:
        terms = "+".join(name if c == 1 else f"{c}*{name}" for c, name in self.terms)
        return "{" + terms + (f"{self.constant:+d}" if self.constant else "") + "}"


Segment = tuple[str | Hole, ...]


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A parsed name. ``indices`` holds the index names in order of appearance.

    ``template`` is the name as `str.format` reads it, or "" where a hole is a sum.
    """

    separator: str
    segments: tuple[Segment, ...]
    indices: tuple[str, ...] = field(compare=False)
    template: str = field(compare=False)

    def format(self, bindings: Bindings) -> str:
        """The name for these index values."""
        if self.template:
            return self.template.format_map(bindings)
        return self.separator.join(
            "".join(part if isinstance(part, str) else part.fill(bindings) for part in segment)
            for segment in self.segments
        )

    def __str__(self) -> str:
        return self.separator.join("".join(map(str, segment)) for segment in self.segments)


@lru_cache(maxsize=4096)  # a mapping's names meet the parser when checked and when used, and in each mapping tried
def parse_name(text: str, separator: str) -> NamePattern:
    """Reads a name.

    Raises:
      NameSyntaxError: with the offset of what is wrong.
    """
    parts = list(_parts(text))
    segments: list[Segment] = []
    current: list[str | Hole] = []
    for part in parts:
        if isinstance(part, Hole):
            current.append(part)
            continue
        head, *rest = part.split(separator)
        if head:
            current.append(head)
        for piece in rest:
            segments.append(tuple(current))
            current = [piece] if piece else []
    segments.append(tuple(current))
    if any(not segment for segment in segments):
        raise NameSyntaxError(f"{text!r} has an empty segment", 0)
    indices = dict.fromkeys(name for part in parts if isinstance(part, Hole) for _, name in part.terms)
    plain = all(part.is_plain for part in parts if isinstance(part, Hole))
    return NamePattern(separator, tuple(segments), tuple(indices), "".join(map(str, parts)) if plain else "")


def join(module: str, leaf: str) -> str:
    """A module line and a kind's leaf make a full name: ``a.b`` + ``.weight``; an empty module leaves ``weight``."""
    return module + leaf if module else leaf[1:]


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key under which ``layers.10`` follows ``layers.9``: text and numbers by turns."""
    words = re.split(r"([0-9]+)", name)
    digits = (word.lstrip("0") for word in words[1::2])
    return tuple(
        pair
        for text, number in zip(words[::2], [*digits, ""], strict=True)
        for pair in ((0, text), (len(number), number))
    )


def _parts(text: str) -> Iterator[str | Hole]:
    position = 0
    while position < len(text):
        opening = text.find("{", position)
        stop = len(text) if opening < 0 else opening
        literal = text[position:stop]
        bad = re.search(r"[}\s\[\]]", literal)
        if bad:
            raise NameSyntaxError(f"{bad[0]!r} cannot stand in a name", position + bad.start())
        if literal:
            yield literal
        if opening < 0:
            return
        closing = text.find("}", opening)
        if closing < 0:
            raise NameSyntaxError("'{' is never closed", opening)
        inner = text[opening + 1 : closing]
        plain = inner.isascii() and inner.isidentifier()  # nearly all of them
        yield Hole(((1, inner),)) if plain else _hole(inner, opening + 1)
        position = closing + 1


def _hole(text: str, offset: int) -> Hole:
    terms: list[tuple[int, str]] = []
    constant = 0
    position, sign = 0, 1
    while True:
        found = TERM.match(text, position)
        if not found:
            raise NameSyntaxError(f"'{{{text}}}' is not an index, nor a sum such as {{2*j+k}}", offset)
        left, name1, name2, right, name3, number = found.groups()
        name = name1 or name2 or name3
        if name and sign < 0:
            raise NameSyntaxError(f"'{{{text}}}' subtracts an index; only numbers can be subtracted", offset)
        if name:
            coefficient = int(left or right or 1)
            if coefficient == 0 or any(name == other for _, other in terms):
                raise NameSyntaxError(f"'{{{text}}}' does not determine {name}", offset)
            terms.append((coefficient, name))
        else:
            constant += sign * int(number)
        position = found.end()
        if position == len(text):
            break
        if text[position] not in "+-":
            raise NameSyntaxError(f"'{{{text}}}' is not an index, nor a sum such as {{2*j+k}}", offset + position)
        sign = 1 if text[position] == "+" else -1
        position += 1
    if not terms:
        raise NameSyntaxError(f"'{{{text}}}' names no index", offset)
    return Hole(tuple(terms), constant)
