"""The matcher as a whole: kornia's keypoints, compiled, batched, bounded, differentiable."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from kornia.feature import LoFTR as KorniaLoFTR
from photographs import grey, other_view
from weights import flax_variables, random_state

from loftr2flax.models.loftr import LoFTR, LoFTRConfig, Matches
from loftr2flax.models.loftr.reference import TorchLoFTR, kornia_config

SMALL = LoFTRConfig(block_dims=(16, 24, 32), heads=4, coarse_layers=("self", "cross"), threshold=1e-3)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return random_state(SMALL)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    first = grey("astronaut", 136, 176)
    second = other_view(first, 120, 144)
    return np.concatenate([first, first[:, ::-1]]), np.concatenate([second, second[:, :, ::-1]])


@pytest.fixture(scope="module")
def found(state, images) -> Matches:
    return jax.jit(LoFTR(SMALL).apply)(flax_variables(state, SMALL), *images)


def kornia_matches(state, images) -> dict[str, np.ndarray]:
    net = KorniaLoFTR(pretrained=None, config=kornia_config(SMALL)).eval()
    net.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    image0, image1 = (torch.from_numpy(image.transpose(0, 3, 1, 2).copy()) for image in images)
    with torch.no_grad():
        return {key: value.numpy() for key, value in net({"image0": image0, "image1": image1}).items()}


def test_matches_are_kornias(state, images, found):
    expected, actual = kornia_matches(state, images), found.compact()
    assert len(actual.mconf) == int(found.found) == len(expected["confidence"]) > 5
    np.testing.assert_array_equal(actual.ids[0], expected["batch_indexes"])
    np.testing.assert_array_equal(actual.mkpts0, expected["keypoints0"])
    np.testing.assert_allclose(actual.mkpts1, expected["keypoints1"], atol=2e-3)
    np.testing.assert_allclose(actual.mconf, expected["confidence"], rtol=1e-3)


def test_the_reference_by_stages_is_kornia_as_a_whole(state, images):
    expected = kornia_matches(state, images)
    trace = TorchLoFTR(state, SMALL).trace(*images)
    np.testing.assert_array_equal(trace["ids"][0], expected["batch_indexes"])
    offset = 4 * trace["expectation"][:, :2]
    cells = np.stack([trace["ids"][2] % 18, trace["ids"][2] // 18], -1)
    np.testing.assert_allclose(8 * cells + offset, expected["keypoints1"], atol=1e-4)


def test_arrays_have_room_for_all_and_zeros_where_there_is_no_match(found):
    cells = 2 * 17 * 22
    assert found.mkpts0.shape == found.mkpts1.shape == (cells, 2)
    assert found.conf_matrix.shape == (2, 17 * 22, 15 * 18)
    valid = np.asarray(found.valid)
    assert valid.sum() == found.found
    assert not np.asarray(found.mconf)[~valid].any()


def test_no_match_at_all(state, images):
    none = jax.jit(LoFTR(replace(SMALL, threshold=1.0)).apply)(flax_variables(state, SMALL), *images)
    assert none.compact().mkpts1.shape == (0, 2)
    trace = TorchLoFTR(state, replace(SMALL, threshold=1.0)).trace(*images)
    assert trace["expectation"].shape == (0, 3)


def test_every_parameter_is_reached_by_a_gradient(state, images):
    variables = flax_variables(state, SMALL)
    small = [image[:1, :64, :80] for image in images]
    ids = jnp.asarray([[0, 0], [5, 30], [7, 41]])
    cotangent = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)

    def loss(params):
        out = LoFTR(SMALL).apply({**variables, "params": params}, *small, ids=ids)
        return (out.expec_f * cotangent).sum() + jnp.log(out.mconf).sum()

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables["params"]), sep="/")
    assert all(np.isfinite(g).all() for g in gradients.values())
    assert [name for name, g in gradients.items() if not np.any(g)] == []


def test_training_updates_the_statistics_and_nothing_else(state, images):
    variables = flax_variables(state, SMALL)
    small = [image[:, :64, :80] for image in images]
    training = jax.jit(partial(LoFTR(SMALL).apply, train=True, mutable=["batch_stats"]))
    _, new = training(variables, *small)
    before, after = (traverse_util.flatten_dict(tree["batch_stats"]) for tree in (variables, new))
    assert before.keys() == after.keys()
    assert all(np.abs(before[path] - after[path]).max() > 0 for path in before)


def test_bfloat16_is_near_and_capacity_keeps_the_surest(state, images, found):
    half = jax.jit(LoFTR(replace(SMALL, dtype="bfloat16", capacity=4)).apply)(flax_variables(state, SMALL), *images)
    assert half.mkpts1.dtype == half.conf_matrix.dtype == jnp.float32
    conf, expected = np.asarray(half.conf_matrix), np.asarray(found.conf_matrix)
    assert np.abs(conf - expected)[expected > 0.5].mean() < 0.2
    assert half.mconf.shape == (4,)
    assert half.found > 4
    best = np.sort(np.asarray(found.mconf))[-4:]
    np.testing.assert_allclose(np.sort(half.mconf), best, atol=0.2)


def test_initial_variables_are_those_of_a_checkpoint(state):
    shapes = jax.eval_shape(LoFTR(SMALL).init, jax.random.key(0), *[jnp.zeros((1, 32, 40, 1))] * 2)
    ours, theirs = (traverse_util.flatten_dict(dict(tree)) for tree in (shapes, flax_variables(state, SMALL)))
    assert {path: leaf.shape for path, leaf in ours.items()} == {path: leaf.shape for path, leaf in theirs.items()}


@pytest.mark.parametrize(
    "config",
    [
        LoFTRConfig.outdoor_ds(),
        LoFTRConfig.indoor_ot(),
        LoFTRConfig(separate_sublayers=True),
        LoFTRConfig(fine=False, coarse_layers=("self", "cross") * 2),
        LoFTRConfig(resolution=(16, 4), block_dims=(64, 128, 256, 512), fine_concat_coarse=False),
    ],
    ids=["ds", "ot", "separate", "coarse only", "16 4"],
)
def test_config_is_read_from_shapes_with_any_prefix(config):
    shapes = jax.eval_shape(LoFTR(config).init, jax.random.key(0), *[jnp.zeros((1, 32, 48, 1))] * 2)
    leaves = traverse_util.flatten_dict(dict(shapes), sep="/")
    assert LoFTRConfig.from_checkpoint(leaves) == config
    assert LoFTRConfig.from_checkpoint({f"matcher/{name}": leaf for name, leaf in leaves.items()}) == config


def test_config_from_torch_keys_and_facts(state):
    torch_keys = {f"matcher.{key}": value for key, value in state.items()}
    facts = {"heads": 4, "threshold": 1e-3, "attention": "full", "coarse_layers": ["self", "self"]}
    assert LoFTRConfig.from_checkpoint(torch_keys, facts) == replace(
        SMALL, attention="full", coarse_layers=("self", "self")
    )
    with pytest.raises(ValueError, match="no such fact of a LoFTR: nhead"):
        LoFTRConfig.from_checkpoint(torch_keys, {"nhead": 4})
    with pytest.raises(ValueError, match="hold no LoFTR backbone"):
        LoFTRConfig.from_checkpoint({"fc.weight": np.zeros((2, 2))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": (4, 2)}, "resolution is"),
        ({"resolution": (16, 4)}, "has 4 levels, block_dims names 3"),
        ({"heads": 7}, "7 heads do not divide the coarse width 256"),
        ({"fine_window": 4}, "odd, not 4"),
    ],
)
def test_config_refuses_what_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        LoFTRConfig(**changes)


def test_reference_lists_keys_that_do_not_fit(state):
    wrong = {key: value for key, value in state.items() if key != "backbone.bn1.bias"} | {"extra": np.zeros(1)}
    with pytest.raises(ValueError, match=r"(?s)- backbone\.bn1\.bias.*\+ extra"):
        TorchLoFTR(wrong, SMALL)


def test_flax_side_imports_no_torch():
    code = "import sys, loftr2flax.models.loftr.stages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            ((1, 1, 64, 80), (1, 64, 80, 1)),
            r"image0 is \[B, H, W, 1\], grey with the channel last, not \[1, 1, 64, 80\]",
        ),
        (((1, 64, 80, 1), (2, 64, 80, 1)), "hold 1 and 2 images"),
    ],
)
def test_images_of_another_layout_are_refused(state, shapes, message):
    with pytest.raises(ValueError, match=message):
        LoFTR(SMALL).apply(flax_variables(state, SMALL), *(np.zeros(shape, np.float32) for shape in shapes))
