"""The start of a run: weights of a LoFTR put into the network, and a word on every part that was or was not.

A file is one of `convert`'s outputs (mappings loftr, loftr_coarse, ifvit_jax), weights that a run wrote, or the torch
checkpoint itself, which is converted in memory. What does not fit is told by the name of the setting that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from loftr2flax.convert import Order, prepared
from loftr2flax.convert.stream import stream
from loftr2flax.errors import InputError, MappingMismatch
from loftr2flax.flaxtree import merge_params, nested
from loftr2flax.formats import open_checkpoint
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.training.config import DenseConfig, MatchConfig, TrainConfig

COARSE, BACKBONE = "loftr_coarse", "backbone"

_ALONE = {"transformer": COARSE, "backbone": BACKBONE}
"""The one part that each value of `loftr_parts` but ``all`` takes."""

_SETTINGS = {
    "heads": "num_heads", "attention": "attention_type", "layer_norm_eps": "layer_norm_eps",
    "temp_bug_fix": "temp_bug_fix", "temperature": "temperature",
}  # fmt: skip
"""Facts that weights do not show, and the settings that must agree with them."""


class Row(NamedTuple):
    """What became of one part of the network, or of the file."""

    part: str
    leaves: int
    numbers: int
    state: str
    why: str


class Loaded(NamedTuple):
    """The network's variables after the start, and the table of it."""

    variables: dict[str, Any]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class _Weights(NamedTuple):
    """A file's leaves by part: params and batch_stats, each ``{part: tree}``; and what it states of the network."""

    path: str
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    facts: Mapping[str, Any]


class WrongNetwork(MappingMismatch):
    """The weights belong to another network than the config describes; the message names the setting."""


def from_scratch(variables: Mapping[str, Any]) -> Loaded:
    """Everything at its random start."""
    return Loaded(dict(variables), tuple(_left(variables, "no weights were given")))


def load_start(variables: Mapping[str, Any], config: DenseConfig, limits: Limits = DEFAULT) -> Loaded:
    """Module 1's variables, with what `loftr_pretrained_ckpt` holds for it; ``limits`` bound what it may ask.

    Raises:
      WrongNetwork: the weights are of another depth, width, number of heads, attention or sharing.
      MappingMismatch: a leaf is missing or of another shape.
      Loftr2FlaxError: the file is refused.
    """
    path, alone = config.loftr_pretrained_ckpt, _ALONE.get(config.loftr_parts)
    if not path:
        return from_scratch(variables)
    if not config.use_loftr and alone != BACKBONE:
        raise WrongNetwork(
            f"{path}: use_loftr=false: no LoFTR weights fit the generic SiameseTransformer",
            "`--use-loftr true`, or `--loftr-parts backbone`, or leave out --loftr-pretrained-ckpt",
        )
    weights = _read(Path(path), config, alone, limits)
    if alone != BACKBONE:
        _check(weights, config)
    elif BACKBONE not in weights.params:
        raise WrongNetwork(f"{path}: holds no backbone, and loftr_parts=backbone", "`--loftr-parts transformer`")
    params, stats = dict(variables["params"]), dict(variables.get("batch_stats", {}))
    rows = []
    for part, tree in params.items():
        if alone not in (part, None):
            word = config.loftr_parts
            rows += _left({"params": {part: tree}}, f"loftr_parts={word} takes the {word} alone")
        elif part not in weights.params:
            rows += _left({"params": {part: tree}}, "the file does not hold it")
        else:
            layers = config.loftr_layers or None if part == COARSE else None
            params[part] = _merged(path, tree, weights.params[part], part, layers)
            note = f"the first {config.loftr_layers} layers" if layers else ""
            rows.append(_row(part, params[part], "loaded", note))
            if part in stats:
                if part not in weights.batch_stats:
                    raise WrongNetwork(
                        f"{path}: holds the {part} and not its running statistics, without which it is another",
                        "convert the torch file again, or `--loftr-parts transformer`",
                    )
                stats[part] = _merged(path, stats[part], weights.batch_stats[part], part, None)
                rows.append(_row(f"{part} (running statistics)", stats[part], "loaded", ""))
    rows += [
        _row(part, tree, "not taken", "the network has no such part")
        for part, tree in weights.params.items()
        if part not in params
    ]
    notes = () if alone == BACKBONE else tuple(_notes(weights, config))
    return Loaded({"params": params, "batch_stats": stats}, tuple(rows), notes)


def load_trained(variables: Mapping[str, Any], config: MatchConfig, limits: Limits = DEFAULT) -> Loaded:
    """Module 2's variables, both branches started from the weights that Module 1's training wrote.

    Raises: as `load_start`.
    """
    path = config.dense_weights
    if not path:
        return from_scratch(variables)
    weights = _read(Path(path), config, None, limits)
    if config.use_loftr:
        _check(weights, config)
    params, stats = dict(variables["params"]), dict(variables["batch_stats"])
    rows = []
    for branch in ("whole", "roi"):
        params[branch] = _merged(path, params[branch], weights.params, branch, None)
        stats[branch] = _merged(path, stats[branch], weights.batch_stats, branch, None)
        rows += [
            _row(branch, params[branch], "loaded", ""),
            _row(f"{branch} (running statistics)", stats[branch], "loaded", ""),
        ]
    rest = {part: tree for part, tree in params.items() if part not in ("whole", "roi")}
    rows += _left({"params": rest}, "new in Module 2")
    return Loaded({"params": params, "batch_stats": stats}, tuple(rows), tuple(_notes(weights, config)))


def _read(path: Path, config: TrainConfig, alone: str | None, limits: Limits) -> _Weights:
    with open_checkpoint(path, None, limits) as checkpoint:
        torch = checkpoint.separator == "."
        if not torch:
            leaves = {name: checkpoint.read(name) for name in checkpoint.infos}
            facts = dict((checkpoint.contents.provenance or {}).get("facts") or {})
            return _parts(str(path), leaves, facts)
        whole = any("backbone." in name for name in checkpoint.infos)
    if config.sublayers == "shared":
        return _converted(path, "loftr" if whole else "loftr_coarse", limits)
    transformer = _converted(path, "ifvit_jax", limits)
    if not whole or alone == COARSE:
        return transformer
    weights = _converted(path, "loftr", limits)
    return weights._replace(params={**weights.params, **transformer.params})


def _converted(path: Path, mapping: str, limits: Limits) -> _Weights:
    """A torch file's leaves by a mapping, in memory."""
    with prepared(path, None, Order(mapping, limits=limits)) as job:
        leaves = {move.leaf: array.copy() for move, array in stream(job.plan.moves, job.source)}
    return _parts(str(path), leaves, {})


def _parts(path: str, leaves: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> _Weights:
    names = list(leaves)
    if all(name.startswith(("params/", "batch_stats/")) for name in names):
        tree = nested(leaves)
        return _Weights(path, dict(tree.get("params", {})), dict(tree.get("batch_stats", {})), facts)
    if any(name.startswith(("layers_0/", "layers.0.")) for name in names):
        return _Weights(path, {COARSE: nested(leaves)}, {}, facts)
    raise InputError(f"{path}: holds neither a LoFTR nor its transformer", f"loftr2flax inspect {path}")


def _check(weights: _Weights, config: TrainConfig) -> None:
    """Whether the weights' network is the config's: each difference is told by its setting."""
    path, tree = weights.path, weights.params.get(COARSE)
    if not tree:
        raise WrongNetwork(f"{path}: holds no coarse transformer", f"loftr2flax inspect {path}")
    separate = any(name.startswith("layers.") for name in tree)
    if separate != (config.sublayers == "separate"):
        has, word = ("one layer for each image", "separate") if separate else ("one layer for both images", "shared")
        raise WrongNetwork(f"{path}: has {has}, and sublayers={config.sublayers}", f"`--sublayers {word}`")
    first = tree["layers.0.0" if separate else "layers_0"]
    width = int(first["norm1"]["scale"].shape[0])
    if width != config.hidden_dim:
        raise WrongNetwork(
            f"{path}: its transformer is {width} wide, and hidden_dim={config.hidden_dim}", f"`--hidden-dim {width}`"
        )
    for fact, setting in _SETTINGS.items():
        if fact in weights.facts and weights.facts[fact] != getattr(config, setting):
            stated = weights.facts[fact]
            told = str(stated).lower() if isinstance(stated, bool) else stated
            raise WrongNetwork(
                f"{path}: states {fact}={told}, and {setting}={getattr(config, setting)}",
                f"`--{setting.replace('_', '-')} {told}`, or convert it again with the right `--fact {fact}=…`",
            )
    have, want = len({name.split(".")[1] for name in tree}) if separate else len(tree), config.transformer_layers
    taken = config.loftr_layers if isinstance(config, DenseConfig) and config.loftr_layers else have
    if taken != want:
        hint = f"`--loftr-layers {want}` takes the first {want}" if have > want else f"`--transformer-layers {have}`"
        raise WrongNetwork(f"{path}: has {have} layers, {taken} to take, and transformer_layers={want}", hint)


def _merged(path: str, template: Any, tree: Any, part: str, layers: int | None) -> Any:
    try:
        return merge_params(template, tree, at="", layers=layers)
    except MappingMismatch as error:
        hint = (
            "`--backbone-dims` and `--stride` as it has them, or `--loftr-parts transformer`"
            if part == BACKBONE
            else error.hint
        )
        raise MappingMismatch(f"{path}: {part}: {error.message}", hint) from None


def _notes(weights: _Weights, config: TrainConfig) -> list[str]:
    silent = [setting for fact, setting in _SETTINGS.items() if fact not in weights.facts]
    if not silent:
        return []
    listed = ", ".join(f"{name}={getattr(config, name)}" for name in silent)
    return [f"taken for granted, as {weights.path} does not say: {listed}"]


def _row(part: str, tree: Any, state: str, why: str) -> Row:
    leaves = jax.tree.leaves(tree)
    return Row(part, len(leaves), sum(int(np.size(leaf)) for leaf in leaves), state, why)


def _left(variables: Mapping[str, Any], why: str) -> list[Row]:
    return [_row(part, tree, "left at its start", why) for part, tree in variables["params"].items()]
