"""The network that a config describes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from loftr2flax.errors import UsageError
from loftr2flax.models.dense_reg import DenseRegModel
from loftr2flax.models.loftr.config import LayerName, LoFTRConfig
from loftr2flax.models.loftr.transformer import FeatureTransformer
from loftr2flax.models.matcher_net import MatcherModel
from loftr2flax.models.siamese import SiameseTransformer
from loftr2flax.training.config import DenseConfig, MatchConfig, TrainConfig

Variables = Mapping[str, Any]
"""``params`` and ``batch_stats``."""


def loftr_config(config: TrainConfig) -> LoFTRConfig:
    """The config of the LoFTR inside.

    Raises:
      UsageError: no LoFTR has such widths and heads.
    """
    pairs: tuple[LayerName, ...] = ("self", "cross")
    fine = isinstance(config, DenseConfig) and config.fine
    count = config.fine_layers if isinstance(config, DenseConfig) else 2
    try:
        return LoFTRConfig(
            resolution=(8, 2) if config.stride == 8 else (16, 4),
            block_dims=config.backbone_dims or _block_dims(config.hidden_dim, config.stride),
            coarse_layers=(pairs * config.transformer_layers)[: config.transformer_layers],
            fine=fine,
            fine_layers=(pairs * count)[:count],
            heads=config.num_heads,
            attention="linear" if config.attention_type == "linear" else "full",
            layer_norm_eps=config.layer_norm_eps,
            batch_norm_eps=config.batch_norm_eps,
            temp_bug_fix=config.temp_bug_fix,
            temperature=config.temperature,
            separate_sublayers=config.sublayers == "separate",
            dtype=config.precision,
        )
    except ValueError as error:
        raise UsageError(f"no such network: {error}", "see hidden_dim, num_heads, backbone_dims") from None


def dense_model(config: TrainConfig) -> DenseRegModel:
    """Module 1."""
    return DenseRegModel(loftr_config(config), _transformer(config))


def matcher_model(config: MatchConfig, identities: int) -> MatcherModel:
    """Module 2."""
    return MatcherModel(loftr_config(config), config.embedding_dim, config.roi, identities, _transformer(config))


def initial(model: DenseRegModel | MatcherModel, config: TrainConfig) -> dict[str, Any]:
    """Random variables from the config's seed."""
    image = jnp.zeros((1, *config.image_size, 1), jnp.float32)
    options: dict[str, Any] = {"method": _everything}
    if isinstance(model, DenseRegModel):
        options = {"ids": jnp.zeros((3, 1), jnp.int32)}
    once = {"xla_backend_optimization_level": 0}  # what runs once need not be fast: a fifth of the time to compile
    init = jax.jit(partial(model.init, **options), compiler_options=once)
    return dict(init(jax.random.key(config.seed), image, image))


def _everything(model: MatcherModel, image0: jax.Array, image1: jax.Array) -> Any:
    return model.cosines(model(image0, image1)[0])


def _transformer(config: TrainConfig) -> type[FeatureTransformer]:
    return FeatureTransformer if config.use_loftr else SiameseTransformer


def _block_dims(width: int, stride: int) -> tuple[int, ...]:
    """LoFTR's own for its own width, else in about the same proportions."""
    if stride == 16:
        return (width // 4, width // 2, width, width)
    return (128, 196, 256) if width == 256 else (width // 2, width * 3 // 4, width)
