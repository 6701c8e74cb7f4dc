"""Kinds of layer: which leaves a module of the kind has, and how each lies on either side.

A kind is written in the mapping language; the ones that ship stand in ``mappings/kinds.yaml``. Users add theirs
under ``kinds:`` in a mapping file. The axis names of a shipped kind are its own, so that its ``i`` (inputs) never
meets a file's index ``{i}``; a kind defined in a file shares that file's indices and sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import yaml

from loftr2flax.errors import Place
from loftr2flax.mapping.lines import Half, read_constant, read_half
from loftr2flax.mapping.nodes import Faults, Reader, Scalar
from loftr2flax.mapping.rules import Constant
from loftr2flax.mapping.shipped import shipped_file


@dataclass(frozen=True, slots=True)
class KindLine:
    """One leaf of a kind: ``.weight [o i]`` beside ``/kernel [i o]``, or beside ``drop 0`` (then ``target`` is None)."""

    source: Half
    target: Half | None
    constant: Constant | None
    place: Place

    def private(self) -> KindLine:
        """The same line with axis names of its own."""
        return replace(self, source=self.source.private(), target=self.target.private() if self.target else None)


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


def read_kinds(reader: Reader, node: yaml.Node) -> dict[str, Kind]:
    """The kinds defined in a block, by name."""
    return {
        name.text: tuple(line for key, value in reader.entries(body, f"kind {name.text}") if (line := _line(reader, key, value)))
        for name, body in reader.entries(node, "`kinds:`")
    }


def _line(reader: Reader, key: Scalar, value: yaml.Node) -> KindLine | None:
    text = reader.scalar(value, "the right side of a kind's line")
    source = read_half(reader, key, ".", needs_layout=True)
    if text is None or source is None:
        return None
    if not source.text.startswith("."):
        reader.faults.add(key.place, f"a kind's torch leaf begins with a dot: '.{source.text}'")
        return None
    if text.text == "drop" or text.text.startswith("drop "):
        return KindLine(source, None, read_constant(reader, text, text.text[4:].strip()), key.place)
    target = read_half(reader, text, "/", needs_layout=True)
    if target is None:
        return None
    if not target.text.startswith("/"):
        reader.faults.add(text.place, f"a kind's flax leaf begins with a slash: '/{target.text}'")
        return None
    return KindLine(source, target, None, key.place)
