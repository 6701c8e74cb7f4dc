"""Converted weights on the Python side: as a flat dict, as a nested tree, and put into a larger model's tree.

Everything here returns numpy arrays; neither jax nor flax is needed, and both take such trees as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from loftr2flax.errors import MappingMismatch, UsageError
from loftr2flax.folding import fold_line
from loftr2flax.formats import open_checkpoint

Tree = dict[str, Any]
"""A nested dict whose leaves are arrays."""

_LAYER = re.compile(r"^layers?[._](\d+)")


def load_loftr_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every leaf of a converted file by its slashed path: ``layers.3.0/q_proj/kernel``.

        weights = load_loftr_weights("loftr_transformer.npz")
        print(len(weights), weights["layers.0.0/q_proj/kernel"].shape)

    Args:
      path: an output of `convert`, of any format; npz files from elsewhere are read too.

    Raises:
      Loftr2FlaxError: the file is missing or refused.
    """
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.infos}


def load_params(path: str | os.PathLike[str]) -> Tree:
    """The nested tree of a converted file, as ``model.apply`` takes it.

        variables = load_params("loftr.msgpack")         # {"params": {…}, "batch_stats": {…}}
        params = load_params("loftr_coarse.npz")         # {"layers_0": {"q_proj": {"kernel": …

    Args:
      path: an output of `convert`, of any format.

    Raises:
      Loftr2FlaxError: the file is missing or refused.
    """
    return nested(load_loftr_weights(path))


def merge_params(
    template: Mapping[str, Any],
    weights: Mapping[str, Any],
    at: str = "loftr_transformer",
    layers: int | Sequence[int] | None = None,
) -> Tree:
    """A larger model's tree with converted weights under one of its branches.

        params = merge_params(model.init(key, x)["params"], load_loftr_weights("loftr_transformer.npz"), layers=4)

    Every leaf under ``at`` takes its converted weight; all others are the template's own. Nothing is left at its start
    without a word: a leaf under ``at`` without a weight, a weight without a leaf and a shape that differs are errors.

    Args:
      template: the model's nested tree (dicts, arrays or anything with ``shape`` and ``dtype`` as leaves).
      weights: converted weights, flat (``layers.0.0/q_proj/kernel``) or nested.
      at: slashed path of the branch to fill; "" for the whole tree.
      layers: take only these layers of the weights: a number n for the first n, or their indices, which are
        renumbered from 0. None means all of them, and a template with fewer layers is an error then.

    Returns:
      A new tree. Filled leaves are numpy arrays of the template's dtype.

    Raises:
      UsageError: ``at`` is no branch of the template, or ``layers`` names a layer that the weights lack.
      MappingMismatch: leaves are missing, left over or of another shape; every one is named.
    """
    flat_template = dict(_flatten(template))
    incoming = dict(_flatten(weights)) if any(isinstance(v, Mapping) for v in weights.values()) else dict(weights)
    if layers is not None:
        incoming = _take_layers(incoming, layers)
    before = f"{at}/" if at else ""
    branch = {path.removeprefix(before): leaf for path, leaf in flat_template.items() if path.startswith(before)}
    if not branch:
        tops = fold_line(list(dict.fromkeys(path.split("/")[0] for path in flat_template)))
        raise UsageError(f"the template has no branch {at!r}", f"its top names are {tops}; give `at=` one of its paths")
    _check_fit(branch, incoming, at, asked=layers is not None)
    filled = {before + path: np.asarray(incoming[path]).astype(leaf.dtype) for path, leaf in branch.items()}
    return nested({**flat_template, **filled})


def nested(flat: Mapping[str, Any]) -> Tree:
    """``{"a/b": 1}`` → ``{"a": {"b": 1}}``."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *branches, last = path.split("/")
        node = tree
        for name in branches:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _flatten(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", value


def _layer_of(path: str) -> int | None:
    found = _LAYER.match(path)
    return int(found[1]) if found else None


def _take_layers(weights: Mapping[str, Any], layers: int | Sequence[int]) -> dict[str, Any]:
    have = {number for path in weights if (number := _layer_of(path)) is not None}
    wanted = list(range(layers)) if isinstance(layers, int) else list(layers)
    lacking = [number for number in wanted if number not in have]
    if lacking or not wanted:
        raise UsageError(
            f"layers={layers}: the weights have {len(have)} layers, and no layer {lacking[0] if lacking else '?'}", ""
        )
    renumbered = {number: position for position, number in enumerate(wanted)}
    taken = {}
    for path, leaf in weights.items():
        number = _layer_of(path)
        if number is None:
            taken[path] = leaf
        elif number in renumbered:
            start, stop = _LAYER.match(path).span(1)  # type: ignore[union-attr]
            taken[f"{path[:start]}{renumbered[number]}{path[stop:]}"] = leaf
    return taken


def _check_fit(branch: Mapping[str, Any], incoming: Mapping[str, Any], at: str, *, asked: bool) -> None:
    missing = [path for path in branch if path not in incoming]
    extra = [path for path in incoming if path not in branch]
    lines = []
    if missing:
        lines.append(f"no weight for {fold_line(missing)} ({len(missing)} of {len(branch)} leaves)")
    if extra:
        lines.append(f"no leaf for {fold_line(extra)} ({len(extra)} of {len(incoming)} weights)")
    for path, leaf in branch.items():
        if path in incoming and tuple(leaf.shape) != tuple(np.shape(incoming[path])):
            lines.append(
                f"{path} is {tuple(leaf.shape)} in the template and {tuple(np.shape(incoming[path]))} in the weights"
            )
    if not lines:
        return
    depth = {_layer_of(path) for path in branch} - {None}
    hint = "compare the two: print the paths under `at` beside those of the weights"
    if not missing and extra and depth and not asked and all(_layer_of(path) not in depth for path in extra):
        hint = f"to take only the first {len(depth)} layers, say so: `layers={len(depth)}`"
    raise MappingMismatch(f"the weights do not fit {at or 'the template'}: " + "; ".join(lines), hint)
