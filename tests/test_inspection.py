"""`inspect`: what a file holds, what it looks like, and what to run next, from headers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import torch_state
from program import Outcome, words_of

from loftr2flax import convert_checkpoint, inspect_checkpoint
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]


def facts_of(done: Outcome) -> dict[str, list[str]]:
    """The lines below the table, by their first words."""
    facts: dict[str, list[str]] = {}
    for line in done.out.rpartition("\n\n")[2].splitlines():
        label, _, text = line.partition("  ")
        facts.setdefault(label, []).append(text.strip())
    return facts


class TestOfficial:
    def test_the_table_folds_layers(self, call: Run, official: Path) -> None:
        done = call("inspect", official)
        assert done.code == 0
        assert done.err == ""
        lines = done.out.splitlines()
        assert lines[0] == f"{official}: PyTorch (zip), 44.2 MiB, 211 leaves, 11,568,177 numbers"
        (row,) = (line for line in lines if "loftr_coarse" in line and "mlp.2" in line)
        assert row.split() == [
            "matcher.loftr_coarse.layers.{0..7}.mlp.2.weight", "(256,", "512)", "f32", "×8", "4.0", "MiB",
        ]  # fmt: skip
        assert len(lines) < 90

    def test_the_facts(self, call: Run, official: Path) -> None:
        facts = facts_of(call("inspect", official))
        assert facts["total"] == ["194 leaves of float32 (44.1 MiB), 17 leaves of int64 (136 B)"]
        assert facts["tensors in"] == ["state_dict (211)"]
        assert facts["prefix"] == ["matcher."]
        assert facts["looks like"] == [
            "LoFTR at 1/8, coarse: 8 layers of width 256, fine: 2 layers of width 128, dual softmax"
        ]
        assert facts["fits"] == ["loftr (211 of 211), ifvit_jax (80 of 211), loftr_coarse (80 of 211)"]
        assert facts["next"] == [f"loftr2flax convert {official} -m loftr -o official.npz"]

    def test_no_tensor_is_read(self, official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(*arguments: object) -> None:
            raise AssertionError("a tensor was read")

        monkeypatch.setattr("loftr2flax.formats.torch_checkpoint.read_tensor", read)
        found = inspect_checkpoint(official)
        assert found.totals == {"float32": (194, 11_568_160, 46_272_640), "int64": (17, 17, 136)}
        assert sum(row.count for row in found.rows) == 211
        assert sum(row.nbytes for row in found.rows) == 46_272_776

    def test_every_leaf_on_a_line_of_its_own(self, call: Run, official: Path) -> None:
        names = list(torch_state(official))
        rows = [line.split("\t") for line in call("inspect", official, "--flat").out.splitlines()]
        assert sorted(row[0] for row in rows) == sorted(names)
        by_name = {row[0]: row[1:] for row in rows}
        assert by_name["matcher.backbone.conv1.weight"] == ["(128, 1, 7, 7)", "f32", "24.5 KiB"]
        rows = call("inspect", official, "--flat", "--sort", "file").out.splitlines()
        assert [row.split("\t")[0] for row in rows] == names


class TestStudent:
    def test_the_facts(self, call: Run, student: Path) -> None:
        facts = facts_of(call("inspect", student))
        assert facts["tensors in"] == ["model_state_dict (177)"]
        assert facts["looks like"] == ["coarse-only LoFTR at 1/16, 4 layers of width 32, beside an optimizer's state"]
        assert facts["shapes say"] == ["resolution 16_4; backbone of widths 8, 8, 16, 32, 32"]
        assert "heads 8" in facts["assumed"][0]
        assert "optimizer_state_dict: dict of 2, 202 tensors (975.9 KiB)" in facts["not loaded"][0]
        assert facts["next"] == [f"loftr2flax convert {student} -m loftr -o LoFTR_teacher.npz"]
        assert facts["fits"] == ["loftr (177 of 177, no fine stage), ifvit_jax (40 of 177), loftr_coarse (40 of 177)"]


class TestNextCommand:
    def test_of_a_torch_file_runs(self, call: Run, tmp_path: Path) -> None:
        write_sample(tmp_path / "my model.v2.ckpt")
        (command,) = facts_of(call("inspect", "my model.v2.ckpt"))["next"]
        assert command == "loftr2flax convert 'my model.v2.ckpt' -m loftr -o 'my model.npz'"
        assert call(*words_of(command)).code == 0
        (command,) = facts_of(call("inspect", "my model.npz"))["next"]
        assert command == "loftr2flax convert 'my model.npz' -m loftr --reverse -o 'my model_torch.ckpt'"
        assert call(*words_of(command)).code == 0
        assert (tmp_path / "my model_torch.ckpt").exists()

    def test_where_two_mappings_fit_alike_both_are_shown(self, call: Run, tmp_path: Path) -> None:
        write_sample(tmp_path / "a.ckpt")
        state = torch_state(tmp_path / "a.ckpt")
        torch.save({k: v for k, v in state.items() if ".loftr_coarse." in k}, tmp_path / "c.pt")
        commands = facts_of(call("inspect", "c.pt"))["next"]
        assert len(commands) == 2
        for command in commands:
            assert call(*words_of(command), "--force").code == 0

    def test_of_a_file_that_nothing_fits(self, call: Run, tmp_path: Path) -> None:
        torch.save({"fc.weight": torch.ones(2, 3)}, tmp_path / "a.pt")
        facts = facts_of(call("inspect", "a.pt"))
        assert "fits" not in facts
        assert facts["next"] == ["write a mapping for it; `loftr2flax mapping show loftr_coarse` is one to start from"]

    def test_what_stands_in_the_way(self, call: Run, tmp_path: Path) -> None:
        write_sample(tmp_path / "a.ckpt")
        state = torch_state(tmp_path / "a.ckpt")
        del state["matcher.loftr_coarse.layers.2.mlp.0.weight"]
        torch.save(state, tmp_path / "lacking.pt")
        facts = facts_of(call("inspect", "lacking.pt"))
        assert any("layers.2.mlp.0.weight" in line for line in facts["fits not"])


class TestTrees:
    @pytest.mark.parametrize("ending", [".npz", ".msgpack", ".safetensors"])
    @pytest.mark.parametrize(
        ("mapping", "like"),
        [
            ("loftr", "LoFTR at 1/8, coarse: 4 layers of width 12, fine: 2 layers of width 8, dual softmax"),
            ("ifvit_jax", "LoFTR's coarse transformer, 4 layers of width 12"),
            ("loftr_coarse", "LoFTR's coarse transformer, 4 layers of width 12"),
        ],
    )
    def test_a_tree_looks_like_what_it_was_made_from(
        self, tmp_path: Path, ending: str, mapping: str, like: str
    ) -> None:
        write_sample(tmp_path / "a.ckpt", sizes=SampleSizes(coarse_width=12))
        convert_checkpoint(tmp_path / "a.ckpt", tmp_path / f"a{ending}", mapping)
        found = inspect_checkpoint(tmp_path / f"a{ending}")
        assert found.looks_like == like
        assert found.direction == "reverse"
        assert found.fits[0].mapping == mapping
        assert found.fits[0].claims == len(found.infos)
        assert found.provenance is not None

    def test_who_made_it(self, call: Run, tmp_path: Path) -> None:
        write_sample(tmp_path / "a.ckpt")
        convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr")
        (maker,) = facts_of(call("inspect", "a.npz"))["made by"]
        assert ", loftr/1, forward, from a torch file with sha256 " in maker


def test_layout_sharing_and_what_cannot_be_read(call: Run, tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a.weight": base, "b.weight": base.T, "c.weight": torch.ones(2, 3).to_sparse()}
    torch.save(tensors, tmp_path / "a.pt")
    done = call("inspect", "a.pt", "--flat")
    rows = {line.split()[0]: line for line in done.out.splitlines() if ".weight" in line.split("\t")[0]}
    assert "shares storage with a.weight" in rows["b.weight"]
    assert "transposed" in rows["b.weight"]
    assert "cannot be read: sparse tensor" in rows["c.weight"]
    document = call("inspect", "a.pt", "--json").json
    assert document["files"][0]["leaves"]["b.weight"]["shares"] == "a.weight"


def test_several_files_and_json(call: Run, tmp_path: Path) -> None:
    write_sample(tmp_path / "a.ckpt")
    np.savez(tmp_path / "b.npz", **{"x/kernel": np.ones((2, 3))})
    document = call("inspect", "a.ckpt", "b.npz", "--json").json
    assert document["schema"] == "loftr2flax.inspect/1"
    assert [file["format"] for file in document["files"]] == ["torch", "npz"]
    assert document["files"][1]["leaves"] == {
        "x/kernel": {
            "shape": [2, 3], "dtype": "float64", "bytes": 48, "layout": "", "shares": "", "refused": "",
            "location": None, "sha256": None, "stats": None, "warnings": [], "remarks": [],
        }
    }  # fmt: skip
    assert document["files"][0]["next"] == [["loftr2flax", "convert", "a.ckpt", "-m", "loftr", "-o", "a.npz"]]
    assert "b.npz: npz, " in call("inspect", "a.ckpt", "b.npz").out
