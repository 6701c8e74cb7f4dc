"""Fine matching: the place of a match inside a window (paper, section 3.4).

Upstream files: `fine_preprocess.py`, `fine_matching.py`.

Letters: M matches, w the side of a window, Ĉ fine and C̃ coarse channels. ``ids`` [3, M] are batch, coarse cell of image
0, coarse cell of image 1.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from loftr2flax.models.loftr.config import LoFTRConfig


class FinePreprocess(nn.Module):
    """Windows of the fine maps, each with the transformed coarse feature of its cell merged in."""

    config: LoFTRConfig

    @nn.compact
    def __call__(
        self, window0: Array, window1: Array, coarse0: Array, coarse1: Array, ids: Array
    ) -> tuple[Array, Array]:
        """Windows [M, w², Ĉ], coarse features [B, L, C̃] and [B, S, C̃], ids [3, M] → two of [M, w², Ĉ]."""
        if not self.config.fine_concat_coarse:
            return window0, window1

        batch, i, j = ids
        dim = self.config.fine_dim
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        down_proj = nn.Dense(dim, dtype=self.config.dtype, kernel_init=init, name="down_proj")
        merge_feat = nn.Dense(dim, dtype=self.config.dtype, kernel_init=init, name="merge_feat")
        context = down_proj(jnp.concatenate([coarse0[batch, i], coarse1[batch, j]]))  # [2M, Ĉ]
        both = jnp.concatenate([window0, window1])  # [2M, w², Ĉ]
        context = jnp.broadcast_to(context[:, None, :], both.shape)
        merged = merge_feat(jnp.concatenate([both, context], axis=-1))  # [2M, w², 2Ĉ] -> [2M, w², Ĉ]
        return merged[: len(i)], merged[len(i) :]


def expectation(feat0: Array, feat1: Array) -> Array:
    """Where in window 1 the centre of window 0 is: [M, w², Ĉ] twice → [M, 3], at least float32.

    Expected x and y of the heatmap, each in [-1, 1] over the window, and its standard deviation, the sum of those
    along x and y. A variance is no less than 1e-10, below which it has no gradient.

    Published code has E[x²] - E[x]² for the variance, which in a window that is sure of its match is the difference of
    equal numbers: one rounding makes a deviation of 2.4e-4 there. The mean squared distance is the same number, and
    loses none of its digits.
    """
    side = round(feat1.shape[1] ** 0.5)
    dtype = jnp.promote_types(feat0.dtype, jnp.float32)
    centre = feat0[:, feat0.shape[1] // 2]
    similarity = jnp.einsum("mc,mrc->mr", centre, feat1, preferred_element_type=dtype)
    heatmap = nn.softmax(similarity / feat1.shape[-1] ** 0.5, axis=-1)  # [M, w²]

    axis = np.linspace(-1, 1, side)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    grid = jnp.asarray(np.stack([x, y], -1).reshape(-1, 2), dtype)  # [w², 2], row-major
    mean = heatmap @ grid  # [M, 2]
    variance = (heatmap[:, :, None] * jnp.square(grid - mean[:, None, :])).sum(1)
    spread = variance > 1e-10
    deviation = jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 1e-5).sum(-1, keepdims=True)
    return jnp.concatenate([mean, deviation], axis=-1)
