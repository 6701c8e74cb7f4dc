"""Mappings for other models, as a user would write them: bit for bit there and back, in memory and through files."""

import re

import jax
import numpy as np
import pytest
import torch
from flax import linen
from round_trip import carry, distinct, mapping_of, nested, state_of, there_and_back, through_files

from loftr2flax.errors import CopiesDiffer, MappingError
from loftr2flax.mapping import mappings_folder

MHA = """
mapping: mha/1
index: {p: [query, key, value]}
let: {h: 3}
tensors:
  attn.in_proj_weight [(p h d) c]:   attn/{p}/kernel [c h d]
  attn.in_proj_bias [(p h d)]:       attn/{p}/bias [h d]
  attn.out_proj.weight [c (h d)]:    attn/out/kernel [h d c]
  attn.out_proj.bias [c]:            attn/out/bias [c]
"""
MHA_KIND = """
mapping: encoder/1
index: {l: 0.., p: [query, key, value]}
let: {h: 3}
kinds:
  mha:
    .in_proj_weight [(p h d) c]:   /{p}/kernel [c h d]
    .in_proj_bias [(p h d)]:       /{p}/bias [h d]
    .out_proj.weight [c (h d)]:    /out/kernel [h d c]
    .out_proj.bias [c]:            /out/bias [c]
mha:
  blocks.{l}.attn: blocks_{l}/attn
dense:
  blocks.{l}.fc: blocks_{l}/fc
"""
SCAN_PAIRS = """
mapping: pairs/1
index: {j: 0.., k: [0, 1]}
tensors:
  layers.{2*j+k}.merge.weight [o i]: layers/{k}/merge/kernel [j i o]
"""
FUSED = """
mapping: fused/1
index: {i: 0.., p: [q, k, v]}
let: {h: 2}
tensors:
  layers.{i}.{p}_proj.weight [(h d) c]: layers_{i}/qkv/kernel [c p h d]
"""
RAGGED = """
mapping: gqa/1
index: {p: [query, key, value]}
let: {h: {query: 8, key: 2, value: 2}, d: 3}
tensors:
  attn.qkv.weight [(p h d) c]: attn/{p}/kernel [c h d]
"""
RAGGED_KEPT = """
mapping: gqa/1
index: {p: [query, key, value]}
let: {h: {query: 8, key: 2, value: 2}}
tensors:
  attn.qkv.weight [(p h d) c]: attn/qkv/kernel [c (p h -d)]
"""
RAGGED_REVERSED = """
mapping: gqa/1
index: {p: [query, key, value]}
let: {h: {query: 8, key: 2, value: 2}}
tensors:
  attn.{p}.weight [(h d) c]: attn/vkq/kernel [c (-p d h)]
"""
STACKED = """
mapping: stacked/1
index: {l: 0..}
tensors:
  blocks.{l}.fc.weight [o i]: blocks/fc/kernel [l i o]
  blocks.{l}.fc.bias [o]:     blocks/fc/bias [o l]
"""
STACKED_REVERSED = """
mapping: stacked/1
index: {l: 0..}
tensors:
  blocks.{l}.fc.weight [o i]: blocks/fc/kernel [-l i o]
"""
SPLIT = """
mapping: split/1
index: {l: 0..}
tensors:
  blocks.weight [l o i]: blocks_{l}/kernel [i o]
"""
ODDS = """
mapping: odds/1
tensors:
  flipped [a b]:      flipped [b -a]
  window [o i ...]:   window [... i o]
  mirrored [o ...]:   mirrored [-... o]
  ones [1 c 1]:       ones [c]
  made [c]:           made [1 c 1]
  merged [(a b) c]:   merged [(a -b) c]
  as it is:           as_it_is
let: {a: 3}
""".replace("as it is", "as.it.is")
OPTIONAL = """
mapping: optional/1
index: {i: 0..}
dense:
  layers.{i}.fc: layers_{i}/fc
  head?: head
norm:
  head_norm?: head_norm
tensors:
  scale? []: scale []
  layers.{i}.gamma? [c]: layers_{i}/gamma [c]
"""
ALTERNATIVES = """
mapping: alternatives/1
let: {c: 4}
tensors:
  w [o c]: kernel [c o]
alternatives:
  bias:
    as stored:
      tensors: {"b [c]": "bias [c]"}
    none:
      fill: {"bias [c]": 0.0}
"""
DROPS = """
mapping: drops/1
index: {i: 0..}
let: {n: 3}
dense:
  layers.{i}.fc: layers_{i}/fc
drop:
  layers.{i}.steps []: 0
  mask? [n]: {value: 1, dtype: uint8}
  table:
fill:
  layers_{i}/temperature [1 n]: 0.5
"""


def _layers(count, **leaves):
    return {
        f"layers.{i}.{name}": array + np.asarray(i, array.dtype) for i in range(count) for name, array in leaves.items()
    }


CASES = {
    "fused qkv with heads": (
        FUSED,
        {
            f"layers.{i}.{p}_proj.weight": distinct(6, 5, start=100 * i + 30 * n)
            for i in (0, 1)
            for n, p in enumerate("qkv")
        },
        {"layers_0/qkv/kernel": (5, 3, 2, 3), "layers_1/qkv/kernel": (5, 3, 2, 3)},
    ),
    "ragged qkv": (
        RAGGED,
        {"attn.qkv.weight": distinct(36, 5)},
        {"attn/query/kernel": (5, 8, 3), "attn/key/kernel": (5, 2, 3), "attn/value/kernel": (5, 2, 3)},
    ),
    "ragged qkv kept together": (RAGGED_KEPT, {"attn.qkv.weight": distinct(36, 5)}, {"attn/qkv/kernel": (5, 36)}),
    "ragged qkv in reversed order": (
        RAGGED_REVERSED,
        {f"attn.{p}.weight": distinct(3 * h, 5, start=h) for p, h in (("query", 8), ("key", 2), ("value", 2))},
        {"attn/vkq/kernel": (5, 36)},
    ),
    "pairs for nn.scan": (
        SCAN_PAIRS,
        {f"layers.{n}.merge.weight": distinct(4, 3, start=20 * n) for n in range(6)},
        {"layers/0/merge/kernel": (3, 3, 4), "layers/1/merge/kernel": (3, 3, 4)},
    ),
    "stacked layers": (
        STACKED,
        {
            f"blocks.{n}.fc.{x}": a + 50 * n
            for n in range(12)
            for x, a in (("weight", distinct(4, 3)), ("bias", distinct(4)))
        },
        {"blocks/fc/kernel": (12, 3, 4), "blocks/fc/bias": (4, 12)},
    ),
    "stacked in reversed order": (
        STACKED_REVERSED,
        {f"blocks.{n}.fc.weight": distinct(4, 3, start=50 * n) for n in range(5)},
        {"blocks/fc/kernel": (5, 3, 4)},
    ),
    "split layers": (SPLIT, {"blocks.weight": distinct(3, 4, 2)}, {f"blocks_{n}/kernel": (2, 4) for n in range(3)}),
    "odd axes": (
        ODDS,
        {
            "flipped": distinct(3, 2),
            "window": distinct(4, 3, 2, 5),
            "mirrored": distinct(4, 2, 5),
            "ones": distinct(1, 4, 1),
            "made": distinct(4),
            "merged": distinct(6, 2),
            "as.it.is": distinct(2, 3, 1, 2),
        },
        {
            "flipped": (2, 3),
            "window": (2, 5, 3, 4),
            "mirrored": (2, 5, 4),
            "ones": (4,),
            "made": (1, 4, 1),
            "merged": (6, 2),
            "as_it_is": (2, 3, 1, 2),
        },
    ),
    "optional, there": (
        OPTIONAL,
        {
            "layers.0.fc.weight": distinct(4, 3),
            "layers.0.gamma": distinct(4),
            "head.weight": distinct(2, 4),
            "head.bias": distinct(2),
            "scale": distinct(),
        },
        {"layers_0/fc/kernel": (3, 4), "layers_0/gamma": (4,), "head/kernel": (4, 2), "head/bias": (2,), "scale": ()},
    ),
    "optional, absent": (OPTIONAL, {"layers.0.fc.weight": distinct(4, 3)}, {"layers_0/fc/kernel": (3, 4)}),
    "alternative, stored": (ALTERNATIVES, {"w": distinct(3, 4), "b": distinct(4)}, {"kernel": (4, 3), "bias": (4,)}),
    "alternative, filled": (ALTERNATIVES, {"w": distinct(3, 4)}, {"kernel": (4, 3), "bias": (4,)}),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name):
    text, arrays, shapes = CASES[name]
    tree = there_and_back(text, arrays)
    assert {path: array.shape for path, array in tree.items()} == shapes


@pytest.mark.parametrize("name", CASES)
def test_through_files(name, tmp_path):
    text, arrays, _ = CASES[name]
    tree = through_files(text, arrays, tmp_path)
    memory = there_and_back(text, arrays)
    assert {path: array.tobytes() for path, array in tree.items()} == {p: a.tobytes() for p, a in memory.items()}


def test_numbers_land_where_the_line_says():
    """Not only back again, but to the right place: each against plain numpy."""
    w = {p: distinct(6, 5, start=30 * n) for n, p in enumerate("qkv")}
    tree = there_and_back(FUSED, {f"layers.0.{p}_proj.weight": array for p, array in w.items()})
    wanted = np.stack([w[p].T.reshape(5, 2, 3) for p in "qkv"], axis=1)
    np.testing.assert_array_equal(tree["layers_0/qkv/kernel"], wanted)

    qkv = distinct(36, 5)
    tree = there_and_back(RAGGED, {"attn.qkv.weight": qkv})
    np.testing.assert_array_equal(tree["attn/query/kernel"], qkv[:24].T.reshape(5, 8, 3))
    np.testing.assert_array_equal(tree["attn/key/kernel"], qkv[24:30].T.reshape(5, 2, 3))
    np.testing.assert_array_equal(tree["attn/value/kernel"], qkv[30:].T.reshape(5, 2, 3))
    tree = there_and_back(RAGGED_KEPT, {"attn.qkv.weight": qkv})
    np.testing.assert_array_equal(tree["attn/qkv/kernel"], qkv.reshape(12, 3, 5)[:, ::-1].reshape(36, 5).T)
    parts = {p: distinct(3 * h, 5, start=h) for p, h in (("query", 8), ("key", 2), ("value", 2))}
    tree = there_and_back(RAGGED_REVERSED, {f"attn.{p}.weight": array for p, array in parts.items()})
    turned = [parts[p].reshape(-1, 3, 5).transpose(1, 0, 2).reshape(-1, 5) for p in ("value", "key", "query")]
    np.testing.assert_array_equal(tree["attn/vkq/kernel"], np.concatenate(turned).T)

    merge = [distinct(4, 3, start=20 * n) for n in range(6)]
    tree = there_and_back(SCAN_PAIRS, {f"layers.{n}.merge.weight": array for n, array in enumerate(merge)})
    for k in (0, 1):
        np.testing.assert_array_equal(tree[f"layers/{k}/merge/kernel"], np.stack([a.T for a in merge[k::2]]))

    tree = there_and_back(STACKED_REVERSED, {f"blocks.{n}.fc.weight": a for n, a in enumerate(merge)})
    np.testing.assert_array_equal(tree["blocks/fc/kernel"], np.stack([a.T for a in merge])[::-1])

    both = distinct(3, 2)
    tree = there_and_back("mapping: f/1\ntensors:\n  w [-a b]: w [b -a]\n", {"w": both})
    np.testing.assert_array_equal(tree["w"], both.T, "backwards on both sides is not backwards")

    _, arrays, _ = CASES["odd axes"]
    tree = there_and_back(ODDS, arrays)
    np.testing.assert_array_equal(tree["flipped"], arrays["flipped"][::-1].T)
    np.testing.assert_array_equal(tree["window"], arrays["window"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(tree["mirrored"], arrays["mirrored"][:, ::-1, ::-1].transpose(1, 2, 0))
    np.testing.assert_array_equal(tree["merged"], arrays["merged"].reshape(3, 2, 2)[:, ::-1].reshape(6, 2))


@pytest.mark.parametrize("text", [MHA, MHA_KIND], ids=["tensors", "kind"])
def test_multihead_attention_runs_on_both_sides(text, tmp_path):
    torch.manual_seed(7)
    width, heads = 12, 3
    layer = torch.nn.MultiheadAttention(width, heads, batch_first=True)
    torch.nn.init.normal_(layer.in_proj_bias)
    torch.nn.init.normal_(layer.out_proj.bias)
    prefix = "attn." if text is MHA else "blocks.0.attn."
    arrays = state_of(layer, prefix)
    if text is MHA_KIND:
        arrays |= state_of(torch.nn.Linear(width, 5), "blocks.0.fc.")
    tree = nested(through_files(text, arrays, tmp_path))
    params = tree["attn"] if text is MHA else tree["blocks_0"]["attn"]
    assert params["query"]["kernel"].shape == (width, heads, width // heads)
    q, k = (torch.randn(2, length, width) for length in (5, 7))
    with torch.no_grad():
        wanted, _ = layer(q, k, k, need_weights=False)
    flax_layer = linen.MultiHeadDotProductAttention(heads)
    found = flax_layer.apply({"params": params}, q.numpy(), k.numpy(), k.numpy())
    # Four products of width 12 and a softmax, in another order: a few dozen roundings of 6e-8 on numbers near 1.
    np.testing.assert_allclose(np.asarray(found), wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_conv_transpose_runs_on_both_sides(tmp_path):
    torch.manual_seed(7)
    layer = torch.nn.ConvTranspose2d(6, 4, (3, 2), (2, 1))
    tree = through_files("mapping: up/1\nconv_transpose:\n  up.0: up_0\n", state_of(layer, "up.0."), tmp_path)
    x = torch.randn(2, 6, 5, 7)
    with torch.no_grad():
        wanted = layer(x).numpy()
    flax_layer = linen.ConvTranspose(4, (3, 2), (2, 1), padding="VALID")
    found = jax.jit(flax_layer.apply)({"params": nested(tree)["up_0"]}, np.moveaxis(x.numpy(), 1, -1))
    # Sums of at most 36 products, in another order.
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), -1, 1), wanted, rtol=1e-5, atol=1e-5)


def test_drop_and_fill():
    mapping = mapping_of(DROPS)
    arrays = _layers(2, **{"fc.weight": distinct(4, 3), "steps": np.array(7)}) | {"table": distinct(9)}
    plan, tree = carry(mapping, arrays)
    assert sorted(plan.dropped) == ["layers.0.steps", "layers.1.steps", "table"]
    filled = tree["layers_1/temperature"]
    assert (filled.shape, filled.dtype, filled.min(), filled.max()) == ((1, 3), np.float32, 0.5, 0.5)
    assert mapping.file_class == "one-way"
    plan, back = carry(mapping, tree, "reverse")
    assert sorted(plan.dropped) == ["layers_0/temperature", "layers_1/temperature"]
    assert "table" not in back, "a drop without a value has no way back"
    assert (back["layers.1.steps"], back["layers.1.steps"].dtype) == (0, np.int64)
    assert (back["mask"].tolist(), back["mask"].dtype) == ([1, 1, 1], np.uint8)
    np.testing.assert_array_equal(back["layers.1.fc.weight"], arrays["layers.1.fc.weight"])


def test_dropped_values_come_back_through_files(tmp_path):
    arrays = _layers(2, **{"fc.weight": distinct(4, 3), "steps": np.array(7)}) | {"table": distinct(9)}
    through_files(DROPS, arrays, tmp_path)


def test_dtype_casts_floating_leaves_alone():
    arrays = _layers(1, **{"fc.weight": distinct(4, 3), "steps": np.array(7)}) | {"table": distinct(9)}
    plan, tree = carry(mapping_of(DROPS), arrays, dtype="bfloat16")
    assert {str(array.dtype) for array in tree.values()} == {"bfloat16"}
    assert {plan.line_class(move) for move in plan.moves if move.pieces} == {"approximate"}
    plan, _ = carry(mapping_of(DROPS), arrays)
    assert {plan.line_class(move) for move in plan.moves} == {"exact"}


def test_copies_are_compared_bit_for_bit_and_can_be_chosen():
    text = "mapping: t/1\ntied: {j: [a, b]}\ndense:\n  fc: fc_{j}\n"
    mapping = mapping_of(text)
    nan = np.full((4, 3), np.nan, np.float32)
    tree = there_and_back(text, {"fc.weight": nan})
    assert sorted(tree) == ["fc_a/kernel", "fc_b/kernel"]
    tree["fc_b/kernel"] = -tree["fc_b/kernel"]
    with pytest.raises(CopiesDiffer) as caught:
        carry(mapping, tree, "reverse")
    assert caught.value.hint == "take one side: `--choose j=a`"
    assert "fc_a/kernel and fc_b/kernel differ" in caught.value.message
    for value, kernel in (("a", nan), ("b", -nan)):
        _, back = carry(mapping, tree, "reverse", choose={"j": value})
        assert back["fc.weight"].tobytes() == kernel.tobytes()


def test_copies_on_the_torch_side():
    text = "mapping: t/1\ntied: {e: [encoder, decoder]}\nembedding:\n  '{e}.tok': tok\n"
    table = distinct(5, 3)
    tree = there_and_back(text, {"encoder.tok.weight": table, "decoder.tok.weight": table})
    np.testing.assert_array_equal(tree["tok/embedding"], table)
    with pytest.raises(CopiesDiffer, match=r"encoder\.tok\.weight and decoder\.tok\.weight differ"):
        carry(mapping_of(text), {"encoder.tok.weight": table, "decoder.tok.weight": -table})


def test_the_axes_of_a_shipped_kind_are_its_own():
    """The `i` and `o` of `dense` meet neither an index nor a size of the file."""
    text = "mapping: own/1\nindex: {i: 0.., o: [0, 1]}\nlet: {c: 9}\n"
    text += "dense:\n  x.{i}.{o}: x_{i}_{o}\ntensors:\n  t [c]: t [c]\n"
    arrays = {f"x.{i}.{o}.weight": distinct(4, 3) for i in range(3) for o in range(2)} | {"t": distinct(9)}
    assert len(there_and_back(text, arrays)) == 7


def test_the_axes_of_a_users_kind_are_the_files():
    text = "mapping: own/1\nindex: {i: 0..}\nkinds:\n  mine:\n    .w [o i]: /w [i o]\nmine:\n  x.{i}: x_{i}\n"
    with pytest.raises(MappingError, match="i stands in the name and in the brackets"):
        mapping_of(text)
    scaled = "mapping: own/1\nlet: {h: 2}\nkinds:\n  mine:\n    .w [(h d) c]: /w [c h d]\nmine:\n  x: x\n"
    assert there_and_back(scaled, {"x.w": distinct(6, 5)})["x/w"].shape == (5, 2, 3)


def test_a_kind_can_be_redefined_and_a_module_can_be_the_root():
    text = 'mapping: own/1\nkinds:\n  dense:\n    .weight [o i]: /w [o i]\ndense:\n  "": ""\n'
    assert list(there_and_back(text, {"weight": distinct(4, 3)})) == ["w"]


def test_blind_spots_name_what_could_go_wrong():
    mapping = mapping_of(MHA + "  flip [a b]: flip [a -b]\n")
    arrays = {
        "attn.in_proj_weight": distinct(36, 12),
        "attn.in_proj_bias": distinct(36),
        "attn.out_proj.weight": distinct(12, 12),
        "attn.out_proj.bias": distinct(12),
        "flip": distinct(2, 5),
    }
    plan, _ = carry(mapping, arrays)
    blind = {move.leaf: move.blind for move in plan.blind}
    assert blind == {
        **{f"attn/{p}/kernel": ("(p h d)",) for p in ("query", "key", "value")},
        **{f"attn/{p}/bias": ("(p h d)",) for p in ("query", "key", "value")},
        "attn/out/kernel": ("(h d)",),
        "flip": ("-b",),
    }
    plan, _ = carry(
        mapping_of("mapping: s/1\nindex: {p: [a, b]}\ntensors:\n  w [(p c)]: w/{p} [c]\n"), {"w": distinct(6)}
    )
    assert {move.blind for move in plan.moves} == {("(p c)",)}
    plan, _ = carry(
        mapping_of("mapping: s/1\ntensors:\n  w [(a b) c]: w [c -b a]\nlet: {a: 1}\n"), {"w": distinct(1, 1)}
    )
    assert plan.blind == (), "axes of size one can change places"
    plan, _ = carry(
        mapping_of("mapping: s/1\ntensors:\n  w [(a b) c]: w [c (a b)]\nlet: {a: 3}\n"), {"w": distinct(6, 5)}
    )
    assert plan.blind == (), "an axis that is merged alike on both sides cannot be merged wrongly"


def test_a_complete_choice_comes_before_a_larger_one():
    text = """
mapping: choices/1
alternatives:
  head:
    deep:
      dense: {head.0: head_0, head.2: head_2}
    shallow:
      dense: {head.0: head_0}
    wide:
      dense: {head.0: head_0}
      norm: {head.n: head_n}
"""
    tree = there_and_back(text, {"head.0.weight": distinct(4, 3)})
    assert list(tree) == ["head_0/kernel"]
    arrays = {"head.0.weight": distinct(4, 3), "head.n.weight": distinct(4), "head.n.bias": distinct(4)}
    assert sorted(there_and_back(text, arrays)) == ["head_0/kernel", "head_n/bias", "head_n/scale"]


def test_what_an_output_remembers_decides_between_choices_that_fit_alike():
    mapping = mapping_of(ALTERNATIVES)
    _, tree = carry(mapping, {"w": distinct(3, 4)})
    plan, back = carry(mapping, tree, "reverse", groups=("bias: none",))
    assert (plan.present, sorted(back)) == (("bias: none",), ["w"])
    plan, back = carry(mapping, tree, "reverse")
    assert (plan.present, sorted(back)) == (("bias: as stored",), ["b", "w"])


def _resnet50(depths):
    """A ResNet-50's names, with tensors of next to no size."""
    state = {"fc.weight": distinct(3, 2), "fc.bias": distinct(3)}

    def conv(name, start):
        state[f"{name}.weight"] = distinct(2, 3, 1, 1, start=start)

    def norm(name, start):
        for n, leaf in enumerate(("weight", "bias", "running_mean", "running_var")):
            state[f"{name}.{leaf}"] = distinct(2, start=start + 2 * n)
        state[f"{name}.num_batches_tracked"] = np.array(0, np.int64)

    conv("conv1", 7)
    norm("bn1", 9)
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            for n in (1, 2, 3):
                conv(f"{at}.conv{n}", 100 * stage + 10 * block + n)
                norm(f"{at}.bn{n}", 200 * stage + 10 * block + n)
        conv(f"layer{stage}.0.downsample.0", 300 * stage)
        norm(f"layer{stage}.0.downsample.1", 400 * stage)
    return state


@pytest.mark.parametrize("depths", [(3, 4, 6, 3), (3, 8, 36, 3)])
def test_stages_of_different_depth_as_the_manual_has_them(depths):
    manual = (mappings_folder() / "README.md").read_text("utf-8")
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL) if "mapping: resnet50/1" in block]
    tree = there_and_back(text, _resnet50(depths))
    assert len([leaf for leaf in tree if leaf.endswith("/kernel")]) == 2 + 3 * sum(depths) + 4
    assert f"params/stage3_{depths[2] - 1}/conv3/kernel" in tree
