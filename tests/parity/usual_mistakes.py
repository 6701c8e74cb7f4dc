"""The coarse transformer as people port it, in plain jax and from the tree that IFViT-JAX loads, mistakes to choose.

Nothing of the package's own network is used, so that what is judged here is another hand's work. Without a mistake it
is a right port, and has to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class PortedTransformer:
    """A `loftr2flax.parity.network.Network` of the coarse layers alone.

    ``mistakes`` holds any of "norm before the merge", "norm after the residual", "stale features", "eps 1e-6", "only
    sublayer 0", "q and k swapped", "full attention", "no masks", "bfloat16", "last layer left out".
    """

    tree: Mapping[str, Any]
    heads: int
    mistakes: frozenset[str] = field(default_factory=frozenset)

    @property
    def stage_names(self) -> tuple[str, ...]:
        layers = len({name.split(".")[1] for name in self.tree})
        return tuple(f"loftr_coarse/layers.{i}" for i in range(layers - ("last layer left out" in self.mistakes)))

    def stage(self, name: str, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        number = int(name.rpartition(".")[2])
        before = f"loftr_coarse/layers.{number - 1}" if number else "pos_encoding"
        x0, x1 = (given[f"{before}/{side}"].reshape(1, -1, given[f"{before}/{side}"].shape[-1]) for side in (0, 1))
        m0, m1 = (given[f"mask/{i}"][:, ::8, ::8].reshape(1, -1) if f"mask/{i}" in given else None for i in (0, 1))
        first = self.tree[f"layers.{number}.0"]
        second = first if "only sublayer 0" in self.mistakes else self.tree[f"layers.{number}.1"]
        if number % 2 == 0:
            new0, new1 = self._layer(first, x0, x0, m0, m0), self._layer(second, x1, x1, m1, m1)
        else:
            new0 = self._layer(first, x0, x1, m0, m1)
            new1 = self._layer(second, x1, x0 if "stale features" in self.mistakes else new0, m1, m0)
        return {f"{name}/0": np.asarray(new0), f"{name}/1": np.asarray(new1)}

    def _layer(self, p: Mapping[str, Any], x: Any, source: Any, x_mask: Any, source_mask: Any) -> Any:
        narrow = jnp.bfloat16 if "bfloat16" in self.mistakes else jnp.float32
        x, source = jnp.asarray(x, narrow), jnp.asarray(source, narrow)

        def dense(name: str, y: Any) -> Any:
            return y @ jnp.asarray(p[name]["kernel"], narrow)

        def norm(name: str, y: Any) -> Any:
            eps = 1e-6 if "eps 1e-6" in self.mistakes else 1e-5
            centred = y - y.mean(-1, keepdims=True)
            deviation = jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)
            return centred / deviation * p[name]["scale"] + p[name]["bias"]

        q, k, v = dense("q_proj", x), dense("k_proj", source), dense("v_proj", source)
        if "q and k swapped" in self.mistakes:
            q, k = dense("k_proj", x), dense("q_proj", source)
        if "no masks" in self.mistakes:
            x_mask = source_mask = None
        message = self._attention(q, k, v, x_mask, source_mask).astype(narrow)
        if "norm before the merge" in self.mistakes:
            message = dense("merge", norm("norm1", message).astype(narrow))
        else:
            message = norm("norm1", dense("merge", message)).astype(narrow)
        hidden = jnp.maximum(dense("mlp.0", jnp.concatenate([x, message], -1)), 0)
        message = dense("mlp.2", hidden)
        if "norm after the residual" in self.mistakes:
            return norm("norm2", x + message).astype(jnp.float32)
        return (x + norm("norm2", message)).astype(jnp.float32)

    def _attention(self, q: Any, k: Any, v: Any, q_mask: Any, kv_mask: Any) -> Any:
        q, k, v = (y.reshape(1, y.shape[1], self.heads, -1) for y in (q, k, v))
        if "full attention" in self.mistakes:
            weights = jax.nn.softmax(jnp.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5)
            return jnp.einsum("bhls,bshd->blhd", weights, v).reshape(1, q.shape[1], -1)
        q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
        if q_mask is not None:
            q, k, v = q * q_mask[..., None, None], k * kv_mask[..., None, None], v * kv_mask[..., None, None]
        context = jnp.einsum("bshd,bshv->bhdv", k, v)
        norm = jnp.einsum("blhd,bhd->blh", q, k.sum(1)) + 1e-6
        return (jnp.einsum("blhd,bhdv->blhv", q, context) / norm[..., None]).reshape(1, q.shape[1], -1)


def factory(heads: int, *mistakes: str) -> Callable[..., PortedTransformer]:
    """What `verify_parity(flax=…)` takes."""
    return lambda variables, facts: PortedTransformer(variables, heads, frozenset(mistakes))
