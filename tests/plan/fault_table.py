"""The tables of pinned faults beside the fixtures, and the fixtures run."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from headers import headers

from loftr2flax.errors import MappingError, MappingMismatch
from loftr2flax.mapping import load_mapping
from loftr2flax.plan import build_plan

FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclass(frozen=True)
class Row:
    """A fixture with the faults that it is refused with; ``direction`` and ``tensors`` where it fits no headers."""

    path: Path
    direction: str
    tensors: str
    faults: tuple[str, ...]


def _read(folder: str) -> list[tuple[list[str], list[str]]]:
    text = (FIXTURES / folder / "FAULTS.txt").read_text("utf-8")
    rows = [block.splitlines() for block in text.split("\n\n") if not block.startswith("#")]
    return [(head.split(), [line.removeprefix("  ") for line in lines]) for head, *lines in rows]


MAPPINGS = [Row(FIXTURES / "mappings" / f"{head[0]}.yaml", "", "", tuple(lines)) for head, lines in _read("mappings")]
MISMATCHES = [
    Row(FIXTURES / "mismatches" / f"{head[0]}.yaml", head[1], lines[0], tuple(lines[1:]))
    for head, lines in _read("mismatches")
]


def refuse(row: Row) -> MappingError:
    """The error that a row ends with."""
    if not row.tensors:
        with pytest.raises(MappingError) as caught:
            load_mapping(row.path)
        assert not isinstance(caught.value, MappingMismatch)
        return caught.value
    mapping = load_mapping(row.path)
    with pytest.raises(MappingMismatch) as caught:
        build_plan(mapping, headers(row.tensors), row.direction, path="net")
    return caught.value
