"""The convolutional backbone: a ResNet with a feature pyramid (paper, section 3.1; upstream `resnet_fpn.py`).

Feature maps are [B, H, W, C]. Every stride-2 convolution has a centred kernel, so cell (x, y) of a map with stride s
sits on pixel (s·x, s·y) and a map has ⌈H/s⌉ rows, whatever the size of the image.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax import nn as jnn

from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.layers import BatchNorm, Convolution, Pointwise
from loftr2flax.models.loftr.smoothing import Smoothing


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which a strided 1×1 convolution brings to size where the stride is 2."""

    features: int
    stride: int
    config: LoFTRConfig

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, H, W, C] → [B, ⌈H / stride⌉, ⌈W / stride⌉, features]."""
        dtype, eps = self.config.dtype, self.config.batch_norm_eps
        y = Convolution(self.features, 3, self.stride, dtype, name="conv1")(x, train)
        y = jnn.relu(BatchNorm(eps, name="bn1")(y, train))
        y = Convolution(self.features, 3, 1, dtype, name="conv2")(y, train)
        y = BatchNorm(eps, name="bn2")(y, train)
        if self.stride != 1:
            x = Pointwise(self.features, self.stride, dtype, name="downsample_0")(x)
            x = BatchNorm(eps, name="downsample_1")(x, train)
        return jnn.relu(x + y)


class ResNetFPN(nn.Module):
    """The pyramid, for both resolutions: the last level is coarse, two steps up from it is fine.

    The last step to the fine map, `smooth`, takes a third of the time of all. `rough` stops before it, for those who
    want the fine map in a few windows only.
    """

    config: LoFTRConfig

    def setup(self) -> None:
        """The variables of a smoothing are this module's own, as in torch."""
        top = len(self.config.block_dims)
        self.smooth_middle = Smoothing(top - 1, self.config)
        self.smooth = Smoothing(top - 2, self.config)
        nn.share_scope(self, self.smooth_middle)
        nn.share_scope(self, self.smooth)

    def __call__(self, image: Array, train: bool = False) -> tuple[Array, Array]:
        """[B, H, W, 1] → coarse [B, ⌈H/8⌉, ⌈W/8⌉, C̃] and fine [B, ⌈H/2⌉, ⌈W/2⌉, Ĉ] (16 and 4 at resolution (16, 4))."""
        coarse, rough = self.rough(image, train)
        return coarse, self.smooth(rough, train)

    @nn.compact
    def rough(self, image: Array, train: bool = False) -> tuple[Array, Array]:
        """The same, the fine map as `smooth` takes it: as high and wide, with the channels of the level above."""
        dims, dtype, eps = self.config.block_dims, self.config.dtype, self.config.batch_norm_eps
        x = Convolution(dims[0], 7, 2, dtype, name="conv1")(image.astype(dtype), train)
        x = jnn.relu(BatchNorm(eps, name="bn1")(x, train))
        levels = []
        for level, width in enumerate(dims, start=1):
            x = BasicBlock(width, 1 if level == 1 else 2, self.config, name=f"layer{level}_0")(x, train)
            x = BasicBlock(width, 1, self.config, name=f"layer{level}_1")(x, train)
            levels.append(x)

        def lateral(level: int) -> Array:
            wide = dims[min(level, len(dims) - 1)]
            return Pointwise(wide, 1, dtype, name=f"layer{level}_outconv")(levels[level - 1])

        top = len(dims)
        coarse = lateral(top)
        middle = self.smooth_middle(_add_upsampled(lateral(top - 1), coarse), train)
        return coarse, _add_upsampled(lateral(top - 2), middle)


def _add_upsampled(here: Array, above: Array) -> Array:
    """[B, H, W, C] and [B, ⌈H/2⌉, ⌈W/2⌉, C]: an odd map is one cell smaller than twice the one above."""
    return here + upsample_twice(above)[:, : here.shape[1], : here.shape[2]]


def upsample_twice(x: Array) -> Array:
    """Bilinear upsampling by two with aligned corners, [B, H, W, C] → [B, 2H, 2W, C].

    Row i of the result reads the input at i · (H - 1) / (2H - 1), torch's ``align_corners=True``; `jax.image.resize`
    aligns the edges of the outer cells, not their centres.
    """
    return _stretch(_stretch(x, 1), 2)


def _stretch(x: Array, axis: int) -> Array:
    length = x.shape[axis]
    position = np.arange(2 * length) * ((length - 1) / (2 * length - 1))
    low = np.minimum(position.astype(np.int32), max(length - 2, 0))
    weight = (position - low).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    below, above = jnp.take(x, low, axis), jnp.take(x, np.minimum(low + 1, length - 1), axis)
    return below * jnp.asarray(1 - weight, x.dtype) + above * jnp.asarray(weight, x.dtype)
