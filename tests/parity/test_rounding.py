"""Torch's sums in plain order: what a right port is measured by, whatever library torch was built with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kornia.feature import LoFTR as KorniaLoFTR

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.models.loftr.reference import TorchLoFTR, kornia_config
from loftr2flax.parity.judge import LIMIT, Rounding
from loftr2flax.parity.loftr import rounding
from loftr2flax.parity.loftr.rounding import SIMILARITIES, InOrder

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("rows", "terms", "columns"), [(7, 512, 40), (60, 300, 9), (1, 64, 130)])
def test_a_dense_layer_adds_one_product_after_another(rows, terms, columns):
    layer = torch.nn.Linear(terms, columns)
    x = RNG.standard_normal((2, rows, terms)).astype(np.float32)
    with torch.no_grad(), InOrder():
        made = layer(torch.from_numpy(x)).numpy()
    total = np.zeros((2, rows, columns), np.float32)
    weight, bias = (value.detach().numpy() for value in (layer.weight, layer.bias))
    for k in range(terms):
        total += x[:, :, k, None] * weight[:, k]
    np.testing.assert_array_equal(made, total + bias)


@pytest.mark.parametrize("spelling", SIMILARITIES)
def test_a_similarity_adds_one_product_after_another(spelling):
    one, other = (RNG.standard_normal((2, cells, 300)).astype(np.float32) for cells in (7, 9))
    with InOrder():
        made = torch.einsum(spelling, torch.from_numpy(one), torch.from_numpy(other)).numpy()
    total = np.zeros((2, 7, 9), np.float32)
    for k in range(300):
        total += one[:, :, None, k] * other[:, None, :, k]
    np.testing.assert_array_equal(made, total)


@pytest.mark.parametrize("matching", ["dual_softmax", "sinkhorn"])
def test_the_similarities_of_the_network_are_spelled_so(matching, monkeypatch):
    """Kornia may come to spell them otherwise, and then they would be left to its library again, unseen."""
    config = LoFTRConfig(block_dims=(16, 24, 32), heads=4, coarse_layers=("self", "cross"), matching=matching)
    state = KorniaLoFTR(pretrained=None, config=kornia_config(config)).state_dict()
    more = {"coarse_matching.bin_score": torch.tensor(0.7)} if matching == "sinkhorn" else {}
    network = TorchLoFTR({**state, **more}, config)
    given = {}
    for side, grid in enumerate([(4, 5), (4, 6)]):
        given[f"pos_encoding/{side}"] = np.zeros((1, *grid, 32), np.float32)
        given[f"loftr_coarse/layers.1/{side}"] = RNG.standard_normal((1, math.prod(grid), 32)).astype(np.float32)
    shapes = []
    linear = rounding._linear
    monkeypatch.setattr(rounding, "_linear", lambda *xs: shapes.append(xs[1].shape) or linear(*xs))
    with torch.no_grad(), InOrder():
        network.stage("conf_matrix", given)
    assert shapes == [(24, 32)]


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": (1, 2), "bias": False}]
)
def test_a_convolution_is_a_product_of_matrices(options):
    layer = torch.nn.Conv2d(150, 9, 3, **options)
    x = torch.from_numpy(RNG.standard_normal((2, 150, 8, 11)).astype(np.float32))
    geometry = {name: value for name, value in options.items() if name != "bias"}
    with torch.no_grad():
        exact = layer.double()(x.double())
        patches = torch.stack([torch.nn.functional.unfold(image[None], 3, **geometry)[0] for image in x])
        sums = torch.stack([layer.float().weight.flatten(1) @ columns for columns in patches]).reshape(exact.shape)
        with InOrder():
            made = layer(x)
    assert torch.equal(made, sums if layer.bias is None else sums + layer.bias[:, None, None])
    torch.testing.assert_close(made.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"groups": 3}, {"padding": "same"}])
def test_convolutions_of_other_kinds_are_left_to_torch(options):
    layer = torch.nn.Conv2d(6, 9, 3, **options)
    x = torch.from_numpy(RNG.standard_normal((2, 6, 8, 11)).astype(np.float32))
    with torch.no_grad():
        expected = layer(x)
        with InOrder():
            assert torch.equal(layer(x), expected)


def test_sums_in_float64_are_left_to_torch():
    layer = torch.nn.Linear(300, 9).double()
    x = torch.from_numpy(RNG.standard_normal((5, 300)))
    with torch.no_grad():
        expected = layer(x), torch.einsum(SIMILARITIES[0], x[None], x[None])
        with InOrder():
            assert torch.equal(layer(x), expected[0])
            assert torch.equal(torch.einsum(SIMILARITIES[0], x[None], x[None]), expected[1])


def test_a_port_that_adds_in_order_is_measured_by_that_order():
    """Torch sums in blocks and rounds less: alone it would leave a right port little of the limit."""
    layer = torch.nn.Linear(512, 256, bias=False)
    x = torch.from_numpy(RNG.standard_normal((200, 512)).astype(np.float32))
    with torch.no_grad():
        exact = (x.double() @ layer.weight.double().T).numpy()
        single = layer(x).numpy()
        with InOrder():
            plain = layer(x).numpy()
    theirs, in_order = (Rounding.of(made, exact) for made in (single, plain))
    assert in_order.rmse > theirs.rmse
    assert Rounding.widest([theirs, in_order]).rmse == in_order.rmse
    assert in_order.rmse < LIMIT * 2 * theirs.rmse  # and no more than a port may: a mistake has no room in it


def test_the_widest_of_several_and_nan_wins():
    one, other = Rounding(1.0, 50.0, 9.0), Rounding(2.0, 200.0, 3.0)
    assert Rounding.widest([one, other]) == Rounding(2.0, 200.0, 9.0)
    assert math.isnan(Rounding.widest([one, Rounding(math.nan, math.inf, math.nan)]).rmse)
