"""Runs: they learn, and end well however they end."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import TINY, tiny_config, tiny_options, weights

from loftr2flax.errors import UsageError
from loftr2flax.training import loop
from loftr2flax.training.checkpoints import Checkpoints
from loftr2flax.training.loop import LossNotFinite, dense_task, train
from loftr2flax.training.network import dense_model, initial


def test_a_run_learns(tmp_path):
    """One print, shifted a little, without noise: the loss falls to a fraction and matches become right."""
    config = tiny_config(
        tmp_path / "run", num_prints=1, rotation=0, elastic=0, noise=0, num_epochs=12, lr=5e-3, imposters=0
    )
    outcome = train(config, dense_task)
    losses = [row["loss"] for row in outcome.rows if row["kind"] == "train"]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_what_a_run_leaves(whole):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("evaluation", 0), ("train", 1), ("train", 2), ("evaluation", 2), ("train", 3), ("train", 4), ("evaluation", 4),
    ]  # fmt: skip
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {name.split("/")[0] for name in weights(whole)} == {"params", "batch_stats"}


def test_batch_norm_is_carried(whole):
    stats = {name: value for name, value in weights(whole).items() if name.startswith("batch_stats/")}
    assert not any((value == 0).all() or (value == 1).all() for value in stats.values())


def test_a_loss_that_is_not_a_number(config, monkeypatch):
    real = loop.batches

    def poisoned(*args, **options):
        for number, rows in enumerate(real(*args, **options), 1):
            yield {**rows, "image0": rows["image0"] * np.nan} if number == 3 else rows

    monkeypatch.setattr(loop, "batches", poisoned)
    with pytest.raises(LossNotFinite, match="the loss is nan at step 3") as caught:
        train(config, dense_task)
    assert "the last checkpoint is of step 2" in caught.value.message
    assert "in another --checkpoint-dir" in caught.value.hint
    assert caught.value.exit_code == 1
    with Checkpoints(config) as checkpoints:
        assert checkpoints.latest == 2


def test_a_gradient_that_is_not_a_number(config, monkeypatch):
    """The loss of that step is still a number: the weights would not be."""
    real = loop.dense_objective

    def bent(model, config):
        loss = real(model, config)

        def kinked(params, stats, batch):
            value, rest = loss(params, stats, batch)
            return value + jax.numpy.sqrt(0 * jax.numpy.sum(jax.tree.leaves(params)[0])), rest

        return kinked

    monkeypatch.setattr(loop, "dense_objective", bent)
    with pytest.raises(LossNotFinite, match="the gradient is nan at step 1") as caught:
        train(config, dense_task)
    assert "no checkpoint was saved" in caught.value.message


def test_weights_that_run_away(call, tmp_path):
    done = call("train", "dense", *tiny_options(lr=10, num_epochs=1), "--checkpoint-dir", "run")
    assert done.code == 1
    assert done.error == f"{tmp_path / 'run'}: the network's output is not finite at step 2; no checkpoint was saved"
    assert not (tmp_path / "run/weights.npz").exists()


def test_what_is_frozen_stays(tmp_path):
    config = tiny_config(tmp_path / "run", freeze=("backbone",), lr_scale=("loftr_coarse/layers_0=0.001",), lr=0.01)
    moved = train(config, dense_task)
    start = jax.tree_util.tree_leaves_with_path(initial(dense_model(config), config))
    before = {"/".join(str(entry.key) for entry in where): np.asarray(leaf) for where, leaf in start}
    after = weights(moved.folder)
    change = {name: np.abs(after[name] - before[name]).max() for name in before if name.startswith("params/")}
    assert all(value == 0 for name, value in change.items() if "/backbone/" in name)
    first = max(value for name, value in change.items() if "/layers_0/" in name)
    second = max(value for name, value in change.items() if "/layers_1/" in name)
    assert 0 < first < 1e-3 < second
    stats = {name: value for name, value in after.items() if name.startswith("batch_stats/")}
    assert all((value == 0).all() or (value == 1).all() for value in stats.values())


@pytest.mark.parametrize("option", [{"freeze": ("backbon",)}, {"lr_scale": ("loftr_fine=0.1",)}])
def test_a_part_that_is_not_there(config, option, tmp_path):
    with pytest.raises(UsageError, match="the network has no such part"):
        train(tiny_config(tmp_path / "run", **option), dense_task)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16", "fine": True},
        {"use_loftr": False},
        {"attention_type": "full", "sublayers": "separate", "stride": 16, "image_size": (48, 64)},
    ],
)
def test_other_networks_step_too(tmp_path, changes):
    outcome = train(tiny_config(tmp_path / "run", num_epochs=1, pairs_per_epoch=4, **changes), dense_task)
    rows = [row for row in outcome.rows if row["kind"] == "train"]
    assert all(np.isfinite(row["loss"]) and row["gradient"] > 0 for row in rows)
    assert ("fine" in rows[0]) == bool(changes.get("fine"))
    assert {value.dtype for value in weights(outcome.folder).values()} == {np.dtype(np.float32)}


def test_a_batch_larger_than_an_epoch(config):
    with pytest.raises(UsageError, match="batch_size=4: an epoch has only pairs_per_epoch=3 pairs"):
        train(tiny_config(Path(config.checkpoint_dir), pairs_per_epoch=3), dense_task)


def test_the_program_and_its_document(call, tmp_path):
    done = call("train", "dense", *tiny_options(), "--checkpoint-dir", "run", "--json")
    assert done.code == 0, done.err
    document = done.json
    assert document["schema"] == "loftr2flax.train.dense/1"
    assert document["outcome"]["step"] == 2 * TINY["pairs_per_epoch"] // TINY["batch_size"]
    assert "left at its start: no weights were given" in done.err
    assert "correct: " in done.err
    again = call("train", "dense", *tiny_options(), "--checkpoint-dir", "run")
    assert again.code == 4
    assert "`--resume` continues it" in again.hint
    empty = tmp_path / "empty"
    empty.mkdir()
    none = call("train", "dense", "--dataset-root", "empty", "--checkpoint-dir", "other")
    assert (none.code, none.error) == (3, "empty: holds no image")


def test_what_starts_a_run_keeps_to_the_limits(call):
    tiny = Path(__file__).parents[1] / "fixtures/loftr_tiny.ckpt"
    given = ("--loftr-pretrained-ckpt", tiny, "--checkpoint-dir", "run", *tiny_options())
    done = call("train", "dense", *given, "--max-tensors", 10)
    assert (done.code, done.error.partition(": more ")[2]) == (
        3,
        "than 10 tensors and what stands beside them: it has 177 records",
    )
    assert "--max-tensors 177" in done.hint
