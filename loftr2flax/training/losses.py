"""Losses, as sums and counts, so that a batch spread over devices has the loss that it has on one.

Letters: B pairs, L and S cells, E length of an embedding.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax, nn

TINY = 1e-30
"""Confidences below are taken for it: their logarithm stays finite, and their gradient stops."""


def dense_loss(confidence: Array, cells: Array, genuine: Array) -> Array:
    """Negative log-likelihood of the true cells (LoFTR, equation 4), and of *no match* for imposters.

    confidence [B, L, S], cells [B, L] int32 (-1: none), genuine [B] bool. A genuine pair counts its true matches,
    -log P; an imposter counts each cell of image 0, -Σ log(1 - P) over the cells of image 1. The mean over all counted.
    """
    known = cells >= 0
    right = jnp.take_along_axis(confidence, jnp.where(known, cells, 0)[..., None], -1)[..., 0]  # [B, L]
    positive = jnp.where(known, -jnp.log(jnp.maximum(right, TINY)), 0)
    strange = jnp.broadcast_to(~genuine[:, None], cells.shape)
    wrong = -jnp.log1p(-jnp.minimum(confidence, 1 - 1e-6)).sum(-1)
    negative = jnp.where(strange, wrong, 0)
    return (positive + negative).sum() / jnp.maximum((known | strange).sum(), 1)


def fine_loss(expectation: Array, target: Array, valid: Array) -> Array:
    """Squared distance, weighted by how sure the network is (LoFTR, equation 6).

    expectation [M, 3], target [M, 2] in the window's own coordinates (-1 … 1), valid [M] bool. The weights are the
    inverse deviations over their mean, without a gradient of their own.
    """
    valid &= (jnp.abs(target) < 1).all(-1)
    count = jnp.maximum(valid.sum(), 1)
    sure = lax.stop_gradient(jnp.where(valid, 1 / jnp.maximum(expectation[:, 2], 1e-10), 0))
    weight = sure / jnp.maximum(sure.sum() / count, 1e-10)
    return (weight * jnp.square(expectation[:, :2] - target).sum(-1) * valid).sum() / count


def fine_targets(batch: dict[str, Array], count: int, stride: int, radius: float) -> tuple[Array, Array, Array]:
    """The first ``count`` true matches of each pair: ids [3, M], targets [M, 2], valid [M]; M = B · count.

    ``radius`` is half a fine window, in pixels. Which matches come first differs from pair to pair, not over time.
    """
    cells, points = batch["cells"], batch["points"]
    known = cells >= 0
    spread = (jnp.arange(cells.shape[1]) * 7919) % cells.shape[1]  # all over the image, not its upper rows
    order = jnp.argsort(jnp.where(known, spread, cells.shape[1]), axis=1)[:, :count]
    i = order.reshape(-1)
    b = jnp.repeat(jnp.arange(len(cells)), order.shape[1])
    j = cells[b, i]
    valid = j >= 0
    j = jnp.where(valid, j, 0)
    columns = batch["image1"].shape[2] // stride
    origin = stride * jnp.stack([j % columns, j // columns], -1)
    return jnp.stack([b, i, j]).astype(jnp.int32), (points[b, i] - origin) / radius, valid


def arcface_loss(cosines: Array, labels: Array, margin: float, scale: float) -> Array:
    """Cross entropy with an angular margin (arXiv 1801.07698): cosines [B, N], labels [B] int32."""
    own = nn.one_hot(labels, cosines.shape[1], dtype=cosines.dtype)
    bounded = jnp.clip(cosines, -1 + 1e-6, 1 - 1e-6)
    pushed = bounded * jnp.cos(margin) - jnp.sqrt(1 - bounded**2) * jnp.sin(margin)  # cos(θ + m)
    pushed = jnp.where(bounded > jnp.cos(jnp.pi - margin), pushed, bounded - margin * jnp.sin(margin))
    return -(own * nn.log_softmax(scale * jnp.where(own > 0, pushed, cosines), axis=-1)).sum(-1).mean()


def cosine_loss(one: Array, other: Array, genuine: Array, margin: float) -> Array:
    """1 - cos for two prints of one finger, max(0, cos - margin) for two fingers: [B, E], [B, E], [B] bool."""
    cosine = (one * other).sum(-1)
    return jnp.where(genuine, 1 - cosine, jnp.maximum(cosine - margin, 0)).mean()
