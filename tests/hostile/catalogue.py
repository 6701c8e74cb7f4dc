"""Hostile and damaged files: one maker for each fault, named by its fault. `FAULTS.txt` says what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

Maker = Callable[[Path], object]
"""Makes a file of its fault at the path; what it returns does not matter."""

FAULTS: dict[str, Maker] = {}
"""By fault, in the order of `FAULTS.txt`."""


def fault(make: Maker) -> Maker:
    """Registers a maker under its own name."""
    add(make.__name__, make)
    return make


def add(name: str, make: Maker) -> None:
    """Registers a maker."""
    assert name not in FAULTS, name
    FAULTS[name] = make


def load() -> dict[str, Maker]:
    """All faults."""
    from hostile import (  # noqa: F401  each registers its own
        legacy_faults,
        msgpack_faults,
        npz_faults,
        pickle_bombs,
        pickle_faults,
        safetensors_faults,
        tensor_faults,
        zip_faults,
    )

    return FAULTS


def read_pins(text: str) -> dict[str, dict[str, tuple[int, str, str]]]:
    """`FAULTS.txt`: by fault and verb, the exit code, the error and the hint."""
    found: dict[str, dict[str, tuple[int, str, str]]] = {}
    verbs: list[str] = []
    name = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" "):
            name = line
            found[name] = {}
        elif line.startswith("    "):
            word, _, rest = line.strip().partition(": ")
            for verb in verbs:
                code, error, hint = found[name][verb]
                found[name][verb] = (code, rest, hint) if word == "error" else (code, error, rest)
        else:
            *verbs, number = line.split()
            found[name] |= {verb: (int(number), "", "") for verb in verbs}
    return found


def write_pins(pins: dict[str, dict[str, tuple[int, str, str]]]) -> str:
    """The text of `FAULTS.txt`; verbs that end alike stand together."""
    lines = [
        "# What becomes of each hostile file: the verbs and their exit code, then error and hint. FILE is its path."
    ]
    for name, verbs in pins.items():
        lines += ["", name, *_alike(verbs)]
    return "\n".join(lines) + "\n"


def _alike(verbs: dict[str, tuple[int, str, str]]) -> Iterator[str]:
    groups: dict[tuple[int, str, str], list[str]] = {}
    for verb, outcome in verbs.items():
        groups.setdefault(outcome, []).append(verb)
    for (code, error, hint), names in groups.items():
        yield f"  {' '.join(names)} {code}"
        yield from (f"    {word}: {text}" for word, text in (("error", error), ("hint", hint)) if text)
