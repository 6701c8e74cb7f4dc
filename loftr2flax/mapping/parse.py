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
from loftr2flax.mapping.blocks import BLOCKS, Blocks
from loftr2flax.mapping.check import check_rules
from loftr2flax.mapping.declarations import SOURCE, read_aliases, read_at, read_facts, read_index, read_size, read_tree
from loftr2flax.mapping.kinds import read_kinds, shipped_kinds
from loftr2flax.mapping.nodes import MAX_BYTES, Faults, Reader, Scalar, nearest, words_below
from loftr2flax.mapping.overlaps import check_choices, check_overlaps
from loftr2flax.mapping.rules import Index, Size, TensorMapping
from loftr2flax.mapping.shipped import find_mapping, is_shipped

DECLARATIONS = ("mapping", "about", "source", "target", "facts", "index", "tied", "let", "kinds")
"""What a file says before its lines."""
GROUPS = ("optional", "alternatives")
HEADINGS = (*DECLARATIONS, *BLOCKS, *GROUPS)
"""Every word of the language that begins at the left margin; the names of kinds come in addition."""
NAME = re.compile(r"[A-Za-z0-9_.-]+(/[0-9A-Za-z_.-]+)?")


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
    return parse_mapping(data, path, known=is_shipped(path))


def parse_mapping(data: bytes, path: Path, *, known: bool = False) -> TensorMapping:
    """The mapping in ``data``; ``path`` is what faults are placed in.

    A ``known`` file is spared the search for lines that claim one leaf: it is half of the work, the tests do it for the
    shipped files, and a plan finds such leaves in any case.

    Raises:
      MappingError: it is not well formed.
    """
    faults = Faults()
    reader = Reader(path.name, faults)
    text = _decode(data, path.name, faults)
    root = reader.root(text) if not faults.found else None
    faults.raise_for(path.name)
    assert root is not None
    draft = _Draft(reader)
    draft.read(root)
    mapping = draft.finish(path, hashlib.sha256(data).hexdigest())
    sound = check_rules(mapping, faults, words_below(draft.lines) if faults.found else frozenset())
    if sound and not known:
        check_overlaps(mapping, faults)
        check_choices(mapping, faults)
    faults.raise_for(path.name)
    return mapping


def _decode(data: bytes, file: str, faults: Faults) -> str:
    if len(data) > MAX_BYTES:
        faults.add(Place(file, 1, 1), f"larger than {MAX_BYTES >> 20} MiB")
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        faults.add(Place(file, data.count(b"\n", 0, error.start) + 1, 1), "not UTF-8 text")
        return ""


@dataclass
class _Draft:
    """A mapping while its file is being read; ``lines`` holds the nodes of all blocks."""

    reader: Reader
    name: str = ""
    about: str = ""
    at: tuple[str, ...] = ()
    tree: str = "params"
    aliases: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    indices: dict[str, Index] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    lines: list[yaml.Node] = field(default_factory=list)
    blocks: Blocks = field(init=False)

    def read(self, root: yaml.Node) -> None:
        entries = self.reader.entries(root, "a mapping file")
        found = {key.text: value for key, value in entries}
        if "mapping" not in found:
            self.reader.faults.add(Place(self.reader.file, 1, 1), "no `mapping: name/version` line")
        if "target" in found:  # the lines rest on these two, wherever in the file they stand
            self.tree = read_tree(self.reader, found["target"])
        own = read_kinds(self.reader, found["kinds"], HEADINGS) if "kinds" in found else {}
        self.blocks = Blocks(self.reader, {**shipped_kinds(), **own}, self.tree, HEADINGS)
        for key, value in entries:
            if key.text in DECLARATIONS:
                self._declaration(key, value)
            else:
                self.lines.append(value)
                self._lines(key, value)

    def finish(self, path: Path, sha256: str) -> TensorMapping:
        return TensorMapping(
            self.name, self.about, path, sha256, self.at, self.aliases, self.tree, self.facts,
            self.indices, self.sizes, tuple(self.blocks.rules), tuple(self.blocks.groups),
        )  # fmt: skip

    def _lines(self, key: Scalar, node: yaml.Node) -> None:
        if key.text == "optional":
            self.blocks.optional(node)
        elif key.text == "alternatives":
            self.blocks.alternatives(node)
        else:
            self.blocks.block(key, node)

    def _declaration(self, key: Scalar, node: yaml.Node) -> None:
        match key.text:
            case "mapping":
                self._title(node)
            case "about":
                text = self.reader.scalar(node, "`about`")
                self.about = text.text if text else ""
            case "source":
                self._source(node)
            case "facts":
                self.facts = read_facts(self.reader, node)
            case "index" | "tied":
                for name, value in self.reader.entries(node, f"`{key.text}:`"):
                    self._index(name, value, tied=key.text == "tied")
            case "let":
                for name, value in self.reader.entries(node, "`let:`"):
                    self.sizes[name.text] = read_size(self.reader, name, value)

    def _title(self, node: yaml.Node) -> None:
        text = self.reader.scalar(node, "`mapping`")
        if text and not NAME.fullmatch(text.text):
            self.reader.faults.add(text.place, f"{text.text!r} is not a name such as loftr_coarse/1")
        self.name = text.text if text else ""

    def _source(self, node: yaml.Node) -> None:
        for key, value in self.reader.entries(node, "`source:`"):
            if key.text == "at":
                self.at = read_at(self.reader, value)
            elif key.text == "aliases":
                self.aliases = read_aliases(self.reader, value)
            else:
                hint = nearest(key.text, SOURCE)
                self.reader.faults.add(key.place, f"`source:` has no {key.text!r}", hint)

    def _index(self, name: Scalar, node: yaml.Node, *, tied: bool) -> None:
        index = read_index(self.reader, name, node, tied=tied)
        if name.text in self.indices:
            self.reader.faults.add(name.place, f"index {name.text} is declared twice, under `index:` and `tied:`")
        elif index is not None:
            self.indices[name.text] = index


def words() -> Iterator[str]:
    """Every heading that a mapping file may have, kinds included; the manual must speak of each."""
    yield from HEADINGS
    yield from shipped_kinds()
