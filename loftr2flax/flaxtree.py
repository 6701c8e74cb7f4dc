"""Converted weights on the Python side: as a flat dict, as a nested tree, and put into a larger model's tree.

Everything here returns numpy arrays; neither jax nor flax is needed, and both take such trees as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from loftr2flax.dtypes import FLOATING
from loftr2flax.errors import InputError, MappingMismatch, UsageError
from loftr2flax.folding import fold, fold_line
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
      UsageError: it is a PyTorch file, not a converted one.
      Loftr2FlaxError: the file is missing or refused.
    """
    with open_checkpoint(path) as checkpoint:
        if checkpoint.format.startswith("torch"):
            raise UsageError(f"{path}: is a PyTorch file", f"convert it first: `loftr2flax convert {path} -o out.npz`")
        return {name: checkpoint.read(name) for name in checkpoint.infos}


def load_params(path: str | os.PathLike[str]) -> Tree:
    """The nested tree of a converted file, as ``model.apply`` takes it.

        variables = load_params("loftr.msgpack")         # {"params": {…}, "batch_stats": {…}}
        params = load_params("loftr_coarse.npz")         # {"layers_0": {"q_proj": {"kernel": …

    Args:
      path: an output of `convert`, of any format.

    Raises:
      UsageError: it is a PyTorch file, not a converted one.
      Loftr2FlaxError: the file is missing or refused, or its names make no tree.
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
    without a word: a leaf under ``at`` without a weight, a weight without a leaf and a shape that differs are errors,
    and a log message at level warning names the layers that ``layers`` leaves out.

    Args:
      template: the model's nested tree: dicts (or flax's FrozenDict), with arrays or anything with ``shape`` and
        ``dtype`` as leaves, such as `jax.eval_shape` gives.
      weights: converted weights, flat (``layers.0.0/q_proj/kernel``) or nested.
      at: slashed path of the branch to fill; "" for the whole tree.
      layers: take only these layers of the weights: a number n for the first n, or their indices, which are
        renumbered from 0. None means all of them, and a template with fewer layers is an error then.

    Returns:
      A new tree of the template's own kinds of dict. Filled leaves are numpy arrays of the template's dtype.

    Raises:
      UsageError: ``at`` is no branch of the template, or ``layers`` names a layer that the weights lack.
      MappingMismatch: leaves are missing, left over, of another shape or kind of number; every one is named.
    """
    incoming = dict(_flatten(weights))
    if layers is not None:
        incoming = _take_layers(incoming, layers)
    before = f"{at}/" if at else ""
    leaves = dict(_flatten(template))
    branch = {path.removeprefix(before): leaf for path, leaf in leaves.items() if path.startswith(before)}
    if not branch:
        tops = fold_line(list(dict.fromkeys(path.split("/")[0] for path in leaves)))
        raise UsageError(f"the template has no branch {at!r}", f"its top names are {tops}; give `at=` one of its paths")
    _check_fit(branch, incoming, at, asked=layers is not None)
    filled = {before + path: np.asarray(incoming[path]).astype(_dtype(leaf)) for path, leaf in branch.items()}
    merged: Tree = _replaced(template, filled, "")
    return merged


def nested(flat: Mapping[str, Any]) -> Tree:
    """``{"a/b": 1}`` → ``{"a": {"b": 1}}``.

    Raises:
      InputError: a name is a leaf and a branch too.
    """
    tree: Tree = {}
    for path, leaf in flat.items():
        *branches, last = path.split("/")
        node = tree
        for name in branches:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise InputError(f"{path!r}: a leaf is a branch too", "`load_loftr_weights` gives the names as they are")
        node[last] = leaf
    return tree


def _flatten(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", value


def _replaced(tree: Mapping[str, Any], leaves: Mapping[str, Any], before: str) -> Any:
    made = {
        name: _replaced(value, leaves, f"{before}{name}/")
        if isinstance(value, Mapping)
        else leaves.get(before + name, value)
        for name, value in tree.items()
    }
    return made if type(tree) is dict else type(tree)(made)  # type: ignore[call-arg]


def _dtype(leaf: Any) -> np.dtype:
    return np.dtype(leaf.dtype) if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _layer_of(path: str) -> int | None:
    found = _LAYER.match(path)
    return int(found[1]) if found else None


def _take_layers(weights: Mapping[str, Any], layers: int | Sequence[int]) -> dict[str, Any]:
    have = {number for path in weights if (number := _layer_of(path)) is not None}
    wanted = list(range(layers)) if isinstance(layers, int) else list(layers)
    lacking = [number for number in wanted if number not in have]
    if not have:
        raise UsageError(
            f"layers={layers}: no name of the weights begins with layers_0 or layers.0", "leave out `layers=`"
        )
    if lacking or not wanted or len(set(wanted)) < len(wanted):
        what = f"no layer {lacking[0]}" if lacking else "none is asked for" if not wanted else "one is asked for twice"
        hint = f"the weights have {len(have)} layers, {min(have)} to {max(have)}: name some of these"
        raise UsageError(f"layers={layers}: {what}", hint)
    if left := sorted(have - set(wanted)):
        _say_left_out(wanted, left)
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


def _say_left_out(wanted: Sequence[int], left: Sequence[int]) -> None:
    import logging

    taken, rest = (", ".join(fold(f"layer {number}" for number in numbers)) for numbers in (wanted, left))
    logging.getLogger("loftr2flax").warning("merge_params takes %s of the weights and leaves out %s", taken, rest)


def _check_fit(branch: Mapping[str, Any], incoming: Mapping[str, Any], at: str, *, asked: bool) -> None:
    missing = [path for path in branch if path not in incoming]
    extra = [path for path in incoming if path not in branch]
    lines = []
    if missing:
        lines.append(f"no weight for {', '.join(fold(missing))} ({len(missing)} of {len(branch)} leaves)")
    if extra:
        lines.append(f"no leaf for {', '.join(fold(extra))} ({len(extra)} of {len(incoming)} weights)")
    pairs = {path: (leaf, np.asarray(incoming[path])) for path, leaf in branch.items() if path in incoming}
    lines += [f"{path} {trouble}" for path, pair in pairs.items() if (trouble := _trouble(*pair))]
    if lines:
        hint = _hint(branch, incoming, missing, extra, asked=asked)
        raise MappingMismatch(f"the weights do not fit {at or 'the template'}: " + "; ".join(lines), hint)


def _trouble(leaf: Any, weight: np.ndarray) -> str:
    """Why the weight cannot stand for the template's leaf, or ""."""
    if np.shape(leaf) != weight.shape:
        return f"is {np.shape(leaf)} in the template and {weight.shape} in the weights"
    wanted = _dtype(leaf)
    if wanted == weight.dtype:
        return ""
    floating = [dtype.name in FLOATING for dtype in (wanted, weight.dtype)]
    if (any(floating) and not all(floating)) or (not any(floating) and not np.can_cast(weight.dtype, wanted)):
        return f"is {wanted} in the template and {weight.dtype} in the weights"
    with np.errstate(over="ignore"):
        cast = weight.astype(wanted)
    return "" if np.isfinite(weight).sum() == np.isfinite(cast).sum() else f"has numbers out of the range of {wanted}"


def _hint(
    branch: Mapping[str, Any], incoming: Mapping[str, Any], missing: Sequence[str], extra: Sequence[str], *, asked: bool
) -> str:
    depth = {_layer_of(path) for path in branch} - {None}
    if not missing and depth and not asked and extra and all(_layer_of(path) not in {None, *depth} for path in extra):
        return f"to take only the first {len(depth)} layers, say so: `layers={len(depth)}`"
    if len(extra) == len(incoming) and all(path.startswith(("params/", "batch_stats/")) for path in extra):
        return "the weights are of several collections: merge each by itself, `load_params(path)['params']` the first"
    return "compare the two: print the paths under `at` beside those of the weights"
