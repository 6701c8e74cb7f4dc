"""Kinds of layer: which leaves a module of the kind has, and how each lies on either side.

A kind is written in the mapping language; the ones that ship stand in ``mappings/kinds.yaml``. Users add theirs
under ``kinds:`` in a mapping file. The axis names of a shipped kind are its own, so that its ``i`` (inputs) never
meets a file's index ``{i}``; a kind defined in a file shares that file's indices and sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import NamedTuple

import yaml

from loftr2flax.errors import Place
from loftr2flax.mapping.constants import read_word
from loftr2flax.mapping.lines import Half, read_half
from loftr2flax.mapping.names import NameSyntaxError, parse_name
from loftr2flax.mapping.nodes import Faults, Reader, Scalar
from loftr2flax.mapping.rules import Constant
from loftr2flax.mapping.shipped import shipped_file


class KindLine(NamedTuple):
    """One leaf of a kind: ``.weight [o i]`` beside ``/kernel [i o]``, or beside ``drop 0`` (``target`` is None)."""

    source: Half
    target: Half | None
    constant: Constant | None
    place: Place

    def private(self) -> KindLine:
        """The same line with axis names of its own."""
        return self._replace(source=self.source.private(), target=self.target.private() if self.target else None)


Kind = tuple[KindLine, ...]


@functools.cache
def shipped_kinds() -> Mapping[str, Kind]:
    """The kinds that every mapping file can use.

    Raises:
      MappingError: the shipped file itself is broken.
    """
    path = shipped_file("kinds.yaml")
    faults = Faults()
    reader = Reader(path.name, faults)
    root = reader.root(path.read_text("utf-8"))
    kinds = read_kinds(reader, root) if root is not None else {}
    faults.raise_for(path.name)
    return {name: tuple(line.private() for line in kind) for name, kind in kinds.items()}


def read_kinds(reader: Reader, node: yaml.Node, reserved: Collection[str] = ()) -> dict[str, Kind]:
    """The kinds defined in a block, by name. A shipped kind's name may be taken, a word of the language not."""
    kinds: dict[str, Kind] = {}
    for name, body in reader.entries(node, "`kinds:`"):
        if name.text in reserved:
            reader.faults.add(name.place, f"{name.text!r} is a word of the language and cannot name a kind")
            continue
        entries = reader.entries(body, f"kind {name.text}")
        if not entries:
            reader.faults.add(name.place, f"kind {name.text!r} has no lines")
        kinds[name.text] = tuple(line for key, value in entries if (line := _line(reader, key, value)))
    return kinds


def _line(reader: Reader, key: Scalar, value: yaml.Node) -> KindLine | None:
    text = reader.scalar(value, "the right side of a kind's line")
    source = read_half(reader, key, ".", needs_layout=True)
    if text is None or source is None or not _begins(reader, source, ".", "torch leaf begins with a dot"):
        return None
    word, _, constant = text.text.partition(" ")
    if word == "drop":
        return KindLine(source, None, read_word(reader, text, constant.strip()), key.place)
    target = read_half(reader, text, "/", needs_layout=True)
    if target is None or not _begins(reader, target, "/", "flax leaf begins with a slash"):
        return None
    return KindLine(source, target, None, key.place)


def _begins(reader: Reader, half: Half, separator: str, rule: str) -> bool:
    """Whether a kind's leaf can be joined to a module's name."""
    if not half.text.startswith(separator):
        reader.faults.add(half.scalar.place, f"a kind's {rule}: '{separator}{half.text}'")
        return False
    try:
        parse_name(half.text[1:], separator)
    except NameSyntaxError as error:
        reader.faults.add(half.scalar.at(len(half.collection) + bool(half.collection) + 1 + error.offset), str(error))
        return False
    return True
