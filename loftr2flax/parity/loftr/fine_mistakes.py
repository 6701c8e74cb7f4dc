"""The fine stage in torch with a mistake built in, as `mistakes` has it for the coarse one. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loftr2flax.models.loftr.reference import TorchLoFTR
from loftr2flax.parity.loftr.mistakes import Cast
from loftr2flax.parity.network import Trace


@dataclass(frozen=True)
class Windows:
    """The windows cut from the fine maps, each with a coarse feature merged in.

    Attributes:
      moved: fine cells by which windows stand too far right and down.
      listed: the order of a window's cells, "row by row" or "column by column".
      regrouped: whether the numbers of `F.unfold`, channels before cells, are read as cells before channels.
      beyond: what a window holds beyond the edge of the map, "zeros" or "the edge's own cells".
      concat: what merge_feat reads, "window, coarse" or "coarse, window".
      coarse: the feature that is merged in: "that of the cell", "that of the other image's cell", or "that of before
        the transformer".
      biases: whether down_proj and merge_feat add theirs.
    """

    moved: int = 0
    listed: str = "row by row"
    regrouped: bool = False
    beyond: str = "zeros"
    concat: str = "window, coarse"
    coarse: str = "that of the cell"
    biases: bool = True


CUT = ("moved", "listed", "regrouped", "beyond")
"""Fields that count where no coarse feature is merged in."""


def run_windows(network: TorchLoFTR, form: Windows, given: Trace, cast: Cast) -> dict[str, Tensor]:
    """Two of [M, w², Ĉ]."""
    batch, *cells = torch.as_tensor(given["ids"]).long()
    cut = [_cut(network, form, given, side, batch, cells[side]) for side in (0, 1)]
    if network.config.fine_concat_coarse:
        cut = [_merged(network, form, given, side, batch, cells, cut[side], cast) for side in (0, 1)]
    return {f"fine_preprocess/{side}": cut[side] for side in (0, 1)}


def _cut(network: TorchLoFTR, form: Windows, given: Trace, side: int, batch: Tensor, cells: Tensor) -> Tensor:
    stride, across = network.config.fine_stride, network.config.fine_window
    fine = torch.as_tensor(given[f"backbone/fine/{side}"]).to(network.dtype).permute(0, 3, 1, 2)
    room = 2 * across  # for windows that are moved
    mode = "constant" if form.beyond == "zeros" else "replicate"
    padded = F.pad(fine, (room, room, room, room), mode).permute(0, 2, 3, 1)
    width = given[f"pos_encoding/{side}"].shape[2]
    corner = room - across // 2 + form.moved + torch.arange(across)
    rows, columns = (cells // width * stride)[:, None] + corner, (cells % width * stride)[:, None] + corner
    windows = padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]  # [M, w, w, Ĉ]
    if form.listed == "column by column":
        windows = windows.transpose(1, 2)
    windows = windows.flatten(1, 2)
    return windows.transpose(1, 2).reshape(windows.shape) if form.regrouped else windows


def _merged(
    network: TorchLoFTR,
    form: Windows,
    given: Trace,
    side: int,
    batch: Tensor,
    cells: list[Tensor],
    windows: Tensor,
    cast: Cast,
) -> Tensor:
    module: Any = network.module.fine_preprocess

    def dense(linear: Any, y: Tensor) -> Tensor:
        return F.linear(cast(y), cast(linear.weight), linear.bias if form.biases else None)

    last = f"loftr_coarse/layers.{len(network.config.coarse_layers) - 1}"
    name = "pos_encoding" if form.coarse == "that of before the transformer" else last
    whose = 1 - side if form.coarse == "that of the other image's cell" else side
    features = torch.as_tensor(given[f"{name}/{whose}"]).to(network.dtype)
    context = dense(module.down_proj, features.reshape(len(features), -1, features.shape[-1])[batch, cells[whose]])
    both = [windows, context[:, None].expand(windows.shape)]
    return dense(module.merge_feat, torch.cat(both if form.concat == "window, coarse" else both[::-1], -1))


@dataclass(frozen=True)
class Expectation:
    """Where in window 1 the centre of window 0 is.

    Attributes:
      axes: the order of the coordinates, "x, y" or "y, x".
      span: coordinates over a window, "-1 to 1", "0 to 1" or "in fine cells from the centre".
      deviation: the third number: "the sum of both deviations", "the root of the summed variances", "the sum of both
        variances" or "the mean of both deviations".
      taken: what is taken of the heatmap, "the expectation" or "the peak".
      anchor: the cell of window 0 that is looked for, "the centre" or "the first".
      scaled: whether similarities are divided by the square root of the width.
    """

    axes: str = "x, y"
    span: str = "-1 to 1"
    deviation: str = "the sum of both deviations"
    taken: str = "the expectation"
    anchor: str = "the centre"
    scaled: bool = True


def run_expectation(network: TorchLoFTR, form: Expectation, given: Trace, cast: Cast) -> dict[str, Tensor]:
    """[M, 3]."""
    last = f"loftr_fine/layers.{len(network.config.fine_layers) - 1}"
    feat0, feat1 = (cast(torch.as_tensor(given[f"{last}/{side}"]).to(network.dtype)) for side in (0, 1))
    cells, width = feat0.shape[1:]
    anchor = feat0[:, cells // 2 if form.anchor == "the centre" else 0]
    similarity = torch.einsum("mc,mrc->mr", anchor, feat1) / (width**0.5 if form.scaled else 1.0)
    heatmap = similarity.softmax(-1)
    across = round(cells**0.5)
    half = across // 2
    ends = {"-1 to 1": (-1, 1), "0 to 1": (0, 1), "in fine cells from the centre": (-half, half)}[form.span]
    axis = torch.linspace(*ends, across, dtype=network.dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1).flatten(0, 1)
    mean = heatmap @ grid
    place = mean if form.taken == "the expectation" else grid[heatmap.argmax(-1)]
    deviation = _deviation(form.deviation, (heatmap @ grid**2 - mean**2).clamp(min=1e-10))
    return {"expectation": torch.cat([place if form.axes == "x, y" else place.flip(-1), deviation], -1)}


def _deviation(kind: str, variance: Tensor) -> Tensor:
    """[M, 2] → [M, 1]."""
    if kind == "the root of the summed variances":
        return variance.sum(-1, keepdim=True).sqrt()
    if kind == "the sum of both variances":
        return variance.sum(-1, keepdim=True)
    if kind == "the mean of both deviations":
        return variance.sqrt().mean(-1, keepdim=True)
    return variance.sqrt().sum(-1, keepdim=True)
