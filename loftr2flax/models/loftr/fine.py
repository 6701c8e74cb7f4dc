"""Fine matching: the place of a match inside a window (paper, section 3.4).

Upstream files: `fine_preprocess.py`, `fine_matching.py`.

Letters: M matches, w the side of a window, Ĉ fine and C̃ coarse channels. A window is centred on the fine cell under
its coarse cell. ``ids`` [3, M] are batch, coarse cell of image 0, coarse cell of image 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from loftr2flax.models.loftr.config import LoFTRConfig


def windows(fine: Array, batch: Array, cells: Array, grid_width: int, stride: int, side: int) -> Array:
    """Cuts a window for each match: fine map [B, H, W, Ĉ], batch and cells [M] → [M, w², Ĉ], zeros outside the map.

    The same numbers as ``F.unfold``, which lists channels before window positions; here the channels come last, as
    they do upstream after its rearrangement.
    """
    pad = side // 2
    padded = jnp.pad(fine, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    channels = fine.shape[-1]

    def cut(b: Array, cell: Array) -> Array:
        corner = (b, cell // grid_width * stride, cell % grid_width * stride, jnp.zeros_like(b))
        return lax.dynamic_slice(padded, corner, (1, side, side, channels))

    return jax.vmap(cut)(batch, cells).reshape(-1, side * side, channels)  # [M, 1, w, w, Ĉ] -> [M, w², Ĉ]


class FinePreprocess(nn.Module):
    """Windows of the fine maps, each with the transformed coarse feature of its cell merged in."""

    config: LoFTRConfig

    @nn.compact
    def __call__(
        self, fine0: Array, fine1: Array, coarse0: Array, coarse1: Array, ids: Array, grid_widths: tuple[int, int]
    ) -> tuple[Array, Array]:
        """Fine maps [B, H, W, Ĉ], coarse features [B, L, C̃] and [B, S, C̃], ids [3, M] → two of [M, w², Ĉ].

        ``grid_widths`` are the numbers of coarse columns of the two images.
        """
        batch, i, j = ids
        stride, side, dim = self.config.fine_stride, self.config.fine_window, self.config.fine_dim
        window0 = windows(fine0, batch, i, grid_widths[0], stride, side)
        window1 = windows(fine1, batch, j, grid_widths[1], stride, side)
        if not self.config.fine_concat_coarse:
            return window0, window1

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
    variance = heatmap @ grid**2 - mean**2
    spread = variance > 1e-10
    deviation = jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 1e-5).sum(-1, keepdims=True)
    return jnp.concatenate([mean, deviation], axis=-1)
