"""What a mapping file says once it is parsed: rules, each with the place of its line. All of it is immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loftr2flax.errors import Place
from loftr2flax.mapping.axes import Layout
from loftr2flax.mapping.names import IndexValue, NamePattern

Direction = Literal["forward", "reverse"]
"""forward: PyTorch to Flax. reverse: Flax to PyTorch."""

LineClass = Literal["exact", "tied", "approximate", "one-way"]
CLASSES: tuple[LineClass, ...] = ("exact", "tied", "approximate", "one-way")
"""From best to worst: bits kept; exact if the copies agree; a value operation; no way back."""


class Index(NamedTuple):
    """The values that an index runs over. ``values`` is None for an open range: every one present, from ``start``."""

    name: str
    values: tuple[IndexValue, ...] | None
    start: int
    tied: bool
    place: Place

    @property
    def is_open(self) -> bool:
        """Whether the end is found in the file."""
        return self.values is None


class Size(NamedTuple):
    """A size given under ``let``: one number, or one for each value of an index (a ragged axis)."""

    name: str
    number: int | None
    table: Mapping[IndexValue, int] | None
    place: Place


class Spec(NamedTuple):
    """One side of a line: a name and the axes of what bears it."""

    name: NamePattern
    layout: Layout
    place: Place

    def __str__(self) -> str:
        return f"{self.name} {self.layout}"


class Constant(NamedTuple):
    """The value that stands for a dropped tensor on the way back, or for a filled leaf."""

    value: Any
    dtype: str


class Rule(NamedTuple):
    """One line, with the kind's leaf already put in.

    ``source`` is None for a fill, ``target`` for a drop; a drop without ``constant`` has no way back.
    ``group`` is the (group, choice) under which the line stands, or None for lines that always hold.
    """

    line: str
    kind: str
    source: Spec | None
    target: Spec | None
    optional: bool = False
    group: tuple[str, str] | None = None
    constant: Constant | None = None

    @property
    def place(self) -> Place:
        """Where the line stands in its file."""
        spec = self.source or self.target
        assert spec is not None
        return spec.place

    @property
    def indices(self) -> tuple[str, ...]:
        """The indices in the names of either side, in order of appearance."""
        sides = [spec.name.indices for spec in (self.source, self.target) if spec]
        return tuple(dict.fromkeys(name for side in sides for name in side))

    @property
    def spans(self) -> tuple[str, ...]:
        """The names of indices and axes anywhere in the line."""
        sides = [(*spec.name.indices, *spec.layout.names) for spec in (self.source, self.target) if spec]
        return tuple(dict.fromkeys(name for side in sides for name in side))


class Group(NamedTuple):
    """Lines that are there together or not at all.

    An optional group has one choice and may be absent; of an alternative's choices exactly one is there.
    """

    name: str
    choices: tuple[str, ...]
    required: bool
    place: Place


@dataclass(frozen=True, eq=False)
class TensorMapping:
    """A whole mapping file; each parsing gives one of its own.

    Attributes:
      name: what it is called, with its version: "loftr_coarse/1".
      about: one sentence for people.
      path: the file it came from.
      sha256: hex digest of that file's text; outputs carry it.
      at: segments of the source subtree that is in scope; () for the whole state dict.
      aliases: other spellings of whole name segments -> the spelling used in the rules.
      tree: "params" (leaves written as params alone) or "variables" (the collection stands in front).
      facts: what the weights cannot show.
      indices, sizes, rules, groups: the declarations and the lines.
    """

    name: str
    about: str
    path: Path
    sha256: str
    at: tuple[str, ...]
    aliases: Mapping[str, str]
    tree: str
    facts: Mapping[str, Any]
    indices: Mapping[str, Index]
    sizes: Mapping[str, Size]
    rules: tuple[Rule, ...]
    groups: tuple[Group, ...]

    @property
    def stem(self) -> str:
        """The name without its version: "loftr_coarse"."""
        return self.name.split("/")[0]

    def ragged(self, rule: Rule) -> dict[str, str]:
        """The axes of a line whose sizes form a table, each with the index that the table is over ("": unclear)."""
        found = {}
        for name in rule.spans:
            size = self.sizes.get(name)
            if size is None or size.table is None:
                continue
            over = self.indices_of(rule, size.table)
            found[name] = over[0] if len(over) == 1 else ""
        return found

    def indices_of(self, rule: Rule, table: Mapping[IndexValue, int]) -> list[str]:
        """The indices of a line that a table of sizes could be over: those with just its values."""
        return [i for i in rule.spans if i in self.indices and set(self.indices[i].values or ()) == table.keys()]

    def compatible(self, one: Rule, other: Rule) -> bool:
        """Whether two lines can hold at once: not if they stand under two choices of one group."""
        return not (one.group and other.group and one.group[0] == other.group[0] and one.group[1] != other.group[1])

    def line_class(self, rule: Rule) -> LineClass:
        """How faithfully a line carries its tensors there and back."""
        if rule.target is None:
            return "exact" if rule.constant else "one-way"
        if rule.source is None:
            return "exact"
        here, there = set(rule.source.name.indices), set(rule.target.name.indices)
        one_sided = (here - there - set(rule.target.layout.names)) | (there - here - set(rule.source.layout.names))
        return "tied" if one_sided else "exact"

    @property
    def file_class(self) -> LineClass:
        """The worst of the lines' classes."""
        return max((self.line_class(rule) for rule in self.rules), key=CLASSES.index, default="exact")

    def __repr__(self) -> str:
        return f"<mapping {self.name}: {len(self.rules)} rules, {self.file_class}>"
