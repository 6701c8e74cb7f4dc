"""The lines of a mapping: blocks of a kind, ``tensors:``, ``drop:``, ``fill:``, and the groups they stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from loftr2flax.mapping.axes import WHOLE
from loftr2flax.mapping.constants import read_constant
from loftr2flax.mapping.kinds import Kind
from loftr2flax.mapping.lines import Half, read_half
from loftr2flax.mapping.names import NameSyntaxError, join, parse_name
from loftr2flax.mapping.nodes import Faults, Reader, Scalar, nearest
from loftr2flax.mapping.rules import Group, Rule, Spec

BLOCKS = ("tensors", "drop", "fill")
"""Blocks that are no kind of layer."""
_In = tuple[str, str] | None
"""The group and the choice that a line stands in."""


@dataclass
class Blocks:
    """Reads blocks into rules; ``tree`` says whether collections stand in front of Flax paths."""

    reader: Reader
    kinds: Mapping[str, Kind]
    tree: str
    headings: Sequence[str]
    rules: list[Rule] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def faults(self) -> Faults:
        """Where faults go."""
        return self.reader.faults

    def optional(self, node: yaml.Node) -> None:
        """``optional:`` — named groups that a file may lack."""
        for name, body in self.reader.entries(node, "`optional:`"):
            self._group(Group(name.text, (name.text,), False, name.place), [(name, body)])

    def alternatives(self, node: yaml.Node) -> None:
        """``alternatives:`` — named groups of choices, one of which a file holds."""
        for name, body in self.reader.entries(node, "`alternatives:`"):
            choices = self.reader.entries(body, f"alternative {name.text}")
            if len(choices) < 2:
                message = f"alternative {name.text} needs two choices or more"
                self.faults.add(name.place, message, "a single one is `optional:`")
            self._group(Group(name.text, tuple(choice.text for choice, _ in choices), True, name.place), choices)

    def _group(self, group: Group, choices: list[tuple[Scalar, yaml.Node]]) -> None:
        self._declare(group)
        for choice, body in choices:
            for key, block in self.reader.entries(body, f"group {choice.text}"):
                self.block(key, block, (group.name, choice.text))

    def _declare(self, group: Group) -> None:
        other = next((known for known in self.groups if known.name == group.name), None)
        if other is not None:
            message = f"group {group.name!r} stands here a second time; first at line {other.place.line}"
            self.faults.add(group.place, message)
        self.groups.append(group)

    def block(self, key: Scalar, node: yaml.Node, group: _In = None) -> None:
        """One block under its heading."""
        if key.text not in BLOCKS and key.text not in self.kinds:
            known = [*BLOCKS, *self.kinds, *(self.headings if group is None else ())]
            hint = nearest(key.text, known) or "kinds of your own stand under `kinds:`"
            self.faults.add(key.place, f"unknown word {key.text!r}", hint)
            return
        for left, right in self.reader.entries(node, f"`{key.text}:`"):
            if key.text == "tensors":
                self._tensor_line(left, right, group)
            elif key.text in BLOCKS:
                self._constant_line(key.text, left, right, group)
            else:
                self._module_line(key.text, left, right, group)

    def _tensor_line(self, left: Scalar, node: yaml.Node, group: _In) -> None:
        right = self.reader.scalar(node, "the flax side of a line")
        source = read_half(self.reader, left, ".")
        target = read_half(self.reader, right, "/") if right else None
        if source is None or target is None:
            return
        if (source.layout is None) != (target.layout is None):
            self.faults.add(
                left.place, "axes stand on one side only", "write them on both, or on neither for `as it is`"
            )
            return
        self._link(f"{left.text}: {target.scalar.text}", "tensors", source, target, source.optional, group)

    def _module_line(self, kind: str, left: Scalar, node: yaml.Node, group: _In) -> None:
        right = self.reader.scalar(node, "the flax side of a line")
        module = read_half(self.reader, left, ".")
        place = read_half(self.reader, right, "/") if right else None
        if module is None or place is None or right is None or not self._sound(module, place):
            return
        if module.layout or place.layout or place.collection:
            message = f"a line under `{kind}:` maps modules, without axes or collection"
            self.faults.add(left.place, message, "spell tensors out under `tensors:`")
            return
        line = f"{left.text}: {right.text}"
        if module.optional and group is not None:
            message = f"{left.text!r} is optional inside group {group[0]!r}"
            self.faults.add(left.place, message, "make it a group of its own")
            return
        if module.optional:  # a module is there whole or absent whole: a group of its own
            group = (module.text, module.text)
            self._declare(Group(module.text, (module.text,), required=False, place=left.place))
        for leaf in self.kinds[kind]:
            source = Half(join(module.text, leaf.source.text), leaf.source.layout, False, "", left)
            if leaf.target is None:
                if spec := self._spec(source, "."):
                    self.rules.append(Rule(line, kind, spec, None, leaf.source.optional, group, leaf.constant))
                continue
            target = Half(join(place.text, leaf.target.text), leaf.target.layout, False, leaf.target.collection, right)
            self._link(line, kind, source, target, leaf.source.optional, group)

    def _sound(self, module: Half, place: Half) -> bool:
        """Whether the names of a module line can be read, told once and not for each leaf of the kind."""
        checked = [_check(self.reader, half, sep) for half, sep in ((module, "."), (place, "/")) if half.text]
        return all(checked)

    def _constant_line(self, word: str, left: Scalar, node: yaml.Node, group: _In) -> None:
        separator, before = ("." if word == "drop" else "/"), self.faults.noted
        half = read_half(self.reader, left, separator)
        constant = read_constant(self.reader, node, word)
        spec = self._spec(half, separator) if half else None
        if half and spec and self.faults.noted == before:
            source, target = (spec, None) if word == "drop" else (None, spec)
            self.rules.append(Rule(f"{left.text}: {word}", word, source, target, half.optional, group, constant))

    def _link(self, line: str, kind: str, source: Half, target: Half, optional: bool, group: _In) -> None:
        left, right = self._spec(source, "."), self._spec(target, "/")
        if left and right:
            self.rules.append(Rule(line, kind, left, right, optional, group, None))

    def _spec(self, half: Half, separator: str) -> Spec | None:
        text = half.text
        if not _check(self.reader, half, separator):
            return None
        if separator == "/":
            collection = half.collection or "params"
            if self.tree == "variables":
                text = f"{collection}/{text}"
            elif collection != "params":
                message = f"{half.scalar.text!r} puts a leaf in {collection!r}, but the tree holds params alone"
                self.faults.add(half.scalar.place, message, "write `target: {tree: variables}`")
                return None
        return Spec(parse_name(text, separator), half.layout or WHOLE, half.scalar.place)


def _check(reader: Reader, half: Half, separator: str) -> bool:
    try:
        parse_name(half.text, separator)
    except NameSyntaxError as error:
        before = len(half.collection) + 1 if half.collection else 0
        reader.faults.add(half.scalar.at(before + error.offset), str(error))
        return False
    return True
