"""Coarse matching in torch with a mistake built in, as `mistakes` has it for the stages before. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loftr2flax.models.loftr.attention import MASKED
from loftr2flax.models.loftr.reference import TorchLoFTR, optimal_transport
from loftr2flax.parity.loftr.mistakes import Cast, masks_of
from loftr2flax.parity.network import Trace


@dataclass(frozen=True)
class Matching:
    """How features become confidences.

    Attributes:
      kind: "dual softmax" or "optimal transport".
      temperature: of the dual softmax.
      over: what its softmax goes over, "both images" or one of them.
      iterations, bin_score: of optimal transport.
      dustbins: what they hold, "as many as the other image has cells" or "one cell".
      total: whether the plan is multiplied by the number of cells, so that a cell has 1 to give.
      prefilter: whether a cell that prefers the dustbin loses its matches.
      divided: what both features are divided by, "the square root of their width", "their width" or "nothing".
      masks: whether masks are obeyed.
    """

    kind: str
    temperature: float
    iterations: int
    bin_score: float
    prefilter: bool
    over: str = "both images"
    dustbins: str = "as many as the other image has cells"
    total: bool = True
    divided: str = "the square root of their width"
    masks: bool = True


SHARED = ("kind", "divided", "masks")
"""Fields that count in either kind."""
OWN = {
    "dual softmax": ("temperature", "over"),
    "optimal transport": ("iterations", "bin_score", "dustbins", "total", "prefilter"),
}
"""Fields that count in one kind alone."""


def run_matching(network: TorchLoFTR, form: Matching, given: Trace, cast: Cast) -> dict[str, Tensor]:
    """The confidence matrix [B, L, S]."""
    config = network.config
    last = f"loftr_coarse/layers.{len(config.coarse_layers) - 1}"
    first, second = (cast(torch.as_tensor(given[f"{last}/{side}"]).to(network.dtype)) for side in (0, 1))
    width = first.shape[-1]
    divisor = {"the square root of their width": width, "their width": width**2, "nothing": 1}[form.divided]
    similarity = torch.einsum("blc,bsc->bls", first, second) / divisor
    masks = masks_of(config, given) if form.masks else (None, None)
    valid = torch.ones_like(similarity, dtype=torch.bool)
    for mask, axis in zip(masks, (2, 1), strict=True):
        if mask is not None:
            valid = valid & mask.unsqueeze(axis)
    if form.kind == "dual softmax":
        similarity = (similarity / form.temperature).masked_fill(~valid, MASKED)
        axes = {"both images": (1, 2), "image 0": (1,), "image 1": (2,)}[form.over]
        parts = torch.stack([similarity.softmax(axis) for axis in axes])
        return {"conf_matrix": parts.prod(0).masked_fill(~valid, 0.0)}
    return {"conf_matrix": _transported(form, similarity.masked_fill(~valid, MASKED)).masked_fill(~valid, 0.0)}


def _transported(form: Matching, similarity: Tensor) -> Tensor:
    score = similarity.new_tensor(form.bin_score)
    alone = None if form.dustbins == "as many as the other image has cells" else (1, 1)
    plan = optimal_transport(similarity, score, form.iterations, alone)
    conf = plan[:, :-1, :-1]
    if form.prefilter:
        lost0 = plan.argmax(2)[:, :-1, None] == plan.shape[2] - 1
        lost1 = plan.argmax(1)[:, None, :-1] == plan.shape[1] - 1
        conf = conf.masked_fill(lost0 | lost1, 0.0)
    return conf if form.total else conf / (similarity.shape[1] + similarity.shape[2])
