"""What a conversion must hold, worked out from torch's tensors by hand; nothing of the package is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

_NORMS = re.compile(r"(bn\d|norm\d|downsample\.1|outconv2\.1)$")
_NAMES = {"running_mean": "mean", "running_var": "var"}


def torch_state(path: Path, container: str = "state_dict") -> dict[str, torch.Tensor]:
    """A file's state dict, as torch reads it."""
    loaded = torch.load(path, weights_only=True, map_location="cpu")
    return dict(loaded[container] if container else loaded)


def flax_leaves(state: Mapping[str, torch.Tensor], root: str = "matcher.") -> dict[str, np.ndarray]:
    """The leaves of the whole matcher: `params/…` and `batch_stats/…`."""
    leaves = {}
    for key, value in state.items():
        module, _, leaf = key.removeprefix(root).rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        path = re.sub(r"\.(\d+)", r"_\1", module).replace(".", "/")
        collection = "batch_stats" if leaf in _NAMES else "params"
        leaves[f"{collection}/{path}/{_leaf(module, leaf)}"] = transposed(value)
    return leaves


def coarse_leaves(state: Mapping[str, torch.Tensor], root: str = "matcher.loftr_coarse.") -> dict[str, np.ndarray]:
    """The leaves of the coarse transformer alone."""
    inside = {key: value for key, value in state.items() if key.startswith(root)}
    return {path.removeprefix("params/"): leaf for path, leaf in flax_leaves(inside, root).items()}


def ifvit_leaves(state: Mapping[str, torch.Tensor], root: str = "matcher.loftr_coarse.") -> dict[str, np.ndarray]:
    """The leaves of IFViT-JAX's layout: every layer for both images."""
    leaves = {}
    for key, value in state.items():
        found = re.fullmatch(re.escape(root) + r"layers\.(\d+)\.(.+)\.(weight|bias)", key)
        for j in (0, 1) if found else ():
            i, module, leaf = found.groups()  # type: ignore[union-attr]
            leaves[f"layers.{i}.{j}/{module}/{_leaf(module, leaf)}"] = transposed(value)
    return leaves


def transposed(value: torch.Tensor) -> np.ndarray:
    """Matrices turned over, convolutions with their window in front, all else as it is."""
    order = {2: (1, 0), 4: (2, 3, 1, 0)}.get(value.dim(), tuple(range(value.dim())))
    return np.ascontiguousarray(value.permute(order).numpy())


def _leaf(module: str, leaf: str) -> str:
    if leaf == "weight":
        return "scale" if _NORMS.search(module) else "kernel"
    return _NAMES.get(leaf, leaf)


def assert_equal(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """The same names, shapes, types and bits."""
    assert sorted(found) == sorted(wanted)
    for name, leaf in wanted.items():
        array = np.asarray(found[name])
        assert (array.shape, array.dtype) == (leaf.shape, leaf.dtype), name
        assert array.tobytes() == leaf.tobytes(), name


def assert_same_state(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """The same keys in the same order, the same types and bits."""
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype), key
        assert found[key].numpy().tobytes() == value.numpy().tobytes(), key


def flattened(tree: Mapping[str, object], before: str = "") -> dict[str, np.ndarray]:
    """A nested tree by slashed paths."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        flat |= flattened(value, f"{before}{name}/") if isinstance(value, Mapping) else {before + name: value}  # type: ignore[dict-item]
    return flat
