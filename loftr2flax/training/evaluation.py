"""How good a network is, on pairs held out: the same ones for every run of a size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from loftr2flax.errors import InputError
from loftr2flax.models.dense_reg import DenseRegModel
from loftr2flax.models.matcher_net import MatcherModel
from loftr2flax.training.config import TrainConfig
from loftr2flax.training.images import open_images
from loftr2flax.training.pairs import Pair, gathered

HELD_OUT_SEED = 2**31 - 1

Evaluation = Callable[[Any, Any], dict[str, float]]
"""Parameters and running statistics → figures; raises `OutputNotFinite`."""


class OutputNotFinite(ArithmeticError):
    """The network gives NaN or infinity: its weights have run away."""


def held_out(config: TrainConfig) -> Pair:
    """The pairs of the evaluation; no run's own seed changes them.

    Raises:
      InputError: nothing in them corresponds.
    """
    fixed = replace(config, seed=HELD_OUT_SEED)
    pairs = gathered(fixed, open_images(fixed, held_out=True), config.eval_pairs)
    if (pairs["cells"] < 0).all():
        told = f"{config.dataset_root or 'synthetic images'}: nothing corresponds in {config.eval_pairs} held-out pairs"
        raise InputError(told, "see whether the images are blank, or take more --eval-pairs")
    return pairs


def dense_evaluation(model: DenseRegModel, config: TrainConfig) -> Evaluation:
    """Share of correct correspondences and error of the registration.

    ``correct``: of the cells of image 0 with a true counterpart, the share whose most confident cell of image 1 lies
    within ``eval_pixels`` of the true point. ``registration_error``: mean distance in pixels between the true points
    and an affine map fitted to the found ones, each by its confidence; ``imposter_confidence``: mean of the highest
    confidence of a cell, over pairs of two fingers.
    """
    pairs = held_out(config)

    @jax.jit
    def confidence(params: Any, stats: Any, image0: Any, image1: Any) -> Any:
        found: Any = model.apply({"params": params, "batch_stats": stats}, image0, image1)
        return found.confidence

    def evaluate(params: Any, stats: Any) -> dict[str, float]:
        params, stats = _here(params), _here(stats)
        found = np.concatenate([
            np.asarray(confidence(params, stats, pairs["image0"][n : n + 1], pairs["image1"][n : n + 1]))
            for n in range(config.eval_pairs)
        ])  # fmt: skip
        return dense_figures(_finite(found), pairs, config)

    return evaluate


def dense_figures(confidence: np.ndarray, pairs: Mapping[str, np.ndarray], config: TrainConfig) -> dict[str, float]:
    """The figures of `dense_evaluation` from confidences [B, L, S]."""
    stride, columns = config.stride, config.image_size[1] // config.stride
    best = confidence.argmax(2)  # [B, L]
    found = stride * np.stack([best % columns, best // columns], -1).astype(float)  # [B, L, 2]
    known = pairs["cells"] >= 0
    error = np.hypot(*np.moveaxis(found - pairs["points"], -1, 0))
    own = stride * np.stack([np.arange(best.shape[1]) % columns, np.arange(best.shape[1]) // columns], -1).astype(float)
    fits = [
        np.hypot(*(fit_affine(own[k], f[k], c.max(1)[k], own[k]) - p[k]).T).mean()
        for k, f, c, p in zip(known, found, confidence, pairs["points"], strict=True)
        if k.sum() >= 6
    ]
    strange = ~pairs["genuine"]
    return {
        "correct": float((error[known] < config.eval_pixels).mean()) if known.any() else 0.0,
        "registration_error": float(np.mean(fits)) if fits else float("inf"),
        "confidence": float(confidence.max(2)[known].mean()) if known.any() else 0.0,
        "imposter_confidence": float(confidence[strange].max(2).mean()) if strange.any() else 0.0,
    }


def fit_affine(points: np.ndarray, found: np.ndarray, weight: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Points [N, 2] → found [N, 2] by an affine map, robust to wrong ones, applied to ``wanted`` [K, 2].

    Weighted least squares, five times, each point weighed anew by its distance (Cauchy, 3 pixels) from the last fit.
    """
    design = np.concatenate([points, np.ones((len(points), 1))], 1)
    trust = weight + 1e-9
    matrix = np.zeros((3, 2))
    for _ in range(5):
        root = np.sqrt(trust)[:, None]
        matrix = np.linalg.lstsq(design * root, found * root, rcond=None)[0]
        trust = (weight + 1e-9) / (1 + np.square(design @ matrix - found).sum(1) / 9)
    return np.concatenate([wanted, np.ones((len(wanted), 1))], 1) @ matrix


def match_evaluation(model: MatcherModel, config: TrainConfig) -> Evaluation:
    """Equal error rate over all pairs of held-out prints: each finger twice, once warped and corrupted."""
    fixed = replace(config, imposters=0.0)
    pairs = held_out(fixed)

    @jax.jit
    def embed(params: Any, stats: Any, image: Any) -> Any:
        return model.apply({"params": params, "batch_stats": stats}, image, method="embed")

    def evaluate(params: Any, stats: Any) -> dict[str, float]:
        params, stats = _here(params), _here(stats)
        one, other = (np.concatenate([
            np.asarray(embed(params, stats, pairs[name][n : n + 1])) for n in range(config.eval_pairs)
        ]) for name in ("image0", "image1"))  # fmt: skip
        scores = _finite(one @ other.T)
        same = pairs["label0"][:, None] == pairs["label1"][None, :]
        genuine, strange = scores[same], scores[~same]
        figures = {"genuine": float(genuine.mean()), "equal_error_rate": equal_error_rate(genuine, strange)}
        return figures | {"imposter": float(strange.mean()) if strange.size else 0.0}

    return evaluate


def equal_error_rate(genuine: np.ndarray, imposter: np.ndarray) -> float:
    """Where as many imposters are let in as genuine prints are turned away, 0 … 1."""
    if not (genuine.size and imposter.size):
        return float("nan")
    limits = np.unique(np.concatenate([genuine, imposter]))
    limits = np.append(limits, np.nextafter(limits[-1], np.inf))
    refused = np.searchsorted(np.sort(genuine), limits, "left") / genuine.size
    admitted = 1 - np.searchsorted(np.sort(imposter), limits, "left") / imposter.size
    nearest = int(np.argmin(np.abs(refused - admitted)))
    return float((refused[nearest] + admitted[nearest]) / 2)


def _finite(output: np.ndarray) -> np.ndarray:
    if not np.isfinite(output).all():
        raise OutputNotFinite
    return output


def _here(tree: Any) -> Any:
    """A tree that is everywhere, as this process's own arrays."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf.addressable_data(0)) if isinstance(leaf, jax.Array) else leaf, tree
    )
