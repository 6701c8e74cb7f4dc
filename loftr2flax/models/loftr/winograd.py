"""3×3 convolutions with fewer multiplications (arXiv 1509.09308), for CPU, where these are what takes the time."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def in_pairs_of_rows(x: Array, kernel: Array) -> Array:
    """The convolution, padded by one cell: [B, H, W, C_in], kernel [3, 3, C_in, C_out] → [B, H, W, C_out].

    F(2, 3) along the rows: two rows of the result come from four convolutions with kernels of one row, where one by one
    they take six. What is summed before and after has weights of 1 and 1/2, so that rounding errors do not grow.
    """
    batch, height, width, channels = x.shape
    pairs = -(-height // 2)
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, 0), (0, 0))).reshape(batch, pairs, 2, width, channels)
    even, odd = x[:, :, 0], x[:, :, 1]
    zero = jnp.zeros_like(even[:, :1])
    above = jnp.concatenate([zero, odd[:, :-1]], 1)
    below = jnp.concatenate([even[:, 1:], zero], 1)

    first, middle, last = kernel
    a = _one_row(above - odd, first)
    b = _one_row(even + odd, (first + middle + last) / 2)
    c = _one_row(odd - even, (first - middle + last) / 2)
    d = _one_row(even - below, last)
    rows = jnp.stack([a + b + c, b - c - d], 2)  # [B, H / 2, 2, W, C_out]
    return rows.reshape(batch, 2 * pairs, width, -1)[:, :height]


def _one_row(x: Array, kernel: Array) -> Array:
    """[B, H, W, C_in], kernel [3, C_in, C_out] → [B, H, W, C_out], padded by one cell at the sides."""
    return lax.conv_general_dilated(
        x, kernel[None], (1, 1), ((0, 0), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
