"""``python -m tools`` writes the pages that are made from the program; with ``--check`` it says which are stale."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from loftr2flax.mapping.schema import mapping_schema
from tools.reference import reference

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference.md": reference,
    "docs/schemas/mapping.schema.json": lambda: json.dumps(mapping_schema(), indent=2) + "\n",
}
"""What is made, from the root of the project, and by what."""


def stale(root: Path) -> list[str]:
    """The pages that are not what the program says."""
    return [name for name, made in PAGES.items() if _text(root / name) != made()]


def write(root: Path) -> None:
    """Writes all pages."""
    for name, made in PAGES.items():
        (root / name).write_text(made(), "utf-8")


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def main(words: list[str], root: Path) -> int:
    """0: the pages are as they should be. 1: some are stale. 2: usage."""
    if words not in ([], ["--check"]):
        print("usage: python -m tools [--check]", file=sys.stderr)
        return 2
    if not words:
        write(root)
    found = stale(root)
    for name in found:
        print(f"{name}: stale; `python -m tools` writes it", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parents[1]))
