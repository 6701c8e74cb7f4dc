"""The search for the known mistakes (`suspects`) that explain a wrong stage.

A stage that is wrong by itself is run again in torch with one change at a time, then with several, until torch so
changed agrees with the candidate as closely as torch in float32 agrees with itself: the same rule that judges a right
port judges the explanation. Lower precision cannot be matched digit by digit; it is told by the size of its error. A
stage within its limit may still have an epsilon of its own: its error then points where that epsilon points, and
rounding does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.models.loftr.reference import TorchLoFTR
from loftr2flax.parity.judge import Rounding, judge
from loftr2flax.parity.loftr import mistakes
from loftr2flax.parity.loftr.rounding import otherwise
from loftr2flax.parity.loftr.suspects import Setting, Suspect, suspect_of
from loftr2flax.parity.loftr.torch_side import TorchSide
from loftr2flax.parity.run import Record, Replay
from loftr2flax.parity.subject import Explain
from loftr2flax.parity.values import Culprit, StageRow

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


def explain_with(state: Mapping[str, np.ndarray], config: LoFTRConfig, coarse_only: bool) -> Explain:
    """The search, for networks of these weights; they are built when they are first needed."""

    networks: list[TorchLoFTR] = []
    bin_score = float(state.get("coarse_matching.bin_score", 1.0))

    def explain(row: StageRow, record: Record, replay: Replay) -> Culprit | None:
        suspect = suspect_of(row.stage, config, bin_score, record.given())
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
        with otherwise(row.stage):
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


def _near(one: np.ndarray, other: np.ndarray, most: float) -> bool:
    return one.shape == other.shape and _rmse(one, other) <= most


def _rmse(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sqrt(np.mean(np.square(one.astype(np.float64) - other))))
