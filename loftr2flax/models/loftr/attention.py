"""Linear and full attention (paper, section 3.2; upstream `linear_attention.py`).

Letters: B batch, L query cells, S key cells, H heads, D channels of a head. Masks are boolean, True for cells of the
image and False for padding, [B, L] and [B, S].
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, nn

MASKED = -1e9
"""A similarity with padding: finite, so that a row of padding alone has no 0 / 0, and beyond any real one."""


def linear_attention(
    q: Array, k: Array, v: Array, q_mask: Array | None = None, kv_mask: Array | None = None, eps: float = 1e-6
) -> Array:
    """Attention with the kernel φ(x) = elu(x) + 1, linear in the number of cells (arXiv 2006.16236).

    q [B, L, H, D], k and v [B, S, H, D] → [B, L, H, D]. The values are divided by S and the result multiplied by it,
    so that sums over many cells stay small in half precision. A padded query gets zero.
    """
    q, k = _positive(q, q_mask), _positive(k, kv_mask)
    if kv_mask is not None:
        v = jnp.where(kv_mask[:, :, None, None], v, 0)
    length = v.shape[1]
    kv = jnp.einsum("bshd,bshv->bhdv", k, v / length)
    norm = jnp.einsum("blhd,bhd->blh", q, k.sum(1)) + eps
    # multiplied and summed, not a product: for the few cells of a window it would first be copied, head by head
    return (q[..., None] * kv[:, None]).sum(-2) * (length / norm)[..., None]


def merged_linear_attention(
    q: Array,
    k: Array,
    source: Array,
    to_values: Array,
    to_merged: Array,
    q_mask: Array | None = None,
    kv_mask: Array | None = None,
    eps: float = 1e-6,
) -> Array:
    """``merge(linear_attention(q, k, values(source)))`` in another order, up to rounding: for many cells.

    Both linear maps are applied to the sums over the cells, not to each cell: φ(q) · ((φ(k)ᵀ source) values merge).
    That is no more multiplications from L + S = 2 C on, and no product over all cells is one of heads, whose channels
    would first be copied apart.

    q [B, L, H, D], k [B, S, H, D], source [B, S, C], kernels ``to_values`` and ``to_merged`` [C, C] with C = H · D →
    [B, L, C].
    """
    batch, length, heads, depth = q.shape
    width = heads * depth
    q, k = _positive(q, q_mask), _positive(k, kv_mask)
    if kv_mask is not None:
        source = jnp.where(kv_mask[:, :, None], source, 0)
    flat_q, flat_k = q.reshape(batch, length, width), k.reshape(batch, -1, width)
    sums = jnp.einsum("bsk,bsc->bkc", flat_k, source)
    kv = jnp.einsum("bhdc,chv->bhdv", sums.reshape(batch, heads, depth, width), to_values.reshape(width, heads, depth))
    merged = jnp.einsum("bhdv,hvc->bhdc", kv, to_merged.reshape(heads, depth, width)).reshape(batch, width, width)
    of_head = jnp.repeat(jnp.eye(heads, dtype=q.dtype), depth, axis=0)  # [C, H]
    norm = flat_q @ (flat_k.sum(1)[:, :, None] * of_head) + eps  # [B, L, H]
    return (q / norm[..., None]).reshape(batch, length, width) @ merged


def _positive(x: Array, mask: Array | None) -> Array:
    """φ(x) of [B, L, H, D], zero where there is padding."""
    x = nn.elu(x) + 1
    return x if mask is None else jnp.where(mask[:, :, None, None], x, 0)


def full_attention(q: Array, k: Array, v: Array, q_mask: Array | None = None, kv_mask: Array | None = None) -> Array:
    """Softmax attention, q [B, L, H, D], k and v [B, S, H, D] → [B, L, H, D].

    Where upstream's masked softmax is 0 / 0 for a padded query, and its NaN reaches every cell in the next layer, a
    padded query gets zero here.
    """
    logits = jnp.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
    if kv_mask is not None:
        logits = jnp.where(kv_mask[:, None, None, :], logits, MASKED)
    message = jnp.einsum("bhls,bshd->blhd", nn.softmax(logits, axis=-1), v)
    return message if q_mask is None else jnp.where(q_mask[:, :, None, None], message, 0)
