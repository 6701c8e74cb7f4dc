"""The mistakes that are known to be made in LoFTR, as data, and the search for those that explain a wrong stage.

A stage that is wrong by itself is run again in torch with one change at a time, then with several, until torch so
changed agrees with the candidate as closely as torch in float32 agrees with itself: the same rule that judges a right
port judges the explanation. Lower precision cannot be matched digit by digit; it is told by the size of its error. A
stage within its limit may still have an epsilon of its own: its error then points where that epsilon points, and
rounding does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.models.loftr.reference import TorchLoFTR
from loftr2flax.parity.judge import Rounding, judge
from loftr2flax.parity.loftr import mistakes
from loftr2flax.parity.loftr.summation import InOrder
from loftr2flax.parity.loftr.torch_side import TorchSide
from loftr2flax.parity.network import Trace
from loftr2flax.parity.run import Record, Replay
from loftr2flax.parity.subject import Explain
from loftr2flax.parity.values import Culprit, StageRow

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
    "scaled": ("features not divided by the square root of their width", (False,)),
}
"""Of the confidence matrix."""

USUAL = ("layer_norm_eps", "norms", "order")
"""Fields that are wrong together so often that two and three of them are tried before anything else is."""

NARROW = {"bfloat16": torch.bfloat16, "float16 or TensorFloat-32": torch.float16}
"""Types that matrix products may have gone through."""

SUBTLE = ("layer_norm_eps", "batch_norm_eps", "attention_eps")
"""Fields that may be wrong and move a stage by less than its limit."""

FAINT = 0.3
"""An epsilon that moves a stage by less than this share of torch's rounding error is not looked for."""

WITHIN = 4.0
"""The size of an error tells its type up to this factor; bfloat16 and float16 are 8 apart."""


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


def explain_with(state: Mapping[str, np.ndarray], config: LoFTRConfig, coarse_only: bool) -> Explain:
    """The search, for networks of these weights; they are built when they are first needed."""

    networks: list[TorchLoFTR] = []

    def explain(row: StageRow, record: Record, replay: Replay) -> Culprit | None:
        suspect = _suspect(row.stage, config, record.given())
        found = {judgement.array: replay.alone[judgement.array] for judgement in row.own}
        if suspect is None or not found:
            return None
        if not networks:
            networks.extend(TorchSide(state, config, dtype, coarse_only).network for dtype in ("float64", "float32"))
        sides = networks[0], networks[1]
        with torch.no_grad():
            if all(judgement.ratio <= judgement.limit for judgement in row.own):
                return _by_direction(row, suspect, sides[0], record, found)
            return (
                _by_change(row, suspect, sides, found, [*suspect.combinations([1])])
                or _by_change(row, suspect, sides, found, [*suspect.combinations([2, 3], USUAL)])
                or _by_size(row, suspect, sides[1], record, found)
                or _by_change(row, suspect, sides, found, [*suspect.combinations([2])])
            )

    return explain


def _by_direction(
    row: StageRow, suspect: Suspect, wide: TorchLoFTR, record: Record, found: Mapping[str, np.ndarray]
) -> Culprit | None:
    """An epsilon whose effect is in the candidate's error, however little that is.

    Another epsilon moves the oracle by d. Rounding errors e have nothing to do with d, so that ⟨e, d⟩ / ⟨d, d⟩ is
    about 0 in a right port; it is 1 in a port that has this epsilon, and in proportion for another.
    """
    for field in SUBTLE:
        if field not in suspect.right or field not in suspect.table:
            continue
        text, values = suspect.table[field]
        others = [value for value in values if value != suspect.right[field]]
        changed = suspect.run(wide, {field: others[0]}, None)
        moved = np.concatenate([(changed[name] - record.alone[name]).ravel() for name in found])
        error = np.concatenate([(array - record.alone[name]).ravel() for name, array in found.items()])
        rounding = max(judgement.reference_rmse for judgement in row.own)
        length = float(moved @ moved)
        if not length > (FAINT * rounding) ** 2 * moved.size:
            continue
        share = float(error @ moved) / length
        if share > 0.5:
            likely = suspect.right[field] + share * (others[0] - suspect.right[field])
            value = _usual(others, likely, 0.25 * abs(others[0] - suspect.right[field]))
            evidence = f"the error lies {share:.2f} of the way along what such an epsilon does to torch"
            cause = text.format(value=value, right=suspect.right[field])
            return Culprit(row.stage, cause, "computation", evidence)
    return None


def _usual(values: Sequence[float], likely: float, within: float) -> float:
    """The most usual of the values that are near enough, else the nearest."""
    near = [value for value in values if abs(value - likely) <= within]
    return near[0] if near else min(values, key=lambda value: abs(value - likely))


def _by_change(
    row: StageRow,
    suspect: Suspect,
    sides: tuple[TorchLoFTR, TorchLoFTR],
    found: Mapping[str, np.ndarray],
    combinations: Sequence[tuple[Setting, ...]],
) -> Culprit | None:
    """The first change with which torch, in float64 and float32, agrees with the candidate."""
    wide, narrow = sides
    smallest = {judgement.array: 64 * judgement.reference_rmse for judgement in row.own}
    before = max(judgement.ratio for judgement in row.own)
    for settings in combinations:
        try:
            exact = suspect.run(wide, dict(settings), None)
        except RuntimeError:  # sizes that the change does not allow
            continue
        if not all(_near(array, exact[name], smallest[name]) for name, array in found.items()):
            continue  # spares the second run: a right explanation is as close as rounding
        singles = [suspect.run(narrow, dict(settings), None)]
        with InOrder():
            singles.append(suspect.run(narrow, dict(settings), None))
        roundings = {name: Rounding.widest([Rounding.of(s[name], exact[name]) for s in singles]) for name in found}
        judged = [judge(name, array, exact[name], roundings[name]) for name, array in found.items()]
        worst = max(judgement.ratio for judgement in judged)
        if all(judgement.passed for judgement in judged):
            evidence = f"torch with this change agrees: r {worst:.3g}, without it {before:.3g}"
            return Culprit(row.stage, suspect.text(settings), "computation", evidence)
    return None


def _by_size(
    row: StageRow, suspect: Suspect, narrow: TorchLoFTR, record: Record, found: Mapping[str, np.ndarray]
) -> Culprit | None:
    """The narrower type whose error is as large as the candidate's."""
    nearest: tuple[float, str] | None = None
    for name, kind in NARROW.items():
        rounded = suspect.run(narrow, {}, mistakes.through(kind))
        sizes = [
            _rmse(array, record.alone[key]) / (_rmse(rounded[key], record.alone[key]) or np.inf)
            for key, array in found.items()
            if array.shape == rounded[key].shape
        ]
        factor = float(np.exp(np.mean(np.abs(np.log(np.maximum(sizes, 1e-30)))))) if sizes else np.inf
        if factor <= WITHIN and (nearest is None or factor < nearest[0]):
            nearest = factor, name
    if nearest is None:
        return None
    evidence = f"torch with what matrix products read rounded so is as far off, up to a factor of {nearest[0]:.2f}"
    return Culprit(row.stage, f"precision: numbers go through {nearest[1]}", "computation", evidence)


def _suspect(name: str, config: LoFTRConfig, given: Trace) -> Suspect | None:
    if "/layers." in name:
        return _layer_suspect(name, config, given)
    if name == "backbone":
        backbone = mistakes.Backbone(config.batch_norm_eps)
        return Suspect(
            BACKBONE,
            vars(backbone),
            lambda network, wrong, cast: mistakes.as_arrays(
                mistakes.run_backbone(network, replace(backbone, **wrong), given, cast)
            ),
        )
    if name == "pos_encoding":
        right: dict[str, Any] = {"temp_bug_fix": config.temp_bug_fix, "first": 1, "swapped": False, "added": True}
        return Suspect(POSITION, right, lambda network, wrong, cast: _encoded(network, {**right, **wrong}, given))
    if name == "conf_matrix" and config.matching == "dual_softmax":
        matching: dict[str, Any] = {"temperature": config.temperature, "scaled": True}
        return Suspect(
            MATCHING,
            matching,
            lambda network, wrong, cast: mistakes.as_arrays(
                mistakes.run_matching(network, given, **{**matching, **wrong}, cast=cast or mistakes.unchanged)
            ),
        )
    return None


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


def _near(one: np.ndarray, other: np.ndarray, most: float) -> bool:
    return one.shape == other.shape and _rmse(one, other) <= most


def _rmse(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sqrt(np.mean(np.square(one.astype(np.float64) - other))))
