"""The JSON Schema (draft 2020-12) of mapping files, for editors: made from the tables that the parser reads by.

A schema sees the words and the form of each name. It sees neither what two lines say together nor faults of YAML
itself; `loftr2flax mapping check` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loftr2flax import dtypes
from loftr2flax.mapping.blocks import BLOCKS
from loftr2flax.mapping.constants import CONSTANT
from loftr2flax.mapping.declarations import NUMBER, RANGE, SEGMENT, SOURCE, TARGET, TREES
from loftr2flax.mapping.kinds import Kind, KindLine, shipped_kinds
from loftr2flax.mapping.names import IDENTIFIER, TERM
from loftr2flax.mapping.parse import DECLARATIONS, GROUPS, HEADINGS, NAME

Schema = dict[str, Any]

ABOUT = {
    "mapping": "The name and version, such as loftr_coarse/1; outputs carry it.",
    "about": "One sentence for people.",
    "source": "The torch side.",
    "at": "The subtree that the keys begin in; what stands before it in a file is found.",
    "aliases": "Other spellings of whole name segments, met in the wild, and what they mean here.",
    "target": "The Flax side.",
    "tree": "params: leaves as they are named; variables: the variable collection stands in front.",
    "facts": "What the weights cannot show (heads, epsilons); stored with the output.",
    "index": "The values of each index: `0..` (every one present), `0..7`, or a list.",
    "tied": "Indices whose values are copies of one tensor.",
    "let": "Sizes that shapes do not tell: a number, or a table over an index.",
    "kinds": "Kinds of layer of your own: each torch leaf beside its Flax leaf.",
    "tensors": "Single tensors, spelled out: `torch key [axes]: flax path [axes]`.",
    "drop": "Torch tensors that have no leaf, and the value to write on the way back.",
    "fill": "Leaves that have no torch tensor, and their value.",
    "optional": "Groups of blocks that a file may lack.",
    "alternatives": "Groups of which exactly one choice is there.",
}
"""What an editor says of each word."""

_WORD = ["string", "number", "boolean", "null"]
"""The parser takes a word as it is spelled; YAML calls some words numbers, truth values or nothing."""
_IDENTIFIER = IDENTIFIER.pattern
_TERM = re.sub(r"\((?!\?)", "(?:", TERM.pattern)
_HOLE = rf"\{{(?=[^{{}}]*[A-Za-z_]){_TERM}(?:\+{_TERM}|- *[0-9]{{1,9}} *)*\}}"
_TORCH, _FLAX = (rf"{part}(?:{sep}{part})*" for sep in (r"\.", "/") for part in [rf"(?:[^\s{{}}\[\]{sep}]|{_HOLE})+"])
_MERGED = rf"\(\s*(?:(?:-?{_IDENTIFIER}|1)(?=[\s)])\s*)*\)"
_AXES = rf"\[\s*(?:(?:{_MERGED}|(?:-?(?:\.\.\.|{_IDENTIFIER})|1)(?=[\s(\]]))\s*)*\]"
_LEAF = rf"(?!\S*\?(?:\s|$))(?:{_IDENTIFIER}:)?"
_NUMERAL = r"true|false|[-+]?(?:[0-9][0-9_.eE+-]*|\.[0-9][0-9_eE+-]*|inf|nan)"


def mapping_schema() -> Schema:
    """The schema; it accepts every file that the parser accepts, and says what each word is."""
    kinds = shipped_kinds()
    declared = {name: {**_DECLARED[name], "description": ABOUT[name]} for name in DECLARATIONS}
    known = {"propertyNames": {"enum": [*HEADINGS, *kinds]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:loftr2flax:mapping-file:1",
        "title": "loftr2flax mapping",
        "description": "How the tensors of a PyTorch checkpoint and the leaves of a Flax tree are the same numbers.",
        "type": "object",
        "required": ["mapping"],
        "properties": {**declared, **_blocks(kinds, grouped=False), **dict.fromkeys(GROUPS, True)},
        "additionalProperties": {"$ref": "#/$defs/modules"},
        "if": {"required": ["kinds"]},
        "then": {"properties": _groups("group")},
        "else": {"properties": _groups("known_group"), **known},
        "$defs": {
            "modules": _modules(rf"^(?:{_TORCH})?\??$"),
            "grouped_modules": _modules(rf"^(?!\S*\?$)(?:{_TORCH})?$"),
            "group": _group(kinds, {"$ref": "#/$defs/grouped_modules"}),
            "known_group": _group(kinds, False),
            "tensors": _TENSORS,
            "drop": _lines({rf"^{_TORCH}(?:\s+{_AXES})?$": _constant("null")}),
            "fill": _lines({rf"^{_LEAF}{_FLAX}\s+{_AXES}$": _constant()}),
        },
    }


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


def _word(pattern: str) -> Schema:
    return {"type": _WORD, "pattern": f"^(?:{pattern})$"}


def _table(value: Schema | bool, names: str = "", **more: Any) -> Schema:
    """A YAML mapping of any names, or of names of one form; nothing at all counts as an empty one."""
    named = {"propertyNames": {"pattern": f"^(?:{names})$"}} if names else {}
    return {"type": ["object", "null"], **named, "additionalProperties": value, **more}


def _lines(forms: dict[str, Schema]) -> Schema:
    """A block: the forms of its left sides, each with what may stand to its right."""
    return {"type": ["object", "null"], "patternProperties": forms, "additionalProperties": False}


def _modules(left: str) -> Schema:
    return _lines({left: {"type": _WORD, "pattern": rf"^(?!{_IDENTIFIER}:|\S*\?$)(?:{_FLAX})?$"}})


def _constant(*more: str) -> Schema:
    value: Schema = {"type": ["number", "boolean"]}
    fields: dict[str, Schema] = {"value": value, "dtype": {"enum": [*dtypes.NAMES, None]}}
    needed = {} if more else {"required": ["value"]}
    spelled = {"type": "object", "properties": {n: fields[n] for n in CONSTANT}, "additionalProperties": False}
    return {"anyOf": [{"type": ["number", "boolean", *more]}, {**spelled, **needed}]}


def _blocks(kinds: Mapping[str, Kind], *, grouped: bool) -> Schema:
    """The blocks of lines by their headings."""
    modules = {"$ref": f"#/$defs/{'grouped_' if grouped else ''}modules"}
    own = {name: {"$ref": f"#/$defs/{name}", "description": ABOUT[name]} for name in BLOCKS}
    return {**own, **{name: {**modules, "description": _told(kind)} for name, kind in kinds.items()}}


def _group(kinds: Mapping[str, Kind], others: Schema | bool) -> Schema:
    return {
        "type": ["object", "null"],
        "properties": _blocks(kinds, grouped=True),
        "additionalProperties": others,
    }


def _groups(group: str) -> Schema:
    one = {"$ref": f"#/$defs/{group}"}
    several = {"type": "object", "minProperties": 2, "additionalProperties": one}
    forms = {"optional": _table(one), "alternatives": _table(several)}
    return {name: {**forms[name], "description": ABOUT[name]} for name in GROUPS}


def _told(kind: Kind) -> str:
    return "Modules of torch and Flax: " + ", ".join(map(_told_leaf, kind))


def _told_leaf(line: KindLine) -> str:
    mark = "?" if line.source.optional else ""
    there = f"{line.target.text} {line.target.layout}" if line.target else "dropped"
    return f"{line.source.text}{mark} {line.source.layout} -> {there}"


_SIZE: Schema = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": 999_999_999}, _text(rf"(?!0$)(?:{NUMBER.pattern})")]
}
_VALUES: Schema = {
    "type": "array",
    "items": {"type": _WORD, "pattern": f"^{SEGMENT.pattern}$"},
    "minItems": 1,
    "uniqueItems": True,
}
_CLOSED = RANGE.pattern.removesuffix("?")
_KIND: Schema = {
    "type": "object",
    "minProperties": 1,
    "patternProperties": {
        rf"^\.{_TORCH}\s+{_AXES}$": _text(rf"drop(?:\s+(?:{_NUMERAL}))?|{_LEAF}/{_FLAX}\s+{_AXES}"),
    },
    "additionalProperties": False,
}
_TENSORS = _lines(
    {rf"^{_TORCH}\s+{_AXES}$": _text(rf"{_LEAF}{_FLAX}\s+{_AXES}"), rf"^{_TORCH}$": _word(rf"{_LEAF}{_FLAX}")}
)
_SIDES: dict[str, Schema] = {
    "at": {"type": _WORD, "pattern": rf"^(?:{SEGMENT.pattern}(?:\.{SEGMENT.pattern})*)?$"},
    "aliases": _table({"type": _WORD, "pattern": f"^{SEGMENT.pattern}$"}, SEGMENT.pattern),
    "tree": {"enum": list(TREES)},
}


def _side(words: tuple[str, ...]) -> Schema:
    told = {word: {**_SIDES[word], "description": ABOUT[word]} for word in words}
    return {"type": ["object", "null"], "properties": told, "additionalProperties": False}


_DECLARED: dict[str, Schema] = {
    "mapping": {"type": ["string", "number"], "pattern": f"^{NAME.pattern}$"},
    "about": {"type": _WORD},
    "source": _side(SOURCE),
    "target": _side(TARGET),
    "facts": _table({"type": ["string", "number", "boolean", "null", "array", "object"]}),
    "index": _table({"anyOf": [_text(RANGE.pattern), _VALUES]}, _IDENTIFIER),
    "tied": _table({"anyOf": [_text(_CLOSED), _VALUES]}, _IDENTIFIER),
    "let": _table({"anyOf": [_SIZE, {"type": "object", "minProperties": 1, "additionalProperties": _SIZE}]}),
    "kinds": {**_table(_KIND), "propertyNames": {"not": {"enum": list(HEADINGS)}}},
}
