"""`mapping list / show / check / explain`, as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from program import Outcome

from loftr2flax import convert_checkpoint
from loftr2flax.mapping import mappings_folder
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]
SHIPPED = ["ifvit_jax", "loftr", "loftr_coarse"]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A small LoFTR in the official layout."""
    write_sample(tmp_path / "sample.ckpt", sizes=SampleSizes(coarse_width=12))
    return tmp_path / "sample.ckpt"


def test_list(call: Run) -> None:
    done = call("mapping", "list")
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["ifvit_jax", "tied"], ["loftr", "exact"], ["loftr_coarse", "exact"],
    ]  # fmt: skip
    document = call("mapping", "list", "--json").json
    assert document["schema"] == "loftr2flax.mapping.list/1"
    assert [mapping["name"] for mapping in document["mappings"]] == [f"{name}/1" for name in SHIPPED]


@pytest.mark.parametrize("name", SHIPPED)
def test_show(call: Run, name: str) -> None:
    text = (mappings_folder() / f"{name}.yaml").read_text("utf-8")
    assert call("mapping", "show", name).out == text
    document = call("mapping", "show", name, "--json").json
    assert document["schema"] == "loftr2flax.mapping.show/1"
    assert document["text"] == text


def test_the_nearest_name_is_offered(call: Run) -> None:
    for verb in ("show", "check"):
        done = call("mapping", verb, "loftr_corse")
        assert (done.code, done.error) == (3, "loftr_corse: no mapping of that name ships with loftr2flax")
        assert "loftr_coarse" in done.hint


class TestCheck:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_without_a_checkpoint(self, call: Run, name: str) -> None:
        done = call("mapping", "check", name)
        assert done.code == 0
        assert done.out.startswith("LINE  KIND")
        assert f"`loftr2flax mapping check {name} FILE`" in done.err
        document = call("mapping", "check", name, "--json").json
        assert document["schema"] == "loftr2flax.mapping.check/1"
        (checked,) = document["mappings"]
        assert checked["blind"] is None
        assert all(line["place"].startswith(f"{name}.yaml:") for line in checked["lines"] if line["kind"] == "tensors")

    def test_the_blind_list_of_the_published_sizes(self, call: Run, official: Path) -> None:
        done = call("mapping", "check", "loftr_coarse", official)
        assert f"fits {official}: 80 leaves, 48 weights of two axes or more" in done.out
        assert "blind: 40 of 48 would keep their shape with the layout wrong;" in done.out
        assert "layers_{0..7}/mlp_0/kernel" in done.out
        assert "mlp_2" not in done.out.partition("blind:")[2]
        blind = call("mapping", "check", "loftr_coarse", official, "--json").json["mappings"][0]["blind"]
        assert len(blind) == 40
        assert blind["layers_3/merge/kernel"] == ["o=i"]

    def test_a_tree(self, call: Run, sample: Path, tmp_path: Path) -> None:
        convert_checkpoint(sample, tmp_path / "a.npz", "loftr_coarse")
        done = call("mapping", "check", "loftr_coarse", "a.npz")
        assert done.code == 0
        assert "fits a.npz: 40 leaves, 24 weights" in done.out

    def test_no_blind_leaf(self, call: Run, tmp_path: Path) -> None:
        torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, tmp_path / "a.pt")
        (tmp_path / "own.yaml").write_text("mapping: own/1\ndense:\n  fc: fc\n")
        done = call("mapping", "check", "own.yaml", "a.pt")
        assert done.out.endswith("blind: none; a wrong layout would show in every shape\n")

    def test_one_that_does_not_fit(self, call: Run, sample: Path, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text("mapping: own/1\ndense:\n  matcher.loftr_coarse.layers.0.merge: merge\n")
        done = call("mapping", "check", "own.yaml", sample)
        assert done.code == 3
        assert "own/1 does not fit" in done.error

    def test_one_that_is_no_mapping(self, call: Run, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text("mapping: own/1\ndens:\n  fc: fc\n")
        done = call("mapping", "check", "own.yaml")
        assert done.code == 3
        assert "own.yaml:2:1" in done.err
        assert "dense" in done.err

    def test_every_fault_is_on_a_line_of_its_own(self, call: Run, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text("mapping: own/1\ndens:\n  fc: fc\nconvv:\n  a: b\n")
        lines = call("mapping", "check", "own.yaml").err.splitlines()
        assert [line.startswith("  own.yaml:") for line in lines] == [False, *[True] * (len(lines) - 2), False]

    def test_several_and_a_checkpoint(self, call: Run, sample: Path) -> None:
        done = call("mapping", "check", "loftr", "loftr_coarse", sample)
        assert done.code == 0
        assert done.out.count(f"fits {sample}: ") == 2
        document = call("mapping", "check", "loftr", "loftr_coarse", "--json").json
        assert [mapping["name"] for mapping in document["mappings"]] == ["loftr/1", "loftr_coarse/1"]

    def test_one_that_is_refused_does_not_hide_the_others(self, call: Run, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text("mapping: bad/1\ndens:\n  fc: fc\n")
        (tmp_path / "good.yaml").write_text("mapping: good/1\ndense:\n  fc: fc\n")
        done = call("mapping", "check", "bad.yaml", "good.yaml", "bad.yaml")
        assert done.code == 3
        assert (done.out.count("good/1: exact"), done.err.count("error: bad.yaml: one fault")) == (1, 2)
        document = call("mapping", "check", "bad.yaml", "good.yaml", "--json").json
        assert [mapping["name"] for mapping in document["mappings"]] == ["good/1"]
        (fault,) = document["errors"][0]["faults"]
        assert (fault["file"], fault["line"], fault["column"]) == ("bad.yaml", 2, 1)


class TestExplain:
    def test_in_text(self, call: Run, sample: Path) -> None:
        key = "matcher.loftr_coarse.layers.2.mlp.2.weight"
        done = call("mapping", "explain", key, "-m", "loftr", "-f", sample)
        assert done.code == 0
        rows = dict(line.split(None, 1) for line in done.out.splitlines())
        assert rows["torch"] == "loftr_coarse.layers.2.mlp.2.weight"
        assert rows["flax"] == "params/loftr_coarse/layers_2/mlp_2/kernel"
        assert rows["axes"] == "[o i] → [i o]"
        assert (rows["meaning"], rows["class"], rows["kind"]) == ("transposed", "exact", "dense_without_bias")
        assert rows["shape"] == "params/loftr_coarse/layers_2/mlp_2/kernel (24, 12) float32"

    def test_in_json_over_all_mappings(self, call: Run) -> None:
        document = call("mapping", "explain", "matcher.loftr_coarse.layers.2.norm1.bias", "--json").json
        assert document["schema"] == "loftr2flax.mapping.explain/1"
        assert [claim["mapping"] for claim in document["claims"]] == [f"{name}/1" for name in SHIPPED]
        assert all(claim["meaning"] == "copied as it is" for claim in document["claims"])

    def test_a_key_of_nobody(self, call: Run) -> None:
        done = call("mapping", "explain", "encoder.blocks.0.weight")
        assert (done.code, done.error) == (3, "encoder.blocks.0.weight: no line of any shipped mapping claims it")
        done = call("mapping", "explain", "encoder.blocks.0.weight", "-m", "loftr")
        assert done.error == "encoder.blocks.0.weight: no line of loftr claims it"
