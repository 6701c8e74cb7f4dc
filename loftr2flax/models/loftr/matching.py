"""Coarse matching: features → confidence matrix → matches (paper, section 3.3; upstream `coarse_matching.py`).

Letters: B batch, L and S coarse cells of image 0 and 1 in row-major order, M matches of the whole batch. Points are
(x, y) in pixels; coarse cell (x, y) sits on pixel (stride · x, stride · y).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.scipy.special import logsumexp

from loftr2flax.models.loftr.attention import MASKED
from loftr2flax.models.loftr.config import LoFTRConfig


class CoarseMatching(nn.Module):
    """Confidence of all pairs of cells. The one parameter, ``bin_score``, is the score of the dustbin."""

    config: LoFTRConfig

    @nn.compact
    def __call__(self, feat0: Array, feat1: Array, mask0: Array | None = None, mask1: Array | None = None) -> Array:
        """The confidence matrix 𝒫_c: [B, L, C] and [B, S, C] → [B, L, S], at least float32, zero at padding."""
        dtype = jnp.promote_types(feat0.dtype, jnp.float32)
        scale = feat0.shape[-1] ** 0.5
        temperature = self.config.temperature if self.config.matching == "dual_softmax" else 1.0
        similarity = jnp.einsum(  # the small features are divided, not the large matrix
            "blc,bsc->bls", feat0 / (scale * temperature), feat1 / scale, preferred_element_type=dtype
        )
        valid = pair_mask(mask0, mask1)
        if self.config.matching == "sinkhorn":
            bin_score = self.param("bin_score", nn.initializers.ones, (), jnp.float32)
            similarity = similarity if valid is None else jnp.where(valid, similarity, MASKED)
            confidence = optimal_transport(similarity, bin_score, self.config.sinkhorn_iterations)
            confidence = (without_dustbin if self.config.sinkhorn_prefilter else _inner)(confidence)
        else:
            confidence = dual_softmax(similarity if valid is None else jnp.where(valid, similarity, MASKED))
        return confidence if valid is None else jnp.where(valid, confidence, 0)


def pair_mask(mask0: Array | None, mask1: Array | None) -> Array | None:
    """[B, L] and [B, S] → [B, L, S] or a shape that broadcasts to it: True where both cells are image."""
    rows = None if mask0 is None else mask0[:, :, None]
    columns = None if mask1 is None else mask1[:, None, :]
    return columns if rows is None else rows if columns is None else rows & columns


def dual_softmax(similarity: Array) -> Array:
    """softmax over rows times softmax over columns (equation 3), [B, L, S].

    The two numerators are one exponential: of the largest array of the network, a third fewer are taken.
    """
    below_row = similarity - similarity.max(2, keepdims=True)
    below_column = similarity - similarity.max(1, keepdims=True)
    row, column = jnp.exp(below_row).sum(2, keepdims=True), jnp.exp(below_column).sum(1, keepdims=True)
    return jnp.exp(below_row + below_column) / (row * column)


def optimal_transport(similarity: Array, bin_score: Array, iterations: int) -> Array:
    """The transport plan with a dustbin on either side, by Sinkhorn's iteration in log space (arXiv 1911.11763).

    [B, L, S] → [B, L + 1, S + 1]. Each cell gives and takes 1, the dustbins S and L.
    """
    batch, rows, columns = similarity.shape
    score = bin_score.astype(similarity.dtype)
    z = jnp.full((batch, rows + 1, columns + 1), score).at[:, :rows, :columns].set(similarity)
    total = jnp.log(jnp.asarray(rows + columns, z.dtype))
    log_mu = jnp.full(rows + 1, -total).at[-1].add(jnp.log(jnp.asarray(columns, z.dtype)))
    log_nu = jnp.full(columns + 1, -total).at[-1].add(jnp.log(jnp.asarray(rows, z.dtype)))
    u, v = jnp.zeros((batch, rows + 1), z.dtype), jnp.zeros((batch, columns + 1), z.dtype)
    for _ in range(iterations):
        u = log_mu - logsumexp(z + v[:, None, :], axis=2)
        v = log_nu - logsumexp(z + u[:, :, None], axis=1)
    return jnp.exp(z + u[:, :, None] + v[:, None, :] + total)


def _inner(plan: Array) -> Array:
    return plan[:, :-1, :-1]


def without_dustbin(plan: Array) -> Array:
    """[B, L + 1, S + 1] → [B, L, S], zero for the cells whose largest share goes to a dustbin."""
    inner = _inner(plan)
    keep0 = inner.max(2) >= plan[:, :-1, -1]  # a draw goes to the cell, which stands before the dustbin
    keep1 = inner.max(1) >= plan[:, -1, :-1]
    return jnp.where(keep0[:, :, None] & keep1[:, None, :], inner, 0)


def off_border(height: int, width: int, border: int, mask: Array | None) -> Array:
    """[B or 1, H · W]: cells at least ``border`` cells away from the edges of the image, which may end before the map.

    The image is the rectangle at the top left in which ``mask`` [B, H · W] is True, as upstream has it.
    """
    rows, columns = jnp.arange(height), jnp.arange(width)
    bottom: Array | int = height
    right: Array | int = width
    if mask is not None:
        grid = mask.reshape(-1, height, width)
        bottom = grid.sum(1).max(-1)[:, None]
        right = grid.sum(2).max(-1)[:, None]
    if border <= 0:
        return jnp.ones((1, height * width), bool)
    in_rows = (rows >= border) & (rows < bottom - border)
    in_columns = (columns >= border) & (columns < right - border)
    keep = jnp.atleast_2d(in_rows)[:, :, None] & jnp.atleast_2d(in_columns)[:, None, :]  # [B, H, W]
    return keep.reshape(-1, height * width)


def first_best(confidence: Array, side: int = 64) -> Array:
    """``confidence.argmax(2)``, [B, L, S] → [B, L] int32, in two steps: the block of columns, then the column in it.

    XLA's argmax compares one number at a time on CPU; a maximum takes a vector, and is six times faster.
    """
    batch, rows, columns = confidence.shape
    if columns < side:
        return confidence.argmax(2).astype(jnp.int32)
    whole = columns // side * side
    blocks = confidence[:, :, :whole].reshape(batch, rows, -1, side)  # [B, L, S / side, side]
    block = blocks.max(3).argmax(2)
    best = jnp.take_along_axis(blocks, block[:, :, None, None], 2)[:, :, 0]  # [B, L, side]
    cell = block * side + best.argmax(2)
    if whole < columns:
        rest = confidence[:, :, whole:]
        cell = jnp.where(rest.max(2) > best.max(2), whole + rest.argmax(2), cell)
    return cell.astype(jnp.int32)


def mutual_nearest(confidence: Array, allowed0: Array, allowed1: Array, threshold: float) -> tuple[Array, Array, Array]:
    """For each cell of image 0 its best cell of image 1, and whether that is a match (ℳ_c).

    confidence [B, L, S], allowed0 [B or 1, L], allowed1 [B or 1, S] → cell [B, L] int32, confidence [B, L], match [B,
    L] bool: both cells are each other's best and allowed, and the confidence is above the threshold and above zero.
    """
    best = confidence.max(2)
    cell = first_best(confidence)
    of_column = jnp.take_along_axis(confidence.max(1), cell, 1)
    allowed = allowed0 & jnp.take_along_axis(
        jnp.broadcast_to(allowed1, of_column.shape[:1] + allowed1.shape[1:]), cell, 1
    )
    return cell, best, (best == of_column) & (best > max(threshold, 0.0)) & allowed


def select(cell: Array, confidence: Array, match: Array, capacity: int | None) -> tuple[Array, Array, Array]:
    """The matches as arrays of a fixed length, in the order of batch and cell; the surest, if there are too many.

    Three of [B, L] → ids [3, M] int32 (batch, cell of image 0, cell of image 1), confidence [M], valid [M]; M = B ·
    L, or ``capacity``. Rows that are not valid hold zeros.
    """
    width = cell.shape[1]
    score = jnp.where(match, confidence, -1).ravel()
    slots = score.size if capacity is None else min(capacity, score.size)
    _, rows = lax.top_k(score, slots)
    rows = jnp.sort(jnp.where(match.ravel()[rows], rows, score.size))  # matches first, in their own order
    valid = rows < score.size
    rows = jnp.where(valid, rows, 0)
    ids = jnp.stack([rows // width, rows % width, cell.ravel()[rows]]).astype(jnp.int32)
    return jnp.where(valid, ids, 0), jnp.where(valid, confidence.ravel()[rows], 0), valid
