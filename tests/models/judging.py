"""The two curves at every stage: r in a free run, and r from torch's own inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from weights import flax_variables

from loftr2flax.models.loftr import LoFTR, LoFTRConfig, stages
from loftr2flax.models.loftr.reference import TorchLoFTR
from loftr2flax.parity.loftr.rounding import InOrder, otherwise


def rmse(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    assert (np.isnan(actual) == np.isnan(expected)).all()
    return float(np.sqrt(np.mean(np.square(actual.astype(np.float64) - expected))))


def matches_or_best(oracle: Mapping[str, Any], at_least: int = 24) -> np.ndarray:
    """The oracle's matches, or, if they are few, the pairs of which it is surest: random weights match little."""
    if oracle["ids"].shape[1] >= at_least:
        return oracle["ids"]
    conf = oracle["conf_matrix"]
    return np.stack(np.unravel_index(np.argsort(conf, axis=None)[-at_least:], conf.shape)).astype(np.int32)


def effective_size(error: np.ndarray) -> float:
    """How many elements carry the error: (Σ e²)² / Σ e⁴. A confidence matrix of 18,000 elements may have three."""
    square = np.square(error.astype(np.float64))
    return float(square.sum() ** 2 / np.square(square).sum())


def limit(error: np.ndarray, other: np.ndarray) -> float:
    """2, and more where a few elements make the rmse of either side: it then varies from one rounding to the next."""
    few = min(effective_size(error), effective_size(other))
    return 2.0 if few >= 100 else 2.0 * (1 + 2 / few**0.5)


@dataclass(frozen=True)
class Judged:
    drift: float
    own: float
    drift_limit: float
    own_limit: float

    @property
    def passed(self) -> bool:
        return self.drift <= self.drift_limit and self.own <= self.own_limit


def ratios(config: LoFTRConfig, state: Mapping[str, np.ndarray], *inputs: Any) -> dict[str, Judged]:
    """Of each array of the trace: r of the free run (drift), r from torch's inputs (own error)."""
    oracle, torch32 = TorchLoFTR(state, config, "float64"), TorchLoFTR(state, config)
    model, variables = LoFTR(config), flax_variables(state, config)
    image0, image1, mask0, mask1 = (*inputs, None, None)[:4]
    expected = oracle.trace(image0, image1, mask0, mask1)
    ids = matches_or_best(expected) if config.fine else expected["ids"]
    expected = oracle.trace(image0, image1, mask0, mask1, ids)
    theirs = [torch32.trace(image0, image1, mask0, mask1, ids)]
    with InOrder():  # what plain sums cost, whatever library torch was built with
        theirs.append(torch32.trace(image0, image1, mask0, mask1, ids))
    ours = stages.trace(model, variables, image0, image1, mask0, mask1, ids)
    given = {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in expected.items()}

    judged = {}
    for name in stages.stage_names(config):
        exact, alone = oracle.stage(name, given), stages.run_stage(model, variables, name, given)
        singles = [torch32.stage(name, given)]
        with otherwise(name):
            singles.append(torch32.stage(name, given))
        for key in exact:
            drift, drift_limit = ratio(ours[key], [trace[key] for trace in theirs], expected[key])
            own, own_limit = ratio(alone[key], [made[key] for made in singles], exact[key])
            judged[key] = Judged(drift, own, drift_limit, own_limit)
    return judged


def ratio(ours: np.ndarray, theirs: list[np.ndarray], expected: np.ndarray) -> tuple[float, float]:
    """r by the larger of torch's errors, and what it may be."""
    if (ours == expected).all():  # windows cut from a map are exact, on both sides
        return 0.0, 2.0
    widest = max(theirs, key=lambda one: rmse(one, expected))
    return rmse(ours, expected) / rmse(widest, expected), limit(ours - expected, widest - expected)
