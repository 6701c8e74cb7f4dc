"""A mapping file's text becomes a `TensorMapping`, or a MappingError that lists every fault with its place."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loftr2flax.errors import EnvironmentFault, Place
from loftr2flax.mapping.axes import WHOLE
from loftr2flax.mapping.check import check_rules
from loftr2flax.mapping.kinds import Kind, read_kinds, shipped_kinds
from loftr2flax.mapping.lines import Half, constant_of, is_dtype, read_half
from loftr2flax.mapping.names import IndexValue, NamePattern, NameSyntaxError, join, parse_name
from loftr2flax.mapping.nodes import MAX_BYTES, Faults, Reader, Scalar, nearest
from loftr2flax.mapping.rules import Group, Index, Rule, Size, Spec, TensorMapping
from loftr2flax.mapping.shipped import find_mapping

_HEADINGS = (
    "mapping", "about", "source", "target", "facts", "index", "tied", "let",
    "kinds", "tensors", "drop", "fill", "optional", "alternatives",
)  # fmt: skip
_TREES = ("params", "variables")
_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[0-9A-Za-z_.-]+)?")
_RANGE = re.compile(r"(\d+)\.\.(\d+)?")
_MOST_VALUES = 100_000


def load_mapping(name_or_path: str | os.PathLike[str]) -> TensorMapping:
    """The mapping that ships under a name (``loftr``), or that stands in a file (``my/vit.yaml``).

    Raises:
      MissingInput: there is none; the hint names the nearest.
      MappingError: it is not well formed; ``faults`` lists everything that is wrong.
    """
    path = find_mapping(os.fspath(name_or_path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror}") from error
    return parse_mapping(data, path)


def parse_mapping(data: bytes, path: Path) -> TensorMapping:
    """The mapping in ``data``; ``path`` is what faults are placed in.

    Raises:
      MappingError: it is not well formed.
    """
    faults = Faults()
    reader = Reader(path.name, faults)
    text = ""
    if len(data) > MAX_BYTES:
        faults.add(None, f"larger than {MAX_BYTES >> 20} MiB")
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.add(Place(path.name, data.count(b"\n", 0, error.start) + 1, 1), "not UTF-8 text")
    root = reader.root(text) if not faults.found else None
    faults.raise_for(path.name)
    assert root is not None
    draft = _Draft(reader)
    draft.read(root)
    mapping = draft.finish(path, hashlib.sha256(data).hexdigest())
    check_rules(mapping, faults)
    faults.raise_for(path.name)
    return mapping


@dataclass
class _Draft:
    """A mapping while its file is being read."""

    reader: Reader
    name: str = ""
    about: str = ""
    at: tuple[str, ...] = ()
    tree: str = "params"
    aliases: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    indices: dict[str, Index] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def faults(self) -> Faults:
        return self.reader.faults

    def read(self, root: yaml.Node) -> None:
        entries = self.reader.entries(root, "a mapping file")
        self.kinds = dict(shipped_kinds())
        by_heading = {key.text: (key, value) for key, value in entries}
        for heading in ("kinds", "target"):  # the lines below rest on these two, wherever in the file they stand
            if heading in by_heading:
                self._section(*by_heading[heading])
        for key, value in entries:
            if key.text not in ("kinds", "target"):
                self._section(key, value)
        if "mapping" not in by_heading:
            self.faults.add(Place(self.reader.file, 1, 1), "no `mapping: name/version` line")

    def finish(self, path: Path, sha256: str) -> TensorMapping:
        return TensorMapping(
            self.name, self.about, path, sha256, self.at, self.aliases, self.tree, self.facts,
            self.indices, self.sizes, tuple(self.rules), tuple(self.groups),
        )  # fmt: skip

    def _section(self, key: Scalar, node: yaml.Node) -> None:
        match key.text:
            case "mapping":
                self._title(node)
            case "about":
                text = self.reader.scalar(node, "`about`")
                self.about = text.text if text else ""
            case "source":
                self._source(node)
            case "target":
                self._target(node)
            case "facts":
                self.facts = {k.text: self.reader.plain(v) for k, v in self.reader.entries(node, "`facts:`")}
            case "index" | "tied":
                for name, value in self.reader.entries(node, f"`{key.text}:`"):
                    self._index(name, value, tied=key.text == "tied")
            case "let":
                for name, value in self.reader.entries(node, "`let:`"):
                    self._size(name, value)
            case "kinds":
                self.kinds |= read_kinds(self.reader, node)
            case "optional":
                for name, body in self.reader.entries(node, "`optional:`"):
                    self._group(name, [(name, body)], required=False)
            case "alternatives":
                for name, body in self.reader.entries(node, "`alternatives:`"):
                    self._group(name, self.reader.entries(body, f"alternative {name.text}"), required=True)
            case _:
                self._block(key, node, None)

    def _title(self, node: yaml.Node) -> None:
        text = self.reader.scalar(node, "`mapping`")
        if text and not _NAME.fullmatch(text.text):
            self.faults.add(text.place, f"{text.text!r} is not a name such as loftr_coarse/1")
        self.name = text.text if text else ""

    def _source(self, node: yaml.Node) -> None:
        for key, value in self.reader.entries(node, "`source:`"):
            if key.text == "at":
                text = self.reader.scalar(value, "`at`")
                self.at = tuple(text.text.split(".")) if text and text.text else ()
            elif key.text == "aliases":
                self._aliases(value)
            else:
                self.faults.add(key.place, f"`source:` has no {key.text!r}", nearest(key.text, ("at", "aliases")))

    def _aliases(self, node: yaml.Node) -> None:
        for key, value in self.reader.entries(node, "`aliases:`"):
            text = self.reader.scalar(value, f"alias {key.text}")
            if text is None:
                continue
            if "." in key.text or "." in text.text or not key.text or not text.text:
                self.faults.add(key.place, f"alias {key.text!r} is not one whole name segment for another")
            self.aliases[key.text] = text.text

    def _target(self, node: yaml.Node) -> None:
        for key, value in self.reader.entries(node, "`target:`"):
            if key.text != "tree":
                self.faults.add(key.place, f"`target:` has no {key.text!r}", nearest(key.text, ("tree",)))
                continue
            text = self.reader.scalar(value, "`tree`")
            if text and text.text not in _TREES:
                self.faults.add(text.place, f"`tree` is params or variables, not {text.text!r}", nearest(text.text, _TREES))
            elif text:
                self.tree = text.text

    def _index(self, name: Scalar, node: yaml.Node, *, tied: bool) -> None:
        values: tuple[IndexValue, ...] | None
        start = 0
        if isinstance(node, yaml.ScalarNode):
            found = _RANGE.fullmatch(node.value)
            if not found:
                place = self.reader.place(node)
                self.faults.add(place, f"index {name.text} is {node.value!r}", "write a range (0.. or 0..7) or a list ([q, k, v])")
                return
            start = int(found[1])
            if found[2] and not 0 <= int(found[2]) - start < _MOST_VALUES:
                self.faults.add(self.reader.place(node), f"the range {node.value} of index {name.text} is empty or too long")
                return
            values = tuple(range(start, int(found[2]) + 1)) if found[2] else None
        else:
            texts = [item.text for item in self.reader.scalars(node, f"index {name.text}")]
            values = tuple(int(t) if re.fullmatch(r"0|[1-9]\d{0,8}", t) else t for t in texts)
            if len(set(values)) < len(values) or not values:
                self.faults.add(self.reader.place(node), f"index {name.text} needs values that differ: {texts}")
                return
        if not name.text.isidentifier():
            self.faults.add(name.place, f"{name.text!r} cannot name an index")
        elif name.text in self.indices:
            self.faults.add(name.place, f"index {name.text} is declared twice, under `index:` and `tied:`")
        else:
            self.indices[name.text] = Index(name.text, values, start, tied, name.place)

    def _size(self, name: Scalar, node: yaml.Node) -> None:
        value = self.reader.plain(node)
        if isinstance(value, dict) and value and all(_is_size(v) for v in value.values()):
            self.sizes[name.text] = Size(name.text, None, value, name.place)
        elif _is_size(value):
            self.sizes[name.text] = Size(name.text, value, None, name.place)
        else:
            place = self.reader.place(node)
            self.faults.add(place, f"size {name.text} is {value!r}", "write a positive number, or a table {query: 8, key: 2}")

    def _group(self, name: Scalar, choices: list[tuple[Scalar, yaml.Node]], *, required: bool) -> None:
        if required and len(choices) < 2:
            self.faults.add(name.place, f"alternative {name.text} needs two choices or more", "a single one is `optional:`")
        if any(name.text == group.name for group in self.groups):
            self.faults.add(name.place, f"group {name.text!r} stands twice")
        self.groups.append(Group(name.text, tuple(choice.text for choice, _ in choices), required, name.place))
        for choice, body in choices:
            for key, block in self.reader.entries(body, f"group {choice.text}"):
                self._block(key, block, (name.text, choice.text))

    def _block(self, key: Scalar, node: yaml.Node, group: tuple[str, str] | None) -> None:
        if key.text == "tensors":
            for left, right in self.reader.entries(node, "`tensors:`"):
                self._tensor_line(left, right, group)
        elif key.text in ("drop", "fill"):
            for left, right in self.reader.entries(node, f"`{key.text}:`"):
                self._constant_line(key.text, left, right, group)
        elif key.text in self.kinds:
            for left, right in self.reader.entries(node, f"`{key.text}:`"):
                self._module_line(key.text, left, right, group)
        else:
            known = [*_HEADINGS, *self.kinds] if group is None else ["tensors", "drop", "fill", *self.kinds]
            self.faults.add(key.place, f"unknown word {key.text!r}", nearest(key.text, known) or "kinds of your own stand under `kinds:`")

    def _tensor_line(self, left: Scalar, node: yaml.Node, group: tuple[str, str] | None) -> None:
        right = self.reader.scalar(node, "the flax side of a line")
        source = read_half(self.reader, left, ".")
        target = read_half(self.reader, right, "/") if right else None
        if source is None or target is None:
            return
        if (source.layout is None) != (target.layout is None):
            self.faults.add(left.place, "axes stand on one side only", "write them on both, or on neither for `as it is`")
            return
        self._add(f"{left.text}: {target.scalar.text}", "tensors", source, target, source.optional, group)

    def _module_line(self, kind: str, left: Scalar, node: yaml.Node, group: tuple[str, str] | None) -> None:
        right = self.reader.scalar(node, "the flax side of a line")
        module = read_half(self.reader, left, ".")
        place = read_half(self.reader, right, "/") if right else None
        if module is None or place is None or right is None:
            return
        if module.layout or place.layout or place.collection:
            self.faults.add(left.place, f"a line under `{kind}:` maps modules, without axes or collection", "spell tensors out under `tensors:`")
            return
        line = f"{left.text}: {right.text}"
        if module.optional:  # a module is there whole or absent whole: a group of its own
            if group is not None:
                self.faults.add(left.place, f"{left.text!r} is optional inside group {group[0]!r}", "make it a group of its own")
                return
            group = (module.text, module.text)
            self.groups.append(Group(module.text, (module.text,), required=False, place=left.place))
        for leaf in self.kinds[kind]:
            source = Half(join(module.text, leaf.source.text), leaf.source.layout, False, "", left)
            if leaf.target is None:
                spec = self._spec(source, ".")
                if spec:
                    self.rules.append(Rule(line, kind, spec, None, leaf.source.optional, group, leaf.constant))
                continue
            target = Half(join(place.text, leaf.target.text), leaf.target.layout, False, leaf.target.collection, right)
            self._add(line, kind, source, target, leaf.source.optional, group)

    def _constant_line(self, word: str, left: Scalar, node: yaml.Node, group: tuple[str, str] | None) -> None:
        half = read_half(self.reader, left, "." if word == "drop" else "/")
        value, dtype = self.reader.plain(node), None
        if isinstance(value, dict):
            unknown = set(value) - {"value", "dtype"}
            value, dtype = value.get("value"), value.get("dtype")
            if unknown or (dtype is not None and not is_dtype(dtype)):
                what = f"no dtype is called {dtype!r}" if not unknown else f"unknown word {sorted(map(str, unknown))[0]!r}"
                self.faults.add(self.reader.place(node), what, "write {value: 0, dtype: int32}")
                return
        constant = constant_of(value, dtype)
        if constant is None and (word == "fill" or value is not None):
            self.faults.add(self.reader.place(node), f"`{word}` needs a number, not {value!r}")
            return
        spec = self._spec(half, "." if word == "drop" else "/") if half else None
        if half and spec:
            source, target = (spec, None) if word == "drop" else (None, spec)
            self.rules.append(Rule(f"{left.text}: {word}", word, source, target, half.optional, group, constant))

    def _add(self, line: str, kind: str, source: Half, target: Half, optional: bool, group: tuple[str, str] | None) -> None:
        left, right = self._spec(source, "."), self._spec(target, "/")
        if left and right:
            self.rules.append(Rule(line, kind, left, right, optional, group, None))

    def _spec(self, half: Half, separator: str) -> Spec | None:
        text = half.text
        if separator == "/":
            collection = half.collection or "params"
            if self.tree == "variables":
                text = f"{collection}/{text}"
            elif collection != "params":
                message = f"{half.scalar.text!r} puts a leaf in {collection!r}, but the tree holds params alone"
                self.faults.add(half.scalar.place, message, "write `target: {tree: variables}`")
                return None
        pattern = self._pattern(text, separator, half)
        return Spec(pattern, half.layout or WHOLE, half.scalar.place) if pattern else None

    def _pattern(self, text: str, separator: str, half: Half) -> NamePattern | None:
        try:
            return parse_name(text, separator)
        except NameSyntaxError as error:
            self.faults.add(half.scalar.at(error.offset), str(error))
            return None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def words() -> Iterator[str]:
    """Every heading that a mapping file may have, kinds included; the manual must speak of each."""
    yield from _HEADINGS
    yield from shipped_kinds()
