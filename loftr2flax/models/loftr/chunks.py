"""Work on the matches found, in arrays that have room for every match that there could be."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

CHUNK = 32
"""Matches at a time: fewer do not fill a matrix product, more do not fit a core's cache (measured on CPU)."""


def by_chunks(run: Callable[[Array], Array], ids: Array, valid: Array) -> Array:
    """``run`` on [3, M] ids, chunk by chunk: valid [M] → [M, …], zeros where not valid.

    A chunk is computed only if it holds a match. The matches come first, so the time is that of the matches found.
    """
    slots = ids.shape[1]
    if not slots:
        return run(ids)
    chunk = min(CHUNK, slots)
    spare = -slots % chunk
    chunks = jnp.pad(ids, ((0, 0), (0, spare))).reshape(3, -1, chunk).swapaxes(0, 1)  # [M / chunk, 3, chunk]
    present = jnp.pad(valid, (0, spare)).reshape(-1, chunk)
    shape = jax.eval_shape(run, chunks[0])

    def maybe(args: tuple[Array, Array]) -> Array:
        some, there = args
        found = lax.cond(there.any(), run, lambda _: jnp.zeros(shape.shape, shape.dtype), some)
        return jnp.where(there.reshape(-1, *[1] * (found.ndim - 1)), found, 0)

    out: Array = lax.map(maybe, (chunks, present))  # [M / chunk, chunk, …]
    return out.reshape(-1, *shape.shape[1:])[:slots]
