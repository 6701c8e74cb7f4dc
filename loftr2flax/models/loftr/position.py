"""The sinusoidal position encoding of the coarse features (paper, section 3.2; upstream `position_encoding.py`)."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array


def frequencies(dim: int, temp_bug_fix: bool) -> np.ndarray:
    """Angular frequencies ω_k, k < dim / 4, as float64.

    The paper has ω_k = 10000^(-2k / (dim / 2)). The published code divides by ``dim // 2`` without parentheses, and so
    floors the whole exponent to -1: ω_k = e^(-2k) (zju3dv/LoFTR issue 41). All released models but `indoor_ds_new`
    were trained that way; weights do not show it.
    """
    k2 = np.arange(0, dim // 2, 2, dtype=np.float64)
    exponent = -math.log(10000.0) / (dim // 2) if temp_bug_fix else -math.log(10000.0) / dim // 2
    return np.exp(k2 * exponent)


def add_position(features: Array, temp_bug_fix: bool) -> Array:
    """Adds the encoding to a feature map, [B, H, W, C] → [B, H, W, C].

    Channels go in fours: sin(ω x), cos(ω x), sin(ω y), cos(ω y), with x and y counted from 1 in coarse cells. The
    first two depend on the column alone and the last two on the row alone, so two small tables make the whole
    encoding; they are computed in float64, for any size.
    """
    _, height, width, dim = features.shape
    omega = frequencies(dim, temp_bug_fix)

    def table(length: int, first: int) -> Array:
        angles = np.arange(1, length + 1, dtype=np.float64)[:, None] * omega  # [length, C/4]
        channels = np.zeros((length, dim // 4, 4))
        channels[..., first], channels[..., first + 1] = np.sin(angles), np.cos(angles)
        return jnp.asarray(channels.reshape(length, dim), features.dtype)  # [length, C/4, 4] -> [length, C]

    columns, rows = table(width, 0), table(height, 2)
    return features + (columns[None, :, :] + rows[:, None, :])  # one of the two is zero in each channel: exact
