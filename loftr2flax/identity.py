"""What a plan's shapes tell of the model behind it: one sentence for people."""

from __future__ import annotations

import re

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.plan import Plan

_LAYER = re.compile(r"(?:^|/)layers[_.](\d+)(?:\.\d)?/q_proj/kernel$")


def identify(plan: Plan) -> str:
    """The model that a plan's Flax side describes ("coarse-only LoFTR at 1/16, 4 layers of width 32"), or ""."""
    tree = plan.infos if plan.direction == "forward" else _inputs(plan)
    model = plan.mapping.facts.get("model")
    if model == "loftr_coarse":
        return f"LoFTR's coarse transformer, {_layers(tree, '')}"
    return _matcher(plan, tree) if model == "loftr" else ""


def _matcher(plan: Plan, tree: dict[str, LeafInfo]) -> str:
    resolution = next((p.rpartition(" ")[2] for p in plan.present if "resolution" in p), "?")
    coarse, fine = _layers(tree, "loftr_coarse/"), _layers(tree, "loftr_fine/")
    if not fine:
        return f"coarse-only LoFTR at {resolution}, {coarse}"
    matching = "optimal transport" if any(name.endswith("bin_score") for name in tree) else "dual softmax"
    return f"LoFTR at {resolution}, coarse: {coarse}, fine: {fine}, {matching}"


def _layers(tree: dict[str, LeafInfo], below: str) -> str:
    found = {m[1]: info for name, info in tree.items() if below in name and (m := _LAYER.search(name))}
    if not found:
        return ""
    width = next(iter(found.values())).shape[-1]
    return f"{len(found)} layers of width {width}"


def _inputs(plan: Plan) -> dict[str, LeafInfo]:
    """On the way back the Flax leaves are the inputs. Their widths are read from square kernels alone (`_LAYER`)."""
    return {name: LeafInfo(move.info.shape, move.stored) for move in plan.moves for name in move.inputs}
