"""LoFTR's stages in torch with a mistake built in: what a port is like when it has made it. Imports torch.

Each function here is one stage with its mistakes as keywords whose defaults make none. `changes` has the table of the
mistakes that are looked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loftr2flax.models.loftr.attention import MASKED
from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.position import frequencies
from loftr2flax.models.loftr.reference import TorchLoFTR
from loftr2flax.parity.network import Trace

Cast = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """An encoder layer; the fields say what is done, those of a network as published unless changed.

    Attributes:
      heads, attention, attention_eps, layer_norm_eps: the config's own.
      norms: where the norms stand, a key of `NORMS`.
      swapped: two projections that have changed places, "qk", "kv", "qv", or "".
      order: "updated" if image 1 of a cross layer reads what image 0 has become, "stale" if it reads what it was.
      attends: "self" or "cross", the layer's own kind unless changed.
      residual: whether x is added at the end.
      concat: what the MLP reads, "x, message" or "message, x".
      activation: of the MLP, "relu" or "gelu".
      masks: whether masks are obeyed.
    """

    heads: int
    attention: str
    attention_eps: float
    layer_norm_eps: float
    attends: str
    norms: str = "published"
    swapped: str = ""
    order: str = "updated"
    residual: bool = True
    concat: str = "x, message"
    activation: str = "relu"
    masks: bool = True


NORMS: Mapping[str, tuple[str, str]] = {
    "published": ("merged", "mlp"),
    "first before the merge": ("attention", "mlp"),
    "second after the residual": ("merged", "sum"),
    "first on x before the MLP, second after the residual": ("x", "sum"),
    "first before the merge, second after the residual": ("attention", "sum"),
    "first left out": ("", "mlp"),
    "second left out": ("merged", ""),
}
"""What the first and the second norm are applied to."""


def run_layer(
    layer: Any, form: Layer, features: tuple[Tensor, Tensor], masks: tuple[Tensor | None, Tensor | None], cast: Cast
) -> tuple[Tensor, Tensor]:
    """One encoder layer over both images, [B, L, C] and [B, S, C]."""
    (feat0, feat1), (mask0, mask1) = features, masks if form.masks else (None, None)
    if form.attends == "self":
        both = ((feat0, mask0), (feat1, mask1))
        first, second = (_encode(layer, form, x, x, mask, mask, cast) for x, mask in both)
        return first, second
    new0 = _encode(layer, form, feat0, feat1, mask0, mask1, cast)
    return new0, _encode(layer, form, feat1, feat0 if form.order == "stale" else new0, mask1, mask0, cast)


def _encode(
    layer: Any, form: Layer, x: Tensor, source: Tensor, x_mask: Tensor | None, source_mask: Tensor | None, cast: Cast
) -> Tensor:
    def dense(linear: Any, y: Tensor) -> Tensor:
        return F.linear(cast(y), cast(linear.weight))

    def norm(number: int, y: Tensor) -> Tensor:
        own = getattr(layer, f"norm{number}")
        return F.layer_norm(y, y.shape[-1:], own.weight, own.bias, form.layer_norm_eps)

    names = {letter: letter for letter in "qkv"}
    if form.swapped:
        one, other = form.swapped[0], form.swapped[1]
        names[one], names[other] = other, one
    batch, _, width = x.shape
    q, k, v = (
        dense(getattr(layer, f"{names[letter]}_proj"), y).view(batch, -1, form.heads, width // form.heads)
        for letter, y in zip("qkv", (x, source, source), strict=True)
    )
    first, second = NORMS[form.norms]
    message = _attend(form, cast(q), cast(k), cast(v), x_mask, source_mask).reshape(batch, -1, width)
    message = norm(1, message) if first == "attention" else message
    message = dense(layer.merge, message)
    message = norm(1, message) if first == "merged" else message
    context = norm(1, x) if first == "x" else x
    both = [context, message] if form.concat == "x, message" else [message, context]
    hidden = dense(layer.mlp[0], torch.cat(both, dim=2))
    message = dense(layer.mlp[2], F.relu(hidden) if form.activation == "relu" else F.gelu(hidden))
    message = norm(2, message) if second == "mlp" else message
    total = x + message if form.residual else message
    return norm(2, total) if second == "sum" else total


def _attend(form: Layer, q: Tensor, k: Tensor, v: Tensor, q_mask: Tensor | None, kv_mask: Tensor | None) -> Tensor:
    """[B, L, H, D] and twice [B, S, H, D] → [B, L, H, D]."""
    if form.attention == "full":
        logits = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
        if kv_mask is not None:
            logits = logits.masked_fill(~kv_mask[:, None, None, :], MASKED)
        message = torch.einsum("bhls,bshd->blhd", logits.softmax(-1), v)
        return message if q_mask is None else message * q_mask[:, :, None, None]
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if q_mask is not None:
        q = q * q_mask[:, :, None, None]
    if kv_mask is not None:
        k, v = k * kv_mask[:, :, None, None], v * kv_mask[:, :, None, None]
    length = v.shape[1]
    kv = torch.einsum("bshd,bshv->bhdv", k, v / length)
    norm = 1 / (torch.einsum("blhd,bhd->blh", q, k.sum(1)) + form.attention_eps)
    return torch.einsum("blhd,bhdv,blh->blhv", q, kv, norm) * length


def positions(
    height: int, width: int, dim: int, *, temp_bug_fix: bool, first: int = 1, swapped: bool = False, added: bool = True
) -> np.ndarray:
    """The position encoding [H, W, C] in float64; ``first`` is the number of the first cell, ``swapped`` x for y."""
    omega = frequencies(dim, temp_bug_fix)
    x = (np.arange(width) + first)[None, :, None] * omega
    y = (np.arange(height) + first)[:, None, None] * omega
    parts = [np.sin(x), np.cos(x), np.sin(y), np.cos(y)]
    parts = parts[2:] + parts[:2] if swapped else parts
    encoding = np.stack([np.broadcast_to(part, (height, width, dim // 4)) for part in parts], -1)
    return encoding.reshape(height, width, dim) * added


@dataclass(frozen=True)
class Backbone:
    """The backbone; defaults as published.

    Attributes:
      batch_norm_eps: the config's own.
      padding: of convolutions with stride 2: "torch" pads both sides, "SAME" as TensorFlow and Flax do.
      statistics: that BatchNorm divides by, "running" or "batch".
      upsampling: "aligned corners", "edges" (as `jax.image.resize`) or "nearest".
      slope: of the leaky ReLU.
    """

    batch_norm_eps: float
    padding: str = "torch"
    statistics: str = "running"
    upsampling: str = "aligned corners"
    slope: float = 0.01


def run_backbone(network: TorchLoFTR, form: Backbone, given: Trace, cast: Cast | None) -> dict[str, Tensor]:
    """The backbone with its mistakes, by `stages`' names."""
    original = network.module.backbone
    changed: Any = copy.deepcopy(original)
    for part in changed.modules():
        _change(part, form, cast)
    with _upsampling(form.upsampling):
        try:
            network.module.backbone = changed
            return _both_at_once(network, given) if form.statistics == "batch" else network.tensors("backbone", given)
        finally:
            network.module.backbone = original


def _change(part: Any, form: Backbone, cast: Cast | None) -> None:
    if isinstance(part, nn.BatchNorm2d):
        part.eps = form.batch_norm_eps
        part.training = form.statistics == "batch"
    elif isinstance(part, nn.LeakyReLU):
        part.negative_slope = form.slope
    elif isinstance(part, nn.Conv2d):
        if cast is not None:
            part.weight.data = cast(part.weight.data)
            part.register_forward_pre_hook(lambda _, inputs: (cast(inputs[0]),))
        if form.padding == "SAME" and part.stride[0] > 1 and part.kernel_size[0] > 1:
            part.padding = (0, 0)
            part.register_forward_pre_hook(_pad_same)


def _pad_same(conv: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    around: list[int] = []
    for size, kernel, stride in zip(x.shape[:1:-1], conv.kernel_size[::-1], conv.stride[::-1], strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        around += [total // 2, total - total // 2]
    return (F.pad(x, around),)


@contextmanager
def _upsampling(kind: str) -> Iterator[None]:
    """Within the block `F.interpolate`, which kornia calls by its global name, has other corners."""
    if kind == "aligned corners":
        yield
        return
    original = F.interpolate
    options: Any = {"mode": "nearest"} if kind == "nearest" else {"mode": "bilinear", "align_corners": False}

    def interpolate(x: Tensor, scale_factor: float = 2.0, **_: Any) -> Tensor:
        return original(x, scale_factor=scale_factor, **options)

    with mock.patch.object(F, "interpolate", interpolate):
        yield


def _both_at_once(network: TorchLoFTR, given: Trace) -> dict[str, Tensor]:
    """Images of one size in one batch, so that they share their statistics, as the Flax network has them."""
    images = [given[f"image/{side}"] for side in (0, 1)]
    if images[0].shape != images[1].shape:
        return network.tensors("backbone", given)
    both = np.concatenate(images)
    made = network.tensors("backbone", {"image/0": both, "image/1": both})
    batch = len(images[0])
    return {
        f"backbone/{kind}/{side}": made[f"backbone/{kind}/0"][side * batch : (side + 1) * batch]
        for kind in ("coarse", "fine")
        for side in (0, 1)
    }


def masks_of(config: LoFTRConfig, given: Trace) -> tuple[Tensor | None, Tensor | None]:
    """Masks of coarse cells, [B, L] and [B, S]."""
    stride = config.resolution[0]
    first, second = (
        torch.as_tensor(given[f"mask/{side}"][:, ::stride, ::stride]).flatten(1).bool()
        if f"mask/{side}" in given
        else None
        for side in (0, 1)
    )
    return first, second


def layer_inputs(network: TorchLoFTR, name: str, given: Trace) -> tuple[Tensor, Tensor]:
    """The features that an encoder layer reads, [B, L, C] and [B, S, C]."""
    stage, _, number = name.partition("/layers.")
    start = {"loftr_coarse": "pos_encoding", "loftr_fine": "fine_preprocess"}[stage]
    before = f"{stage}/layers.{int(number) - 1}" if int(number) else start
    first, second = (torch.as_tensor(given[f"{before}/{side}"]).to(network.dtype) for side in (0, 1))
    return (first.flatten(1, 2), second.flatten(1, 2)) if first.ndim == 4 else (first, second)


def as_arrays(made: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as numpy arrays."""
    return {name: tensor.detach().numpy() for name, tensor in made.items()}


def unchanged(x: Tensor) -> Tensor:
    """No cast."""
    return x


def through(kind: torch.dtype) -> Cast:
    """Rounds numbers to a narrower type and back."""
    return lambda x: x.to(kind).to(x.dtype)
