"""One step, compiled once: loss, gradient, update; the batch is spread over the devices, the state is everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from loftr2flax.errors import UsageError
from loftr2flax.models.dense_reg import DenseRegModel
from loftr2flax.models.matcher_net import MatcherModel
from loftr2flax.training.config import DenseConfig, MatchConfig, TrainConfig
from loftr2flax.training.losses import arcface_loss, cosine_loss, dense_loss, fine_loss, fine_targets
from loftr2flax.training.optimiser import frozen_statistics

FINE_MATCHES = 32
"""True matches of a pair that the fine stage learns from."""

Loss = Callable[[Any, Any, Mapping[str, Array]], tuple[Array, tuple[Any, dict[str, Array]]]]
"""Parameters, running statistics, batch → the loss; new statistics and the loss's terms beside it."""


class TrainState(NamedTuple):
    """All that a run is at a step: what a checkpoint holds."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any


def new_state(variables: Mapping[str, Any], optimiser: optax.GradientTransformation) -> TrainState:
    """Step 0."""
    params = variables["params"]
    return TrainState(jnp.int32(0), params, dict(variables.get("batch_stats", {})), optimiser.init(params))


def dense_objective(model: DenseRegModel, config: TrainConfig) -> Loss:
    """The loss of Module 1."""
    stride, fine = config.stride, isinstance(config, DenseConfig) and config.fine
    radius = model.config.fine_window // 2 * model.config.resolution[1]

    def loss(params: Any, stats: Any, batch: Mapping[str, Array]) -> tuple[Array, tuple[Any, dict[str, Array]]]:
        ids, target, valid = fine_targets(dict(batch), FINE_MATCHES, stride, radius) if fine else (None, None, None)
        variables = {"params": params, "batch_stats": stats}
        found, changed = model.apply(variables, batch["image0"], batch["image1"], True, ids, mutable=["batch_stats"])
        terms = {"dense": dense_loss(found.confidence, batch["cells"], batch["genuine"])}
        if target is not None and valid is not None:
            terms["fine"] = fine_loss(found.expectation, target, valid)
        return jnp.asarray(sum(terms.values())), (changed["batch_stats"], terms)

    return loss


def matcher_objective(model: MatcherModel, config: MatchConfig) -> Loss:
    """The loss of Module 2: ArcFace, cosine and dense registration."""

    def everything(bound: MatcherModel, image0: Array, image1: Array) -> Any:
        one, other, dense = bound(image0, image1, True)
        return one, other, dense, bound.cosines(jnp.concatenate([one, other]))

    def loss(params: Any, stats: Any, batch: Mapping[str, Array]) -> tuple[Array, tuple[Any, dict[str, Array]]]:
        variables = {"params": params, "batch_stats": stats}
        (one, other, dense, cosines), changed = model.apply(
            variables, batch["image0"], batch["image1"], method=everything, mutable=["batch_stats"]
        )
        labels = jnp.concatenate([batch["label0"], batch["label1"]])
        terms = {
            "arcface": arcface_loss(cosines, labels, config.arcface_margin, config.arcface_scale),
            "cosine": cosine_loss(one, other, batch["genuine"], config.cosine_margin),
            "dense": dense_loss(dense.confidence, batch["cells"], batch["genuine"]),
        }
        total = terms["arcface"] + config.lambda_E * terms["cosine"] + config.lambda_D * terms["dense"]
        return total, (changed["batch_stats"], terms)

    return loss


def make_step(
    objective: Loss, optimiser: optax.GradientTransformation, config: TrainConfig
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """State and batch → the next state and the metrics of this step. The old state's memory is given away."""

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (stats, terms)), gradient = value_and_grad(state.params, state.batch_stats, batch)
        updates, opt_state = optimiser.update(gradient, state.opt_state, state.params)
        stats = frozen_statistics(config, state.batch_stats, stats)
        metrics = {"loss": loss, **terms, "gradient": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), stats, opt_state), metrics

    return step


class Placement:
    """Where arrays live: one mesh over all devices of all processes, named ``data``."""

    def __init__(self, batch_size: int) -> None:
        count = jax.device_count()
        if batch_size % count:
            raise UsageError(
                f"batch_size={batch_size}: {count} devices cannot share it evenly", f"choose a multiple of {count}"
            )
        mesh = Mesh(np.array(jax.devices()), ("data",))
        self._split = NamedSharding(mesh, PartitionSpec("data"))  # type: ignore[no-untyped-call]
        self.everywhere = NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]

    def state(self, state: TrainState) -> TrainState:
        """The state on every device."""
        placed: TrainState = jax.tree.map(
            lambda leaf: _placed(self.everywhere, leaf),
            state,
        )
        return placed

    def batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """This process's rows as its part of the batch."""
        return {name: _placed(self._split, value) for name, value in rows.items()}


def _placed(sharding: NamedSharding, value: Any) -> Array:
    array: Array = jax.make_array_from_process_local_data(sharding, np.asarray(value))  # type: ignore[no-untyped-call]
    return array
