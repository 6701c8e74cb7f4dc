"""Random torch weights, away from their initial values, and their way into the Flax tree, for tests alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from loftr2flax.models.loftr import LoFTRConfig


def flax_variables(state: Mapping[str, np.ndarray], config: LoFTRConfig) -> dict[str, Any]:
    """The `params` and `batch_stats` of a state dict, spelled out in as few words as can be."""
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for key, value in state.items():
        for path in _paths(key, config):
            if path is not None:
                collection, *branches, leaf = path
                node = tree[collection]
                for branch in branches:
                    node = node.setdefault(branch, {})
                node[leaf] = _layout(key, value)
    return tree


def _paths(key: str, config: LoFTRConfig) -> list[list[str] | None]:
    *module, leaf = key.split(".")
    if leaf == "num_batches_tracked":
        return [None]
    name = ".".join(module)
    normal = bool(re.search(r"(bn\d|norm\d|downsample\.1|outconv2\.1)$", name))
    leaf = {"weight": "scale" if normal else "kernel", "running_mean": "mean", "running_var": "var"}.get(leaf, leaf)
    collection = "batch_stats" if leaf in ("mean", "var") else "params"
    if config.separate_sublayers and ".layers." in name:
        stem, i, rest = re.match(r"(loftr_\w+)\.layers\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
        return [[collection, stem, f"layers.{i}.{j}", rest, leaf] for j in (0, 1)]
    return [[collection, *re.sub(r"\.(\d+)", r"_\1", name).split("."), leaf]]


def _layout(key: str, value: np.ndarray) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0))  # [out, in, h, w] -> [h, w, in, out]
    return np.ascontiguousarray(value.T) if value.ndim == 2 else value


def random_state(config: LoFTRConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """A torch state dict of the whole network: kornia's own start, then norms moved away from 1 and 0.

    The running statistics are roughly those of a real run (variance grows with depth), so that features neither
    vanish nor explode.
    """
    import torch
    from kornia.feature.loftr import LoFTR

    from loftr2flax.models.loftr.reference import kornia_config

    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = LoFTR(pretrained=None, config=kornia_config(config))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average over the passes below, so that the statistics fit the features
    with torch.no_grad():
        for _ in range(3):
            net.backbone(torch.rand(2, 1, 64, 96))
    state = {key: value.numpy().copy() for key, value in net.state_dict().items()}
    for key, value in state.items():
        if value.ndim == 1 and value.dtype == np.float32:
            noise = rng.standard_normal(value.shape).astype(np.float32)
            if key.endswith("running_var"):
                value *= np.exp(0.3 * noise)
            else:
                value += 0.2 * noise * (np.abs(value).mean() if key.endswith("running_mean") else 1)
    if config.matching == "sinkhorn":
        state["coarse_matching.bin_score"] = np.float32(0.7)
    if not config.fine:
        state = {key: value for key, value in state.items() if "fine_preprocess" not in key and "loftr_fine" not in key}
    return state
