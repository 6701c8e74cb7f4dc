"""A short, deterministic slice of what `make fuzz` does for hours, and everything that it ever found."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from fuzz.targets import CORPUS, TARGETS, corpus

pytestmark = pytest.mark.filterwarnings("ignore")

FOUND = [(name, path) for name in TARGETS for path in corpus(name)]
_SMALL = [name for name in TARGETS if name not in ("open", "mapping")]


@pytest.mark.parametrize(("name", "path"), FOUND, ids=[f"{name}-{path.name}" for name, path in FOUND])
def test_what_was_found_stays_mended(name: str, path: Path) -> None:
    TARGETS[name].run(path.read_bytes())


def test_the_corpus_belongs_to_targets() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name: str) -> None:
    """Fuzzing begins with what is sound; `open` and `mapping` have some that are refused, too."""
    read = [TARGETS[name].run(seed) for seed in TARGETS[name].seeds()]
    assert all(read) if name in _SMALL else any(read) and not all(read)


@pytest.mark.parametrize("name", _SMALL)
def test_every_byte_mutated(name: str) -> None:
    """Refused, or read as the format's own library reads it."""
    seed = next(TARGETS[name].seeds())
    outcomes = set()
    for at, flip in product(range(len(seed)), (0x01, 0x80, 0xFF)):
        outcomes.add(TARGETS[name].run(seed[:at] + bytes([seed[at] ^ flip]) + seed[at + 1 :]))
    assert outcomes == {True, False}


@pytest.mark.parametrize("name", _SMALL)
def test_every_truncation(name: str) -> None:
    seed = next(TARGETS[name].seeds())
    for end in range(len(seed)):
        TARGETS[name].run(seed[:end])
