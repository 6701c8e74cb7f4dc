"""Layers of the backbone: convolutions and BatchNorm that compute what torch's do."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array, lax

from loftr2flax.models.loftr.winograd import in_pairs_of_rows

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


class Convolution(nn.Module):
    """A convolution without bias, padded by ``size // 2`` on every side as in torch; at stride 2 "SAME" is not that.

    Parameter ``kernel``, [size, size, C_in, features].
    """

    features: int
    size: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, H, W, C_in] → [B, ⌈H / stride⌉, ⌈W / stride⌉, features].

        On CPU by fewer multiplications where there is a way; not in training, where what they multiply would have to be
        kept, and not in half precision, which would lose digits of the sums.
        """
        kernel = self.param("kernel", _INIT, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        if self.size == 3 and self.stride == 1 and not train and x.dtype.itemsize >= 4:
            return jnp.asarray(lax.platform_dependent(x, kernel, cpu=in_pairs_of_rows, default=self.plain))
        return self.plain(x, kernel)

    def plain(self, x: Array, kernel: Array) -> Array:
        """The convolution as it is defined."""
        strides, padding = (self.stride, self.stride), [(self.size // 2, self.size // 2)] * 2
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


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
