"""Each kind that ships, proved by its torch and its Flax layer on the same input."""

import itertools

import jax
import numpy as np
import pytest
import torch
from flax import linen
from round_trip import carry, mapping_of, nested, state_of, there_and_back

from loftr2flax.errors import MappingMismatch
from loftr2flax.mapping.kinds import shipped_kinds

# Sums of at most 120 products of numbers near 1, in another order: about sqrt(120) roundings of 6e-8 each.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
_IN, _OUT = 6, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def _outputs(kind, torch_layer, flax_layer, x, *, channels_last):
    """Both layers' outputs, torch's with its channels moved last."""
    text = f"mapping: kind/1\ntarget: {{tree: variables}}\n{kind}:\n  layer: layer\n"
    leaves = there_and_back(text, state_of(torch_layer))
    variables = {name: nest["layer"] for name, nest in nested(leaves).items()}
    with torch.no_grad():
        wanted = torch_layer(torch.from_numpy(x)).numpy()
    given = np.moveaxis(x, 1, -1) if channels_last else x
    found = jax.jit(flax_layer.apply)(variables, given)
    return np.asarray(found), np.moveaxis(wanted, 1, -1) if channels_last else wanted


def _input(*shape):
    return np.random.default_rng(3).standard_normal(shape, np.float32)


def test_dense():
    for bias in (True, False):
        layer = torch.nn.Linear(_IN, _OUT, bias)
        pair = _outputs("dense", layer, linen.Dense(_OUT, use_bias=bias), _input(5, _IN), channels_last=False)
        np.testing.assert_allclose(*pair, **CLOSE)


def _strict():
    """Kinds that say whether there is a bias, each with its layers, and with torch's other layer."""
    window = (3, 2)
    conv = linen.Conv(_OUT, window, padding="VALID", use_bias=False)
    with_bias, without = torch.nn.Linear(_IN, _OUT), torch.nn.Linear(_IN, _OUT, bias=False)
    norm, bare = torch.nn.LayerNorm(_IN), torch.nn.LayerNorm(_IN, bias=False)
    for tensor in (norm.weight, norm.bias):
        torch.nn.init.normal_(tensor)
    conv2d, other = (torch.nn.Conv2d(_IN, _OUT, window, bias=bias) for bias in (False, True))
    return {
        "dense_with_bias": (with_bias, linen.Dense(_OUT), without),
        "dense_without_bias": (without, linen.Dense(_OUT, use_bias=False), with_bias),
        "conv_without_bias": (conv2d, conv, other),
        "norm_with_bias": (norm, linen.LayerNorm(epsilon=1e-5), bare),
    }


@pytest.mark.parametrize("kind", ["dense_with_bias", "dense_without_bias", "conv_without_bias", "norm_with_bias"])
def test_kinds_that_say_whether_there_is_a_bias(kind):
    layer, flax_layer, other = _strict()[kind]
    convolves = kind.startswith("conv")
    x = _input(2, _IN, 5, 4) if convolves else _input(5, _IN)
    np.testing.assert_allclose(*_outputs(kind, layer, flax_layer, x, channels_last=convolves), **CLOSE)
    with pytest.raises(MappingMismatch) as caught:
        there_and_back(f"mapping: kind/1\n{kind}:\n  layer: layer\n", state_of(other))
    (fault,) = caught.value.faults
    assert fault.message.startswith(f"{'left over:' if 'without' in kind else 'missing tensor'} layer.bias")


@pytest.mark.parametrize("window", [(3,), (3, 2), (2, 3, 4)])
def test_conv(window):
    layer = getattr(torch.nn, f"Conv{len(window)}d")(_IN, _OUT, window)
    x = _input(2, _IN, 7, 8, 9)[(..., *[0] * (3 - len(window)))]
    pair = _outputs("conv", layer, linen.Conv(_OUT, window, padding="VALID"), x, channels_last=True)
    np.testing.assert_allclose(*pair, **CLOSE)


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize(
    ("window", "strides"), [((3,), (2,)), ((3, 2), (1, 2)), ((3, 3), (2, 2)), ((2, 3, 4), (1, 2, 3))]
)
def test_conv_transpose(window, strides, transpose_kernel):
    layer = getattr(torch.nn, f"ConvTranspose{len(window)}d")(_IN, _OUT, window, strides)
    flax_layer = linen.ConvTranspose(_OUT, window, strides, padding="VALID", transpose_kernel=transpose_kernel)
    x = _input(2, _IN, 5, 6, 7)[(..., *[0] * (3 - len(window)))]
    kind = "conv_transpose_kernel" if transpose_kernel else "conv_transpose"
    np.testing.assert_allclose(*_outputs(kind, layer, flax_layer, x, channels_last=True), **CLOSE)


@pytest.mark.parametrize(("transpose_kernel", "right"), [(False, "[-h -w i o]"), (True, "[h w o i]")])
def test_one_of_eight_square_layouts_is_right(transpose_kernel, right):
    """A shape cannot tell them apart: windows and channels are square here."""
    layer = torch.nn.ConvTranspose2d(_IN, _IN, (3, 3), (2, 2))
    flax_layer = linen.ConvTranspose(_IN, (3, 3), (2, 2), padding="VALID", transpose_kernel=transpose_kernel)
    apply = jax.jit(flax_layer.apply)
    x = _input(2, _IN, 5, 6)
    with torch.no_grad():
        wanted = np.moveaxis(layer(torch.from_numpy(x)).numpy(), 1, -1)
    agree = []
    for flip, window, channels in itertools.product("-.", ("h w", "w h"), ("i o", "o i")):
        window = " ".join(flip.replace(".", "") + axis for axis in window.split())
        text = f"mapping: t/1\ntensors:\n  layer.weight [i o h w]: kernel [{window} {channels}]\n  layer.bias: bias\n"
        plan, tree = carry(mapping_of(text), state_of(layer))
        assert "kernel" in [move.leaf for move in plan.blind], "and it is in the blind list"
        found = np.asarray(apply({"params": tree}, np.moveaxis(x, 1, -1)))
        assert found.shape == wanted.shape
        if np.allclose(found, wanted, **CLOSE):
            agree.append(f"[{window} {channels}]")
    assert agree == [right]


def test_norms():
    x = _input(5, 6)
    layer = torch.nn.LayerNorm(6)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    pair = _outputs("norm", layer, linen.LayerNorm(epsilon=1e-5), x, channels_last=False)
    np.testing.assert_allclose(*pair, **CLOSE)
    layer = torch.nn.GroupNorm(3, 6)
    torch.nn.init.normal_(layer.weight)
    pair = _outputs("norm", layer, linen.GroupNorm(3, epsilon=1e-5), _input(2, 6, 7), channels_last=True)
    np.testing.assert_allclose(*pair, **CLOSE)
    layer = torch.nn.RMSNorm(6, eps=1e-5)
    torch.nn.init.normal_(layer.weight)
    pair = _outputs("norm", layer, linen.RMSNorm(epsilon=1e-5), x, channels_last=False)
    np.testing.assert_allclose(*pair, **CLOSE)


def test_batch_norm():
    layer = torch.nn.BatchNorm2d(6)
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(layer.running_var, 0.5, 2.0)
    layer.eval()
    flax_layer = linen.BatchNorm(use_running_average=True, epsilon=1e-5)
    pair = _outputs("batch_norm", layer, flax_layer, _input(2, 6, 3, 4), channels_last=True)
    np.testing.assert_allclose(*pair, **CLOSE)


def test_embedding():
    layer = torch.nn.Embedding(9, 4)
    tree = there_and_back("mapping: e/1\nembedding: {layer: layer}\n", state_of(layer))
    rows = np.array([[0, 8, 3]])
    found = linen.Embed(9, 4).apply({"params": nested(tree)["layer"]}, rows)
    np.testing.assert_array_equal(np.asarray(found), layer(torch.from_numpy(rows)).detach().numpy())


def test_every_kind_is_proved_here():
    proved = {"dense", "conv", "conv_transpose", "conv_transpose_kernel", "norm", "batch_norm", "embedding"}
    assert proved | set(_strict()) == set(shipped_kinds())
