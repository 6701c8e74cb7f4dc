"""One step against torch: loss, every leaf's gradient and running statistics, judged by torch's own rounding."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from tiny import tiny_config

from loftr2flax import load_params
from loftr2flax.convert import convert_checkpoint
from loftr2flax.models.loftr.reference import TorchLoFTR
from loftr2flax.training.images import open_images
from loftr2flax.training.network import dense_model, loftr_config
from loftr2flax.training.pairs import gathered
from loftr2flax.training.step import dense_objective
from tools.sample import SampleSizes, write_sample

torch = pytest.importorskip("torch")


def torch_step(tensors, network, batch, dtype):
    """kornia's modules in training mode, autograd, and the same loss: loss, gradients and statistics by torch key."""
    side = TorchLoFTR(tensors, network, dtype)
    module, kind = side.module.train(), side.dtype
    images = [torch.as_tensor(batch[f"image{n}"]).permute(0, 3, 1, 2).to(kind) for n in (0, 1)]
    features, _ = module.backbone(torch.cat(images))
    features = module.pos_encoding(features).flatten(2).transpose(1, 2)
    feat0, feat1 = module.loftr_coarse(*features.chunk(2))
    scale = feat0.shape[-1] ** 0.5
    similarity = torch.einsum("blc,bsc->bls", feat0 / scale, feat1 / scale) / network.temperature
    confidence = similarity.softmax(1) * similarity.softmax(2)
    cells, genuine = torch.as_tensor(batch["cells"]).long(), torch.as_tensor(batch["genuine"])
    known = cells >= 0
    right = confidence.gather(2, cells.clamp(min=0)[..., None])[..., 0]
    strange = (~genuine)[:, None].expand_as(known)
    terms = -right[known].log().sum() - (1 - confidence[~genuine]).log().sum()
    loss = terms / (known.sum() + strange.sum())
    loss.backward()
    gradient = {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}
    stats = {name: value.numpy() for name, value in module.named_buffers() if "running" in name}
    return float(loss.detach()), gradient, stats


def test_loss_gradient_and_statistics_are_torchs(tmp_path, config):
    sizes = SampleSizes((6, 10, 16), 16, 2, 6, 2)
    write_sample(tmp_path / "a.ckpt", sizes=sizes)
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr", facts={"heads": 2})
    config = tiny_config(tmp_path, backbone_dims=(6, 10, 16), imposters=0.5, temperature=1.0)  # nothing is clamped
    batch = gathered(config, open_images(config), 4)
    assert 0 < batch["genuine"].sum() < 4
    variables = load_params(tmp_path / "a.npz")
    kept = ("backbone", "loftr_coarse")
    params = {part: variables["params"][part] for part in kept}
    step = jax.jit(jax.value_and_grad(dense_objective(dense_model(config), config), has_aux=True))
    (loss, (stats, _)), gradient = step(params, variables["batch_stats"], batch)

    every = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    tensors = {key: value for key, value in every.items() if key.split(".")[1] in kept}
    exact = torch_step(tensors, loftr_config(config), batch, "float64")
    rounded = torch_step(tensors, loftr_config(config), batch, "float32")
    assert abs(float(loss) - exact[0]) <= 2 * abs(rounded[0] - exact[0]) + 4e-7 * exact[0]

    found = {"params": gradient, "batch_stats": stats}
    seen = 0
    for wanted, own, collection in ((exact[1], rounded[1], "params"), (exact[2], rounded[2], "batch_stats")):
        error = np.concatenate([
            (leaf_of(found[collection], key, value.ndim) - value).ravel() / rms(value) for key, value in wanted.items()
        ])  # fmt: skip
        limit = np.concatenate([(own[key] - value).ravel() / rms(value) for key, value in wanted.items()])
        assert rms(error) <= 2 * rms(limit), collection
        for key, value in wanted.items():  # one leaf alone may be unlucky, no more
            mine, theirs = rms(leaf_of(found[collection], key, value.ndim) - value), rms(own[key] - value)
            assert mine <= 8 * theirs + 1e-6 * rms(value), key
            seen += 1
    assert seen + 10 == len(jax.tree.leaves(found))
    unused = [name for name in gradient["backbone"] if "outconv" in name and name != "layer3_outconv"]  # the fine map's
    assert len(unused) == 8
    assert not any(leaf.any() for name in unused for leaf in jax.tree.leaves(gradient["backbone"][name]))


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) or 1e-30


def leaf_of(tree, key: str, axes: int) -> np.ndarray:
    """A torch key's leaf in torch's layout, spelled out here anew."""
    import re

    *module, leaf = key.split(".")
    for part in re.sub(r"\.(\d+)", r"_\1", ".".join(module)).split("."):
        tree = tree[part]
    norm = "scale" in tree or "mean" in tree
    leaf = {"weight": "scale" if norm else "kernel", "running_mean": "mean", "running_var": "var"}.get(leaf, leaf)
    value = np.asarray(tree[leaf], np.float64)
    return value.transpose(3, 2, 0, 1) if axes == 4 else value.T
