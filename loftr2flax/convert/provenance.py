"""What an output says of its making, and what the way back learns from it.

The record holds what the tensors alone cannot say: the spelling and order of the torch keys, the values of dropped
tensors, which groups were present, and the facts that the network needs. It names no path and no time, so that the
same input gives the same bytes anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import Checkpoint, LeafInfo
from loftr2flax.errors import CorruptFile
from loftr2flax.mapping.rules import TensorMapping
from loftr2flax.plan.moves import Plan
from loftr2flax.version import VERSION

SCHEMA = "loftr2flax.provenance/1"
MOST_KEPT = 1024
"""Dropped tensors of at most this many bytes are kept in the record."""


class Kept(NamedTuple):
    """A dropped tensor with its value, as bytes in hexadecimal: exact for every element type."""

    info: LeafInfo
    value: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """The record's form."""
        return {"dtype": self.info.dtype, "shape": list(self.info.shape), "hex": self.value.tobytes().hex()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Kept:
        """Reads the record's form; KeyError, TypeError or ValueError if it is not one."""
        info = LeafInfo(tuple(map(int, record["shape"])), str(record["dtype"]))
        data = bytes.fromhex(record["hex"])
        return cls(info, np.frombuffer(data, dtypes.numpy_dtype(info.dtype)).reshape(info.shape))


def forward_record(
    plan: Plan, source: Checkpoint, sha256: str, kept: Mapping[str, Kept], dtype: str | None
) -> dict[str, Any]:
    """The record of an output made from a torch file, its floating-point leaves cast to ``dtype`` if not None."""
    depth = len(plan.root) + 1 if plan.root else 0
    outside = set(plan.outside)
    return _record(plan, source, sha256) | {
        "dtype": dtype,
        "container": source.contents.container,
        "root": plan.root,
        "keys": [name[depth:] for name in source.infos if name not in outside],
        "dropped": {name[depth:]: value.to_json() for name, value in kept.items()},
    }


def reverse_record(plan: Plan, source: Checkpoint, sha256: str) -> dict[str, Any]:
    """The record of a state dict made from a Flax tree."""
    return _record(plan, source, sha256) | {"root": plan.root}


def _record(plan: Plan, source: Checkpoint, sha256: str) -> dict[str, Any]:
    mapping = plan.mapping
    return {
        "schema": SCHEMA,
        "tool": f"loftr2flax {VERSION}",
        "direction": plan.direction,
        "mapping": {"name": mapping.name, "sha256": mapping.sha256},
        "facts": dict(mapping.facts),
        "groups": list(plan.present),
        "source": {"format": source.format, "sha256": sha256},
    }


def made_with(source: Checkpoint) -> str:
    """The name of the mapping that a file was made with ("loftr/1"), or "" where it does not say."""
    mapping = (source.contents.provenance or {}).get("mapping")
    return str(mapping.get("name", "")) if isinstance(mapping, Mapping) else ""


def foreign_network(source: Checkpoint) -> str:
    """What a file says to hold that is no network of a shipped mapping, in words; else ""."""
    return str((source.contents.provenance or {}).get("network") or "")


def stated_facts(source: Checkpoint) -> dict[str, Any]:
    """What a file's record states of its network; empty where it carries none.

    Raises:
      CorruptFile: what stands there is no table of names and values.
    """
    facts = (source.contents.provenance or {}).get("facts")
    if facts is None:
        return {}
    if not isinstance(facts, Mapping):
        message = f"{source.path}: its record of provenance is damaged: its facts are no names with values"
        raise CorruptFile(message, "convert the torch file again")
    return dict(facts)


@dataclass(frozen=True)
class Memory:
    """What the way back knows from an output's record; all empty for a tree that carries none.

    Attributes:
      mapping: the mapping's name and the hash of its file.
      container, root: where the state dict lay, and what stood before its keys.
      keys: the keys in their order and spelling, below the root.
      dropped: values of dropped tensors by key.
      groups: the groups that were present.
      dtype: what floating-point leaves were cast to, or None.
    """

    mapping: tuple[str, str] = ("", "")
    container: str = ""
    root: str = ""
    keys: tuple[str, ...] = ()
    dropped: Mapping[str, Kept] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    dtype: str | None = None

    @classmethod
    def of(cls, source: Checkpoint) -> Memory:
        """What a checkpoint remembers.

        Raises:
          CorruptFile: it carries a record of ours that cannot be read.
        """
        record = source.contents.provenance
        if not record or record.get("schema") != SCHEMA or record.get("direction") != "forward":
            return cls()
        try:
            return cls(
                (str(record["mapping"]["name"]), str(record["mapping"]["sha256"])),
                str(record["container"]),
                str(record["root"]),
                tuple(map(str, record["keys"])),
                {str(key): Kept.from_json(value) for key, value in record["dropped"].items()},
                tuple(map(str, record["groups"])),
                str(record["dtype"]) if record.get("dtype") is not None else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"{source.path}: its record of provenance is damaged: {error}"
            raise CorruptFile(message, "convert the torch file again") from error

    def of_mapping(self, mapping: TensorMapping | None) -> Memory:
        """What is of use with a mapping: keys, groups and dropped values mean nothing to another one."""
        known = mapping is None or not self.mapping[0] or mapping.name == self.mapping[0]
        return self if known else Memory(self.mapping, self.container, dtype=self.dtype)
