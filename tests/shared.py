"""Real files that lie beside the repository and are no part of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("LOFTR2FLAX_SHARED", Path(__file__).parents[2] / "shared"))


def shared_file(name: str) -> Path:
    """The file of that name; the test is skipped, aloud, where there is none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there; LOFTR2FLAX_SHARED names the folder that has {name}")
    return path
