"""Facts that a user or a file states: what the weights cannot show, where they differ from what the mapping says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.convert.provenance import made_with, stated_facts
from loftr2flax.errors import CorruptFile, UsageError
from loftr2flax.mapping import shipped_names
from loftr2flax.mapping.nodes import nearest
from loftr2flax.mapping.rules import TensorMapping


def with_facts(mapping: TensorMapping, facts: Mapping[str, Any]) -> TensorMapping:
    """The mapping with some of its facts replaced.

    Raises:
      UsageError: it states no fact of that name, or states one of another kind (``heads=many``).
    """
    for name, value in facts.items():
        if name not in mapping.facts:
            stated = f"its facts are {', '.join(mapping.facts)}" if mapping.facts else "it states no facts at all"
            hint = nearest(name, mapping.facts) or stated
            raise UsageError(f"--fact {name}: {mapping.name} states no fact of that name", hint)
        like = mapping.facts[name]
        if not _alike(value, like):
            message = f"--fact {name}={value}: not of the kind of {json.dumps(like)}"
            raise UsageError(message, f"such as {name}={spelled(like)}")
    return replace(mapping, facts={**mapping.facts, **facts})


def recorded_facts(source: Checkpoint, mapping: TensorMapping) -> dict[str, Any]:
    """What a file's own record states of the facts of ``mapping``; empty where it was made by a stranger to it.

    The shipped mappings describe one network, and know each other's facts; a mapping of one's own knows its own.

    Raises:
      CorruptFile: the record states what cannot be.
    """
    stem = made_with(source).split("/")[0]
    if not stem or (stem != mapping.stem and not {stem, mapping.stem} <= set(shipped_names())):
        return {}
    facts = {name: value for name, value in stated_facts(source).items() if name in mapping.facts and name != "model"}
    for name, value in facts.items():
        if not _alike(value, mapping.facts[name]):
            message = f"{source.path}: its record states {name}={json.dumps(value)}, which cannot be"
            raise CorruptFile(message, "convert the torch file again")
    return facts


def spelled(value: Any) -> str:
    """A fact's value as `--fact` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _alike(value: Any, stated: Any) -> bool:
    """Whether a value can stand for what the mapping states: a truth value, a whole number, a finite number, a word."""
    if isinstance(stated, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return stated is None or type(value) is type(stated)
