"""Facts that a user states: what the weights cannot show, where this file differs from what the mapping says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loftr2flax.errors import UsageError
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
            raise UsageError(message, f"such as {name}={_spelled(like)}")
    return replace(mapping, facts={**mapping.facts, **facts})


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _alike(value: Any, stated: Any) -> bool:
    """Whether a value can stand for what the mapping states: a truth value, a whole number, a finite number, a word."""
    if isinstance(stated, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return stated is None or type(value) is type(stated)
