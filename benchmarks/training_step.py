"""A training step of LoFTR's coarse transformer: JAX, compiled beforehand, against torch, same CPU and threads.

Both take the same features and weights through 8 layers of width 256 and the dual softmax, the negative log-likelihood
of given matches, every gradient, and an update by AdamW.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.forward import ROUNDS, _in_turn

GRIDS = ((20, 30), (30, 40))
BATCH = 2
TRAIN = (
    "--image-size 96 --hidden-dim 32 --num-heads 4 --num-prints 64 --pairs-per-epoch 128 --num-epochs 2 --batch-size 8 "
    "--eval-pairs 8"
)


def run() -> None:
    """Measures and prints."""
    import torch

    threads = torch.get_num_threads()
    print(f"training step of the coarse transformer, float32, {threads} threads, median of {ROUNDS} in turn")
    for rows, columns in GRIDS:
        rng = np.random.default_rng(0)
        cells = rows * columns
        feat0, feat1 = (rng.standard_normal((BATCH, cells, 256)).astype(np.float32) for _ in range(2))
        target = np.stack([rng.permutation(cells) for _ in range(BATCH)])
        times = _in_turn({"torch": _torch(feat0, feat1, target), "jax": _jax(feat0, feat1, target)})
        ratio = times["torch"] / times["jax"]
        shown = f"torch {1e3 * times['torch']:.0f} ms, JAX {1e3 * times['jax']:.0f} ms"
        print(f"  {BATCH} pairs of {rows}×{columns} cells: {shown}, {ratio:.2f} times as fast", flush=True)
    for count in (1, 2):
        print(
            f"  train dense, {count} process{'es' * (count > 1)} on this machine: {_images_per_second(count)} images/s"
        )


def _images_per_second(count: int) -> str:
    """What a short run of so many processes says at its end; all share the cores of this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = [str(Path(sys.executable).with_name("loftr2flax")), "train", "dense", *TRAIN.split()]
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [
                    *program,
                    *("--checkpoint-dir", folder),
                    *(("--distributed", f"localhost:{port},{count},{rank}") if count > 1 else ()),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(count)
        ]
        said = [process.communicate()[0] for process in processes]
    found = re.search(r"([\d.]+) images/s", said[0])
    if found is None:
        raise SystemExit(f"the run said nothing of its speed:\n{said[0]}")
    return found[1]


def _torch(feat0: np.ndarray, feat1: np.ndarray, target: np.ndarray) -> Any:
    import torch
    from kornia.feature.loftr.loftr_module import LocalFeatureTransformer

    from loftr2flax.models.loftr import LoFTRConfig
    from loftr2flax.models.loftr.reference import kornia_config

    torch.manual_seed(0)
    module = LocalFeatureTransformer(kornia_config(LoFTRConfig())["coarse"]).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)
    one, other, wanted = torch.from_numpy(feat0), torch.from_numpy(feat1), torch.from_numpy(target)[..., None]

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        out0, out1 = module(one, other)
        similarity = torch.einsum("blc,bsc->bls", out0 / 16, out1 / 16) / 0.1
        confidence = similarity.softmax(1) * similarity.softmax(2)
        loss = -confidence.gather(2, wanted).clamp(min=1e-30).log().mean()
        loss.backward()
        optimiser.step()

    return step


def _jax(feat0: np.ndarray, feat1: np.ndarray, target: np.ndarray) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    from loftr2flax.models.loftr import LoFTRConfig
    from loftr2flax.models.loftr.matching import dual_softmax
    from loftr2flax.models.loftr.transformer import FeatureTransformer
    from loftr2flax.training.losses import dense_loss

    config = LoFTRConfig()
    module = FeatureTransformer(config.coarse_layers, config)
    one, other, cells = jnp.asarray(feat0), jnp.asarray(feat1), jnp.asarray(target, jnp.int32)
    params = jax.jit(module.init)(jax.random.key(0), one[:, :4], other[:, :4])
    optimiser = optax.adamw(1e-4, weight_decay=1e-2)
    genuine = jnp.ones(BATCH, bool)

    def loss(params: Any) -> jax.Array:
        out0, out1 = module.apply(params, one, other)
        similarity = jnp.einsum("blc,bsc->bls", out0 / 16, out1 / 16) / 0.1
        return dense_loss(dual_softmax(similarity), cells, genuine)

    @jax.jit
    def update(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    held = [params, optimiser.init(params)]

    def step() -> None:
        held[:] = jax.block_until_ready(update(*held))

    return step
