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
    q, k = nn.elu(q) + 1, nn.elu(k) + 1
    if q_mask is not None:
        q = jnp.where(q_mask[:, :, None, None], q, 0)
    if kv_mask is not None:
        k = jnp.where(kv_mask[:, :, None, None], k, 0)
        v = jnp.where(kv_mask[:, :, None, None], v, 0)
    length = v.shape[1]
    kv = jnp.einsum("bshd,bshv->bhdv", k, v / length)
    norm = jnp.einsum("blhd,bhd->blh", q, k.sum(1)) + eps
    return jnp.einsum("blhd,bhdv->blhv", q, kv) / norm[..., None] * length


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
