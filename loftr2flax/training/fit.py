"""Whether weights are those of the network that a config describes: each difference is told by its setting."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import numpy as np

from loftr2flax.errors import CorruptFile, MappingMismatch
from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.training.config import DenseConfig, TrainConfig
from loftr2flax.training.incoming import BACKBONE, COARSE, FINE, Incoming, layers_of
from loftr2flax.training.network import loftr_config

_SETTINGS = {
    BACKBONE: {"batch_norm_eps": "batch_norm_eps"},
    COARSE: {
        "heads": "num_heads", "attention": "attention_type", "layer_norm_eps": "layer_norm_eps",
        "temp_bug_fix": "temp_bug_fix", "temperature": "temperature",
    },
}  # fmt: skip
"""By part: facts that weights do not show, and the settings that must agree with them."""


class WrongNetwork(MappingMismatch):
    """The weights belong to another network than the config describes; the message names the setting."""


def check_fit(incoming: Incoming, config: TrainConfig, parts: Collection[str]) -> None:
    """Compares what the file holds of ``parts`` with the config.

    Raises:
      WrongNetwork: it is of another width, depth, number of heads, attention, epsilon or sharing.
      MappingMismatch: its layers are not numbered one by one from 0.
      CorruptFile: its record states what cannot be.
    """
    if COARSE in parts:
        _check_transformer(incoming, config)
    for part in parts:
        _check_facts(incoming, config, part)
    if BACKBONE in parts:
        _check_backbone(incoming, config, alone=COARSE not in parts)
    if FINE in parts and isinstance(config, DenseConfig):
        layers = layers_of(incoming.params[FINE])
        have = len(layers.numbers)
        _check_sharing(incoming.path, "its fine stage has", layers.separate, config)
        if have != config.fine_layers:
            message = f"{incoming.path}: fine_layers={config.fine_layers}, and its fine stage has {have}"
            raise WrongNetwork(message, f"`--fine-layers {have}`")


def taken_for_granted(incoming: Incoming, config: TrainConfig, parts: Collection[str]) -> tuple[str, ...]:
    """A note of the settings that the file does not confirm, or none."""
    settings = {fact: setting for part in parts for fact, setting in _SETTINGS.get(part, {}).items()}
    silent = [setting for fact, setting in settings.items() if fact not in incoming.facts]
    listed = ", ".join(f"{name}={_told(getattr(config, name))}" for name in silent)
    return (f"taken for granted, as {incoming.path} does not say: {listed}",) if silent else ()


def _check_transformer(incoming: Incoming, config: TrainConfig) -> None:
    path, part = incoming.path, incoming.params[COARSE]
    separate, numbers = layers_of(part)
    first = part.get("layers.0.0" if separate else "layers_0")
    for generic, sign in ((False, "q_proj"), (True, "attention")):
        if isinstance(first, Mapping) and sign in first and generic == config.use_loftr:
            _refuse_kind(path, config)
    if not numbers or numbers != tuple(range(len(numbers))):
        listed = f"its layers are numbered {', '.join(map(str, numbers))}" if numbers else "it has no layers_0"
        raise MappingMismatch(f"{path}: {COARSE}: {listed}", f"loftr2flax inspect {path}")
    _check_sharing(path, "has", separate, config)
    width = _width(first)
    if width not in (None, config.hidden_dim):
        raise WrongNetwork(
            f"{path}: its transformer is {width} wide, and hidden_dim={config.hidden_dim}", f"`--hidden-dim {width}`"
        )
    _check_depth(path, len(numbers), config)


def _refuse_kind(path: str, config: TrainConfig) -> NoReturn:
    others = ", or `--loftr-parts backbone`" if isinstance(config, DenseConfig) else ""
    if config.use_loftr:
        message = "holds the generic SiameseTransformer, and use_loftr=true"
        raise WrongNetwork(f"{path}: {message}", f"`--use-loftr false`{others}")
    message = "holds LoFTR's transformer, and use_loftr=false: no LoFTR weights fit the generic SiameseTransformer"
    raise WrongNetwork(f"{path}: {message}", f"`--use-loftr true`{others}")


def _check_sharing(path: str, what: str, separate: bool, config: TrainConfig) -> None:
    if separate != (config.sublayers == "separate"):
        has, word = ("one layer for each image", "separate") if separate else ("one layer for both images", "shared")
        raise WrongNetwork(f"{path}: {what} {has}, and sublayers={config.sublayers}", f"`--sublayers {word}`")


def _width(layer: Any) -> int | None:
    """The length of a layer's first norm, where it has one."""
    norm = layer.get("norm1") if isinstance(layer, Mapping) else None
    scale = norm.get("scale") if isinstance(norm, Mapping) else None
    return int(scale.size) if isinstance(scale, np.ndarray) else None


def _check_depth(path: str, have: int, config: TrainConfig) -> None:
    """The layers to take are those that the network has; to leave some of them out needs a word."""
    want = config.transformer_layers
    word = config.loftr_layers if isinstance(config, DenseConfig) else 0
    if word > have:
        raise WrongNetwork(f"{path}: has {have} layers, and loftr_layers={word}", "`--loftr-layers 0` takes them all")
    if (word or have) == want:
        return
    hints = [f"`--transformer-layers {word or have}`"]
    if isinstance(config, DenseConfig) and have >= want:
        hints.insert(0, "`--loftr-layers 0`" if have == want else f"`--loftr-layers {want}` takes the first {want}")
    taken = f"has {have} layers" + (f", loftr_layers={word}" if word else "")
    raise WrongNetwork(f"{path}: {taken}, and transformer_layers={want}", ", or ".join(hints))


def _check_facts(incoming: Incoming, config: TrainConfig, part: str) -> None:
    for fact, setting in _SETTINGS.get(part, {}).items():
        if fact not in incoming.facts:
            continue
        stated, wanted = incoming.facts[fact], getattr(config, setting)
        if _kind(stated) != _kind(wanted):
            message = f"{incoming.path}: its record states {fact}={_told(stated)}, which no LoFTR can have"
            raise CorruptFile(message, "convert the torch file again")
        if stated != wanted:
            flag = f"--{setting.replace('_', '-')} {_told(stated)}"
            raise WrongNetwork(
                f"{incoming.path}: states {fact}={_told(stated)}, and the run has {setting}={_told(wanted)}",
                f"`{flag}`, or, if the file states it wrongly, convert it again with `--fact {fact}=…`",
            )


def _kind(value: Any) -> str:
    """What JSON calls a value, but that all numbers are of one kind."""
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _check_backbone(incoming: Incoming, config: TrainConfig, *, alone: bool) -> None:
    leaves = {f"{BACKBONE}/{name}/bn1/scale": _scale(block) for name, block in incoming.params[BACKBONE].items()}
    try:
        found = LoFTRConfig.from_checkpoint({name: scale for name, scale in leaves.items() if scale is not None})
    except ValueError:
        return  # no backbone of a LoFTR: the comparison leaf by leaf tells what is missing
    wanted = loftr_config(config)
    if (found.resolution, found.block_dims) == (wanted.resolution, wanted.block_dims):
        return
    has, asked = (f"{_listed(one.block_dims)} wide at stride {one.resolution[0]}" for one in (found, wanted))
    words = {"stride": found.resolution[0], "hidden-dim": found.coarse_dim, "backbone-dims": _listed(found.block_dims)}
    settings = {"stride": config.stride, "hidden-dim": config.hidden_dim}
    hint = " ".join(f"--{name} {value}" for name, value in words.items() if settings.get(name) != value)
    other = "" if alone else ", or `--loftr-parts transformer`"
    raise WrongNetwork(
        f"{incoming.path}: its backbone is {has}, and the network's {asked}",
        f"`{hint}`{other if isinstance(config, DenseConfig) else ''}",
    )


def _scale(block: Any) -> np.ndarray | None:
    """The scale of a block's first norm, where it has one."""
    norm = block.get("bn1") if isinstance(block, Mapping) else None
    scale = norm.get("scale") if isinstance(norm, Mapping) else None
    return scale if isinstance(scale, np.ndarray) and scale.ndim == 1 else None


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _told(value: Any) -> str:
    """A value as a flag takes it; a word that comes from a file is quoted where it is not a plain one."""
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
