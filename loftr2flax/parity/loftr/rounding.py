"""Torch in float32, computed in other ways that are as right: what float32 may cost where torch is lucky.

A product of matrices sums one number for each channel, and the order is free. Torch's library sums in blocks, whose
size it chooses by the processor, and so rounds less than a loop that adds one product after another; XLA is such a
loop. On sums of 256 and 512 numbers the loop makes 1.4 to 2.1 times the error. For convolutions torch has a library of
its own, whose blocks are other ones than those of its matrix products: on processors with AVX-512 they round by 1.6
times less; its products of features, a similarity for each pair of cells, do so on processors with AVX2. A right port
must not fail for either, so both orders are run, and the larger error is what the candidate is measured by
(`judge.Rounding.widest`).

The expectation's standard deviation is the root of a difference, E[x²] - E[x]², and in a window that is sure of its
match that is the difference of equal numbers. A probability of 1 - 2⁻²⁴ for 1 is a rounding like any other, and XLA
makes it; there it becomes a deviation of 2.4e-4 along each axis for 1e-5. Torch's softmax is exact for a sure window,
so that its own error says nothing of that: it is run with every probability of that stage one step lower, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from loftr2flax.parity.network import Network, Trace

SIMILARITIES = ("nlc,nsc->nls", "blc,bsc->bls")
"""How kornia and our reference spell the similarity of each cell with each, [B, L, C] and [B, S, C] → [B, L, S]."""

Sides = int | tuple[int, ...]
"""Rows and columns, or one number for both."""


class InOrder(TorchFunctionMode):
    """Within the block, in float32, dense layers and similarities add one product after another, and a convolution is a
    matrix product.

    No gradients flow through the former two.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Every call of torch comes by here."""
        if func is F.linear and args[0].dtype == torch.float32:
            return _linear(*args, **(kwargs or {}))
        if func is F.conv2d and args[0].dtype == torch.float32:
            return _convolution(*args, **(kwargs or {}))
        if func is torch.einsum and args[0] in SIMILARITIES and args[1].dtype == torch.float32:
            return torch.stack(list(map(_linear, *args[1:])))
        return func(*args, **(kwargs or {}))


class Lower(TorchFunctionMode):
    """Within the block, in float32, every number that a softmax gives is the next one towards 0."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Every call of torch comes by here."""
        made = func(*args, **(kwargs or {}))
        if func in (F.softmax, Tensor.softmax) and made.dtype == torch.float32:
            return torch.nextafter(made, torch.zeros_like(made))
        return made


@contextmanager
def otherwise(stage: str) -> Iterator[None]:
    """Within the block, torch in float32 computes a stage in the other way that is as right."""
    with InOrder(), Lower() if stage == "expectation" else nullcontext():
        yield


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., K] and [N, K] → [..., N]."""
    rows = x.detach().reshape(-1, x.shape[-1]).numpy()
    columns = np.ascontiguousarray(weight.detach().numpy().T)
    # numpy's own loops, no library's: the innermost runs along n, where memory is contiguous, so that k comes in order
    sums = torch.from_numpy(np.einsum("rk,kn->rn", rows, columns, optimize=False))
    sums = sums.reshape(*x.shape[:-1], len(weight))
    return sums if bias is None else sums + bias


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sides = 1,
    padding: Sides | str = 0,
    dilation: Sides = 1,
    groups: int = 1,
) -> Tensor:
    """[B, C, H, W] and [N, C, h, w] → [B, N, H', W'], by the patches of one image at a time."""
    if groups != 1 or isinstance(padding, str):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    flat = weight.flatten(1)  # [N, C · h · w]
    patches = (F.unfold(image[None], weight.shape[2:], dilation, padding, stride)[0] for image in x)
    sums = torch.stack([flat @ columns for columns in patches])  # [B, N, H' · W']
    shape = F.conv2d(x.to("meta"), weight.to("meta"), None, stride, padding, dilation).shape
    return sums.reshape(shape) if bias is None else sums.reshape(shape) + bias[:, None, None]


class Otherwise:
    """A torch side in float32 as a `Network` that computes every stage in the other way (`otherwise`)."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The network's own."""
        return self._network.stage_names

    def stage(self, name: str, given: Trace) -> dict[str, np.ndarray]:
        """One stage."""
        with torch.no_grad(), otherwise(name):
            return self._network.stage(name, given)
