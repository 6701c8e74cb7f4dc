"""The last step of a level of the pyramid (upstream: `layer{i}_outconv2`): on a whole map, or in windows of it."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jax import nn as jnn

from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.layers import BatchNorm, Convolution

REACH = 2
"""Cells around a cell that its smoothed value depends on: one for each of the two 3×3 convolutions."""


class Smoothing(nn.Module):
    """Two 3×3 convolutions, a BatchNorm and a leaky ReLU between them, over a level to which the one above was added.

    Its variables have the names of ``layer{level}_outconv2``, for a parent that shares its scope.
    """

    level: int
    config: LoFTRConfig

    def setup(self) -> None:
        """Names the modules as torch does."""
        name, dims, dtype = f"layer{self.level}_outconv2", self.config.block_dims, self.config.dtype
        self.widen = Convolution(dims[self.level], 3, 1, dtype, name=f"{name}_0")
        self.norm = BatchNorm(self.config.batch_norm_eps, name=f"{name}_1")
        self.narrow = Convolution(dims[self.level - 1], 3, 1, dtype, name=f"{name}_3")

    def __call__(self, rough: Array, train: bool = False) -> Array:
        """The whole map: [B, H, W, C_in] → [B, H, W, C_out]."""
        return self.narrow(self._activate(self.widen(rough, train), train), train)

    def windows(self, rough: Array, inside: Array) -> Array:
        """The same numbers, up to rounding, in windows alone, zero outside of the map.

        Args:
          rough: [s + 4, s + 4, M, C_in], windows that are `REACH` cells larger on every side, zero outside of the map.
          inside: [s + 2, s + 2, M] bool, which cells are in the map; without the outermost, which are not computed.

        Returns:
          [s, s, M, C_out].
        """
        wide = self._activate(_unpadded(self.widen, rough, self.config.dtype))
        wide = jnp.where(inside[..., None], wide, 0)  # the padding of the second convolution
        narrow = _unpadded(self.narrow, wide, self.config.dtype)
        return jnp.where(inside[1:-1, 1:-1, :, None], narrow, 0)

    def _activate(self, x: Array, train: bool = False) -> Array:
        return jnn.leaky_relu(self.norm(x, train), 0.01)


def _unpadded(conv: Convolution, x: Array, dtype: str) -> Array:
    """A convolution of many small maps without padding: [H, W, M, C_in] → [H - 2, W - 2, M, C_out].

    Cell by cell of the kernel, and their products are added: with the maps behind the cells, each product reads runs of
    memory as they lie. On CPU nothing has to be copied for it, as the patches of a convolution are.
    """
    x, kernel = promote_dtype(x, conv.variables["params"]["kernel"], dtype=dtype)
    x = _made_once(x)
    rows, columns = kernel.shape[:2]
    height, width = x.shape[0] - rows + 1, x.shape[1] - columns + 1
    exact = jnp.promote_types(x.dtype, jnp.float32)
    products = (
        jnp.matmul(x[i : i + height, j : j + width], kernel[i, j], preferred_element_type=exact)
        for i in range(rows)
        for j in range(columns)
    )
    return functools.reduce(operator.add, products).astype(x.dtype)


@jax.custom_jvp
def _made_once(x: Array) -> Array:
    """``x``, which XLA would else compute anew for each of the products."""
    return lax.optimization_barrier(x)  # type: ignore[no-untyped-call, no-any-return]


@_made_once.defjvp  # not every version of jax has a derivative of the barrier
def _made_once_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _made_once(*primals), tangents[0]
