"""Each piece of the Flax LoFTR against torch's, or against the formula in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.feature.loftr.loftr_module.linear_attention import FullAttention, LinearAttention
from kornia.feature.loftr.utils.position_encoding import PositionEncodingSine

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.models.loftr.attention import full_attention, linear_attention, merged_linear_attention
from loftr2flax.models.loftr.backbone import upsample_twice
from loftr2flax.models.loftr.fine import expectation
from loftr2flax.models.loftr.layers import BatchNorm, Convolution
from loftr2flax.models.loftr.matching import (
    CoarseMatching,
    dual_softmax,
    first_best,
    mutual_nearest,
    off_border,
    optimal_transport,
    select,
)
from loftr2flax.models.loftr.position import add_position
from loftr2flax.models.loftr.transformer import EncoderLayer
from loftr2flax.models.loftr.windows import windows
from loftr2flax.models.loftr.winograd import in_pairs_of_rows

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(5, 8), (1, 3), (2, 1), (30, 40)])
def test_upsampling_aligns_corners(size):
    x = normal(2, *size, 3)
    expected = F.interpolate(nchw(x).double(), scale_factor=2.0, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(upsample_twice(jnp.asarray(x)), nhwc(expected), atol=1e-6)


def test_upsampling_is_not_that_of_jax_image():
    x = normal(1, 5, 8, 3)
    resized = jax.image.resize(x, (1, 10, 16, 3), "bilinear")
    assert np.abs(resized - upsample_twice(jnp.asarray(x))).max() > 0.1


def test_batch_norm_trains_as_torch_does():
    theirs = torch.nn.BatchNorm2d(4)
    with torch.no_grad():
        for tensor in (theirs.weight, theirs.bias, theirs.running_mean):
            tensor.copy_(torch.from_numpy(normal(4)))
        theirs.running_var.copy_(torch.from_numpy(normal(4) ** 2 + 0.5))
    variables = {
        "params": {"scale": theirs.weight.detach().numpy().copy(), "bias": theirs.bias.detach().numpy().copy()},
        "batch_stats": {"mean": theirs.running_mean.numpy().copy(), "var": theirs.running_var.numpy().copy()},
    }
    x = 3 * normal(2, 3, 2, 4) + 1
    out, new = BatchNorm().apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(out, nhwc(theirs.train()(nchw(x))), atol=2e-6)
    np.testing.assert_allclose(new["batch_stats"]["mean"], theirs.running_mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], theirs.running_var.numpy(), rtol=1e-6)
    stored = BatchNorm().apply({**variables, **new}, jnp.asarray(x))
    np.testing.assert_allclose(stored, nhwc(theirs.eval()(nchw(x))), atol=2e-6)


@pytest.mark.parametrize("temp_bug_fix", [False, True])
def test_position_encoding(temp_bug_fix):
    x = normal(1, 9, 14, 32)
    expected = nhwc(PositionEncodingSine(32, temp_bug_fix=temp_bug_fix)(nchw(x)))
    np.testing.assert_allclose(add_position(jnp.asarray(x), temp_bug_fix), expected, atol=3e-6)
    assert np.abs(add_position(jnp.asarray(x), not temp_bug_fix) - expected).max() > 0.5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cells", [12, 80])  # kornia has two ways, for few and for many cells
def test_linear_attention(masked, cells):
    q, k, v = normal(2, 30, 4, 8), normal(2, cells, 4, 8), normal(2, cells, 4, 8)
    masks = (RNG.random((2, 30)) < 0.7, RNG.random((2, cells)) < 0.7) if masked else (None, None)
    theirs = [None if mask is None else torch.from_numpy(mask) for mask in masks]
    expected = LinearAttention()(*(torch.from_numpy(x).double() for x in (q, k, v)), *theirs)
    np.testing.assert_allclose(linear_attention(q, k, v, *masks), expected, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_linear_attention_with_its_linear_maps_taken_on_the_sums(masked):
    q, k, source = normal(2, 70, 4, 8), normal(2, 90, 4, 8), normal(2, 90, 32)
    to_values, to_merged = normal(32, 32) / 6, normal(32, 32) / 6
    masks = (RNG.random((2, 70)) < 0.7, RNG.random((2, 90)) < 0.7) if masked else (None, None)
    theirs = [None if mask is None else torch.from_numpy(mask) for mask in masks]
    q64, k64, source64, values64, merged64 = (
        torch.from_numpy(x).double() for x in (q, k, source, to_values, to_merged)
    )
    message = LinearAttention()(q64, k64, (source64 @ values64).reshape(2, 90, 4, 8), *theirs)
    expected = message.reshape(2, 70, 32) @ merged64
    np.testing.assert_allclose(
        merged_linear_attention(q, k, source, to_values, to_merged, *masks), expected, atol=1e-6
    )  # numbers of about 0.3


def test_an_encoder_layer_is_the_same_function_with_few_and_with_many_cells():
    config = LoFTRConfig(block_dims=(16, 24, 32), heads=4, dtype="float64")
    with jax.enable_x64(True):
        x, source = normal(2, 63, 32).astype(np.float64), normal(2, 65, 32).astype(np.float64)
        layer = EncoderLayer(config)
        variables = layer.init(jax.random.key(0), x, source)
        many = layer.apply(variables, x, source)  # 63 + 65 = 4 · 32
        few = layer.apply(variables, x[:, :-1], source)
        np.testing.assert_allclose(many[:, :-1], few, rtol=1e-11, atol=1e-11)


def conv(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """torch's convolution, padded by one."""
    return nhwc(F.conv2d(nchw(x), torch.from_numpy(kernel.transpose(3, 2, 0, 1)).contiguous(), padding=1))


@pytest.mark.parametrize("height", [1, 2, 7, 12])
def test_rows_in_pairs_are_the_convolution(height):
    x, kernel = normal(2, height, 9, 5).astype(np.float64), normal(3, 3, 5, 6).astype(np.float64)
    with jax.enable_x64(True):
        np.testing.assert_allclose(in_pairs_of_rows(x, kernel), conv(x, kernel), rtol=1e-12, atol=1e-12)


def test_rows_in_pairs_round_no_worse_than_the_plain_convolution():
    x, kernel = normal(1, 30, 41, 128), normal(3, 3, 128, 64) / 34
    exact = conv(x.astype(np.float64), kernel.astype(np.float64))
    plain = Convolution(64, 3, 1, "float32").apply({"params": {"kernel": kernel}}, x, train=True)
    ours = in_pairs_of_rows(x, kernel)
    assert not np.array_equal(ours, plain)
    errors = [np.sqrt(np.square(np.asarray(y, np.float64) - exact).mean()) for y in (ours, plain)]
    assert errors[0] < 1.5 * errors[1]


def test_rows_go_in_pairs_where_that_costs_no_digits_and_no_memory():
    def pairs(dtype: str = "float32", stride: int = 1, size: int = 3, train: bool = False) -> bool:
        layer = Convolution(6, size, stride, dtype)
        variables = {"params": {"kernel": np.zeros((size, size, 5, 6), np.float32)}}
        return "platform_index" in str(jax.make_jaxpr(lambda x: layer.apply(variables, x, train))(normal(1, 8, 9, 5)))

    assert pairs()
    assert not any([pairs(dtype="bfloat16"), pairs(stride=2), pairs(size=7), pairs(train=True)])


def test_full_attention():
    q, k, v = normal(2, 30, 4, 8), normal(2, 12, 4, 8), normal(2, 12, 4, 8)
    expected = FullAttention()(*(torch.from_numpy(x).double() for x in (q, k, v)))
    np.testing.assert_allclose(full_attention(q, k, v), expected, atol=1e-6)


def test_full_attention_masks_keys_as_upstream_and_gives_zero_where_upstream_has_nan():
    q, k, v = normal(1, 5, 2, 8), normal(1, 6, 2, 8), normal(1, 6, 2, 8)
    q_mask, kv_mask = np.arange(5)[None] < 4, np.arange(6)[None] < 3
    theirs = FullAttention()(*map(torch.from_numpy, (q, k, v)), torch.from_numpy(q_mask), torch.from_numpy(kv_mask))
    ours = full_attention(q, k, v, q_mask, kv_mask)
    np.testing.assert_allclose(ours[:, :4], theirs[:, :4], atol=1e-6)
    assert torch.isnan(theirs[:, 4]).all()
    assert (ours[:, 4] == 0).all()


def test_dual_softmax_of_similarities_far_apart():
    similarity = 40 * normal(2, 17, 23)
    similarity[0, 3] -= 300  # a row and a column that a common maximum would wipe out
    similarity[1, :, 5] -= 300
    x = torch.from_numpy(similarity).double()
    expected = (F.softmax(x, 1) * F.softmax(x, 2)).numpy()
    np.testing.assert_allclose(dual_softmax(jnp.asarray(similarity)), expected, rtol=2e-5, atol=1e-30)


def test_optimal_transport_is_the_formula_in_float64():
    """Against Sinkhorn's iteration on the kernel itself, without logarithms."""
    similarity, alpha = normal(2, 7, 9), 0.7
    plan = optimal_transport(jnp.asarray(similarity), jnp.float32(alpha), 3)
    for scores, ours in zip(similarity.astype(np.float64), plan, strict=True):
        kernel = np.exp(np.pad(scores, ((0, 1), (0, 1)), constant_values=alpha))
        mu, nu = np.append(np.ones(7), 9) / 16, np.append(np.ones(9), 7) / 16
        b = np.ones(10)
        for _ in range(3):
            a = mu / (kernel @ b)
            b = nu / (kernel.T @ a)
        np.testing.assert_allclose(ours, 16 * a[:, None] * kernel * b, rtol=1e-5)


@pytest.mark.parametrize("matching", ["dual_softmax", "sinkhorn"])
def test_confidence_is_zero_at_padding_and_never_nan(matching):
    module = CoarseMatching(LoFTRConfig(matching=matching))
    variables = {"params": {"bin_score": jnp.float32(1)}} if matching == "sinkhorn" else {}
    mask0, mask1 = np.arange(12)[None] < 5, np.zeros((1, 9), bool)  # image 1 is all padding
    assert (module.apply(variables, normal(1, 12, 16), normal(1, 9, 16), mask0, mask1) == 0).all()
    conf = module.apply(variables, normal(1, 12, 16), normal(1, 9, 16), mask0)
    assert (conf[:, 5:] == 0).all()
    assert (conf[:, :5] > 0).all()


def test_windows_are_those_of_unfold():
    fine = normal(2, 11, 14, 6)  # coarse map 3 × 4
    batch, cells = np.array([0, 1, 1, 0]), np.array([0, 11, 6, 3])
    unfolded = F.unfold(nchw(fine), 5, stride=4, padding=2)  # [B, C · w², L], channels before window positions
    expected = unfolded.reshape(2, 6, 25, 12).permute(0, 3, 2, 1)[batch, cells]
    np.testing.assert_array_equal(windows(jnp.asarray(fine), batch, cells, 4, 4, 5), expected)


def test_expectation_of_a_sharp_window_is_its_peak():
    feat0, feat1 = np.zeros((1, 25, 4), np.float32), np.zeros((1, 25, 4), np.float32)
    feat0[0, 12], feat1[0, 8] = 40, 40  # row 1, column 3
    np.testing.assert_allclose(expectation(feat0, feat1), [[0.5, -0.5, 2e-5]], atol=1e-6)
    gradient = jax.grad(lambda x: expectation(feat0, x).sum())(jnp.asarray(feat1))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("scale", [1, 10, 100])
def test_the_deviation_keeps_its_digits_in_windows_that_are_sure(scale):
    """E[x²] - E[x]² is off by up to 96 % at the larger two. Similarities up to 300 leave a probability 2e-5 off."""
    feat0, feat1 = scale * normal(300, 25, 24), normal(300, 25, 24)
    similarity = np.einsum("mc,mrc->mr", feat0[:, 12].astype(float), feat1.astype(float)) / 24**0.5
    heatmap = np.exp(similarity - similarity.max(1, keepdims=True))
    heatmap /= heatmap.sum(1, keepdims=True)
    axis = np.linspace(-1, 1, 5)
    grid = np.stack([np.tile(axis, 5), np.repeat(axis, 5)], -1)
    distance = grid - (heatmap @ grid)[:, None]
    variance = (heatmap[:, :, None] * distance**2).sum(1)
    expected = np.sqrt(np.maximum(variance, 1e-10)).sum(1)
    made = np.asarray(jax.jit(expectation)(feat0, feat1))[:, 2]
    np.testing.assert_allclose(made, expected, rtol=1e-4 if scale == 100 else 1e-5)
    assert (expected.min() < 1e-3) == (scale > 1)


def test_border_is_that_of_the_image_inside_its_padding():
    mask = np.zeros((1, 6, 8), bool)
    mask[:, :5, :7] = True
    kept = np.asarray(off_border(6, 8, 2, mask.reshape(1, -1))).reshape(6, 8)
    assert [tuple(cell) for cell in np.argwhere(kept)] == [(2, 2), (2, 3), (2, 4)]
    assert np.asarray(off_border(6, 8, 2, None)).sum() == 2 * 4
    assert np.asarray(off_border(6, 8, 0, None)).all()


def test_matches_are_mutual_and_above_the_threshold_and_inside():
    conf = np.array([[[0.9, 0.1, 0.0], [0.95, 0.3, 0.0], [0.0, 0.0, 0.1], [0.0, 0.5, 0.0]]], np.float32)
    everywhere = np.ones((1, 4), bool), np.ones((1, 3), bool)
    cell, best, match = mutual_nearest(jnp.asarray(conf), *everywhere, 0.2)
    assert match.tolist() == [[False, True, False, True]]  # row 0 loses column 0 to row 1, row 2 is below the threshold
    assert cell.tolist() == [[0, 0, 2, 1]]
    np.testing.assert_array_equal(best, conf.max(2))
    inside = np.array([[True, False, True]])
    assert mutual_nearest(jnp.asarray(conf), everywhere[0], inside, 0.2)[2].tolist() == [[False, True, False, False]]
    assert not mutual_nearest(jnp.zeros((1, 4, 3)), *everywhere, -1.0)[2].any()  # zero is no confidence


def test_selection_keeps_order_and_when_full_the_surest():
    cell = jnp.asarray([[5, 6, 7], [8, 9, 4]])
    confidence = jnp.asarray([[0.3, 0.0, 0.5], [0.4, 0.9, 0.8]])
    match = jnp.asarray([[True, False, True], [True, False, True]])
    ids, conf, valid = select(cell, confidence, match, None)
    assert valid.tolist() == [True] * 4 + [False] * 2
    assert ids[:, :4].tolist() == [[0, 0, 1, 1], [0, 2, 0, 2], [5, 7, 8, 4]]
    assert not ids[:, 4:].any()
    assert conf[:4].tolist() == pytest.approx([0.3, 0.5, 0.4, 0.8])
    ids, conf, valid = select(cell, confidence, match, 2)
    assert valid.tolist() == [True, True]
    assert ids.tolist() == [[0, 1], [2, 2], [7, 4]]


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 200])
def test_first_best_is_argmax_also_where_there_is_a_draw(columns):
    confidence = RNG.integers(0, 9, (2, 30, columns)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(first_best)(confidence), confidence.argmax(2))
