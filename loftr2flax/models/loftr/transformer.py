"""Encoder layers and the transformers made of them (paper, section 3.2 and figure 3; upstream `transformer.py`).

A feature map is a sequence here, [B, L, C] with L = H · W in row-major order, C = coarse width C̃ or fine width Ĉ.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.nn import relu

from loftr2flax.models.loftr.attention import full_attention, linear_attention, merged_linear_attention
from loftr2flax.models.loftr.config import LayerName, LoFTRConfig

MANY = 4
"""Cells of both sides per channel, from which the merged form of linear attention is the faster one (on CPU)."""


class EncoderLayer(nn.Module):
    """One encoder layer: x + norm2(mlp([x, norm1(merge(attention(x, source)))])).

    Both norms are applied to the message, before it is concatenated and before it is added: neither before the
    attention, as in "pre-norm" transformers, nor after the sum.
    """

    config: LoFTRConfig

    @nn.compact
    def __call__(self, x: Array, source: Array, x_mask: Array | None = None, source_mask: Array | None = None) -> Array:
        """x [B, L, C] reads source [B, S, C] → [B, L, C]; masks [B, L] and [B, S], True where there is image."""
        dim = x.shape[-1]
        heads = self.config.heads

        def dense(name: str, width: int = dim) -> nn.Dense:
            init = nn.initializers.xavier_uniform()
            return nn.Dense(width, use_bias=False, dtype=self.config.dtype, kernel_init=init, name=name)

        def norm(name: str) -> nn.LayerNorm:
            # Flax's fast variance, E[x²] - E[x]², loses the digits that this project judges by
            eps = self.config.layer_norm_eps
            return nn.LayerNorm(epsilon=eps, dtype=self.config.dtype, use_fast_variance=False, name=name)

        def split(y: Array) -> Array:
            return y.reshape(*y.shape[:2], heads, dim // heads)  # [B, L, C] -> [B, L, H, D]

        q, k = split(dense("q_proj")(x)), split(dense("k_proj")(source))
        values, merge = dense("v_proj"), dense("merge")
        linear, eps = self.config.attention == "linear", self.config.attention_eps
        if linear and not self.is_initializing() and x.shape[1] + source.shape[1] >= MANY * dim:
            kernels = (module.variables["params"]["kernel"] for module in (values, merge))
            source, to_values, to_merged = promote_dtype(source, *kernels, dtype=self.config.dtype)
            message = merged_linear_attention(q, k, source, to_values, to_merged, x_mask, source_mask, eps)
        else:
            v = split(values(source))
            if linear:
                message = linear_attention(q, k, v, x_mask, source_mask, eps)
            else:
                message = full_attention(q, k, v, x_mask, source_mask)
            message = merge(message.reshape(x.shape))  # [B, L, H, D] -> [B, L, C]
        message = norm("norm1")(message)

        first, last = ("mlp.0", "mlp.2") if self.config.separate_sublayers else ("mlp_0", "mlp_2")
        message = dense(first, 2 * dim)(jnp.concatenate([x, message], axis=-1))  # [B, L, 2C]
        message = norm("norm2")(dense(last)(relu(message)))
        return x + jnp.asarray(message)


class FeatureTransformer(nn.Module):
    """Alternating self and cross attention over the features of two images; the coarse and the fine transformer.

    One layer serves both images, as in torch (``layers_3``), or each image has its own (``layers.3.0`` and
    ``layers.3.1``). ``encoder`` is the class of the layers; a subclass may have another.
    """

    layer_names: tuple[LayerName, ...]
    config: LoFTRConfig
    encoder: type[EncoderLayer] = EncoderLayer

    def setup(self) -> None:
        """Names the layers, in the order in which they run."""
        self.sublayers = [self._sublayers(i) for i in range(len(self.layer_names))]

    def _sublayers(self, i: int) -> tuple[EncoderLayer, EncoderLayer]:
        """The layers that serve image 0 and image 1: twice the same one where they are shared."""
        if not self.config.separate_sublayers:
            layer = self.encoder(self.config, name=f"layers_{i}")
            return layer, layer
        return self.encoder(self.config, name=f"layers.{i}.0"), self.encoder(self.config, name=f"layers.{i}.1")

    def __call__(
        self, feat0: Array, feat1: Array, mask0: Array | None = None, mask1: Array | None = None
    ) -> tuple[Array, Array]:
        """[B, L, C] and [B, S, C] → the same shapes, after all layers."""
        for i in range(len(self.layer_names)):
            feat0, feat1 = self.layer(i, feat0, feat1, mask0, mask1)
        return feat0, feat1

    def layer(
        self, i: int, feat0: Array, feat1: Array, mask0: Array | None = None, mask1: Array | None = None
    ) -> tuple[Array, Array]:
        """Layer ``i`` alone. In a cross layer image 1 reads features of image 0 that this layer has just updated."""
        layer0, layer1 = self.sublayers[i]
        if self.layer_names[i] == "cross":
            feat0 = layer0(feat0, feat1, mask0, mask1)
            return feat0, layer1(feat1, feat0, mask1, mask0)
        return layer0(feat0, feat0, mask0, mask0), layer1(feat1, feat1, mask1, mask1)
