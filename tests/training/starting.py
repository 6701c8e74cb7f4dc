"""Networks that are started in tests: by shapes alone, every leaf a number that no file holds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tiny import TINY, tiny_config

from loftr2flax.training import network
from loftr2flax.training.config import MatchConfig, TrainConfig
from loftr2flax.training.start import Loaded, put_in, read_start

DIMS = (6, 10, 16)
"""Widths of the backbone of the LoFTR that starts them."""

_LIKE = {"transformer_layers": 4, "backbone_dims": DIMS}


def states(loaded: Loaded) -> dict[str, str]:
    return {row.part: row.state for row in loaded.rows}


def started(folder: Path, **changes: Any) -> Loaded:
    """Module 1, of that LoFTR's sizes but for the changes."""
    config = tiny_config(folder / "run", **{**_LIKE, **changes})
    return put_in(_zeros(config), config, read_start(config))


def trained(folder: Path, **changes: Any) -> Loaded:
    """Module 2, the same."""
    options = {**TINY, **_LIKE, "checkpoint_dir": str(folder / "run"), **changes}
    config = MatchConfig(**options)
    return put_in(_zeros(config), config, read_start(config))


def _zeros(config: TrainConfig) -> Any:
    shapes = _shapes(
        replace(config, **{name: default for name, default in _NO_NETWORK.items() if hasattr(config, name)})
    )
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


_NO_NETWORK = {
    "loftr_pretrained_ckpt": "", "dense_weights": "", "loftr_parts": "all", "loftr_layers": 0, "prefix": "",
    "state_dict": "", "checkpoint_dir": "run",
}  # fmt: skip
"""Settings that leave the network as it is."""


@cache
def _shapes(config: TrainConfig) -> Any:
    if isinstance(config, MatchConfig):
        make = partial(network.initial, network.matcher_model(config, 3), config)
    else:
        make = partial(network.initial, network.dense_model(config), config)
    with jax.disable_jit():
        return jax.eval_shape(make)
