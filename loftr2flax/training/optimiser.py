"""AdamW with warm-up and cosine; parts that are frozen or learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax

from loftr2flax.errors import UsageError
from loftr2flax.training.config import TrainConfig


def steps_per_epoch(config: TrainConfig) -> int:
    """Whole batches in an epoch.

    Raises:
      UsageError: there is not one.
    """
    if config.batch_size > config.pairs_per_epoch:
        raise UsageError(
            f"batch_size={config.batch_size}: an epoch has only pairs_per_epoch={config.pairs_per_epoch} pairs",
            f"`--batch-size {config.pairs_per_epoch}`, or more pairs",
        )
    return config.pairs_per_epoch // config.batch_size


def schedule(config: TrainConfig) -> optax.Schedule:
    """Step → learning rate: a line up to ``lr``, then a cosine down to a hundredth of it."""
    steps = steps_per_epoch(config) * config.num_epochs
    warm = min(round(steps_per_epoch(config) * config.warmup_epochs), steps - 1)
    return optax.warmup_cosine_decay_schedule(
        config.lr / max(warm, 1), config.lr, warm, max(steps, warm + 1), config.lr / 100
    )


def make_optimiser(config: TrainConfig, params: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optimiser of a run.

    Raises:
      UsageError: a part to freeze or to scale is not in the network.
    """
    scales = dict.fromkeys(config.freeze, 0.0)
    scales |= {part: float(scale) for part, _, scale in (entry.partition("=") for entry in config.lr_scale)}
    paths = ["/".join(_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for part in scales:
        if not any(_within(path, part) for path in paths):
            tops = ", ".join(dict.fromkeys(path.split("/")[0] for path in paths))
            raise UsageError(f"{part}: the network has no such part", f"its parts are {tops}, and what is below them")

    def label(path: tuple[Any, ...], _: Any) -> str:
        name = "/".join(_names(path))
        best = max((part for part in scales if _within(name, part)), key=len, default="")
        return best or "all"

    def matrices(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)

    base = optax.adamw(schedule(config), weight_decay=config.weight_decay, mask=matrices)
    rules = {
        part: optax.chain(base, optax.scale(scale)) if scale else optax.set_to_zero() for part, scale in scales.items()
    }
    labels = jax.tree_util.tree_map_with_path(label, params)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.multi_transform({"all": base, **rules}, labels)
    )


def frozen_statistics(config: TrainConfig, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new running statistics, but for those of frozen parts."""

    def choose(path: tuple[Any, ...], before: Any, after: Any) -> Any:
        return before if any(_within("/".join(_names(path)), part) for part in config.freeze) else after

    chosen: dict[str, Any] = jax.tree_util.tree_map_with_path(choose, dict(old), dict(new))
    return chosen


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(entry.key) for entry in path]


def _within(path: str, part: str) -> bool:
    return f"{path}/".startswith(f"{part.strip('/')}/")
