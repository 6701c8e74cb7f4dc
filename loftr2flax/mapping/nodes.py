"""YAML text as nodes that know their place, and the list in which all faults of a file are collected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from loftr2flax.errors import Fault, MappingError, Place

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ALMOST_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
MAX_BYTES = 4 << 20
"""A mapping file larger than this is not one."""


class Faults:
    """Faults in the order in which they are found; nothing stops at the first."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def add(self, place: Place | None, message: str, hint: str = "") -> None:
        """Notes one fault; the same one twice (from two leaves of a kind) counts once."""
        fault = Fault(place, message, hint)
        if fault not in self.found:
            self.found.append(fault)

    def raise_for(self, file: str) -> None:
        """Raises MappingError if there are any, in the order of their places."""
        if self.found:
            faults = sorted(self.found, key=lambda f: (f.place.line, f.place.column) if f.place else (0, 0))
            count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
            message = f"{file}: {count}\n" + "\n".join(f"  {fault}" for fault in faults)
            raise MappingError(message, "`loftr2flax mapping check` shows them again; mappings/README.md is the manual", faults)


@dataclass(frozen=True)
class Scalar:
    """A piece of text and where it stands."""

    text: str
    place: Place
    node: yaml.nodes.ScalarNode

    def at(self, offset: int) -> Place:
        """The place ``offset`` characters into the text (exact for text that is not quoted)."""
        return Place(self.place.file, self.place.line, self.place.column + offset)


class Reader:
    """Takes YAML nodes apart, reporting what has the wrong form instead of failing at it."""

    def __init__(self, file: str, faults: Faults) -> None:
        self.file = file
        self.faults = faults

    def place(self, node: yaml.Node) -> Place:
        """Where a node begins, counted from 1."""
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def root(self, text: str) -> yaml.Node | None:
        """The document's node; a YAML syntax error is a fault."""
        try:
            for event in yaml.parse(text, Loader=_Loader):
                if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                    place = Place(self.file, event.start_mark.line + 1, event.start_mark.column + 1)
                    self.faults.add(place, "YAML anchors and aliases are no part of the language")
                    return None
            node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(self.file, mark.line + 1, mark.column + 1) if mark else None
            self.faults.add(place, f"not YAML: {error.problem or error.context}", "quote the name if it begins with { or [")
            return None
        except (yaml.YAMLError, RecursionError) as error:
            self.faults.add(Place(self.file, 1, 1), f"not YAML: {str(error).splitlines()[0]}")
            return None
        if node is None:
            self.faults.add(Place(self.file, 1, 1), "the file is empty")
        return node

    def entries(self, node: yaml.Node, what: str) -> list[tuple[Scalar, yaml.Node]]:
        """The key–value pairs of a YAML mapping; equal keys are a fault, and the first one counts."""
        if not isinstance(node, yaml.MappingNode):
            if not (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
                self.faults.add(self.place(node), f"{what} is a list of `name: value` lines, not {_form(node)}")
            return []
        seen: dict[str, Place] = {}
        pairs: list[tuple[Scalar, yaml.Node]] = []
        for key_node, value in node.value:
            key = self.scalar(key_node, f"a name in {what}")
            if key is None:
                continue
            if key.text in seen:
                self.faults.add(key.place, f"{key.text!r} stands here a second time; first at line {seen[key.text].line}")
                continue
            seen[key.text] = key.place
            pairs.append((key, value))
        return pairs

    def scalar(self, node: yaml.Node, what: str) -> Scalar | None:
        """A single piece of text."""
        if isinstance(node, yaml.ScalarNode):
            return Scalar(node.value, self.place(node), node)
        self.faults.add(self.place(node), f"{what} is a single word, not {_form(node)}", "quote it if it begins with { or [")
        return None

    def scalars(self, node: yaml.Node, what: str) -> list[Scalar]:
        """A YAML list of pieces of text."""
        if not isinstance(node, yaml.SequenceNode):
            self.faults.add(self.place(node), f"{what} is a list such as [q, k, v], not {_form(node)}")
            return []
        return [item for child in node.value if (item := self.scalar(child, f"an entry of {what}")) is not None]

    def plain(self, node: yaml.Node) -> Any:
        """Plain data (facts, values): numbers, words, lists, mappings."""
        for scalar in _scalars_below(node):
            if scalar.tag == "tag:yaml.org,2002:str" and not scalar.style and _ALMOST_FLOAT.fullmatch(scalar.value):
                self.faults.add(self.place(scalar), f"{scalar.value} is read as text by YAML", f"write {float(scalar.value):.1e}")
        try:
            return yaml.constructor.SafeConstructor().construct_object(node, deep=True)  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            self.faults.add(self.place(node), f"not a plain value: {error.problem}")
            return None


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or ""."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def _scalars_below(node: yaml.Node) -> list[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        return [node]
    children = node.value if isinstance(node, yaml.SequenceNode) else [c for pair in node.value for c in pair]
    return [scalar for child in children for scalar in _scalars_below(child)]


def _form(node: yaml.Node) -> str:
    return {"mapping": "a mapping", "sequence": "a list"}.get(node.id, f"{node.value!r}")
