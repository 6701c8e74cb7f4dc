"""Networks that are started in tests: by shapes alone, every leaf a number that no file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from tiny import TINY, tiny_config

from loftr2flax.training import network
from loftr2flax.training.config import MatchConfig
from loftr2flax.training.start import Loaded, put_in, read_start

DIMS = (6, 10, 16)
"""Widths of the backbone of the LoFTR that starts them."""

_LIKE = {"transformer_layers": 4, "backbone_dims": DIMS}


def states(loaded: Loaded) -> dict[str, str]:
    return {row.part: row.state for row in loaded.rows}


def started(folder: Path, **changes: Any) -> Loaded:
    """Module 1, of that LoFTR's sizes but for the changes."""
    config = tiny_config(folder / "run", **{**_LIKE, **changes})
    return put_in(_zeros(lambda: network.initial(network.dense_model(config), config)), config, read_start(config))


def trained(folder: Path, **changes: Any) -> Loaded:
    """Module 2, the same."""
    options = {**TINY, **_LIKE, "checkpoint_dir": str(folder / "run"), **changes}
    config = MatchConfig(**options)
    zeros = _zeros(lambda: network.initial(network.matcher_model(config, 3), config))
    return put_in(zeros, config, read_start(config))


def _zeros(make: Any) -> Any:
    with jax.disable_jit():
        shapes = jax.eval_shape(make)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
