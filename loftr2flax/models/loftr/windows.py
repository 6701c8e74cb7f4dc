"""Windows of the fine maps, one around each match: cut from a map, or smoothed window by window.

Letters: M matches, w the side of a window, Ĉ fine channels. A window is centred on the fine cell under its coarse cell.
While windows are smoothed, they stand behind their cells, [w, w, M, Ĉ].
"""

from __future__ import annotations

from typing import NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.smoothing import REACH, Smoothing


class Places(NamedTuple):
    """Where windows lie on a fine map.

    Attributes:
      batch: [M], the image.
      rows, columns: [w, M], the cells of each window, which may lie outside of the map.
    """

    batch: Array
    rows: Array
    columns: Array

    @classmethod
    def around(cls, batch: Array, cells: Array, grid_width: int, stride: int, side: int) -> Self:
        """Windows of ``side`` about coarse ``cells`` [M] in row-major order, ``stride`` fine cells apart."""
        offset = jnp.arange(side)[:, None] - side // 2
        return cls(batch, cells // grid_width * stride + offset, cells % grid_width * stride + offset)

    def inside(self, fine: Array) -> Array:
        """[w, w, M] bool: which cells are in the map [B, H, W, Ĉ]."""
        height, width = fine.shape[1:3]
        in_rows = (self.rows >= 0) & (self.rows < height)
        in_columns = (self.columns >= 0) & (self.columns < width)
        return in_rows[:, None] & in_columns

    def cut(self, fine: Array) -> Array:
        """[B, H, W, Ĉ] → [w, w, M, Ĉ], zeros outside of the map."""
        height, width = fine.shape[1:3]
        rows, columns = self.rows.clip(0, height - 1), self.columns.clip(0, width - 1)
        found = jnp.asarray(fine).at[self.batch, rows[:, None], columns].get(mode="promise_in_bounds")
        return jnp.where(self.inside(fine)[..., None], found, 0)


def windows(fine: Array, batch: Array, cells: Array, grid_width: int, stride: int, side: int) -> Array:
    """Cuts a window for each match: fine map [B, H, W, Ĉ], batch and cells [M] → [M, w², Ĉ], zeros outside the map.

    The same numbers as ``F.unfold``, which lists channels before window positions; here the channels come last, as
    they do upstream after its rearrangement.
    """
    return _listed(Places.around(batch, cells, grid_width, stride, side).cut(fine))


def smoothed_windows(
    smooth: Smoothing, rough: Array, batch: Array, cells: Array, grid_width: int, stride: int, side: int
) -> Array:
    """``windows(smooth(rough), …)`` up to rounding, without what of the map is in no window."""
    places = Places.around(batch, cells, grid_width, stride, side + 2 * REACH)
    return _listed(smooth.windows(places.cut(rough), places.inside(rough)[1:-1, 1:-1]))


EFFORT = 5 / 3
"""What a multiplication in windows costs, in multiplications in a map, which has larger products, and fewer than it
seems (`winograd`). Measured on CPU."""


def worth_windows(config: LoFTRConfig) -> float:
    """Up to which share of coarse cells with a match their windows cost less than the map."""
    narrow, wide = config.block_dims[-3:-1]
    first, second = wide * wide, wide * narrow  # the two convolutions
    window = (config.fine_window + 2) ** 2 * first + config.fine_window**2 * second
    return config.fine_stride**2 * (first + second) / (EFFORT * window)


def _listed(cut: Array) -> Array:
    """[w, w, M, Ĉ] → [M, w², Ĉ]."""
    side, _, matches, channels = cut.shape
    return cut.reshape(side * side, matches, channels).swapaxes(0, 1)
