"""The generic transformer of IFViT-JAX's ``use_loftr=False``: LoFTR's order, the usual layers.

Its layers have no place for a LoFTR's weights: norms stand before attention and MLP, projections have biases, and the
MLP reads no message.
"""

from __future__ import annotations

from flax import linen as nn
from jax import Array

from loftr2flax.models.loftr.transformer import EncoderLayer, FeatureTransformer


class SiameseEncoderLayer(EncoderLayer):
    """One layer: x + attention(norm(x), norm(source)), then x + MLP(norm(x)), with GELU and a hidden width of 4 C."""

    @nn.compact
    def __call__(self, x: Array, source: Array, x_mask: Array | None = None, source_mask: Array | None = None) -> Array:
        """x [B, L, C] reads source [B, S, C] → [B, L, C]; masks [B, L] and [B, S], True where there is image."""
        dim, dtype, eps = x.shape[-1], self.config.dtype, self.config.layer_norm_eps
        mask = None if source_mask is None else source_mask[:, None, None, :]
        norm = nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name="norm1")
        attention = nn.MultiHeadDotProductAttention(self.config.heads, dtype=dtype, name="attention")
        own = norm(x)
        other = own if source is x else norm(source)
        x = x + attention(own, other, mask=mask)
        y = nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name="norm2")(x)
        y = nn.gelu(nn.Dense(4 * dim, dtype=dtype, name="mlp_0")(y))
        return x + nn.Dense(dim, dtype=dtype, name="mlp_2")(y)


class SiameseTransformer(FeatureTransformer):
    """`FeatureTransformer` made of `SiameseEncoderLayer`."""

    encoder: type[EncoderLayer] = SiameseEncoderLayer
