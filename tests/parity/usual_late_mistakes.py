"""Coarse matching and the fine stage as people port them, in plain numpy, mistakes to choose.

Nothing of the package's own network or of its table of mistakes is used. Without a mistake each stage is a right port,
and has to pass; all other stages are the package's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.parity.loftr.flax_side import FlaxLoFTR


@dataclass(frozen=True)
class LateStages:
    """A `loftr2flax.parity.network.Network` whose stages after the coarse transformer are written here, in float32."""

    flax: FlaxLoFTR
    config: LoFTRConfig
    mistakes: frozenset[str] = field(default_factory=frozenset)

    @property
    def stage_names(self) -> tuple[str, ...]:
        return self.flax.stage_names

    def stage(self, name: str, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        own = getattr(self, f"_{name}", None)
        made = {} if own and name != "conf_matrix" else self.flax.stage(name, given)  # that one finds matches, too
        return made | own(given) if own else made

    def _has(self, mistake: str) -> bool:
        return mistake in self.mistakes

    def _conf_matrix(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        last = f"loftr_coarse/layers.{len(self.config.coarse_layers) - 1}"
        first, second = (given[f"{last}/{side}"] / np.float32(32**0.5) for side in (0, 1))
        scores = np.einsum("blc,bsc->bls", first, second)
        if self._has("width squared"):
            scores /= 32
        valid = np.ones(scores.shape, bool)
        for side, mask in enumerate(given.get(f"mask/{side}") for side in (0, 1)):
            if mask is not None and not self._has("no masks"):
                cells = mask[:, ::8, ::8].reshape(1, -1)
                valid &= cells[:, None, :] if side else cells[:, :, None]
        scores = np.where(valid, scores, np.float32(-1e9))
        if self.config.matching == "dual_softmax" or self._has("dual softmax"):
            axes = (2,) if self._has("one softmax") else (1, 2)
            conf = np.prod([_softmax(scores / np.float32(self.config.temperature), axis) for axis in axes], axis=0)
        else:
            score = self.flax.variables["params"]["coarse_matching"]["bin_score"]
            conf = self._transport(scores, np.float32(1) if self._has("initial bin_score") else score)
        return {"conf_matrix": np.where(valid, conf, 0).astype(np.float32)}

    def _transport(self, scores: np.ndarray, bin_score: np.ndarray) -> np.ndarray:
        _, rows, columns = scores.shape
        z = np.pad(scores, ((0, 0), (0, 1), (0, 1)), constant_values=bin_score)
        mass0, mass1 = np.ones(rows + 1, np.float32), np.ones(columns + 1, np.float32)
        if not self._has("light dustbins"):
            mass0[-1], mass1[-1] = columns, rows
        total = np.float32(rows + columns)
        u, v = np.zeros(z.shape[:2], np.float32), np.zeros(z.shape[::2], np.float32)
        for _ in range(10 if self._has("ten iterations") else 3):
            u = np.log(mass0 / total) - _logsumexp(z + v[:, None, :], 2)
            v = np.log(mass1 / total) - _logsumexp(z + u[:, :, None], 1)
        plan = np.exp(z + u[:, :, None] + v[:, None, :])[:, :-1, :-1]
        return plan if self._has("shares") else plan * total

    def _fine_preprocess(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        leaves = self.flax.variables["params"]["fine_preprocess"]

        def dense(name: str, x: np.ndarray) -> np.ndarray:
            bias = 0 if self._has("no biases") else leaves[name]["bias"]
            return x @ leaves[name]["kernel"] + bias

        last = f"loftr_coarse/layers.{len(self.config.coarse_layers) - 1}"
        _, *cells = given["ids"]
        made = {}
        for side in (0, 1):
            windows = self._cut(given[f"backbone/fine/{side}"][0], given[f"pos_encoding/{side}"].shape[2], cells[side])
            whose = 1 - side if self._has("other image") else side
            features = given[f"pos_encoding/{whose}" if self._has("early features") else f"{last}/{whose}"]
            context = dense("down_proj", features.reshape(-1, features.shape[-1])[cells[whose]])
            both = [windows, np.broadcast_to(context[:, None], windows.shape)]
            order = both[::-1] if self._has("concat") else both
            made[f"fine_preprocess/{side}"] = dense("merge_feat", np.concatenate(order, -1))
        return made

    def _cut(self, fine: np.ndarray, width: int, cells: np.ndarray) -> np.ndarray:
        start = 0 if self._has("corner") else 2
        padded = np.pad(fine, ((2, 5), (2, 5), (0, 0)), mode="edge" if self._has("edge") else "constant")
        windows = []
        for cell in cells:
            y, x = cell // width * 4 + 2 - start, cell % width * 4 + 2 - start
            window = padded[y : y + 5, x : x + 5]
            window = window.transpose(1, 0, 2) if self._has("columns first") else window
            window = window.reshape(25, -1)
            windows.append(window.T.reshape(window.shape) if self._has("unfold order") else window)
        return np.stack(windows)

    def _expectation(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        last = f"loftr_fine/layers.{len(self.config.fine_layers) - 1}"
        feat0, feat1 = given[f"{last}/0"], given[f"{last}/1"]
        anchor = feat0[:, 0 if self._has("first cell") else 12]
        scores = np.einsum("mc,mrc->mr", anchor, feat1)
        heatmap = _softmax(scores if self._has("not scaled") else scores / np.float32(feat0.shape[-1] ** 0.5), 1)
        heatmap = np.nextafter(heatmap, np.float32(0)) if self._has("rounded down") else heatmap  # no mistake
        axis = np.linspace(0 if self._has("from zero") else -1, 1, 5, dtype=np.float32)
        y, x = np.meshgrid(axis, axis, indexing="ij")
        grid = np.stack([x.ravel(), y.ravel()], -1)
        mean = heatmap @ grid
        variance = heatmap @ grid**2 - mean**2
        deviation = np.sqrt(np.maximum(variance, 1e-10)).sum(-1, keepdims=True)
        if self._has("one root"):
            deviation = np.sqrt(variance.sum(-1, keepdims=True))
        place = grid[heatmap.argmax(-1)] if self._has("peak") else mean
        place = place[:, ::-1] if self._has("y before x") else place
        return {"expectation": np.concatenate([place, deviation], -1)}


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    largest = x.max(axis, keepdims=True)
    return np.log(np.exp(x - largest).sum(axis)) + largest.squeeze(axis)


def factory(*mistakes: str) -> Callable[..., LateStages]:
    """What `verify_parity(flax=…)` takes."""

    def make(variables: Mapping[str, Any], facts: Mapping[str, Any]) -> LateStages:
        known = {name: value for name, value in facts.items() if name != "model"}
        matching = "sinkhorn" if "coarse_matching" in variables["params"] else "dual_softmax"
        layers: Any = ("self", "cross") * (len(variables["params"]["loftr_coarse"]) // 2)
        config = LoFTRConfig(block_dims=(16, 24, 32), coarse_layers=layers, **{"matching": matching, **known})
        return LateStages(FlaxLoFTR(config, variables), config, frozenset(mistakes))

    return make
