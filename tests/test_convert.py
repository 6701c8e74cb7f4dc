"""`convert` on a checkpoint in the official layout at full size, there in three formats and back, judged by others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import safetensors.numpy
import torch
from oracle import (
    assert_equal,
    assert_same_state,
    coarse_leaves,
    flattened,
    flax_leaves,
    ifvit_leaves,
    torch_state,
)
from program import Outcome, run_program, words_of

from loftr2flax import convert_checkpoint, plan_conversion

Run = Callable[..., Outcome]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def read_msgpack(path: Path) -> dict[str, np.ndarray]:
    return flattened(flax.serialization.msgpack_restore(path.read_bytes()))


READERS = {".npz": read_npz, ".msgpack": read_msgpack, ".safetensors": safetensors.numpy.load_file}
"""By ending, a reader that is not ours."""


@pytest.fixture(scope="module")
def converted(official: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The official checkpoint in every format, by ending, made by the real program."""
    folder = tmp_path_factory.mktemp("converted")
    made = {}
    for ending in READERS:
        made[ending] = folder / f"out{ending}"
        done = run_program("convert", official, "-m", "loftr", "-o", made[ending])
        assert done.code == 0, done.err
        assert f"wrote {made[ending]}: 194 leaves, 44." in done.err
        assert done.err.endswith("loftr/1, bit for bit\n")
        assert "dropped: 17 tensors, 17 of them kept in the output's record for the way back" in done.err
        assert done.out == ""
    return made


@pytest.mark.parametrize("ending", READERS)
def test_every_leaf_is_the_tensor_turned_by_hand(official: Path, converted: dict[str, Path], ending: str) -> None:
    found = READERS[ending](converted[ending])
    assert len(found) == 194
    assert_equal(found, flax_leaves(torch_state(official)))


@pytest.mark.parametrize("ending", READERS)
def test_the_way_back_gives_the_original(
    converted: dict[str, Path], official: Path, tmp_path: Path, ending: str
) -> None:
    back = tmp_path / "back.ckpt"
    done = run_program("convert", converted[ending], "--reverse", "-o", back)
    assert done.code == 0, done.err
    assert "wrote" in done.err
    assert "211 tensors" in done.err
    assert list(torch.load(back, weights_only=True)) == ["state_dict"]
    assert len(torch_state(back)) == 211
    assert_same_state(torch_state(back), torch_state(official))


def test_numpy_alone_reads_the_npz(converted: dict[str, Path], tmp_path: Path) -> None:
    script = (
        "import sys, numpy; a = numpy.load(sys.argv[1]); print(len(a.files), a['params/backbone/conv1/kernel'].shape);"
        "assert not [m for m in sys.modules if m.startswith('loftr2flax')]"
    )
    words = [sys.executable, "-c", script, str(converted[".npz"])]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "194 (7, 7, 1, 128)\n"


def test_the_same_input_gives_the_same_bytes_anywhere(
    official: Path, converted: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "another folder"
    elsewhere.mkdir()
    (elsewhere / "renamed.bin").symlink_to(official)
    for ending, first in converted.items():
        second = elsewhere / f"o{ending}"
        convert_checkpoint(elsewhere / "renamed.bin", second, "loftr")
        assert second.read_bytes() == first.read_bytes()
    first, second = (folder / "out.msgpack.provenance.json" for folder in (converted[".npz"].parent, elsewhere))
    assert json.loads(first.read_text()) == json.loads(second.with_name("o.msgpack.provenance.json").read_text())


@pytest.mark.parametrize("ending", READERS)
def test_the_record_says_how_a_file_was_made_and_names_no_path(
    call: Run, converted: dict[str, Path], official: Path, ending: str
) -> None:
    import hashlib

    (found,) = call("inspect", "--json", converted[ending]).json["files"]
    record = found["provenance"]
    assert record["mapping"]["name"] == "loftr/1"
    assert record["source"] == {"format": "torch", "sha256": hashlib.sha256(official.read_bytes()).hexdigest()}
    assert record["facts"]["layer_norm_eps"] == 1e-5
    assert record["container"] == "state_dict"
    assert record["root"] == "matcher"
    assert len(record["keys"]) == 211
    assert len(record["dropped"]) == 17
    assert record["groups"] == ["backbone: resolution 1/8", "fine stage"]
    assert str(official.parent) not in json.dumps(record)


def test_the_coarse_transformer_alone(call: Run, official: Path, tmp_path: Path) -> None:
    assert call("convert", official, "-m", "loftr_coarse", "-o", "c.npz").code == 0
    assert_equal(read_npz(tmp_path / "c.npz"), coarse_leaves(torch_state(official)))


class TestIfvit:
    def test_both_sublayers_are_written_and_equal(self, call: Run, official: Path, tmp_path: Path) -> None:
        done = call("convert", official, "-m", "ifvit_jax", "-o", "i.npz")
        assert done.code == 0
        assert "wrote i.npz: 160 leaves" in done.err
        assert "not in scope: 131 other tensors" in done.err
        found = read_npz(tmp_path / "i.npz")
        assert len(found) == 160
        assert_equal(found, ifvit_leaves(torch_state(official)))
        for name in found:
            assert found[name].tobytes() == found[name.replace(".1/", ".0/", 1)].tobytes()

    def test_the_documented_prefix_is_in_no_official_file(self, run: Run, official: Path, tmp_path: Path) -> None:
        done = run("convert", official, "-m", "ifvit_jax", "-o", "i.npz", "--prefix", "loftr_coarse.coarse_transformer")
        assert done.code == 3
        assert done.error == (
            f"{official}: --prefix loftr_coarse.coarse_transformer: no tensor is there; "
            "what the mapping names was found at 'matcher.loftr_coarse'"
        )
        assert done.hint == f"loftr2flax convert {official} -m ifvit_jax -o i.npz --prefix matcher.loftr_coarse"
        assert list(tmp_path.iterdir()) == []
        assert run(*words_of(done.hint)).code == 0
        assert len(read_npz(tmp_path / "i.npz")) == 160

    @pytest.mark.parametrize("prefix", ["loftr_coarse", "matcher", "matcher.loftr_coarse"])
    def test_a_run_of_whole_segments_is_a_prefix(self, official: Path, prefix: str) -> None:
        assert len(plan_conversion(official, mapping="ifvit_jax", prefix=prefix).plan.moves) == 160

    def test_a_part_of_a_segment_is_none(self, call: Run, official: Path) -> None:
        done = call("convert", official, "-m", "ifvit_jax", "-o", "i.npz", "--prefix", "loftr_coar")
        assert done.code == 3
        assert "no tensor is there" in done.error

    def test_the_hint_keeps_every_option(self, call: Run, official: Path) -> None:
        done = call(
            "convert", official, "--prefix", "x", "-m", "ifvit_jax", "--dtype", "bfloat16", "--format", "safetensors",
            "-o", "a file", "--fact", "heads=4", "--fact", "attention=full", "--state-dict", "state_dict", "--dry-run",
        )  # fmt: skip
        again = call(*words_of(done.hint))
        assert again.code == 0
        assert words_of(done.hint) == [
            "convert", str(official), "-m", "ifvit_jax", "-o", "a file", "--format", "safetensors",
            "--prefix", "matcher.loftr_coarse", "--state-dict", "state_dict", "--dtype", "bfloat16",
            "--fact", "heads=4", "--fact", "attention=full", "--dry-run",
        ]  # fmt: skip

    def test_the_documented_spelling(self, call: Run, official: Path, tmp_path: Path) -> None:
        root = "loftr_coarse.coarse_transformer."
        spelled = {
            "q_proj": "linear_q",
            "k_proj": "linear_k",
            "v_proj": "linear_v",
            "merge": "linear_out",
            "mlp": "ffn",
        }
        state, documented = torch_state(official), {}
        for key, value in state.items():
            if key.startswith("matcher.loftr_coarse."):
                words = key.removeprefix("matcher.loftr_coarse.").split(".")
                documented[root + ".".join(spelled.get(word, word) for word in words)] = value
        assert f"{root}layers.7.ffn.2.weight" in documented
        torch.save(documented, tmp_path / "documented.pt")
        done = call("convert", "documented.pt", "-m", "ifvit_jax", "-o", "i.npz", "--prefix", root.rstrip("."))
        assert done.code == 0
        assert_equal(read_npz(tmp_path / "i.npz"), ifvit_leaves(state))
        assert call("convert", "i.npz", "--reverse", "-o", "back.pt").code == 0
        assert_same_state(torch_state(tmp_path / "back.pt", ""), documented)

    def test_keys_that_have_the_sublayer_already(self, call: Run, student: Path, tmp_path: Path) -> None:
        state = torch_state(student, "model_state_dict")
        twice = {}
        for key, value in state.items():
            before, found, rest = key.partition("loftr_coarse.layers.")
            number, _, leaf = rest.partition(".")
            for j in (0, 1) if found else ():
                twice[f"module.{before}{found}{number}.{j}.{leaf}"] = value + j
        torch.save(twice, tmp_path / "twice.pt")
        assert call("convert", "twice.pt", "-m", "ifvit_jax", "-o", "i.npz").code == 0
        found_leaves = read_npz(tmp_path / "i.npz")
        assert len(found_leaves) == 80
        one = twice["module.loftr_coarse.layers.3.1.mlp.0.weight"].numpy()
        np.testing.assert_array_equal(found_leaves["layers.3.1/mlp.0/kernel"], one.T)
        assert call("convert", "i.npz", "--reverse", "-o", "back.pt").code == 0
        assert_same_state(torch_state(tmp_path / "back.pt", ""), twice)

    def test_sublayers_that_differ_cannot_become_one(self, call: Run, student: Path, tmp_path: Path) -> None:
        assert call("convert", student, "-m", "ifvit_jax", "-o", "i.npz").code == 0
        leaves = read_npz(tmp_path / "i.npz")
        leaves["layers.2.1/merge/kernel"][3, 4] += 1
        np.savez(tmp_path / "tuned.npz", **leaves)
        done = call("convert", "tuned.npz", "-m", "ifvit_jax", "--reverse", "-o", "back.pt")
        assert done.code == 3
        assert "layers.2.0/merge/kernel" in done.error
        assert "layers.2.1/merge/kernel" in done.error
        assert "--choose j=0" in done.hint
        assert not (tmp_path / "back.pt").exists()
        for side in ("0", "1"):
            words = ["-m", "ifvit_jax", "--reverse", "--choose", f"j={side}", "--force", "-o", "back.pt"]
            assert call("convert", "tuned.npz", *words).code == 0
            back = torch_state(tmp_path / "back.pt", "")
            assert len(back) == 40
            np.testing.assert_array_equal(back["layers.2.merge.weight"].T, leaves[f"layers.2.{side}/merge/kernel"])


class TestStudent:
    """Real weights: a coarse-only LoFTR beside an optimizer's state."""

    def test_the_matcher_without_its_fine_stage(self, call: Run, student: Path, tmp_path: Path) -> None:
        done = call("convert", student, "-m", "loftr", "-o", "s.msgpack")
        assert done.code == 0
        assert "absent: fine stage (the file has none of it)" in done.err
        assert "wrote s.msgpack: 155 leaves" in done.err
        state = torch_state(student, "model_state_dict")
        assert_equal(read_msgpack(tmp_path / "s.msgpack"), flax_leaves(state, ""))
        assert call("convert", "s.msgpack", "--reverse", "-o", "back.pt").code == 0
        assert list(torch.load(tmp_path / "back.pt", weights_only=True)) == ["model_state_dict"]
        assert_same_state(torch_state(tmp_path / "back.pt", "model_state_dict"), state)

    @pytest.mark.parametrize(
        ("mapping", "leaves", "oracle"), [("loftr_coarse", 40, coarse_leaves), ("ifvit_jax", 80, ifvit_leaves)]
    )
    def test_the_coarse_transformer_there_and_back(
        self,
        call: Run,
        student: Path,
        tmp_path: Path,
        mapping: str,
        leaves: int,
        oracle: Callable[..., dict[str, np.ndarray]],
    ) -> None:
        assert call("convert", student, "-m", mapping, "-o", "s.safetensors").code == 0
        state = torch_state(student, "model_state_dict")
        found = safetensors.numpy.load_file(tmp_path / "s.safetensors")
        assert len(found) == leaves
        assert_equal(found, oracle(state, "loftr_coarse."))
        assert call("convert", "s.safetensors", "--reverse", "-o", "back.pt").code == 0
        coarse = {key: value for key, value in state.items() if key.startswith("loftr_coarse.")}
        assert_same_state(torch_state(tmp_path / "back.pt", "model_state_dict"), coarse)
