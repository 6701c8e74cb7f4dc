"""Converted weights in Python: flat, nested, and put into a larger model's tree."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import flax.core
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import flattened, ifvit_leaves, torch_state

from loftr2flax import convert_checkpoint, load_loftr_weights, load_params, merge_params
from loftr2flax.errors import InputError, MappingMismatch, MissingInput, UsageError
from loftr2flax.flaxtree import nested
from tools.sample import SampleSizes, write_sample

WIDTH, DEPTH = 12, 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoFTR of eight coarse layers."""
    path = tmp_path_factory.mktemp("flaxtree") / "a.ckpt"
    write_sample(path, sizes=SampleSizes(coarse_width=WIDTH, coarse_layers=DEPTH))
    return path


@pytest.fixture(scope="module")
def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    """Its coarse transformer in IFViT-JAX's layout, as the guide loads it."""
    path = checkpoint.with_suffix(".npz")
    convert_checkpoint(checkpoint, path, "ifvit_jax")
    return load_loftr_weights(path)


def template(layers: int = DEPTH, width: int = WIDTH) -> dict[str, Any]:
    """The parameters of a larger model, all at a start that no weight has."""
    shapes = {f"{name}/kernel": (width, width) for name in ("q_proj", "k_proj", "v_proj", "merge")}
    shapes |= {"mlp.0/kernel": (2 * width, 2 * width), "mlp.2/kernel": (2 * width, width)}
    shapes |= {f"norm{n}/{leaf}": (width,) for n in (1, 2) for leaf in ("scale", "bias")}
    leaves = {
        f"loftr_transformer/layers.{i}.{j}/{name}": jnp.full(shape, -7.0)
        for i in range(layers)
        for j in (0, 1)
        for name, shape in shapes.items()
    }
    return nested({"embed/kernel": jnp.full((3, 5), -7.0), **leaves, "head/bias": jnp.full(5, -7.0)})


class TestLoading:
    @pytest.mark.parametrize("ending", [".npz", ".msgpack", ".safetensors"])
    def test_every_format_gives_the_same(self, checkpoint: Path, tmp_path: Path, ending: str) -> None:
        convert_checkpoint(checkpoint, tmp_path / f"a{ending}", "ifvit_jax")
        flat = load_loftr_weights(tmp_path / f"a{ending}")
        wanted = ifvit_leaves(torch_state(checkpoint))
        assert sorted(flat) == sorted(wanted)
        for name, leaf in wanted.items():
            np.testing.assert_array_equal(flat[name], leaf)
        assert flattened(load_params(tmp_path / f"a{ending}")).keys() == flat.keys()

    def test_flax_takes_the_tree_as_it_is(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3)).eval()
        net[1].running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
        torch.save(net.state_dict(), tmp_path / "net.pt")
        (tmp_path / "net.yaml").write_text(
            'mapping: net/1\ntarget: {tree: variables}\ndense: {"0": Dense_0}\nbatch_norm: {"1": BatchNorm_0}\n'
        )
        convert_checkpoint(tmp_path / "net.pt", tmp_path / "net.msgpack", tmp_path / "net.yaml")

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                return nn.BatchNorm(use_running_average=True, epsilon=1e-5)(nn.Dense(3)(x))

        x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
        ours = Net().apply(load_params(tmp_path / "net.msgpack"), x)
        with torch.no_grad():
            np.testing.assert_allclose(ours, net(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)

    def test_a_torch_file_is_not_converted_yet(self, checkpoint: Path) -> None:
        for load in (load_loftr_weights, load_params):
            with pytest.raises(UsageError, match="is a PyTorch file") as caught:
                load(checkpoint)
            assert caught.value.hint == f"convert it first: `loftr2flax convert {checkpoint} -o out.npz`"

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(MissingInput, match="no such file"):
            load_params(tmp_path / "none.npz")

    @pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"], ["a/b", "a/b/c/d"]])
    def test_a_leaf_that_is_a_branch(self, names: list[str], tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **{name: np.ones(2) for name in names})
        assert list(load_loftr_weights(tmp_path / "a.npz")) == names
        with pytest.raises(InputError, match="a leaf is a branch too"):
            load_params(tmp_path / "a.npz")


class TestMerging:
    def test_every_leaf_under_the_branch_is_filled_and_no_other(self, weights: dict[str, np.ndarray]) -> None:
        before = template()
        after = merge_params(before, weights)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        filled = flattened(after["loftr_transformer"])
        assert len(filled) == 160
        for name, leaf in filled.items():
            np.testing.assert_array_equal(leaf, weights[name])
        assert after["embed"]["kernel"] is before["embed"]["kernel"]
        assert float(flattened(before["loftr_transformer"])["layers.0.0/norm1/bias"][0]) == -7

    def test_nested_weights(self, checkpoint: Path, weights: dict[str, np.ndarray]) -> None:
        one = merge_params(template(), weights)
        other = merge_params(template(), load_params(checkpoint.with_suffix(".npz")))
        jax.tree.map(np.testing.assert_array_equal, one, other)

    def test_at_any_depth(self, weights: dict[str, np.ndarray]) -> None:
        deep = {"model": {"matcher": template()["loftr_transformer"]}}
        after = merge_params(deep, weights, at="model/matcher")
        np.testing.assert_array_equal(
            after["model"]["matcher"]["layers.7.1"]["mlp.2"]["kernel"], weights["layers.7.1/mlp.2/kernel"]
        )
        whole = merge_params(template()["loftr_transformer"], weights, at="")
        assert len(flattened(whole)) == 160

    def test_fewer_layers_must_be_asked_for(
        self, weights: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(MappingMismatch) as caught:
            merge_params(template(4), weights)
        assert "no leaf for layers.{4..7}.{0..1}/q_proj/kernel" in str(caught.value)
        assert "(80 of 160 weights)" in str(caught.value)
        assert caught.value.hint == "to take only the first 4 layers, say so: `layers=4`"
        with caplog.at_level(logging.WARNING, "loftr2flax"):
            after = merge_params(template(4), weights, layers=4)
        assert caplog.messages == ["merge_params takes layer {0..3} of the weights and leaves out layer {4..7}"]
        np.testing.assert_array_equal(
            after["loftr_transformer"]["layers.3.1"]["merge"]["kernel"], weights["layers.3.1/merge/kernel"]
        )

    def test_some_layers_are_renumbered(self, weights: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
        after = merge_params(template(2), weights, layers=[5, 2])
        for new, old in enumerate((5, 2)):
            np.testing.assert_array_equal(
                after["loftr_transformer"][f"layers.{new}.0"]["mlp.0"]["kernel"],
                weights[f"layers.{old}.0/mlp.0/kernel"],
            )
        assert "leaves out" in caplog.text

    def test_all_layers_asked_for_is_not_worth_a_word(
        self, weights: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
    ) -> None:
        merge_params(template(), weights, layers=8)
        assert caplog.messages == []

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            (9, "layers=9: no layer 8"),
            ([0, 8], r"layers=\[0, 8\]: no layer 8"),
            (0, "layers=0: none is asked for"),
            (-1, "layers=-1: none is asked for"),
            ([], r"layers=\[\]: none is asked for"),
            ([1, 1], r"layers=\[1, 1\]: one is asked for twice"),
        ],
    )
    def test_layers_that_are_not_there(self, weights: dict[str, np.ndarray], layers: Any, message: str) -> None:
        with pytest.raises(UsageError, match=f"^{message}$") as caught:
            merge_params(template(), weights, layers=layers)
        assert caught.value.hint == "the weights have 8 layers, 0 to 7: name some of these"

    def test_layers_of_weights_that_have_none(self) -> None:
        with pytest.raises(UsageError, match=r"no name of the weights begins with layers_0"):
            merge_params({"a": {"b": np.ones(2)}}, {"b": np.zeros(2)}, at="a", layers=2)

    def test_missing_and_left_over_are_both_named_in_full(self, weights: dict[str, np.ndarray]) -> None:
        larger = template()
        names = [f"extra{letter}" for letter in "abcdefgh"]
        for name in names:
            larger["loftr_transformer"][name] = {"kernel": jnp.ones((2, 3))}
        more = {**weights, **{f"other{letter}": np.ones(2) for letter in "stuvwxyz"}}
        with pytest.raises(MappingMismatch) as caught:
            merge_params(larger, more)
        for name in [f"{name}/kernel" for name in names] + [f"other{letter}" for letter in "stuvwxyz"]:
            assert name in str(caught.value)
        assert "(8 of 168 leaves)" in str(caught.value)
        assert "(8 of 168 weights)" in str(caught.value)

    def test_shapes_are_checked(self, weights: dict[str, np.ndarray]) -> None:
        wrong = template()
        wrong["loftr_transformer"]["layers.2.1"]["mlp.2"]["kernel"] = jnp.ones((WIDTH, 2 * WIDTH))
        with pytest.raises(MappingMismatch) as caught:
            merge_params(wrong, weights)
        assert "layers.2.1/mlp.2/kernel is (12, 24) in the template and (24, 12) in the weights" in str(caught.value)

    def test_a_branch_that_is_not_there(self, weights: dict[str, np.ndarray]) -> None:
        with pytest.raises(UsageError, match="no branch 'loftr'") as caught:
            merge_params(template(), weights, at="loftr")
        assert "embed, loftr_transformer, head" in caught.value.hint

    def test_weights_of_several_collections(self, checkpoint: Path, tmp_path: Path) -> None:
        convert_checkpoint(checkpoint, tmp_path / "a.npz", "loftr")
        variables = load_params(tmp_path / "a.npz")
        with pytest.raises(MappingMismatch) as caught:
            merge_params({"net": variables["params"]}, variables, at="net")
        assert caught.value.hint.startswith("the weights are of several collections: merge each by itself")
        merged = merge_params({"net": variables["batch_stats"]}, variables["batch_stats"], at="net")
        jax.tree.map(np.testing.assert_array_equal, merged["net"], variables["batch_stats"])


class TestKindsOfTemplate:
    def test_a_frozen_dict_stays_one(self, weights: dict[str, np.ndarray]) -> None:
        frozen = flax.core.freeze(template())
        after = merge_params(frozen, weights)
        assert isinstance(after, flax.core.FrozenDict)
        assert jax.tree.structure(after) == jax.tree.structure(frozen)
        jax.tree.map(np.testing.assert_array_equal, after.unfreeze(), merge_params(template(), weights))

    def test_shapes_alone(self, weights: dict[str, np.ndarray]) -> None:
        shapes = jax.eval_shape(template)
        after = merge_params(shapes, weights)
        assert isinstance(after["embed"]["kernel"], jax.ShapeDtypeStruct)
        assert isinstance(after["loftr_transformer"]["layers.0.0"]["norm1"]["scale"], np.ndarray)

    def test_an_empty_branch_stays(self, weights: dict[str, np.ndarray]) -> None:
        before = {**template(), "empty": {}}
        assert jax.tree.structure(merge_params(before, weights)) == jax.tree.structure(before)
        assert merge_params(before, weights)["empty"] == {}

    def test_the_templates_type_is_kept(self, weights: dict[str, np.ndarray]) -> None:
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), template())
        after = merge_params(half, weights)
        leaf = after["loftr_transformer"]["layers.0.0"]["q_proj"]["kernel"]
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, weights["layers.0.0/q_proj/kernel"].astype(jnp.bfloat16))

    def test_a_cast_that_loses_a_number_is_an_error(self) -> None:
        with pytest.raises(MappingMismatch, match="w has numbers out of the range of float16"):
            merge_params({"w": jnp.ones(2, jnp.float16)}, {"w": np.array([1, 7e4], np.float32)}, at="")
        with pytest.raises(MappingMismatch, match="w is int32 in the template and float32 in the weights"):
            merge_params({"w": jnp.ones(2, jnp.int32)}, {"w": np.array([1.5, 2], np.float32)}, at="")
        kept = merge_params({"w": jnp.ones(2, jnp.float16)}, {"w": np.array([1, np.inf], np.float32)}, at="")
        np.testing.assert_array_equal(kept["w"], [1, np.inf])

    def test_weights_that_training_has_made_jax_arrays(self, weights: dict[str, np.ndarray]) -> None:
        after = merge_params(template(), jax.tree.map(jnp.asarray, weights))
        np.testing.assert_array_equal(
            after["loftr_transformer"]["layers.1.0"]["norm2"]["bias"], weights["layers.1.0/norm2/bias"]
        )
