"""Which stages of LoFTR there are, and which one a leaf belongs to. Neither torch nor jax is needed to know."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from loftr2flax.parity.network import Trace

MATCHES = "matches"
"""The matches that a network finds by itself, [3, M]; ``ids`` are those that the fine stage of both sides refines."""

AT_LEAST = 24
"""Pairs that the fine stage is given, however few are matches: random weights match little."""

_LAYER = re.compile(r"^(?:params/)?(?:(loftr_coarse|loftr_fine)/)?layers[._](\d+)(?:\.\d+)?/")
_MODULE = re.compile(r"^(?:params|batch_stats)/(backbone|coarse_matching|fine_preprocess)/")
_STAGES = {"backbone": "backbone", "coarse_matching": "conf_matrix", "fine_preprocess": "fine_preprocess"}


def stage_of(leaf: str) -> str:
    """The stage that reads a leaf of the tree: ``params/loftr_fine/layers_1/merge/kernel`` → "loftr_fine/layers.1"."""
    if layer := _LAYER.match(leaf):
        return f"{layer[1] or 'loftr_coarse'}/layers.{layer[2]}"
    module = _MODULE.match(leaf)
    return _STAGES[module[1]] if module else ""


def settle(trace: Trace) -> Trace:
    """Once the oracle has its confidence matrix: the matches that the fine stage of both sides looks at.

    They are the oracle's, or, if these are few, the pairs of which it is surest.
    """
    if "conf_matrix" not in trace or "ids" in trace:
        return {}
    matches, conf = trace[MATCHES], trace["conf_matrix"]
    if matches.shape[1] < AT_LEAST:
        surest = np.argsort(np.nan_to_num(conf), axis=None, kind="stable")[-AT_LEAST:]
        matches = np.stack(np.unravel_index(np.sort(surest), conf.shape))
    return {"ids": matches.astype(np.int32)}


def for_stage(name: str, given: Trace) -> dict[str, np.ndarray]:
    """A trace as the matching stage takes it: without ``ids``, so that it tells its own matches."""
    return {key: value for key, value in given.items() if name != "conf_matrix" or key != "ids"}


def with_matches(added: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a stage adds, its own matches under their own name."""
    return {MATCHES if key == "ids" else key: value for key, value in added.items()}
