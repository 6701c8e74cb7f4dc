"""What a plan's shapes tell of the model behind it, and what they cannot tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.plan import Plan

_LAYER = re.compile(r"(?:^|/)layers[_.](\d+)(?:\.\d)?/q_proj/kernel$")
_BLOCK = re.compile(r"(?:^|/)backbone/layer(\d+)_0/conv1/kernel$")
_STEM = re.compile(r"(?:^|/)backbone/conv1/kernel$")
_RESOLUTIONS = {"1/8": "8_2", "1/16": "16_4"}


class Identity(NamedTuple):
    """A model, as far as names and shapes tell.

    Attributes:
      model: the fact ``model`` of the mapping that fits ("loftr", "loftr_coarse"), or "".
      sentence: it in one line for people ("coarse-only LoFTR at 1/16, 4 layers of width 32"), or "".
      config: what the shapes say: ``resolution`` ("8_2": coarse features at 1/8, fine ones at 1/2), ``backbone_widths``
        (the stem, then each stage), ``coarse_layers``, ``coarse_width``, ``fine_layers``, ``fine_width``, ``matching``.
      assumed: what no shape says, by the mapping's facts: heads, kind of attention, epsilons, temperature.
      stated: those of them that the file's own record states.
    """

    model: str
    sentence: str
    config: Mapping[str, Any]
    assumed: Mapping[str, Any]
    stated: Mapping[str, Any]


UNKNOWN = Identity("", "", {}, {}, {})
"""Nothing that a shipped mapping knows."""


def identify(plan: Plan, inputs: Mapping[str, LeafInfo], stated: Mapping[str, Any]) -> Identity:
    """The model that a plan's Flax side describes.

    Args:
      plan: it moves what the model has.
      inputs: the headers that the plan was made for.
      stated: facts by the file's own record.
    """
    backward = (
        {name: inputs[name] for move in plan.moves for name in move.inputs} if plan.direction == "reverse" else {}
    )
    tree = plan.infos if plan.direction == "forward" else backward
    model = plan.mapping.facts.get("model")
    if model not in ("loftr", "loftr_coarse"):
        return UNKNOWN
    config = _coarse(tree) if model == "loftr_coarse" else _matcher(plan, tree)
    assumed = {name: value for name, value in plan.mapping.facts.items() if name not in {"model", *stated}}
    return Identity(model, _sentence(model, config), config, assumed, stated)


def _coarse(tree: Mapping[str, LeafInfo]) -> dict[str, Any]:
    layers, width = _layers(tree, "")
    return {"coarse_layers": layers, "coarse_width": width}


def _matcher(plan: Plan, tree: Mapping[str, LeafInfo]) -> dict[str, Any]:
    resolution = next((p.rpartition(" ")[2] for p in plan.present if "resolution" in p), "")
    config: dict[str, Any] = {
        "resolution": _RESOLUTIONS.get(resolution, resolution),
        "backbone_widths": _widths(tree),
    }
    config["coarse_layers"], config["coarse_width"] = _layers(tree, "loftr_coarse/")
    fine_layers, fine_width = _layers(tree, "loftr_fine/")
    if fine_layers:
        transport = any(name.endswith("coarse_matching/bin_score") for name in tree)
        config |= {"fine_layers": fine_layers, "fine_width": fine_width}
        config["matching"] = "optimal transport" if transport else "dual softmax"
    return config


def _sentence(model: str, config: Mapping[str, Any]) -> str:
    coarse = f"{config['coarse_layers']} layers of width {config['coarse_width']}"
    if model == "loftr_coarse":
        return f"LoFTR's coarse transformer, {coarse}"
    at = {name: scale for scale, name in _RESOLUTIONS.items()}.get(config["resolution"], "?")
    if "fine_layers" not in config:
        return f"coarse-only LoFTR at {at}, {coarse}"
    fine = f"{config['fine_layers']} layers of width {config['fine_width']}"
    return f"LoFTR at {at}, coarse: {coarse}, fine: {fine}, {config['matching']}"


def _layers(tree: Mapping[str, LeafInfo], below: str) -> tuple[int, int]:
    """How many layers a transformer has, and of which width."""
    found = {m[1]: info for name, info in tree.items() if below in name and (m := _LAYER.search(name))}
    return len(found), next((info.shape[-1] for info in found.values()), 0)


def _widths(tree: Mapping[str, LeafInfo]) -> list[int]:
    """Channels after the backbone's stem, and after each of its stages."""
    stem = [info.shape[-1] for name, info in tree.items() if _STEM.search(name)]
    stages = {int(m[1]): info.shape[-1] for name, info in tree.items() if (m := _BLOCK.search(name))}
    return stem + [stages[number] for number in sorted(stages)]
