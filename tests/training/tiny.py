"""The config of a run of seconds, its options on the command line, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from loftr2flax.training.config import DenseConfig

TINY: dict[str, Any] = {
    "image_size": (32, 48), "batch_size": 4, "pairs_per_epoch": 8, "num_epochs": 2, "num_prints": 6, "hidden_dim": 16,
    "num_heads": 2, "transformer_layers": 2, "eval_pairs": 4, "log_every": 1, "warmup_epochs": 0,
}  # fmt: skip


def tiny_config(folder: Path, **changes: Any) -> DenseConfig:
    return DenseConfig(**{**TINY, "checkpoint_dir": str(folder), **changes})


def tiny_options(**changes: Any) -> list[str]:
    """The same as flags."""
    values = {**TINY, **changes}
    return [
        word
        for name, value in values.items()
        for word in (
            f"--{name.replace('_', '-')}",
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value),
        )
    ]


def weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "weights.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    assert one.keys() == other.keys()
    return all(one[name].tobytes() == other[name].tobytes() for name in one)
