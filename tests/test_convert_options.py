"""`convert`: what its options do, and what it refuses before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from oracle import assert_same_state, coarse_leaves, torch_state
from program import Outcome, words_of

from loftr2flax import convert_checkpoint, load_loftr_weights
from loftr2flax.errors import MappingMismatch
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A small LoFTR in the official layout."""
    write_sample(tmp_path / "sample.ckpt")
    return tmp_path / "sample.ckpt"


@pytest.fixture
def two_containers(tmp_path: Path) -> Path:
    """Trained weights, and their running average beside them."""
    generator = torch.Generator().manual_seed(1)
    names = {"fc1.weight": (3, 5), "fc1.bias": (3,), "fc2.weight": (2, 3), "fc2.bias": (2,)}
    dicts = {
        name: {f"net.{key}": torch.randn(shape, generator=generator) for key, shape in names.items()}
        for name in ("state_dict", "model_ema")
    }
    torch.save({**dicts, "epoch": 3}, tmp_path / "two.pt")
    return tmp_path / "two.pt"


@pytest.fixture
def two_layers(tmp_path: Path) -> Path:
    """A user's own mapping."""
    path = tmp_path / "two_layers.yaml"
    path.write_text("mapping: two_layers/1\nfacts: {act: relu, width: 3}\ndense:\n  fc1: hidden\n  fc2: out\n")
    return path


def folder_of(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


class TestWithoutMapping:
    def test_the_one_that_fits_is_found_and_named(self, call: Run, sample: Path) -> None:
        done = call("convert", sample, "-o", "out.npz")
        assert done.code == 0
        assert done.err.startswith("mapping loftr/1 fits, matcher. before its names\n")

    def test_two_that_fit_are_listed(self, call: Run, sample: Path, tmp_path: Path) -> None:
        coarse = {k: v for k, v in torch_state(sample).items() if ".loftr_coarse." in k}
        torch.save(coarse, tmp_path / "coarse.pt")
        done = call("convert", "coarse.pt", "-o", "out.npz")
        assert done.code == 3
        assert done.error == "coarse.pt: 2 mappings fit: ifvit_jax, loftr_coarse"
        assert done.hint == "say which: `--mapping ifvit_jax`"
        assert not (tmp_path / "out.npz").exists()

    def test_none_fits(self, call: Run, two_containers: Path) -> None:
        done = call("convert", two_containers, "-o", "out.npz")
        assert done.code == 3
        assert done.error == (
            f"{two_containers}: no shipped mapping fits (ifvit_jax, loftr, loftr_coarse); the nearest says:"
        )

    def test_a_prefix_that_is_not_there_has_the_same_hint_as_with_one(self, call: Run, sample: Path) -> None:
        done = call("convert", sample, "-o", "out.npz", "--prefix", "net")
        assert done.code == 3
        assert "no tensor is there; what the mapping names was found at 'matcher'" in done.error
        assert call(*words_of(done.hint)).code == 0


class TestStateDict:
    def test_the_choice_is_told_and_can_be_made(
        self, call: Run, two_containers: Path, two_layers: Path, tmp_path: Path
    ) -> None:
        done = call("convert", two_containers, "-m", two_layers, "-o", "a.npz")
        assert done.code == 0
        assert "took state_dict; also there: the file itself (8), model_ema (4) (--state-dict)" in done.err
        assert call("convert", two_containers, "-m", two_layers, "-o", "b.npz", "--state-dict", "model_ema").code == 0
        ema = torch_state(two_containers, "model_ema")
        np.testing.assert_array_equal(
            load_loftr_weights(tmp_path / "b.npz")["hidden/kernel"], ema["net.fc1.weight"].numpy().T
        )
        assert call("convert", "b.npz", "-m", two_layers, "--reverse", "-o", "back.pt").code == 0
        assert_same_state(torch_state(tmp_path / "back.pt", "model_ema"), ema)

    def test_verify_takes_the_one_that_was_converted(self, call: Run, two_containers: Path, two_layers: Path) -> None:
        call("convert", two_containers, "-m", two_layers, "-o", "b.npz", "--state-dict", "model_ema")
        assert call("verify", "weights", two_containers, "b.npz", "-m", two_layers).code == 0
        words = ["-m", two_layers, "--state-dict", "state_dict"]
        assert call("verify", "weights", two_containers, "b.npz", *words).code == 1

    def test_one_that_is_not_there(self, call: Run, two_containers: Path, two_layers: Path) -> None:
        done = call("convert", two_containers, "-m", two_layers, "-o", "a.npz", "--state-dict", "model_em")
        assert done.code == 3
        assert done.error == f"{two_containers}: there is no state dict 'model_em'"
        assert "model_ema" in done.hint

    def test_the_next_command_keeps_the_choice(self, call: Run, sample: Path, tmp_path: Path) -> None:
        state = torch_state(sample)
        torch.save({"state_dict": state, "model_ema": state}, tmp_path / "both.pt")
        done = call("inspect", "both.pt", "--state-dict", "model_ema", "--json")
        (words, *_) = done.json["files"][0]["next"]
        assert words == [
            "loftr2flax",
            "convert",
            "both.pt",
            "-m",
            "loftr",
            "--state-dict",
            "model_ema",
            "-o",
            "both.npz",
        ]


class TestOwnMapping:
    def test_the_record_names_it_and_the_way_back_asks_for_it(
        self, call: Run, two_containers: Path, two_layers: Path, tmp_path: Path
    ) -> None:
        assert call("convert", two_containers, "-m", two_layers, "-o", "a.npz").code == 0
        (found,) = call("inspect", "a.npz", "--json").json["files"]
        assert found["provenance"]["mapping"]["name"] == "two_layers/1"
        for command in (
            ["convert", "a.npz", "--reverse", "-o", "b.pt"],
            ["verify", "weights", two_containers, "a.npz"],
        ):
            done = call(*command)
            assert done.code == 3
            assert done.error == "a.npz: was made with two_layers/1, which does not ship with loftr2flax"
            assert done.hint == "give its file with `--mapping`"
        assert not (tmp_path / "b.pt").exists()
        assert call("convert", "a.npz", "-m", two_layers, "--reverse", "-o", "b.pt").code == 0
        assert_same_state(torch_state(tmp_path / "b.pt"), torch_state(two_containers))

    def test_another_version_of_it_is_told(self, call: Run, two_containers: Path, two_layers: Path) -> None:
        call("convert", two_containers, "-m", two_layers, "-o", "a.npz")
        two_layers.write_text(two_layers.read_text() + "# a remark\n")
        done = call("convert", "a.npz", "-m", two_layers, "--reverse", "-o", "b.pt")
        assert done.code == 0
        assert "note: a.npz was made with two_layers/1, another version of the mapping" in done.err

    def test_a_filled_leaf_that_training_changed(self, call: Run, two_containers: Path, tmp_path: Path) -> None:
        own = tmp_path / "filled.yaml"
        own.write_text("mapping: filled/1\nlet: {n: 4}\ndense:\n  fc1: hidden\n  fc2: out\nfill:\n  scale [n]: 1.0\n")
        assert call("convert", two_containers, "-m", own, "-o", "a.npz").code == 0
        leaves = load_loftr_weights(tmp_path / "a.npz")
        np.testing.assert_array_equal(leaves["scale"], np.ones(4, np.float32))
        assert call("convert", "a.npz", "-m", own, "--reverse", "-o", "same.pt").code == 0
        leaves["scale"][2] = 1.5
        np.savez(tmp_path / "tuned.npz", **leaves)
        done = call("convert", "tuned.npz", "-m", own, "--reverse", "-o", "b.pt")
        assert done.code == 3
        assert "scale is not 1.0 throughout" in done.error
        assert "--allow-loss" in done.hint
        assert not (tmp_path / "b.pt").exists()
        assert call("convert", "tuned.npz", "-m", own, "--reverse", "-o", "b.pt", "--allow-loss").code == 0
        assert list(torch_state(tmp_path / "b.pt", "")) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]

    def test_a_drop_without_a_value_is_one_way(self, call: Run, two_containers: Path, tmp_path: Path) -> None:
        own = tmp_path / "dropping.yaml"
        own.write_text("mapping: dropping/1\ndense:\n  fc1: hidden\n  fc2?: out\ndrop:\n  fc2.bias [o]:\n")
        own.write_text("mapping: dropping/1\ndense:\n  fc1: hidden\ndrop:\n  fc2.weight [o i]:\n  fc2.bias [o]:\n")
        done = call("mapping", "check", own, "--json")
        assert done.json["mappings"][0]["class"] == "one-way"
        assert call("convert", two_containers, "-m", own, "-o", "a.npz").code == 0
        done = call("convert", "a.npz", "-m", own, "--reverse", "-o", "b.pt")
        assert done.code == 0  # both are small: their values are in the record
        assert_same_state(torch_state(tmp_path / "b.pt"), torch_state(two_containers))
        np.savez(tmp_path / "bare.npz", **load_loftr_weights(tmp_path / "a.npz"))
        assert call("convert", "bare.npz", "-m", own, "--reverse", "-o", "c.pt").code == 0
        assert list(torch_state(tmp_path / "c.pt", "")) == ["fc1.weight", "fc1.bias"]

    def test_a_mapping_that_only_drops_converts_nothing(self, call: Run, two_containers: Path, tmp_path: Path) -> None:
        own = tmp_path / "none.yaml"
        lines = "".join(f"  fc{n}.{leaf}:\n" for n in (1, 2) for leaf in ("weight [o i]", "bias [o]"))
        own.write_text(f"mapping: none/1\ndrop:\n{lines}")
        done = call("convert", two_containers, "-m", own, "-o", "a.npz")
        assert done.code == 3
        assert done.error == f"{two_containers}: none/1 does not fit, one fault"
        assert "nothing would be written: no line that makes a leaf holds for this checkpoint" in done.err
        assert not (tmp_path / "a.npz").exists()


class TestWayBack:
    def test_another_mapping_gives_its_own_tensors_and_no_others(self, call: Run, tmp_path: Path) -> None:
        sample = tmp_path / "deep.ckpt"
        write_sample(sample, sizes=SampleSizes(coarse_layers=5))
        call("convert", sample, "-m", "loftr", "-o", "a.npz")
        done = call("convert", "a.npz", "-m", "loftr_coarse", "--reverse", "-o", "b.ckpt")
        assert done.code == 0
        assert "note: a.npz was made with loftr/1, another mapping" in done.err
        back, root = torch_state(tmp_path / "b.ckpt"), "matcher.loftr_coarse."
        wanted = {k.removeprefix(root): v for k, v in torch_state(sample).items() if k.startswith(root)}
        assert_same_state(dict(sorted(back.items())), dict(sorted(wanted.items())))

    def test_another_prefix_loses_nothing(self, call: Run, sample: Path, tmp_path: Path) -> None:
        call("convert", sample, "-m", "loftr", "-o", "a.npz")
        done = call("convert", "a.npz", "--reverse", "--prefix", "module.net", "--state-dict", "", "-o", "b.ckpt")
        assert done.code == 0
        assert "note" not in done.err
        wanted = {k.replace("matcher.", "module.net.", 1): v for k, v in torch_state(sample).items()}
        assert_same_state(torch_state(tmp_path / "b.ckpt", ""), wanted)

    def test_a_tree_without_a_record_has_counters_of_zero_and_the_mappings_keys(
        self, call: Run, sample: Path, tmp_path: Path
    ) -> None:
        call("convert", sample, "-m", "loftr", "-o", "a.npz")
        np.savez(tmp_path / "bare.npz", **load_loftr_weights(tmp_path / "a.npz"))
        assert call("convert", "bare.npz", "--reverse", "-o", "b.safetensors").code == 0
        back = safetensors.torch.load_file(tmp_path / "b.safetensors")
        wanted = {k.removeprefix("matcher."): v for k, v in torch_state(sample).items()}
        assert sorted(back) == sorted(wanted)
        for key, value in back.items():
            counter = key.endswith("num_batches_tracked")
            assert torch.equal(value, torch.zeros_like(value) if counter else wanted[key]), key

    def test_a_damaged_record_is_told(self, call: Run, sample: Path, tmp_path: Path) -> None:
        call("convert", sample, "-m", "loftr", "-o", "a.safetensors")
        data = (tmp_path / "a.safetensors").read_bytes()
        assert data.count(b'\\"dropped\\"') == 1
        (tmp_path / "b.safetensors").write_bytes(data.replace(b'\\"dropped\\"', b'\\"drooped\\"'))
        done = call("convert", "b.safetensors", "--reverse", "-o", "c.pt")
        assert done.code == 3
        assert done.error == "b.safetensors: its record of provenance is damaged: 'dropped'"

    def test_a_record_never_replaces_what_the_tree_holds(self, sample: Path, tmp_path: Path) -> None:
        convert_checkpoint(sample, tmp_path / "a.safetensors", "loftr_coarse")
        data = (tmp_path / "a.safetensors").read_bytes()
        forged = rb"\"dropped\":{\"layers.0.norm1.bias\":{\"dtype\":\"uint8\",\"hex\":\"07\",\"shape\":[1]}}"
        length = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + length].replace(rb"\"dropped\":{}", forged).ljust(length + 128)
        assert forged in header
        (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
        convert_checkpoint(tmp_path / "b.safetensors", tmp_path / "c.pt", reverse=True)
        back = torch_state(tmp_path / "c.pt")["matcher.loftr_coarse.layers.0.norm1.bias"]
        assert torch.equal(back, torch_state(sample)["matcher.loftr_coarse.layers.0.norm1.bias"])


class TestDtype:
    def test_safetensors_hold_bfloat16(self, call: Run, sample: Path, tmp_path: Path) -> None:
        done = call("convert", sample, "-m", "loftr", "--dtype", "bfloat16", "-o", "a.safetensors")
        assert done.code == 0
        assert done.err.endswith("loftr/1, cast to another dtype\n")
        found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
        original = torch_state(sample)["matcher.loftr_coarse.layers.1.mlp.0.weight"]
        kernel = found["params/loftr_coarse/layers_1/mlp_0/kernel"]
        assert kernel.dtype == ml_dtypes.bfloat16
        assert kernel.tobytes() == original.to(torch.bfloat16).T.contiguous().view(torch.int16).numpy().tobytes()
        assert call("verify", "weights", sample, "a.safetensors").code == 0  # the record says which cast was asked for

    def test_npz_has_no_bfloat16_and_keeps_it_by_convention(self, call: Run, sample: Path, tmp_path: Path) -> None:
        assert call("convert", sample, "-m", "loftr_coarse", "--dtype", "bfloat16", "-o", "a.npz").code == 0
        wanted = coarse_leaves(torch_state(sample))["layers_1/mlp_0/kernel"].astype(ml_dtypes.bfloat16)
        ours = load_loftr_weights(tmp_path / "a.npz")["layers_1/mlp_0/kernel"]
        assert ours.dtype == ml_dtypes.bfloat16
        assert ours.tobytes() == wanted.tobytes()
        with np.load(tmp_path / "a.npz") as arrays:
            theirs = arrays["layers_1/mlp_0/kernel"]["bfloat16"].view(ml_dtypes.bfloat16)
        assert theirs.tobytes() == wanted.tobytes()

    @pytest.mark.parametrize(("dtype", "hint"), [("bfloat", "bfloat16"), ("int8", "float64, float32")])
    def test_a_type_that_is_none(self, call: Run, sample: Path, dtype: str, hint: str) -> None:
        done = call("convert", sample, "-m", "loftr", "--dtype", dtype, "-o", "a.npz")
        assert done.code == 2
        assert done.error == f"--dtype {dtype}: not a floating-point type"
        assert hint in done.hint

    def test_a_number_out_of_range(self, call: Run, two_containers: Path, two_layers: Path, tmp_path: Path) -> None:
        state = torch_state(two_containers)
        state["net.fc2.weight"][1, 2] = 7e4
        torch.save(state, tmp_path / "large.pt")
        done = call("convert", "large.pt", "-m", two_layers, "--dtype", "float16", "-o", "a.npz")
        assert done.code == 3
        assert "out of the range of float16" in done.error
        assert not (tmp_path / "a.npz").exists()


class TestFacts:
    def test_a_fact_goes_into_the_record(self, call: Run, sample: Path) -> None:
        words = ["--fact", "heads=4", "--fact", "layer_norm_eps=1", "--fact", "temp_bug_fix=true"]
        assert call("convert", sample, "-m", "loftr", "-o", "a.npz", *words).code == 0
        (found,) = call("inspect", "a.npz", "--json").json["files"]
        facts = found["provenance"]["facts"]
        assert (facts["heads"], facts["layer_norm_eps"], facts["temp_bug_fix"]) == (4, 1, True)
        assert facts["temperature"] == 0.1

    @pytest.mark.parametrize(
        ("fact", "error", "hint"),
        [
            ("head=4", "--fact head: loftr/1 states no fact of that name", "heads"),
            ("heads", "--fact heads: not a name and its value", "--fact heads=1"),
            ("heads=many", "--fact heads=many: not of the kind of 8", "such as heads=8"),
            ("heads=1.5", "--fact heads=1.5: not of the kind of 8", "such as heads=8"),
            ("temperature=nan", "--fact temperature=nan: not of the kind of 0.1", "such as temperature=0.1"),
            ("temperature=inf", "--fact temperature=inf: not of the kind of 0.1", "such as temperature=0.1"),
            ("temp_bug_fix=1", "--fact temp_bug_fix=1: not of the kind of false", "such as temp_bug_fix=false"),
            ("attention=3", '--fact attention=3: not of the kind of "linear"', "such as attention=linear"),
        ],
    )
    def test_a_fact_that_cannot_be_meant(self, call: Run, sample: Path, fact: str, error: str, hint: str) -> None:
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz", "--fact", fact)
        assert done.code == 2
        assert done.error == error
        assert hint in done.hint


class TestOutput:
    def test_a_dry_run_prints_the_plan_and_writes_nothing(self, call: Run, sample: Path, tmp_path: Path) -> None:
        done = call("convert", sample, "-m", "ifvit_jax", "--dry-run", "-o", "a.npz")
        assert done.code == 0
        (line,) = (line for line in done.out.splitlines() if "mlp.0" in line)
        assert line.split() == [
            "matcher.loftr_coarse.layers.{0..3}.mlp.0.weight", "→", "layers.{0..3}.{0..1}/mlp.0/kernel",
            "(32,", "32)", "float32", "tied",
        ]  # fmt: skip
        assert done.out.splitlines()[-1].endswith("bit for bit, with tied copies; nothing was written")
        assert folder_of(tmp_path) == ["sample.ckpt"]

    def test_a_dry_run_needs_no_output(self, call: Run, sample: Path) -> None:
        document = call("convert", sample, "--dry-run", "--json").json
        assert document["schema"] == "loftr2flax.convert/1"
        assert (document["written"], document["output"], len(document["leaves"])) == (False, None, 154)

    def test_no_output_named(self, call: Run, sample: Path) -> None:
        done = call("convert", sample)
        assert (done.code, done.error) == (2, "no output is named")
        assert call(*words_of(done.hint)).code == 0

    def test_a_file_that_is_there_stays_without_force(self, call: Run, sample: Path, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_text("precious")
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz")
        assert (done.code, done.error) == (4, "a.npz: exists already")
        assert "--force" in done.hint
        assert (tmp_path / "a.npz").read_text() == "precious"
        assert call("convert", sample, "-m", "loftr", "-o", "a.npz", "--force").code == 0
        assert len(load_loftr_weights(tmp_path / "a.npz")) == 154

    @pytest.mark.parametrize("force", [[], ["--force"]])
    def test_the_input_itself(self, call: Run, sample: Path, tmp_path: Path, force: list[str]) -> None:
        before = sample.read_bytes()
        (tmp_path / "link.npz").symlink_to(sample)
        done = call("convert", sample, "-m", "loftr", "-o", "link.npz", *force)
        assert (done.code, done.error) == (2, "link.npz: is the input itself")
        assert sample.read_bytes() == before

    def test_a_directory(self, call: Run, sample: Path, tmp_path: Path) -> None:
        (tmp_path / "a.npz").mkdir()
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz", "--force")
        assert (done.code, done.error) == (2, "a.npz: cannot be replaced: it is a directory")

    def test_a_folder_that_is_not_there(self, call: Run, sample: Path) -> None:
        done = call("convert", sample, "-m", "loftr", "-o", "no/such/a.npz")
        assert (done.code, done.error) == (4, "no/such/a.npz: the folder does not exist")
        assert done.hint == "mkdir -p no/such"

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (["-o", "out"], "out: the ending '' names no format"),
            (["-o", "out.h5"], "out.h5: the ending '.h5' names no format"),
            (["-o", "out.pt"], "out.pt: torch is not written here: Flax reads other formats"),
            (["-o", "out.npz", "--format", "hdf5"], "out.npz: hdf5 is not written here: Flax reads other formats"),
        ],
    )
    def test_an_ending_that_names_no_format(self, call: Run, sample: Path, words: list[str], error: str) -> None:
        done = call("convert", sample, *words)
        assert (done.code, done.error) == (2, error)
        assert "npz, " in done.hint

    def test_the_format_goes_before_the_ending(self, call: Run, sample: Path, tmp_path: Path) -> None:
        assert call("convert", sample, "-m", "loftr", "-o", "out.bin", "--format", "safetensors").code == 0
        assert len(safetensors.numpy.load_file(tmp_path / "out.bin")) == 154

    def test_a_name_that_is_too_long(self, call: Run, sample: Path) -> None:
        done = call("convert", sample, "-m", "loftr", "-o", "x" * 300 + ".npz")
        assert done.code == 4
        assert done.error.endswith("File name too long")

    def test_a_torch_file_on_the_way_back(self, call: Run, sample: Path) -> None:
        done = call("convert", sample, "--reverse", "-o", "b.pt")
        assert (done.code, done.error) == (2, f"{sample}: is a PyTorch file, and --reverse reads a Flax tree")

    def test_a_tree_on_the_way_there(self, call: Run, sample: Path) -> None:
        call("convert", sample, "-m", "loftr", "-o", "a.npz")
        done = call("convert", "a.npz", "-o", "b.npz")
        assert (done.code, done.error) == (2, "a.npz: is a Flax tree already")
        assert "--reverse" in done.hint

    def test_an_index_that_is_not_tied(self, call: Run, sample: Path) -> None:
        call("convert", sample, "-m", "ifvit_jax", "-o", "a.npz")
        for choice, hint in (
            ("i=0", "ifvit_jax/1 ties j"),
            ("j=7", "j is one of 0, 1"),
            ("j", "such as `--choose j=0`"),
        ):
            done = call("convert", "a.npz", "--reverse", "-o", "b.pt", "--choose", choice)
            assert done.code == 2
            assert hint in done.hint

    def test_json_of_a_conversion(self, call: Run, sample: Path, tmp_path: Path) -> None:
        document = call("convert", sample, "-m", "loftr", "-o", "a.npz", "--json", "-q").json
        assert document["written"] is True
        assert document["output_bytes"] == os.path.getsize(tmp_path / "a.npz")
        leaf = document["leaves"]["params/backbone/layer2_0/downsample_0/kernel"]
        assert leaf["inputs"] == ["matcher.backbone.layer2.0.downsample.0.weight"]
        assert leaf["shape"] == [1, 1, 8, 12]
        assert leaf["class"] == "exact"

    def test_quiet_leaves_errors_alone(self, call: Run, sample: Path) -> None:
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz", "-q")
        assert (done.code, done.out, done.err) == (0, "", "")
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz", "-q")
        assert done.err.startswith("error: ")

    def test_an_error_is_a_document_too(self, call: Run, tmp_path: Path) -> None:
        done = call("convert", "nothing.pt", "-o", "a.npz", "--json")
        assert done.code == 3
        assert done.json == {
            "schema": "loftr2flax.error/1",
            "error": "nothing.pt: no such file",
            "hint": "check the path",
            "faults": [],
            "exit_code": 3,
        }


def test_the_python_side_raises_what_the_command_prints(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(MappingMismatch, match="no tensor is there") as caught:
        convert_checkpoint(sample, tmp_path / "a.npz", "ifvit_jax", prefix="loftr_coarse.coarse_transformer")
    assert caught.value.hint == "--prefix matcher.loftr_coarse"
    steps: list[tuple[int, int]] = []
    done = convert_checkpoint(sample, tmp_path / "a.npz", "ifvit_jax", progress=lambda *step: steps.append(step))
    assert steps[-1] == (done.nbytes, done.nbytes)
    assert len(steps) == 80


class TestWhatWouldBeLost:
    """Values without a place on the other side are the mapping's own, or they are not lost without a word."""

    @pytest.fixture
    def masked(self, tmp_path: Path) -> Path:
        """A dense layer beside a buffer of 2 KiB, larger than what the record keeps."""
        mask = torch.rand((16, 32), generator=torch.Generator().manual_seed(0))
        torch.save({"fc.weight": torch.ones(3, 5), "fc.bias": torch.zeros(3), "mask": mask}, tmp_path / "masked.pt")
        return tmp_path / "masked.pt"

    def write(self, folder: Path, drop: str) -> Path:
        path = folder / "masked.yaml"
        path.write_text(f"mapping: masked/1\nlet: {{s: 16, t: 32}}\ndense:\n  fc: fc\ndrop:\n  mask [s t]: {drop}\n")
        return path

    def test_a_large_dropped_tensor_that_is_not_what_the_mapping_says(
        self, call: Run, masked: Path, tmp_path: Path
    ) -> None:
        own = self.write(tmp_path, "0.0")
        done = call("convert", masked, "-m", own, "-o", "a.npz")
        assert done.code == 3
        assert "mask is not 0.0 throughout" in done.error
        assert not (tmp_path / "a.npz").exists()
        assert call("convert", masked, "-m", own, "-o", "a.npz", "--allow-loss").code == 0

    def test_one_that_is_comes_back(self, call: Run, masked: Path, tmp_path: Path) -> None:
        state = torch_state(masked, "") | {"mask": torch.full((16, 32), 0.5)}
        torch.save(state, masked)
        own = self.write(tmp_path, "0.5")
        assert call("convert", masked, "-m", own, "-o", "a.npz").code == 0
        assert call("convert", "a.npz", "-m", own, "--reverse", "-o", "b.pt").code == 0
        assert_same_state(torch_state(tmp_path / "b.pt", ""), state)

    def test_one_that_the_mapping_gives_up_is_announced(self, call: Run, masked: Path, tmp_path: Path) -> None:
        done = call("convert", masked, "-m", self.write(tmp_path, ""), "-o", "a.npz")
        assert done.code == 0
        assert "one way: what is dropped does not come back" in done.err

    @pytest.mark.parametrize(("value", "dtype"), [("0.1", "bfloat16"), (".nan", "float32")])
    def test_a_fill_that_nobody_touched_is_no_loss(
        self, call: Run, two_containers: Path, tmp_path: Path, value: str, dtype: str
    ) -> None:
        own = tmp_path / "filled.yaml"
        own.write_text(f"mapping: filled/1\nlet: {{n: 4}}\ndense:\n  fc1: a\n  fc2: b\nfill:\n  x [n]: {value}\n")
        assert call("convert", two_containers, "-m", own, "-o", "a.safetensors", "--dtype", dtype).code == 0
        assert call("convert", "a.safetensors", "-m", own, "--reverse", "-o", "b.pt").code == 0


def test_the_way_back_says_that_a_cast_stays(call: Run, sample: Path) -> None:
    call("convert", sample, "-m", "loftr", "-o", "a.safetensors", "--dtype", "float16")
    done = call("convert", "a.safetensors", "--reverse", "-o", "b.pt")
    assert done.code == 0
    assert "note: floating-point numbers were cast to float16 on the way here, and stay so" in done.err


def test_a_choice_that_one_shipped_mapping_knows_needs_no_mapping_named(
    call: Run, sample: Path, tmp_path: Path
) -> None:
    """The hint of the first command works on the second: nothing else has to be named."""
    convert_checkpoint(sample, tmp_path / "a.npz", "ifvit_jax")
    leaves = load_loftr_weights(tmp_path / "a.npz")
    leaves["layers.2.1/merge/kernel"] = leaves["layers.2.1/merge/kernel"] + 1
    np.savez(tmp_path / "tuned.npz", **leaves)
    done = call("convert", "tuned.npz", "--reverse", "-o", "b.pt")
    assert done.code == 3
    assert "--choose j=0" in done.hint
    assert call("convert", "tuned.npz", "--reverse", "-o", "b.pt", "--choose", "j=0").code == 0
    assert call("convert", "tuned.npz", "--reverse", "-o", "c.pt", "--choose", "k=0").code == 2


class TestShards:
    def test_there_and_back(self, call: Run, sample: Path, tmp_path: Path) -> None:
        done = call("convert", sample, "-o", "out.safetensors", "--max-shard-size", "100KB", "--json")
        assert done.code == 0
        index = tmp_path / "out.safetensors.index.json"
        shards = sorted(tmp_path.glob("out-*.safetensors"))
        assert len(shards) == 2
        assert done.json["output"] == "out.safetensors.index.json"
        assert done.json["output_bytes"] == sum(path.stat().st_size for path in (index, *shards))
        assert call("verify", "weights", sample, index).code == 0
        assert call("convert", index, "--reverse", "-o", "back.ckpt").code == 0
        assert_same_state(torch_state(tmp_path / "back.ckpt"), torch_state(sample))

    def test_the_way_back_in_shards(self, call: Run, sample: Path, tmp_path: Path) -> None:
        call("convert", sample, "-o", "out.npz")
        done = call("convert", "out.npz", "--reverse", "-o", "back.safetensors", "--max-shard-size", "0.1MB")
        assert done.code == 2  # a whole number
        done = call("convert", "out.npz", "--reverse", "-o", "back.safetensors", "--max-shard-size", "100KiB")
        assert done.code == 0
        assert "wrote back.safetensors.index.json and " in done.err
        back = {}
        for shard in tmp_path.glob("back-*.safetensors"):
            back |= safetensors.torch.load_file(shard)
        state = torch_state(sample)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], tensor) for key, tensor in state.items())

    @pytest.mark.parametrize("size", ["0", "-1MB", "MB", "3 apples", "1e6", "5ib", "٣MB", f"{10**18}"])
    def test_what_is_no_size(self, call: Run, sample: Path, tmp_path: Path, size: str) -> None:
        done = call("convert", sample, "-o", "out.safetensors", f"--max-shard-size={size}")
        assert done.code == 2
        assert done.error == f"--max-shard-size {size}: not a size"
        assert folder_of(tmp_path) == ["sample.ckpt"]

    def test_a_number_of_too_many_digits(self, call: Run, sample: Path) -> None:
        """Python itself refuses to read a number of more than 4,300 digits."""
        assert call("convert", sample, "-o", "out.npz", f"--max-bytes={'9' * 5000}").code == 2
        assert call("convert", sample, "-m", "ifvit_jax", "-o", "out.npz", f"--choose=j={'9' * 5000}").code in (2, 5)
