"""What stands above the lines of a mapping: indices, sizes, aliases, the subtree, facts."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from loftr2flax.mapping.names import IDENTIFIER, IndexValue
from loftr2flax.mapping.nodes import Reader, Scalar, nearest
from loftr2flax.mapping.rules import Index, Size

MOST_VALUES = 10_000
"""A closed index has at most so many values; a longer range is an open one."""
SOURCE = ("at", "aliases")
TARGET = ("tree",)
"""The words below `source:` and `target:`."""
TREES = ("params", "variables")
RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})?")
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
SEGMENT = re.compile(r"[^\s./{}\[\]]+")
"""One part of a name, without an index in it."""


def read_index(reader: Reader, name: Scalar, node: yaml.Node, *, tied: bool) -> Index | None:
    """``0..``, ``0..7`` or ``[q, k, v]``. What is wrong with its values hides nothing that lines say of the index."""
    values: tuple[IndexValue, ...] | None
    before, start = reader.faults.noted, 0
    if not IDENTIFIER.fullmatch(name.text):
        reader.faults.add(name.place, f"{name.text!r} cannot name an index")
        return None
    if isinstance(node, yaml.ScalarNode):
        found = RANGE.fullmatch(node.value)
        start, end = (int(found[1]), int(found[2] or -1)) if found else (0, -1)
        if not found:
            hint = "write a range (0.. or 0..7) or a list ([q, k, v])"
            reader.faults.add(reader.place(node), f"index {name.text} is {node.value!r}", hint)
        elif found[2] and not start <= end < start + MOST_VALUES:
            message = f"the range {node.value} of index {name.text} is empty or too long"
            reader.faults.add(reader.place(node), message, f"an open one, {start}.., ends where the file does")
        values = tuple(range(start, end + 1)) if found and found[2] else None
    else:
        values = tuple(_value(reader, name, item) for item in reader.scalars(node, f"index {name.text}"))
        if reader.faults.noted == before and (len(set(values)) < len(values) or not values):
            shown = ", ".join(map(str, values))
            reader.faults.add(reader.place(node), f"index {name.text} needs values that differ: [{shown}]")
    if tied and values is None and reader.faults.noted == before:
        message = f"nothing tells how many copies tied index {name.text} stands for"
        reader.faults.add(reader.place(node), message, "list them: [0, 1]")
    return Index(name.text, values if reader.faults.noted == before else None, start, tied, name.place)


def _value(reader: Reader, name: Scalar, item: Scalar) -> IndexValue:
    if not SEGMENT.fullmatch(item.text):
        reader.faults.add(item.place, f"{item.text!r}, a value of index {name.text}, is no part of one name segment")
    return as_value(item.text)


def as_value(text: str) -> IndexValue:
    """A number where the text is one as names spell it (``7``, not ``07``), else the text."""
    return int(text) if NUMBER.fullmatch(text) else text


def read_size(reader: Reader, name: Scalar, node: yaml.Node) -> Size:
    """``8``, or a table over an index: ``{query: 8, key: 2}``. What is no size counts as 1, and as a fault."""
    if isinstance(node, yaml.MappingNode):
        entries = reader.entries(node, f"size {name.text}")
        table = {as_value(key.text): _size(reader, f"{name.text} at {key.text}", value) for key, value in entries}
        if table:
            return Size(name.text, None, table, name.place)
    return Size(name.text, _size(reader, name.text, node), None, name.place)


def _size(reader: Reader, what: str, node: yaml.Node) -> int:
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    if not NUMBER.fullmatch(text) or text == "0":
        shown = repr(text) if isinstance(node, yaml.ScalarNode) else "a list" if node.value else "empty"
        hint = "write a positive number, or a table {query: 8, key: 2}"
        reader.faults.add(reader.place(node), f"size {what} is {shown}", hint)
        return 1
    return int(text)


def read_at(reader: Reader, node: yaml.Node) -> tuple[str, ...]:
    """The segments of a subtree's name."""
    text = reader.scalar(node, "`at`")
    if text is None or not text.text:
        return ()
    segments = tuple(text.text.split("."))
    if not all(SEGMENT.fullmatch(segment) for segment in segments):
        reader.faults.add(text.place, f"`at` is {text.text!r}", "write whole name segments: matcher.loftr_coarse")
        return ()
    return segments


def read_aliases(reader: Reader, node: yaml.Node) -> dict[str, str]:
    """Other spellings of whole segments."""
    aliases: dict[str, str] = {}
    places = {}
    for key, value in reader.entries(node, "`aliases:`"):
        text = reader.scalar(value, f"alias {key.text}")
        if text is None:
            continue
        if not (SEGMENT.fullmatch(key.text) and SEGMENT.fullmatch(text.text)):
            reader.faults.add(key.place, f"alias {key.text!r} is not one whole name segment for another")
            continue
        aliases[key.text], places[key.text] = text.text, key.place
    for spelled, meant in aliases.items():
        if meant in aliases:
            message = f"alias {spelled!r} leads to {meant!r}, which is an alias itself"
            reader.faults.add(places[spelled], message, f"write {spelled}: {aliases[meant]}")
    return aliases


def read_facts(reader: Reader, node: yaml.Node) -> dict[str, Any]:
    """Plain data, as it can be stored beside the weights."""
    facts = {}
    for key, value in reader.entries(node, "`facts:`"):
        facts[key.text] = fact = reader.plain(value)
        if isinstance(fact, float) and not math.isfinite(fact):
            reader.faults.add(reader.place(value), f"fact {key.text} is {fact}, which JSON cannot hold")
    return facts


def read_tree(reader: Reader, node: yaml.Node) -> str:
    """Which collections the target tree has."""
    tree = TREES[0]
    for key, value in reader.entries(node, "`target:`"):
        if key.text != "tree":
            reader.faults.add(key.place, f"`target:` has no {key.text!r}", nearest(key.text, TARGET))
            continue
        text = reader.scalar(value, "`tree`")
        if text and text.text not in TREES:
            message = f"`tree` is params or variables, not {text.text!r}"
            reader.faults.add(text.place, message, nearest(text.text, TREES))
        elif text:
            tree = text.text
    return tree
