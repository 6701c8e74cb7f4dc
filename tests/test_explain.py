"""`explain_key`: which line claims a name, what happens to its axes, and where it lands."""

from __future__ import annotations

from pathlib import Path

import pytest

from loftr2flax import load_mapping
from loftr2flax.explain import explain_key

OWN = """\
mapping: own/1
index: {l: 0.., j: 0.., k: [0, 1], p: [query, key]}
tied: {t: [0, 1]}
let: {h: 2, n: 4, m: 3}
tensors:
  blocks.{l}.fc.weight [o i]:      blocks/fc/kernel [l i o]
  pairs.{2*j+k}.w [o i]:           pairs/{k}/w [j i o]
  attn.in_proj_weight [(p h d) c]: attn/{p}/kernel [c h d]
  pos.weight [i o w]:              pos/kernel [-w i o]
  shared.{l}.w [a b]:              shared_{l}.{t}/w [a b]
  plain:                           plain
embedding:
  tokens:                          tokens
drop:
  seen [n]:                        7
  lost [n]:
fill:
  scale [m]:                       1.0
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> object:
    path = tmp_path_factory.mktemp("explain") / "own.yaml"
    path.write_text(OWN)
    return load_mapping(path)


@pytest.mark.parametrize(
    ("key", "torch", "flax", "meaning", "line_class"),
    [
        ("blocks.3.fc.weight", "blocks.3.fc.weight", ("blocks/fc/kernel",), "transposed, stacked along l", "exact"),
        ("pairs.5.w", "pairs.5.w", ("pairs/1/w",), "transposed, stacked along j", "exact"),
        ("pos.weight", "pos.weight", ("pos/kernel",), "axes permuted, w reversed", "exact"),
        ("shared.4.w", "shared.4.w", ("shared_4.0/w", "shared_4.1/w"), "copied as it is", "tied"),
        ("plain", "plain", ("plain",), "copied as it is", "exact"),
        ("tokens.weight", "tokens.weight", ("tokens/embedding",), "copied as it is", "exact"),
        ("seen", "seen", (), "dropped; the way back writes 7", "exact"),
        ("lost", "lost", (), "dropped, with no way back", "one-way"),
        ("scale", "", ("scale",), "filled with 1.0", "exact"),
        ("attn/key/kernel", "attn.in_proj_weight", ("attn/key/kernel",), None, "exact"),
        ("params/attn/key/kernel", "attn.in_proj_weight", ("attn/key/kernel",), None, "exact"),
    ],
)  # fmt: skip
def test_a_key(own, key: str, torch: str, flax: tuple[str, ...], meaning: str | None, line_class: str) -> None:
    (claim,) = explain_key(own, key)
    assert (claim.torch, claim.flax, claim.line_class) == (torch, flax, line_class)
    assert meaning is None or claim.meaning == meaning


def test_a_split(own) -> None:
    (claim,) = explain_key(own, "module.attn.in_proj_weight")
    assert claim.flax == ("attn/query/kernel", "attn/key/kernel")
    assert "split along p" in claim.meaning
    assert "axes merged or taken apart" in claim.meaning
    assert claim.layout == "[(p h d) c] → [c h d]"


@pytest.mark.parametrize(
    ("key", "lands"),
    [
        ("matcher.loftr_coarse.layers.3.q_proj.weight", ("layers_3/q_proj/kernel",)),
        ("loftr_coarse.layers.3.linear_q.weight", ("layers_3/q_proj/kernel",)),
        ("layers.3.ffn.2.weight", ("layers_3/mlp_2/kernel",)),
        ("module.matcher.loftr_fine.layers.1.q_proj.weight", ()),
        ("layers.3.q_proj.gamma", ()),
    ],
)
def test_prefixes_and_aliases_are_looked_through(key: str, lands: tuple[str, ...]) -> None:
    found = explain_key(load_mapping("loftr_coarse"), key)
    assert tuple(path for claim in found for path in claim.flax) == lands


def test_a_tied_key_lands_in_every_copy() -> None:
    claims = explain_key(load_mapping("ifvit_jax"), "loftr_coarse.layers.3.merge.weight")
    assert [claim.flax for claim in claims] == [("layers.3.0/merge/kernel", "layers.3.1/merge/kernel")]


def test_a_name_of_the_flax_side_by_two_alternatives() -> None:
    claims = explain_key(load_mapping("ifvit_jax"), "layers.3.1/merge/kernel")
    assert [claim.torch for claim in claims] == ["layers.3.merge.weight", "layers.3.1.merge.weight"]


@pytest.mark.parametrize("key", ["", ".", "/", "a..b", "layers", "\n", "layers.{i}.merge.weight"])
def test_names_of_nothing(key: str) -> None:
    assert explain_key(load_mapping("loftr"), key) == []


def test_the_place_is_that_of_the_line() -> None:
    mapping = load_mapping("loftr_coarse")
    (claim,) = explain_key(mapping, "layers.0.merge.weight")
    line = Path(mapping.path).read_text().splitlines()[claim.rule.place.line - 1]
    assert "layers.{i}.merge" in line
