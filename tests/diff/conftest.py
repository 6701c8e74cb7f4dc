"""What the tests of `diff` share."""

from __future__ import annotations

from pathlib import Path

import pytest
from pairs import Diff, Leaves, save

from loftr2flax import diff_checkpoints
from loftr2flax.compare.values import CheckpointDiff


@pytest.fixture
def diff(tmp_path: Path) -> Diff:
    """Two dicts of arrays, saved and compared."""

    def compare(left: Leaves, right: Leaves, **options: object) -> CheckpointDiff:
        one, other = save(tmp_path / "left.npz", left), save(tmp_path / "right.npz", right)
        return diff_checkpoints(one, other, **options)  # type: ignore[arg-type]

    return compare
