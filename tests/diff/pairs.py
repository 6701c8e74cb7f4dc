"""Pairs of files to be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from program import Outcome

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.compare.values import CheckpointDiff, Finding
from loftr2flax.formats.writer import open_writer

Run = Callable[..., Outcome]
Leaves = Mapping[str, np.ndarray]
Diff = Callable[..., CheckpointDiff]
FORMATS = {"torch": "ckpt", "safetensors": "safetensors", "npz": "npz", "msgpack": "msgpack"}


def save(path: Path, leaves: Leaves, format: str = "npz") -> Path:
    infos = {name: LeafInfo(array.shape, array.dtype.name) for name, array in leaves.items()}
    with open_writer(path, format, infos, {}, force=True) as writer:
        for name in writer.order:
            writer.write(name, leaves[name])
    return path


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def base() -> dict[str, np.ndarray]:
    return {
        "a.weight": normal(6, 4, seed=1),
        "a.bias": normal(6, seed=2),
        "b.weight": normal(3, 5, 2, seed=3),
        "b.steps": np.array(7),
    }


def the_one(found: CheckpointDiff) -> Finding:
    (finding,) = found.differences
    return finding
