"""What `inspect` lists, in which order, and what it reads when it is asked to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import torch_state
from program import Outcome, on_terminal, run_program, words_of
from schemas import validated

from loftr2flax import convert_checkpoint, inspect_checkpoint
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.cli.output import cut_middle
from loftr2flax.inspection.natural import natural_key
from loftr2flax.inspection.rows import branch_of, cut, fold_rows
from loftr2flax.inspection.statistics import BLOCK, LeafStats, StatsGathering
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Twelve layers, a head, and things beside them."""
    layers = {f"net.layers.{n}.{part}.weight": torch.ones(3, 2) for n in range(12) for part in ("down", "up")}
    state = {"net.head.weight": torch.ones(7, 3), "net.head.bias": torch.ones(7, dtype=torch.float64), **layers}
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"state": torch.zeros(100)}}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


class TestOrder:
    def test_people_count(self, call: Run, numbered: Path) -> None:
        names = [line.split("\t")[0] for line in call("inspect", "a.pt", "--flat").out.splitlines()]
        assert names[:2] == ["net.head.bias", "net.head.weight"]
        assert names[2::2] == [f"net.layers.{n}.down.weight" for n in range(12)]

    @pytest.mark.parametrize(
        ("order", "first", "last"),
        [
            ("file", "net.head.weight", "net.layers.11.up.weight"),
            ("size", "net.head.weight", "net.layers.11.up.weight"),
            ("dtype", "net.head.weight", "net.head.bias"),
            ("shape", "net.head.weight", "net.head.bias"),
        ],
    )
    def test_orders(self, call: Run, numbered: Path, order: str, first: str, last: str) -> None:
        names = [line.split("\t")[0] for line in call("inspect", "a.pt", "--flat", "--sort", order).out.splitlines()]
        assert (names[0], names[-1]) == (first, last)
        assert len(names) == 26

    def test_no_such_order(self, call: Run, numbered: Path) -> None:
        done = call("inspect", "a.pt", "--sort", "colour")
        assert done.code == 2
        assert "colour" in done.error

    @given(st.lists(st.text("ab01.9", max_size=8)))
    def test_a_branch_stays_together(self, names: list[str]) -> None:
        shown = sorted(set(names), key=lambda name: natural_key(name, "."))
        heads = [name.split(".")[0] for name in shown if "." in name]
        assert len([1 for one, other in pairwise(heads) if one != other]) <= len(set(heads))

    def test_numbers_of_any_length(self) -> None:
        names = ["a10", "a9", "a" + "9" * 6000, "a09", "a"]
        assert sorted(names, key=lambda name: natural_key(name, ".")) == ["a", "a09", "a9", "a10", "a" + "9" * 6000]


class TestFilter:
    def test_only_what_matches(self, call: Run, numbered: Path) -> None:
        done = call("inspect", "a.pt", "--filter", "*.bias", "--filter", "*.1?.up.*")
        assert done.code == 0
        assert "2 leaves" not in done.out.splitlines()[0]
        assert done.out.splitlines()[0].endswith("3 leaves, 19 numbers (of 26 leaves)")
        assert "net.layers.{10..11}.up.weight" in done.out
        assert "head.weight" not in done.out
        assert "total       1 leaf of float64 (56 B), 2 leaves of float32 (48 B)" in done.out

    def test_a_pattern_that_matches_nothing_is_told(self, call: Run, numbered: Path) -> None:
        done = call("inspect", "a.pt", "--filter", "*.bias", "--filter", "*.baïs")
        assert (done.code, done.err) == (0, "note: a.pt: --filter '*.baïs' matches no leaf\n")

    def test_where_nothing_matches_the_answer_is_no(self, call: Run, numbered: Path) -> None:
        done = call("inspect", "a.pt", "--filter", "*.baïs", "--flat")
        assert (done.code, done.out) == (1, "")
        document = validated(call("inspect", "a.pt", "--filter", "x", "--json").json)
        assert (document["files"][0]["leaves"], document["files"][0]["idle"]) == ({}, ["x"])
        assert document["files"][0]["in_all"] == 26


class TestBranches:
    def test_a_tree_folds_branches_that_are_alike(self, call: Run, numbered: Path) -> None:
        lines = call("inspect", "a.pt", "--tree").out.splitlines()
        first = [line[: len(line) - len(line.lstrip())] + line.split()[0] for line in lines[2:9]]
        assert first == [
            "net.", "  head.", "    bias", "    weight", "  layers.{0..11}.", "    down.weight", "    up.weight",
        ]  # fmt: skip
        (row,) = (line for line in lines if "layers.{0..11}." in line)
        assert row.split() == ["layers.{0..11}.", "24", "leaves", "×12", "576", "B"]
        (row,) = (line for line in lines if "down.weight" in line)
        assert row.split() == ["down.weight", "(3,", "2)", "f32", "×12", "288", "B"]

    def test_branches_in_place_of_leaves(self, call: Run, numbered: Path) -> None:
        lines = call("inspect", "a.pt", "--depth", "3").out.splitlines()
        assert [" ".join(line.split()) for line in lines[2:5]] == [
            "net.head.bias (7,) f64 56 B",
            "net.head.weight (7, 3) f32 84 B",
            "net.layers.{0..11}. 24 leaves f32 ×12 576 B",
        ]
        lines = call("inspect", "a.pt", "--depth", "1").out.splitlines()
        assert lines[2].split() == ["net.", "26", "leaves", "f64,", "f32", "716", "B"]

    def test_parts(self, call: Run, numbered: Path) -> None:
        assert "parts       layers 576 B (24), head 140 B (2)" in call("inspect", "a.pt").out

    def test_what_is_not_loaded_has_a_size(self, call: Run, numbered: Path) -> None:
        out = call("inspect", "a.pt").out
        assert "not loaded  epoch: int 3; optimizer: dict of 1, 1 tensor (400 B)" in out

    def test_a_storage_is_counted_once(self, tmp_path: Path) -> None:
        base = torch.zeros(100)
        beside = {"optimizer": {"a": base[:10], "b": base[50:]}, "scheduler": [base], "last": torch.zeros(7)}
        torch.save({"state_dict": {"w": torch.ones(3)}, **beside}, tmp_path / "a.pt")
        unread = inspect_checkpoint(tmp_path / "a.pt").unread
        assert [(u.path, u.nbytes) for u in unread] == [("optimizer", 400), ("scheduler", 0), ("last", 28)]

    @pytest.mark.parametrize("words", [["--flat", "--tree"], ["--flat", "--depth", "2"], ["--stats", "--tree"]])
    def test_options_that_do_not_go_together(self, call: Run, numbered: Path, words: list[str]) -> None:
        done = call("inspect", "a.pt", *words)
        assert (done.code, done.out) == (2, "")

    @given(st.dictionaries(st.text("ab01.", min_size=1, max_size=9), st.sampled_from([(2, 3), (5,), ()]), min_size=1))
    def test_nothing_is_lost_or_counted_twice(self, shapes: dict[str, tuple[int, ...]]) -> None:
        infos = {name: LeafInfo(shape, "float32") for name, shape in shapes.items()}
        nbytes = sum(info.nbytes for info in infos.values())
        tree = branch_of(infos, list(infos), ".")
        assert (tree.leaves, tree.nbytes) == (len(infos), nbytes)
        for depth in (1, 2, 3, 100):
            found = list(cut(tree, depth))
            assert sum(b.leaves * n // b.count for _, b, n in found) == len(infos)
            assert sum(b.nbytes * n // b.count for _, b, n in found) == nbytes
        assert sum(row.count for row in fold_rows(infos, list(infos))) == len(infos)

    def test_a_leaf_and_a_branch_of_one_name(self) -> None:
        infos = {"a": LeafInfo((2,), "int8"), "a.b": LeafInfo((3,), "int8")}
        assert [(name, branch.leaves) for name, branch, _ in cut(branch_of(infos, list(infos), "."), 9)] == [
            ("a", 1),
            ("a.b", 1),
        ]


FORMULA = re.search(r"```python\n(hashlib\..*)\n```", (DOCS / "inspect.md").read_text("utf-8"))


def sha256(array: np.ndarray) -> str:
    """The hash of a leaf, as docs/inspect.md defines it."""
    assert FORMULA is not None
    return str(eval(FORMULA[1], {"hashlib": hashlib, "np": np, "array": array}))


class TestHash:
    def test_equal_tensors_have_equal_hashes_in_every_format(self, tmp_path: Path) -> None:
        leaves = {
            "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
            "a/bias": np.array([0.0, -0.0, np.nan], np.float64),
            "b": np.array([True, False]),
            "n": np.array(7, np.int64),
        }
        np.savez(tmp_path / "a.npz", **leaves)
        np.savez_compressed(tmp_path / "deflated.npz", **{k: np.asfortranarray(v) for k, v in leaves.items()})
        np.savez(tmp_path / "big.npz", **{k: v.astype(v.dtype.newbyteorder(">")) for k, v in leaves.items()})
        safetensors.numpy.save_file(leaves, tmp_path / "a.safetensors")
        tensors = {name: torch.from_numpy(value.copy()) for name, value in leaves.items()}
        tensors["a/kernel"] = tensors["a/kernel"].T.contiguous().T  # strided in the file
        torch.save(tensors, tmp_path / "a.pt")
        torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        from flax import serialization
        from flax.traverse_util import unflatten_dict

        (tmp_path / "a.msgpack").write_bytes(serialization.msgpack_serialize(unflatten_dict(leaves, sep="/")))
        expected = {name: sha256(value) for name, value in leaves.items()}
        files = sorted(tmp_path.iterdir())
        assert len(files) == 7
        for path in files:
            found = inspect_checkpoint(path, hashes=True)
            assert {name: reading.sha256 for name, reading in found.readings.items()} == expected, path.name
            assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_lines_for_git(self, call: Run, tmp_path: Path) -> None:
        leaves = {"b": np.ones(3, np.float32), "a.10": np.ones((2, 5), ml_dtypes.bfloat16), "a.9": np.ones(3, np.int8)}
        safetensors.numpy.save_file(leaves, tmp_path / "a.safetensors")
        done = call("inspect", "--flat", "--hash", "a.safetensors")
        file = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
        assert done.out.splitlines() == [
            f"a.9\t(3,)\ti8\t3 B\t{sha256(leaves['a.9'])}",
            f"a.10\t(2, 5)\tbf16\t20 B\t{hashlib.sha256(leaves['a.10'].tobytes()).hexdigest()}",
            f"b\t(3,)\tf32\t12 B\t{sha256(leaves['b'])}",
            f"(the file)\t\t\t\t{file}",
        ]

    def test_damage_is_no_hash(self, call: Run, numbered: Path) -> None:
        data = bytearray(numbered.read_bytes())
        place = inspect_checkpoint(numbered, locate=True).locations["net.head.weight"]
        data[place.offset or 0] ^= 1
        numbered.write_bytes(data)
        done = call("inspect", "a.pt", "--flat", "--hash")
        assert (done.code, done.out) == (3, "")
        assert "fails its check" in done.error


class TestWhere:
    def test_the_bytes_are_there(self, tmp_path: Path) -> None:
        leaves = {"a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int16)}
        np.savez(tmp_path / "a.npz", **leaves)
        safetensors.numpy.save_file(leaves, tmp_path / "a.safetensors")
        base = torch.arange(100, 112, dtype=torch.float32)
        tensors = {"a/kernel": torch.from_numpy(leaves["a/kernel"]), "b": torch.from_numpy(leaves["b"])}
        for name, new in (("a.pt", True), ("old.pt", False)):
            torch.save({**tensors, "view": base[5:8]}, tmp_path / name, _use_new_zipfile_serialization=new)
        from flax import serialization
        from flax.traverse_util import unflatten_dict

        (tmp_path / "a.msgpack").write_bytes(serialization.msgpack_serialize(unflatten_dict(leaves, sep="/")))
        for path in sorted(tmp_path.iterdir()):
            found = inspect_checkpoint(path, locate=True)
            assert len(found.locations) == len(found.infos)
            for name, value in {**leaves, "view": base[5:8].numpy()}.items():
                if name in found.infos:
                    at = found.locations[name].offset
                    assert at is not None
                    assert path.read_bytes()[at : at + value.nbytes] == value.tobytes(), (path.name, name)
        assert inspect_checkpoint(tmp_path / "a.npz", locate=True).locations["b"].record == "b.npy"
        assert inspect_checkpoint(tmp_path / "a.pt", locate=True).locations["b"].record == "a/data/1"

    def test_what_is_deflated_or_empty_has_no_offset(self, call: Run, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "a.npz", x=np.zeros((300, 7)))
        torch.save({"none": torch.zeros(0, 3), "sparse": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
        leaf = call("inspect", "a.npz", "--where", "--json").json["files"][0]["leaves"]["x"]
        assert leaf["location"] == {"file": "a.npz", "offset": None, "record": "x.npy"}
        assert "deflated" in call("inspect", "a.npz", "--where").out
        assert inspect_checkpoint(tmp_path / "a.pt", locate=True).locations == {}

    def test_shards(self, tmp_path: Path) -> None:
        safetensors.numpy.save_file({"a": np.ones(3)}, tmp_path / "one.safetensors")
        safetensors.numpy.save_file({"b": np.ones(4)}, tmp_path / "two.safetensors")
        index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        found = inspect_checkpoint(tmp_path / "model.safetensors.index.json", locate=True)
        assert {name: place.file.name for name, place in found.locations.items()} == {
            "a": "one.safetensors",
            "b": "two.safetensors",
        }


def gathered(array: np.ndarray, axis: int | None = None, step: int = 7) -> LeafStats:
    """The statistics of an array that arrives in blocks of ``step`` elements."""
    gathering = StatsGathering(LeafInfo(array.shape, array.dtype.name), axis)
    flat = array.reshape(-1)
    for start in range(0, flat.size, step):
        gathering.add(flat[start : start + step])
    return gathering.stats()


class TestStats:
    @given(
        st.lists(st.one_of(st.floats(width=32, allow_subnormal=False), st.just(0.0)), min_size=1, max_size=60),
        st.integers(1, 9),
    )
    def test_like_numpy(self, values: list[float], step: int) -> None:
        array = np.array(values, np.float32)
        found = gathered(array, step=step)
        finite = array[np.isfinite(array)].astype(np.float64)
        assert (found.nans, found.infinities) == (np.isnan(array).sum(), np.isinf(array).sum())
        assert found.zeros == (array == 0).sum()
        assert found.constant == (len(values) > 1 and bool((array == array[0]).all()))
        if not finite.size:
            assert (found.minimum, found.maximum, found.mean, found.std) == (None,) * 4
            return
        assert (found.minimum, found.maximum) == (finite.min(), finite.max())
        scale = np.abs(finite).max() or 1
        assert found.mean == pytest.approx(finite.mean(), abs=1e-12 * scale)
        assert found.std == pytest.approx(finite.std(), abs=1e-7 * scale)

    @given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.randoms())
    def test_dead_channels(self, out: int, into: int, window: int, step: int, random: object) -> None:
        array = np.ones((out, into, window), np.float32)
        dead = [n for n in range(out) if random.random() < 0.5]  # type: ignore[attr-defined]
        array[dead] = 0
        assert gathered(array, 0, step).dead_channels == len(dead)
        turned = np.ascontiguousarray(array.transpose(2, 1, 0))
        assert gathered(turned, -1, step).dead_channels == len(dead)

    def test_whole_numbers_stay_exact(self) -> None:
        found = gathered(np.array([-(2**63), 2**63 - 1], np.int64))
        assert (found.minimum, found.maximum) == (-(2**63), 2**63 - 1)
        assert gathered(np.array([2**64 - 1], np.uint64)).maximum == 2**64 - 1

    def test_numbers_past_float64_are_left_out(self) -> None:
        found = gathered(np.array([1.7e308, -1.7e308, 1.7e308]))
        assert (found.minimum, found.std) == (-1.7e308, None)
        json.dumps(found, allow_nan=False)

    def test_more_than_a_block(self) -> None:
        array = np.random.default_rng(3).normal(5, 0.01, 2 * BLOCK + 17).astype(np.float32)
        found = gathered(array, step=array.size)
        assert found.mean == pytest.approx(array.mean(dtype=np.float64), rel=1e-12)
        assert found.std == pytest.approx(array.std(dtype=np.float64), rel=1e-9)

    @pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, np.float16, bool, np.complex64])
    def test_other_types(self, dtype: type) -> None:
        found = gathered(np.array([0, 1, 1, 0, 1]).astype(dtype))
        assert (found.minimum, found.maximum, found.zeros, found.constant) == (0, 1, 2, False)
        assert found.mean == pytest.approx(0.6)
        json.dumps(found)


class TestAlarms:
    def warnings(self, tmp_path: Path, **leaves: torch.Tensor) -> dict[str, tuple[str, ...]]:
        torch.save(leaves, tmp_path / "w.pt")
        return dict(inspect_checkpoint(tmp_path / "w.pt", stats=True).warnings)

    def test_what_is_broken(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        hole = torch.randn(6, 5, 3, 2)
        hole[[1, 4]] = 0
        nan = torch.randn(4, 3)
        nan[2, 1] = torch.nan
        infinite = torch.randn(5)
        infinite[3] = -torch.inf
        found = self.warnings(
            tmp_path,
            **{
                "zero.weight": torch.zeros(4, 3), "flat.weight": torch.full((4, 3), 0.25), "hole.weight": hole,
                "nan.weight": nan, "inf.bias": infinite, "huge.weight": 1e6 * torch.randn(4, 3),
                "tiny.weight": 1e-20 * torch.randn(4, 3), "bn.running_var": torch.zeros(7),
                "cn.running_var": torch.tensor([1.0, -0.5]), "fine.weight": torch.randn(4, 3),
            },
        )  # fmt: skip
        assert found.keys() == {
            "zero.weight", "flat.weight", "hole.weight", "nan.weight", "inf.bias", "huge.weight", "tiny.weight",
            "bn.running_var", "cn.running_var",
        }  # fmt: skip
        assert found["zero.weight"] == ("all zeros",)
        assert found["flat.weight"] == ("constant 0.25",)
        assert found["hole.weight"] == ("2 of 6 output channels are all zeros",)
        assert found["nan.weight"] == ("NaN: 1 of 12",)
        assert found["inf.bias"] == ("infinite: 1 of 5",)
        assert found["cn.running_var"] == ("a variance below zero: -0.5",)

    def test_a_fresh_network_raises_none(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = torch.nn.ModuleDict({
            "conv": torch.nn.Conv2d(3, 8, 5), "bn": torch.nn.BatchNorm2d(8), "norm": torch.nn.LayerNorm(8),
            "linear": torch.nn.Linear(8, 4), "embedding": torch.nn.Embedding(9, 4, padding_idx=0),
            "attention": torch.nn.MultiheadAttention(8, 2), "lstm": torch.nn.LSTM(4, 3),
            "group": torch.nn.GroupNorm(2, 8),
            "up": torch.nn.ConvTranspose2d(8, 4, 3), "encoder": torch.nn.TransformerEncoderLayer(8, 2, 16),
        })  # fmt: skip
        state = {**network.state_dict(), "zero_init.bn.weight": torch.zeros(8), "pos": torch.zeros(1, 5, 8)}
        state |= {"attn_mask": torch.triu(torch.full((5, 5), -torch.inf), 1), "q.lora_B.weight": torch.zeros(4, 2)}
        assert self.warnings(tmp_path, **state) == {}
        readings = inspect_checkpoint(tmp_path / "w.pt", stats=True).readings
        for name, start in (("bn.running_mean", 0), ("bn.running_var", 1), ("bn.weight", 1), ("norm.bias", 0)):
            remarks = readings[name].remarks
            assert remarks is not None
            assert remarks.notes == (f"at its initial value ({start})",)

    def test_a_fresh_matcher_raises_none_in_either_framework(self, tmp_path: Path) -> None:
        write_sample(tmp_path / "a.ckpt")
        convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr")
        for name in ("a.ckpt", "a.npz"):
            assert inspect_checkpoint(tmp_path / name, stats=True).warnings == {}

    def test_trained_weights_raise_none(self, student: Path) -> None:
        assert inspect_checkpoint(student, stats=True).warnings == {}

    def test_on_the_page(self, call: Run, tmp_path: Path) -> None:
        torch.save({f"l.{n}.weight": torch.zeros(4, 3) for n in range(3)}, tmp_path / "a.pt")
        done = call("inspect", "a.pt", "--stats")
        assert done.code == 0
        assert "warning     l.{0..2}.weight: all zeros" in done.out
        assert done.out.count("warning: all zeros") == 3
        leaf = validated(call("inspect", "a.pt", "--stats", "--json").json)["files"][0]["leaves"]["l.1.weight"]
        assert (leaf["warnings"], leaf["stats"]["zeros"], leaf["stats"]["channels"]) == (["all zeros"], 12, 4)

    def test_what_cannot_be_read_is_passed_over(self, call: Run, tmp_path: Path) -> None:
        torch.save({"a.weight": torch.eye(3).to_sparse(), "b.weight": torch.ones(2)}, tmp_path / "a.pt")
        done = call("inspect", "a.pt", "--stats", "--hash")
        assert done.code == 0
        assert "cannot be read: sparse tensor" in done.out


class TestModel:
    def test_the_student(self, call: Run, student: Path) -> None:
        file = validated(call("inspect", student, "--json").json)["files"][0]
        assert file["model"]["name"] == "loftr"
        assert file["model"]["config"] == {
            "resolution": "16_4", "backbone_widths": [8, 8, 16, 32, 32], "coarse_layers": 4, "coarse_width": 32,
        }  # fmt: skip
        assert file["model"]["assumed"]["heads"] == 8
        assert file["optimizer"] is True

    def test_the_command_that_is_told_converts_the_student(self, call: Run, student: Path) -> None:
        (words,) = call("inspect", student, "--json").json["files"][0]["next"]
        (line,) = (line for line in call("inspect", student).out.splitlines() if line.startswith("next"))
        assert words_of(line.partition("  ")[2].strip()) == words[1:]
        assert call(*words[1:]).code == 0
        assert call("verify", "weights", student, "LoFTR_teacher.npz").code == 0

    def test_optimal_transport_and_the_way_back(self, call: Run, tmp_path: Path) -> None:
        sizes = SampleSizes(coarse_width=12, coarse_layers=2, fine_layers=1)
        write_sample(tmp_path / "a.ckpt", sizes=sizes)
        state = torch_state(tmp_path / "a.ckpt")
        state["matcher.coarse_matching.bin_score"] = torch.tensor(1.0)
        torch.save(state, tmp_path / "ot.ckpt")
        convert_checkpoint(tmp_path / "ot.ckpt", tmp_path / "ot.msgpack", "loftr")
        forward, backward = (inspect_checkpoint(tmp_path / name).model for name in ("ot.ckpt", "ot.msgpack"))
        assert forward[:3] == backward[:3]
        assert (forward.assumed, forward.stated) == (backward.stated, backward.assumed)
        assert forward.config["matching"] == "optimal transport"
        assert forward.config["resolution"] == "8_2"
        assert (forward.config["coarse_width"], forward.config["fine_layers"]) == (12, 1)
        assert inspect_checkpoint(tmp_path / "a.ckpt").model.config["matching"] == "dual softmax"


class TestPages:
    def test_what_the_pages_show_is_what_is_said(self, call: Run, student: Path, tmp_path: Path) -> None:
        (tmp_path / "LoFTR_teacher.pt").symlink_to(student)
        command = "loftr2flax inspect LoFTR_teacher.pt --depth 2"
        recorded = (DOCS / "inspect.md").read_text("utf-8").partition(f"$ {command}\n")[2].partition("```")[0]
        said = call(*words_of(command)).out
        assert recorded == said
        assert said.rpartition("\n\n")[2] in (DOCS.parent / "README.md").read_text("utf-8")


class TestTerminal:
    def test_lines_fit_and_names_are_cut_in_the_middle(self, tmp_path: Path) -> None:
        torch.save({f"{'very_' * 30}long.{n}.weight": torch.ones(2, n + 1) for n in range(3)}, tmp_path / "a.pt")
        words = ["inspect", "a.pt"]
        assert f"{'very_' * 30}long.2.weight" in run_program(*words, cwd=tmp_path, COLUMNS="70").out
        lines = on_terminal(*words, cwd=tmp_path, columns=70).splitlines()
        rows = [line for line in lines if line.endswith(" B")]
        assert len(rows) == 3
        assert all(len(row) <= 70 and "…" in row and ".weight" in row for row in rows)
        assert {row.split(".weight")[0][-1] for row in rows} == {"0", "1", "2"}

    @given(st.text("abc", max_size=50), st.integers(3, 60))
    def test_cut_middle(self, text: str, width: int) -> None:
        shown = cut_middle(text, width)
        assert len(shown) == min(len(text), width)
        assert shown == text or (text.startswith(shown.split("…")[0]) and text.endswith(shown.split("…")[1]))


def test_in_a_notebook(numbered: Path) -> None:
    found = inspect_checkpoint(numbered)
    assert repr(found) == f"<inspection of {numbered}: 26 leaves, no known model>"
    shown = found._repr_html_()
    assert shown.count("<tr>") == 1 + len(found.rows)
    assert "net.layers.{0..11}.up.weight" in shown
    assert "http" not in shown
    assert "<script" not in shown
