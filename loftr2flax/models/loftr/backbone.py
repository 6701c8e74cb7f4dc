"""The convolutional backbone: a ResNet with a feature pyramid (paper, section 3.1; upstream `resnet_fpn.py`).

Feature maps are [B, H, W, C]. Every stride-2 convolution has a centred kernel, so cell (x, y) of a map with stride s
sits on pixel (s·x, s·y) and a map has ⌈H/s⌉ rows, whatever the size of the image.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax import nn as jnn

from loftr2flax.models.loftr.config import LoFTRConfig

_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BatchNorm(nn.Module):
    """BatchNorm with torch's running statistics.

    Parameters ``scale`` and ``bias``, collection ``batch_stats`` with ``mean`` and ``var``, all [C]. In training the
    batch is normalised by its biased variance, and the running variance takes the unbiased one, n / (n - 1) larger,
    which `flax.linen.BatchNorm` does not do. ``momentum`` is torch's: the weight of the new value.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Normalises the last axis; ``train`` takes the statistics of the batch and updates the running ones."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        mu, sigma2 = mean.value, var.value
        if train:
            values = x.astype(scale.dtype).reshape(-1, channels)
            mu = values.mean(0)
            sigma2 = jnp.square(values - mu).mean(0)
            if not self.is_initializing():
                unbiased = sigma2 * (len(values) / max(len(values) - 1, 1))
                mean.value += self.momentum * (mu - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        factor = scale / jnp.sqrt(sigma2 + self.epsilon)
        return x * factor.astype(x.dtype) + (bias - mu * factor).astype(x.dtype)


def convolution(features: int, size: int, stride: int, dtype: str, name: str) -> nn.Conv:
    """A convolution without bias, padded by ``size // 2`` on every side as in torch; at stride 2 "SAME" is not that."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=_INIT,
        name=name,
    )


class Pointwise(nn.Module):
    """A 1×1 convolution without bias, as the matrix product that it is: on CPU, in half the time of XLA's convolution.

    The parameter ``kernel`` is a convolution's, [1, 1, C_in, C_out].
    """

    features: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C_in] → [B, ⌈H / stride⌉, ⌈W / stride⌉, features]."""
        kernel = self.param("kernel", _INIT, (1, 1, x.shape[-1], self.features), jnp.float32)
        x, kernel = promote_dtype(x[:, :: self.stride, :: self.stride], kernel[0, 0], dtype=self.dtype)
        return jnp.asarray(x @ kernel)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which a strided 1×1 convolution brings to size where the stride is 2."""

    features: int
    stride: int
    config: LoFTRConfig

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, H, W, C] → [B, ⌈H / stride⌉, ⌈W / stride⌉, features]."""
        dtype, eps = self.config.dtype, self.config.batch_norm_eps
        y = convolution(self.features, 3, self.stride, dtype, "conv1")(x)
        y = jnn.relu(BatchNorm(eps, name="bn1")(y, train))
        y = convolution(self.features, 3, 1, dtype, "conv2")(y)
        y = BatchNorm(eps, name="bn2")(y, train)
        if self.stride != 1:
            x = Pointwise(self.features, self.stride, dtype, name="downsample_0")(x)
            x = BatchNorm(eps, name="downsample_1")(x, train)
        return jnn.relu(x + y)


class ResNetFPN(nn.Module):
    """The pyramid, for both resolutions: the last level is coarse, two steps up from it is fine."""

    config: LoFTRConfig

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, Array]:
        """[B, H, W, 1] → coarse [B, ⌈H/8⌉, ⌈W/8⌉, C̃] and fine [B, ⌈H/2⌉, ⌈W/2⌉, Ĉ] (16 and 4 at resolution (16, 4))."""
        dims, dtype, eps = self.config.block_dims, self.config.dtype, self.config.batch_norm_eps
        x = convolution(dims[0], 7, 2, dtype, "conv1")(image.astype(dtype))
        x = jnn.relu(BatchNorm(eps, name="bn1")(x, train))
        levels = []
        for level, width in enumerate(dims, start=1):
            x = BasicBlock(width, 1 if level == 1 else 2, self.config, name=f"layer{level}_0")(x, train)
            x = BasicBlock(width, 1, self.config, name=f"layer{level}_1")(x, train)
            levels.append(x)

        top = len(dims)
        coarse = out = Pointwise(dims[-1], 1, dtype, name=f"layer{top}_outconv")(levels[-1])
        for level in (top - 1, top - 2):
            here, above = levels[level - 1], dims[level]
            lateral = Pointwise(above, 1, dtype, name=f"layer{level}_outconv")(here)
            x = lateral + upsample_twice(out)[:, : here.shape[1], : here.shape[2]]  # an odd map is one cell smaller
            x = convolution(above, 3, 1, dtype, f"layer{level}_outconv2_0")(x)
            x = jnn.leaky_relu(BatchNorm(eps, name=f"layer{level}_outconv2_1")(x, train), 0.01)
            out = convolution(dims[level - 1], 3, 1, dtype, f"layer{level}_outconv2_3")(x)
        return coarse, out


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
