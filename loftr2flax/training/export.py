"""Trained weights as an output of this package: `convert --reverse`, `verify` and `match` take it as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.convert.provenance import SCHEMA
from loftr2flax.formats.writer import open_writer
from loftr2flax.mapping import load_mapping
from loftr2flax.training.config import MatchConfig, TrainConfig
from loftr2flax.training.network import loftr_config
from loftr2flax.training.step import TrainState
from loftr2flax.version import VERSION


def write_weights(state: TrainState, config: TrainConfig, path: Path) -> None:
    """Parameters and running statistics of Module 1 or 2, as ``.npz``; a file that is there is replaced.

    Raises:
      EnvironmentFault: the disk is full, or the system refuses; the old file is intact then.
    """
    tree = {"params": state.params, "batch_stats": state.batch_stats}
    leaves = {
        "/".join(str(entry.key) for entry in where): np.asarray(leaf.addressable_data(0))
        for where, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    infos = {name: LeafInfo(leaf.shape, str(leaf.dtype)) for name, leaf in leaves.items()}
    with open_writer(path, "npz", infos, _record(config), force=True) as writer:
        for name in writer.order:
            writer.write(name, leaves[name])


def _record(config: TrainConfig) -> dict[str, Any]:
    """A record as `convert` writes it: the facts of the network, and what the way back to torch needs."""
    mapping, network = load_mapping("loftr"), loftr_config(config)
    named = ("heads", "attention", "layer_norm_eps", "batch_norm_eps", "temperature", "temp_bug_fix")
    facts = {**mapping.facts, **{name: getattr(network, name) for name in named}}
    generic = "the generic SiameseTransformer" if not config.use_loftr else ""
    groups = [f"backbone: resolution 1/{config.stride}", *(["fine stage"] if network.fine else [])]
    return {
        "schema": SCHEMA,
        "tool": f"loftr2flax {VERSION}",
        "direction": "forward",
        "mapping": {"name": mapping.name, "sha256": mapping.sha256},
        "facts": facts,
        "groups": groups,
        "source": {"format": "training", "sha256": ""},
        "dtype": None,
        "container": "state_dict",
        "root": "matcher",
        "keys": [],
        "dropped": {},
        "network": "Module 2, of two branches" if isinstance(config, MatchConfig) else generic,
    }
