"""The words of the language: names, axes, what a parsed mapping holds, and that the manual speaks of it all."""

import dataclasses
import re
from pathlib import Path

import pytest

from loftr2flax.mapping import load_mapping, mappings_folder, parse_mapping, shipped_names
from loftr2flax.mapping.axes import Atom, Layout, parse_layout
from loftr2flax.mapping.matching import Matcher
from loftr2flax.mapping.names import Hole, natural, parse_name
from loftr2flax.mapping.parse import words
from loftr2flax.mapping.rules import Constant

README = (mappings_folder() / "README.md").read_text("utf-8")


def _parse(text):
    return parse_mapping(text.encode(), Path("test.yaml"))


@pytest.mark.parametrize("word", list(words()))
def test_every_word_is_in_the_manual(word):
    assert re.search(rf"`{word}`|^{word}:", README, re.MULTILINE), f"mappings/README.md does not speak of {word}"


def test_words_are_all_there():
    assert {"mapping", "tied", "alternatives", "fill", "dense", "conv_transpose_kernel"} < set(words())


_BLOCKS = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if block.startswith("mapping:")]


@pytest.mark.parametrize("text", _BLOCKS)
def test_whole_files_in_the_manual_are_sound(text):
    assert _parse(text).rules


def test_the_manual_has_whole_files():
    assert _BLOCKS


PAGE = """
mapping: loftr_coarse/1
about: LoFTR's coarse LocalFeatureTransformer, one Flax layer per torch layer.
source:
  at: loftr_coarse                 # the subtree that is in scope
  aliases: {linear_q: q_proj, linear_k: k_proj, linear_v: v_proj, linear_out: merge, ffn: mlp}
target:
  tree: params                     # leaves are written as params alone
facts:                             # what the weights cannot show
  attention: linear
  layer_norm_eps: 1.0e-5
  heads: 8
index: {i: 0.., p: [q, k, v], m: [0, 2], n: [1, 2]}     # 0..  = every one present, from 0, without a gap
dense:
  layers.{i}.{p}_proj:  layers_{i}/{p}_proj
  layers.{i}.merge:     layers_{i}/merge
  layers.{i}.mlp.{m}:   layers_{i}/mlp_{m}
norm:
  layers.{i}.norm{n}:   layers_{i}/norm{n}
"""
"""The page's first example, as it stands there."""


def test_the_first_example():
    mapping = _parse(PAGE)
    assert (mapping.name, mapping.stem, mapping.at, mapping.tree) == (
        "loftr_coarse/1",
        "loftr_coarse",
        ("loftr_coarse",),
        "params",
    )
    assert mapping.facts == {"attention": "linear", "layer_norm_eps": 1e-5, "heads": 8}
    assert mapping.aliases["ffn"] == "mlp"
    assert mapping.indices["p"].values == ("q", "k", "v")
    assert mapping.indices["i"].is_open
    assert [str(rule.source) for rule in mapping.rules[:2]] == [
        "layers.{i}.{p}_proj.weight [o i]",
        "layers.{i}.{p}_proj.bias [o]",
    ]
    assert [rule.optional for rule in mapping.rules[:2]] == [False, True]
    assert str(mapping.rules[0].place) == "test.yaml:15:3"
    assert mapping.file_class == "exact"
    assert repr(mapping) == "<mapping loftr_coarse/1: 8 rules, exact>"


def test_the_second_example_is_tied():
    text = "mapping: ifvit/1\nindex: {i: 0.., p: [q, k, v]}\ntied: {j: [0, 1]}\ndense:\n"
    text += "  layers.{i}.{p}_proj:  layers.{i}.{j}/{p}_proj\n"
    mapping = _parse(text)
    assert mapping.file_class == "tied"
    assert mapping.rules[0].target.name.format({"i": 3, "j": 1, "p": "q"}) == "layers.3.1/q_proj/kernel"


SHAPES = """
mapping: shapes/1
index: {i: 0.., l: 0.., j: 0.., k: [0, 1], p: [q, k, v]}
let: {h: 8}
tensors:
  layers.{i}.{p}_proj.weight [(h d) c]:      layers_{i}/qkv/kernel [c p h d]      # three matrices fused, heads split
  attn.in_proj_weight [(p h d) c]:           attn/{p}/kernel [c h d]              # one matrix split in three
  blocks.{l}.fc.weight [o i]:                blocks/fc/kernel [l i o]             # layers stacked for nn.scan
  layers.{2*j+k}.merge.weight [o i]:         layers/{k}/merge/kernel [j i o]      # scan over (self, cross) pairs
  coarse_matching.bin_score? []:             coarse_matching/bin_score []         # present in some files only
"""


def test_the_further_shapes():
    mapping = _parse(SHAPES)
    assert [rule.optional for rule in mapping.rules] == [False] * 4 + [True]
    assert {mapping.line_class(rule) for rule in mapping.rules} == {"exact"}


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_mappings_are_sound(name):
    mapping = load_mapping(name)
    assert mapping.stem == name
    assert mapping.about.endswith(".")
    assert len(mapping.sha256) == 64


def test_a_mapping_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_mapping("loftr").name = "other"


def test_target_and_kinds_may_stand_last():
    text = (
        "mapping: late/1\nmine: {a: b}\nbatch_norm: {bn: bn}\nkinds:\n  mine:\n    .w? [c]: /w [c]\n    .n []: drop 3\n"
    )
    mapping = _parse(text + "target: {tree: variables}\n")
    assert [str(rule.target) for rule in mapping.rules if rule.target][:2] == ["params/b/w [c]", "params/bn/scale [c]"]
    assert mapping.rules[1].constant == Constant(3, "int64")


@pytest.mark.parametrize(
    ("word", "constant"),
    [
        ("0", Constant(0, "int64")),
        ("1.5", Constant(1.5, "float32")),
        ("true", Constant(True, "bool")),
        ("-.inf", Constant(float("-inf"), "float32")),
        ("{value: 0, dtype: int32}", Constant(0, "int32")),
        ("{value: 1, dtype: bfloat16}", Constant(1, "bfloat16")),
        ("{value: 1, dtype: complex64}", Constant(1, "complex64")),
    ],
)
def test_constants(word, constant):
    mapping = _parse(f"mapping: c/1\ndense: {{a: a}}\nfill:\n  x []: {word}\n")
    assert mapping.rules[-1].constant == constant


@pytest.mark.parametrize(
    ("word", "constant"),
    [("0", Constant(0, "int64")), ("0.5", Constant(0.5, "float32")), ("true", Constant(True, "bool")), ("", None)],
)
def test_constants_in_a_kind(word, constant):
    text = f"mapping: c/1\nkinds:\n  mine:\n    .w [c]: /w [c]\n    .n []: drop {word}\nmine: {{a: a}}\n"
    mapping = _parse(text)
    assert mapping.rules[-1].constant == constant
    assert mapping.file_class == ("exact" if constant else "one-way")


def test_layouts():
    layout = parse_layout("[ (h -d) 1 ... () ]")
    assert layout == Layout(((Atom("h"), Atom("d", True)), (), (Atom("..."),), ()))
    assert str(layout) == "[(h -d) 1 ... 1]"
    assert (layout.rank, parse_layout("[a (b c)]").rank, parse_layout("[]").rank) == (None, 2, 0)
    assert str(layout.private()) == str(layout), "private names are shown as they were written"
    assert layout.private().names == ("~h", "~d", "...")


@pytest.mark.parametrize(
    ("text", "hole", "shown"),
    [
        ("{i}", Hole(((1, "i"),)), "{i}"),
        ("{2*j+k}", Hole(((2, "j"), (1, "k"))), "{2*j+k}"),
        ("{j * 2 + 3 + k - 1}", Hole(((2, "j"), (1, "k")), 2), "{2*j+k+2}"),
        ("{i-1}", Hole(((1, "i"),), -1), "{i-1}"),
    ],
)
def test_holes(text, hole, shown):
    assert parse_name(text, ".").segments == ((hole,),)
    assert str(hole) == shown


def test_names():
    name = parse_name("layers.{i}.{p}_proj.weight", ".")
    assert [len(segment) for segment in name.segments] == [1, 1, 2, 1]
    assert name.indices == ("i", "p")
    assert name.format({"i": 10, "p": "q"}) == "layers.10.q_proj.weight"
    assert parse_name("a/{2*j+k}/b", "/").format({"j": 3, "k": 1}) == "a/7/b"


def test_a_key_matches_whole_and_its_dots_are_dots():
    mapping = _parse("mapping: m/1\nindex: {i: 0..}\ntensors:\n  layers.{i}.w: layers_{i}/w\n")
    matcher = Matcher([(0, mapping.rules[0].source.name)], mapping.indices)
    assert matcher.match(["layers", "10", "w"]) == [(0, {"i": 10})]
    for name in ("layers.w", "layers.1.w.x", "layersx1.w", "x.layers.1.w", "layers.01.w", "layers.-1.w", "layers.1.W"):
        assert matcher.match(name.split(".")) == []


def test_one_index_has_one_value_in_a_name():
    mapping = _parse("mapping: m/1\nindex: {i: 0.., p: [q, k]}\ntensors:\n  '{p}.{i}.{p}{i}': x_{i}_{p}\n")
    matcher = Matcher([(0, mapping.rules[0].source.name)], mapping.indices)
    assert matcher.match(["q", "3", "q3"]) == [(0, {"p": "q", "i": 3})]
    assert matcher.match(["q", "3", "k3"]) == []
    assert matcher.match(["q", "3", "q4"]) == []


def test_natural_order():
    names = ["l.10.b", "l.9.b", "l.9.a", "l", "l.²", "l.09"]
    assert sorted(names, key=natural) == ["l", "l.09", "l.9.a", "l.9.b", "l.10.b", "l.²"]
