"""Module 2: embeddings of fixed length, from a trained Module 1."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, tiny_config

from loftr2flax import convert_checkpoint
from loftr2flax.errors import MappingMismatch
from loftr2flax.models.matcher_net import centre
from loftr2flax.training.config import MatchConfig
from loftr2flax.training.evaluation import equal_error_rate
from loftr2flax.training.loop import dense_task, match_task, train
from loftr2flax.training.losses import arcface_loss, cosine_loss


def test_module_2_starts_from_module_1_and_steps(tmp_path):
    dense = train(tiny_config(tmp_path / "dense", num_epochs=1, pairs_per_epoch=4), dense_task)
    options = {**TINY, "num_epochs": 1, "pairs_per_epoch": 4, "embedding_dim": 6, "lr": 1e-9, "weight_decay": 0}
    config = MatchConfig(
        **options, dense_weights=str(dense.folder / "weights.npz"), checkpoint_dir=str(tmp_path / "match")
    )
    outcome = train(config, match_task)
    row = next(row for row in outcome.rows if row["kind"] == "train")
    total = row["arcface"] + config.lambda_E * row["cosine"] + config.lambda_D * row["dense"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)
    assert 0 <= outcome.last["equal_error_rate"] <= 1
    with pytest.raises(MappingMismatch, match="holds Module 2, of two branches, which no shipped mapping"):
        convert_checkpoint(outcome.folder / "weights.npz", tmp_path / "back.ckpt", reverse=True)
    one, two = read(dense.folder), read(outcome.folder)
    for name, value in one.items():
        if name.startswith("params/"):
            for branch in ("whole", "roi"):
                assert np.abs(two[name.replace("params/", f"params/{branch}/", 1)] - value).max() < 1e-7, name


def read(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "weights.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_arcface_without_a_margin_is_cross_entropy_and_a_margin_costs():
    cosines = jnp.asarray(np.random.default_rng(0).uniform(-0.9, 0.9, (5, 3)))
    labels = jnp.array([0, 2, 1, 1, 0])
    plain = -jax.nn.log_softmax(16 * cosines)[jnp.arange(5), labels].mean()
    assert arcface_loss(cosines, labels, 0.0, 16.0) == pytest.approx(float(plain), rel=1e-5)
    assert arcface_loss(cosines, labels, 0.3, 16.0) > plain


def test_the_cosine_loss_pulls_and_pushes():
    x = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert cosine_loss(x, y, jnp.array([True, False, False]), 0.4) == pytest.approx(0.6 / 3)


def test_the_region_of_interest_is_whole_cells_in_the_middle():
    image = jnp.arange(64 * 96).reshape(1, 64, 96, 1)
    part = centre(image, 0.5, 8)
    assert part.shape == (1, 32, 48, 1)
    assert part[0, 0, 0, 0] == 16 * 96 + 24


@pytest.mark.parametrize(
    ("genuine", "imposter", "rate"),
    [([0.8, 0.9], [0.1, 0.2], 0.0), ([0.1], [0.9], 1.0), ([0.9, 0.3], [0.1, 0.5], 0.5)],
)
def test_the_equal_error_rate(genuine, imposter, rate):
    assert equal_error_rate(np.array(genuine), np.array(imposter)) == rate
