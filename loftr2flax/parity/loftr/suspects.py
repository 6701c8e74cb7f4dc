"""The mistakes that are known to be made in LoFTR, as data: one table for each kind of stage. Imports torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.models.loftr.reference import TorchLoFTR
from loftr2flax.parity.loftr import fine_mistakes, matching_mistakes, mistakes
from loftr2flax.parity.network import Trace

Setting = tuple[str, Any]
"""A field of a stage's form and its wrong value."""

LAYER: Mapping[str, tuple[str, Sequence[Any]]] = {
    "layer_norm_eps": ("LayerNorm epsilon {value:g} instead of {right:g}", (1e-6, 1e-5, 1e-7, 1e-12, 1e-3, 1e-8)),
    "norms": ("norm placement: {value}", tuple(mistakes.NORMS)),
    "order": ("stale features: image 1 reads image 0 as it was before this layer updated it", ("stale",)),
    "swapped": ("projections {value} have changed places", ("qk", "kv", "qv")),
    "heads": ("{value} attention heads instead of {right}", (1, 2, 4, 8, 16)),
    "attention": ("{value} attention instead of {right}", ("full", "linear")),
    "attention_eps": ("attention epsilon {value:g} instead of {right:g}", (0.0, 1e-6, 1e-8, 1e-12, 1e-3)),
    "attends": ("{value} attention where the layer has {right}", ("self", "cross")),
    "residual": ("the residual is not added", (False,)),
    "concat": ("the MLP reads [message, x] instead of [x, message]", ("message, x",)),
    "activation": ("{value} in the MLP instead of {right}", ("gelu",)),
    "masks": ("masks are not obeyed", (False,)),
}
"""Of an encoder layer: field → what to say, and the values that are tried. The most usual mistakes come first."""

BACKBONE: Mapping[str, tuple[str, Sequence[Any]]] = {
    "padding": ("padding SAME instead of torch's on both sides, at stride 2", ("SAME",)),
    "batch_norm_eps": ("BatchNorm epsilon {value:g} instead of {right:g}", (1e-5, 1e-3, 1e-6, 1e-4)),
    "statistics": ("BatchNorm divides by the batch's statistics, not by the running ones", ("batch",)),
    "upsampling": ("upsampling by {value} instead of {right}", ("edges", "nearest")),
    "slope": ("leaky ReLU of slope {value:g} instead of {right:g}", (0.0, 0.1, 0.2, 0.3)),
}
"""Of the backbone."""

POSITION: Mapping[str, tuple[str, Sequence[Any]]] = {
    "temp_bug_fix": ("position encoding with temp_bug_fix {value} instead of {right}", (True, False)),
    "first": ("position encoding counted from 0 instead of 1", (0,)),
    "swapped": ("position encoding with x and y exchanged", (True,)),
    "added": ("position encoding not added", (False,)),
}
"""Of the position encoding."""

MATCHING: Mapping[str, tuple[str, Sequence[Any]]] = {
    "temperature": ("temperature {value:g} instead of {right:g}", (1.0, 0.1, 0.05, 0.2)),
    "iterations": ("{value} Sinkhorn iterations instead of {right}", (3, 1, 2, 5, 10, 20, 50, 100)),
    "bin_score": ("bin_score {value:g} (1 is its initial value) instead of the checkpoint's {right:g}", (1.0, 0.0)),
    "dustbins": ("dustbins that hold {value} instead of {right}", ("one cell",)),
    "total": ("the transport plan is not multiplied by the number of cells", (False,)),
    "prefilter": ("the filter of cells that prefer the dustbin is {value} instead of {right}", (True, False)),
    "kind": ("{value} instead of {right}", ("dual softmax", "optimal transport")),
    "over": ("a softmax over {value} alone", ("image 0", "image 1")),
    "divided": ("features divided by {value} instead of {right}", ("nothing", "their width")),
    "masks": ("masks are not obeyed", (False,)),
}
"""Of the confidence matrix."""

WINDOWS: Mapping[str, tuple[str, Sequence[Any]]] = {
    "moved": ("windows stand {value:+d} fine cells right and down of where they belong", (2, -2, 1, -1, 4, -4)),
    "listed": ("the cells of a window are listed {value} instead of {right}", ("column by column",)),
    "regrouped": ("unfold's numbers, channels before cells, are read as cells before channels", (True,)),
    "beyond": ("windows hold {value} instead of {right} beyond the map", ("the edge's own cells",)),
    "concat": ("merge_feat reads [{value}] instead of [{right}]", ("coarse, window",)),
    "coarse": (
        "the coarse feature merged in is {value} instead of {right}",
        ("that of the other image's cell", "that of before the transformer"),
    ),
    "biases": ("the biases of down_proj and merge_feat are not added", (False,)),
}
"""Of the fine windows."""

EXPECTATION: Mapping[str, tuple[str, Sequence[Any]]] = {
    "axes": ("coordinates in the order {value} instead of {right}", ("y, x",)),
    "span": ("coordinates {value} instead of {right}", ("0 to 1", "in fine cells from the centre")),
    "deviation": (
        "the standard deviation is {value} instead of {right}",
        ("the root of the summed variances", "the sum of both variances", "the mean of both deviations"),
    ),
    "taken": ("{value} of the heatmap instead of {right}", ("the peak",)),
    "anchor": ("{value} cell of window 0 is looked for instead of {right}", ("the first",)),
    "scaled": ("similarities not divided by the square root of the width", (False,)),
}
"""Of the expectation."""


@dataclass(frozen=True)
class Suspect:
    """One kind of stage: its table, the values that are right, and how to run it with others.

    ``run(network, settings, cast)`` gives the stage's arrays; ``cast`` rounds what matrix products read, or is None.
    """

    table: Mapping[str, tuple[str, Sequence[Any]]]
    right: Mapping[str, Any]
    run: Callable[[TorchLoFTR, Mapping[str, Any], mistakes.Cast | None], dict[str, np.ndarray]]

    def combinations(self, rounds: Sequence[int], fields: Sequence[str] = ()) -> Iterator[tuple[Setting, ...]]:
        """So many wrong fields at a time as each of ``rounds`` says; of ``fields`` alone, if there are any."""
        wrong = {
            field: [(field, value) for value in values if value != self.right.get(field)]
            for field, (_, values) in self.table.items()
            if field in self.right and (not fields or field in fields)
        }
        for count in rounds:
            for together in itertools.combinations(wrong, count):
                yield from itertools.product(*(wrong[field] for field in together))

    def text(self, settings: Sequence[Setting]) -> str:
        """What is wrong, for people."""
        said = (self.table[field][0].format(value=value, right=self.right[field]) for field, value in settings)
        return "; ".join(said)


def suspect_of(name: str, config: LoFTRConfig, bin_score: float, given: Trace) -> Suspect | None:
    """What is known of a stage; None where nothing is.

    Args:
      name: of the stage.
      config: the network.
      bin_score: the checkpoint's, for optimal transport.
      given: what the stage is fed with.
    """
    if "/layers." in name:
        return _layer_suspect(name, config, given)
    if name == "backbone":
        backbone = mistakes.Backbone(config.batch_norm_eps)
        return _simple(BACKBONE, backbone, vars(backbone), mistakes.run_backbone, given)
    if name == "pos_encoding":
        right: dict[str, Any] = {"temp_bug_fix": config.temp_bug_fix, "first": 1, "swapped": False, "added": True}
        return Suspect(POSITION, right, lambda network, wrong, cast: _encoded(network, {**right, **wrong}, given))
    if name == "conf_matrix":
        return _matching_suspect(config, bin_score, given)
    if name == "fine_preprocess":
        windows = fine_mistakes.Windows()
        fields = vars(windows) if config.fine_concat_coarse else {f: vars(windows)[f] for f in fine_mistakes.CUT}
        return _simple(WINDOWS, windows, fields, fine_mistakes.run_windows, given)
    if name == "expectation":
        expectation = fine_mistakes.Expectation()
        return _simple(EXPECTATION, expectation, vars(expectation), fine_mistakes.run_expectation, given)
    return None


def _matching_suspect(config: LoFTRConfig, bin_score: float, given: Trace) -> Suspect:
    kind = {"dual_softmax": "dual softmax", "sinkhorn": "optimal transport"}[config.matching]
    form = matching_mistakes.Matching(
        kind, config.temperature, config.sinkhorn_iterations, bin_score, config.sinkhorn_prefilter
    )
    fields = [*matching_mistakes.OWN[kind], *matching_mistakes.SHARED]
    if all(mask is None for mask in mistakes.masks_of(config, given)):
        fields.remove("masks")
    right = {field: vars(form)[field] for field in fields}
    return _simple(MATCHING, form, right, matching_mistakes.run_matching, given)


def _simple(
    table: Mapping[str, tuple[str, Sequence[Any]]],
    form: Any,
    right: Mapping[str, Any],
    run: Callable[..., dict[str, torch.Tensor]],
    given: Trace,
) -> Suspect:
    """A stage whose mistakes are the fields of ``form``."""
    return Suspect(
        table,
        right,
        lambda network, wrong, cast: mistakes.as_arrays(
            run(network, replace(form, **wrong), given, cast or mistakes.unchanged)
        ),
    )


def _layer_suspect(name: str, config: LoFTRConfig, given: Trace) -> Suspect:
    stage, _, number = name.partition("/layers.")
    kinds = config.coarse_layers if stage == "loftr_coarse" else config.fine_layers
    form = mistakes.Layer(
        config.heads, config.attention, config.attention_eps, config.layer_norm_eps, kinds[int(number)]
    )
    masks = mistakes.masks_of(config, given) if stage == "loftr_coarse" else (None, None)
    right = vars(form) | ({} if any(mask is not None for mask in masks) else {"masks": False})

    def run(network: TorchLoFTR, wrong: Mapping[str, Any], cast: mistakes.Cast | None) -> dict[str, np.ndarray]:
        layer: Any = getattr(network.module, stage)
        features = mistakes.layer_inputs(network, name, given)
        changed = replace(form, **wrong)
        made = mistakes.run_layer(layer.layers[int(number)], changed, features, masks, cast or mistakes.unchanged)
        return mistakes.as_arrays({f"{name}/{side}": made[side] for side in (0, 1)})

    return Suspect(LAYER, right, run)


def _encoded(network: TorchLoFTR, form: Mapping[str, Any], given: Trace) -> dict[str, np.ndarray]:
    made = {}
    for side in (0, 1):
        features = given[f"backbone/coarse/{side}"]
        encoding = mistakes.positions(*features.shape[1:], **form)
        kind = np.float64 if network.dtype == torch.float64 else np.float32
        made[f"pos_encoding/{side}"] = features.astype(kind) + encoding.astype(kind)
    return made
