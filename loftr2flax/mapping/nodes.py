"""YAML text as nodes that know their place, and the list in which all faults of a file are collected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from loftr2flax.errors import Fault, MappingError, Place

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ALMOST_FLOAT = re.compile(r"([-+]?[0-9]+)(\.[0-9]*)?[eE]([-+]?)([0-9]+)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
MAX_BYTES = 4 << 20
"""A mapping file larger than this is not one."""
_MAX_DEPTH = 32
"""A mapping file nested deeper than this is not one either."""


class Faults:
    """Faults in the order in which they are found; nothing stops at the first.

    ``noted`` counts every call of `add`, so that a step can tell whether it went well.
    """

    def __init__(self) -> None:
        self._found: dict[Fault, None] = {}
        self.noted = 0

    @property
    def found(self) -> list[Fault]:
        """All faults so far."""
        return list(self._found)

    def add(self, place: Place | None, message: str, hint: str = "") -> None:
        """Notes one fault; the same one twice (from two leaves of a kind) counts once."""
        self.noted += 1
        self._found[Fault(place, message, hint)] = None

    def raise_for(self, file: str) -> None:
        """Raises MappingError if there are any, in the order of their places."""
        if self._found:
            faults = in_order(self.found)
            count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
            message = f"{file}: {count}\n" + "\n".join(f"  {fault}" for fault in faults)
            raise MappingError(
                message, "`loftr2flax mapping check` shows them again; mappings/README.md is the manual", faults
            )


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Faults by their places in the file; those without one come first."""
    return sorted(faults, key=lambda f: (f.place.line, f.place.column) if f.place else (0, 0))


class Scalar(NamedTuple):
    """A piece of text and where it stands."""

    text: str
    place: Place
    node: yaml.nodes.ScalarNode

    def at(self, offset: int) -> Place:
        """The place ``offset`` characters into the text (exact where no quoting changes the text's length)."""
        quote = 1 if self.node.style in ("'", '"') else 0
        return Place(self.place.file, self.place.line, self.place.column + quote + offset)


class Reader:
    """Takes YAML nodes apart, reporting what has the wrong form instead of failing at it."""

    def __init__(self, file: str, faults: Faults) -> None:
        self.file = file
        self.faults = faults

    def place(self, node: yaml.Node) -> Place:
        """Where a node begins, counted from 1."""
        return self._at(node.start_mark)

    def _at(self, mark: Any) -> Place:
        return Place(self.file, mark.line + 1, mark.column + 1) if mark else Place(self.file, 1, 1)

    def root(self, text: str) -> yaml.Node | None:
        """The document's node; a YAML syntax error is a fault."""
        try:
            if not self._is_plain_yaml(text):
                return None
            node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._at(mark)
            marked = text.split("\n")[mark.line : mark.line + 1] if mark else []  # none where it stands behind the last
            tab = mark is not None and any("\t" in found[: mark.column + 1] for found in marked)
            hint = "indent with spaces: here is a tab" if tab else "quote what begins with { or ["
            self.faults.add(place, f"not YAML: {error.problem or error.context}", hint)
            return None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.faults.add(Place(self.file, line, 1), f"not YAML: {error.reason}")
            return None
        if node is None:
            self.faults.add(Place(self.file, 1, 1), "the file is empty")
        return node

    def _is_plain_yaml(self, text: str) -> bool:
        """Whether the text is free of anchors and of bottomless nesting, found before any tree is built."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            place = self._at(event.start_mark)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                self.faults.add(place, "YAML anchors and aliases are no part of the language")
                return False
            if depth > _MAX_DEPTH:
                self.faults.add(place, f"nested deeper than {_MAX_DEPTH} levels")
                return False
        return True

    def entries(self, node: yaml.Node, what: str) -> list[tuple[Scalar, yaml.Node]]:
        """The key–value pairs of a YAML mapping; equal keys are a fault, and the first one counts."""
        if not isinstance(node, yaml.MappingNode):
            if not (isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"):
                self.faults.add(self.place(node), f"{what} holds `name: value` lines, not {_form(node)}")
            return []
        seen: dict[str, Place] = {}
        pairs: list[tuple[Scalar, yaml.Node]] = []
        for key_node, value in node.value:
            key = self.scalar(key_node, f"a name in {what}")
            if key is None:
                continue
            if key.text in seen:
                self.faults.add(
                    key.place, f"{key.text!r} stands here a second time; first at line {seen[key.text].line}"
                )
                continue
            seen[key.text] = key.place
            pairs.append((key, value))
        return pairs

    def scalar(self, node: yaml.Node, what: str) -> Scalar | None:
        """A single piece of text."""
        if isinstance(node, yaml.ScalarNode):
            return Scalar(node.value, self.place(node), node)
        self.faults.add(
            self.place(node), f"{what} is a single word, not {_form(node)}", "quote what begins with { or ["
        )
        return None

    def scalars(self, node: yaml.Node, what: str) -> list[Scalar]:
        """A YAML list of pieces of text."""
        if not isinstance(node, yaml.SequenceNode):
            self.faults.add(self.place(node), f"{what} is a list such as [q, k, v], not {_form(node)}")
            return []
        return [item for child in node.value if (item := self.scalar(child, f"an entry of {what}")) is not None]

    def plain(self, node: yaml.Node) -> Any:
        """Plain data (facts, values): numbers, words, lists, mappings. What is none of these is a fault, and None."""
        if isinstance(node, yaml.MappingNode):
            return {key.text: self.plain(value) for key, value in self.entries(node, "a table")}
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child) for child in node.value]
        assert isinstance(node, yaml.ScalarNode)
        if not node.style and node.tag == f"{_TAG}str" and (almost := _ALMOST_FLOAT.fullmatch(node.value)):
            whole, fraction, sign, exponent = almost.groups()
            mended = f"{whole}{fraction or '.'}{'' if fraction and fraction != '.' else '0'}e{sign or '+'}{exponent}"
            self.faults.add(self.place(node), f"{node.value} is read as text by YAML", f"write {mended}")
        if node.tag not in _PLAIN_TAGS:
            message = f"{node.value!r} is not a number, a word, true, false or null"
            self.faults.add(self.place(node), message, "quote it")
            return None
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):  # a tag that was written out: !!int abc
            self.faults.add(self.place(node), f"{node.value!r} is not what its tag says")
            return None


_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + word for word in ("str", "int", "float", "bool", "null"))


def closest(word: str, known: Iterable[str]) -> str:
    """The nearest known word, or "" if none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.5)), "")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or ""."""
    close = closest(word, known)
    return f"did you mean {close!r}?" if close else ""


def words_below(nodes: Iterable[yaml.Node]) -> frozenset[str]:
    """Every word in the text below some nodes: what lines that could not be read may have named."""
    return frozenset(word for node in nodes for text in _texts(node) for word in _WORD.findall(text))


def _texts(node: yaml.Node) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode):
        yield node.value
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            yield from _texts(part)


def _form(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{node.value!r}"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
