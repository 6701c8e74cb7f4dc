"""A small LoFTR of random weights and its conversions, made once; and a way to change one leaf of a conversion."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_loftr import HEADS

from loftr2flax.convert import convert_checkpoint
from tools.sample import SampleSizes, write_sample

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: small networks on many threads only wait


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small.ckpt`` with its conversions ``loftr.npz``, ``loftr_coarse.npz`` and ``ifvit_jax.npz``."""
    place = tmp_path_factory.mktemp("parity")
    write_sample(place / "small.ckpt", sizes=SampleSizes((16, 24, 32), 32, 2, 16, 2))
    for mapping in ("loftr", "loftr_coarse", "ifvit_jax"):
        convert_checkpoint(place / "small.ckpt", place / f"{mapping}.npz", mapping, facts={"heads": HEADS})
    return place


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """``changed("loftr", **{path: new})``: a copy of a conversion in which some leaves are others."""

    def change(mapping: str, leaves: dict[str, Any]) -> Path:
        with np.load(folder / f"{mapping}.npz") as arrays:
            made = {name: arrays[name] for name in arrays.files}
        for path, new in leaves.items():
            if new is None:
                del made[path]
            else:
                made[path] = np.ascontiguousarray(new(made[path]) if callable(new) else new)
        np.savez(tmp_path / "changed.npz", **made)
        return tmp_path / "changed.npz"

    return change
