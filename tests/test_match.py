"""`match`: the converted network on real photographs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from program import Outcome, run_program
from skimage import data

from loftr2flax import convert_checkpoint
from loftr2flax.errors import CorruptFile, MappingMismatch, UsageError
from loftr2flax.matching import Weights, load_weights, match_images
from loftr2flax.matching.weights import NoMatcher
from loftr2flax.models.loftr import LoFTRConfig
from tools.sample import write_sample

Call = Callable[..., Outcome]
PHOTO = Path(data.__file__).parent / "camera.png"
FACTS = {"heads": 4}
HEADS = rb"\"heads\":4"
"""How a safetensors file states its heads, in its metadata."""
FEW = ("--size", "96", "--threshold", "0", "--fact", "heads=4")
"""Options at which the sample's random weights find a few matches, quickly."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sample.ckpt"
    write_sample(path)
    return path


@pytest.fixture(scope="module")
def flax(sample: Path) -> Path:
    path = sample.with_name("loftr.npz")
    convert_checkpoint(sample, path, "loftr", facts=FACTS)
    return path


@pytest.fixture(scope="module")
def trained(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("student") / "student.npz"
    convert_checkpoint(student, path, facts={"heads": 1, "layer_norm_eps": 1e-7})
    return load_weights(path)


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """The motorcycle, left and right, and the disparity of each left pixel; inf where it is not known."""
    left, right, disparity = data.stereo_motorcycle()
    folder = tmp_path_factory.mktemp("stereo")
    paths = folder / "left.png", folder / "right.png"
    for path, image in zip(paths, (left, right), strict=True):
        Image.fromarray(image).save(path)
    return (*paths, disparity)


def test_trained_weights_agree_with_the_disparity(trained, stereo):
    """A right match of a coarse network is as near as its grid allows: within a cell, most within half of one."""
    left, right, disparity = stereo
    found = match_images(left, right, trained)
    columns, rows = np.rint(found.points0).astype(int).T
    expected = disparity[rows, columns]
    known = np.isfinite(expected)
    off = np.abs(found.points0[:, 0] - found.points1[:, 0] - expected)[known]
    uneven = np.abs(found.points0[:, 1] - found.points1[:, 1])[known]
    cell = 16 * 741 / 640
    within = {share: int(((off <= share * cell) & (uneven <= share * cell)).sum()) for share in (0.5, 1, 2)}
    print(
        f"{len(found)} matches, {known.sum()} where the disparity is known: {within[0.5]} agree within half a cell "
        f"({cell / 2:.1f} pixels), {within[1]} within one; median error {np.median(off):.1f} pixels"
    )
    assert known.sum() > 250
    assert within[0.5] >= 0.85 * known.sum()
    assert within[1] >= 0.95 * known.sum()


def test_points_are_in_pixels_of_originals_of_any_size_and_turn(trained, tmp_path):
    """The same photograph, smaller and lying on its side with a mark to turn it: points agree after scaling."""
    small = Image.open(PHOTO).resize((440, 410), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x0112] = 8
    small.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "small.png", exif=exif)
    found = match_images(PHOTO, tmp_path / "small.png", trained, threshold=0.1)
    scaled = (found.points0 + 0.5) * [440 / 512, 410 / 512] - 0.5
    near = np.abs(scaled - found.points1).max(1) <= 16
    assert len(found) >= 80
    assert near.mean() > 0.95


def test_torch_and_flax_files_give_the_same_matches(sample, flax):
    from_torch = match_images(PHOTO, PHOTO, load_weights(sample, FACTS), longest=96, threshold=0)
    from_flax = match_images(PHOTO, PHOTO, flax, longest=96, threshold=0)
    assert from_torch.weights.converted
    assert not from_flax.weights.converted
    assert len(from_torch) == from_torch.found > 0
    assert (np.diff(from_torch.confidence) <= 0).all()
    for name in ("points0", "points1", "confidence"):
        np.testing.assert_array_equal(getattr(from_torch, name), getattr(from_flax, name))
    assert from_flax.weights.config.heads == 4


@pytest.mark.parametrize("ending", ["msgpack", "safetensors"])
def test_formats_hold_the_same_network(sample, flax, tmp_path, ending):
    convert_checkpoint(sample, tmp_path / f"loftr.{ending}", "loftr", facts=FACTS)
    expected, weights = load_weights(flax), load_weights(tmp_path / f"loftr.{ending}")
    assert weights.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, weights.variables, expected.variables)


def test_bfloat16_weights_compute_in_float32(sample, tmp_path):
    convert_checkpoint(sample, tmp_path / "half.safetensors", "loftr", facts=FACTS, dtype="bfloat16")
    weights = load_weights(tmp_path / "half.safetensors")
    assert {leaf.dtype for leaf in jax.tree.leaves(weights.variables)} == {np.dtype("float32")}
    assert len(match_images(PHOTO, PHOTO, weights, longest=96, threshold=0)) > 0


def test_top_keeps_the_surest(flax):
    every = match_images(PHOTO, PHOTO, flax, longest=96, threshold=0)
    some = match_images(PHOTO, PHOTO, flax, longest=96, threshold=0, top=3)
    assert len(some) == 3
    assert some.found == len(every)
    np.testing.assert_array_equal(some.points1, every.points1[:3])


def test_table_picture_and_talk(call: Call, flax, tmp_path):
    done = call("match", PHOTO, PHOTO, "-c", flax, *FEW, "--draw", "out.png")
    assert done.code == 0
    head, *rows = done.out.splitlines()
    assert head.split() == ["x0", "y0", "x1", "y1", "confidence"]
    assert all(re.fullmatch(r"( *-?\d+\.\d\d){4} +0\.\d{4}", row) for row in rows)
    assert f"{len(rows)} match" in done.err
    assert "seen at 96×96 and 96×96" in done.err
    assert "wrote out.png" in done.err
    with Image.open(tmp_path / "out.png") as picture:
        picture.load()
        assert picture.width > 700


def test_json(call: Call, flax):
    document = call("match", PHOTO, PHOTO, "-c", flax, *FEW, "--json", "--top", "2").json
    assert document["schema"] == "loftr2flax.match/1"
    assert document["count"] == len(document["matches"]) == 2
    assert document["found"] >= 2
    assert document["columns"] == ["x0", "y0", "x1", "y1", "confidence"]
    assert document["images"][0] == {"path": str(PHOTO), "width": 512, "height": 512, "seen": [96, 96]}
    assert all(0 <= x < 512 for x in document["matches"][0][:4])
    assert 0 < document["median_confidence"] <= 1


def test_no_match_is_the_answer_no(call: Call, flax, tmp_path):
    done = call("match", PHOTO, PHOTO, "-c", flax, "--size", "96", "--threshold", "1", "--draw", "none.png")
    assert done.code == 1
    assert done.out == ""
    assert "0 matches above 1" in done.err
    assert "--threshold" in done.err
    assert (tmp_path / "none.png").exists()
    document = call("match", PHOTO, PHOTO, "-c", flax, "--size", "96", "--threshold", "1", "--json").json
    assert document["matches"] == []
    assert document["median_confidence"] is None


@pytest.mark.parametrize("mapping", ["loftr_coarse", "ifvit_jax"])
def test_a_transformer_alone_cannot_match(call: Call, sample, tmp_path, mapping):
    convert_checkpoint(sample, tmp_path / "coarse.npz", mapping)
    done = call("match", PHOTO, PHOTO, "-c", "coarse.npz")
    assert done.code == 3
    assert done.error == "coarse.npz: holds a transformer alone; matching needs the backbone too"
    assert "-m loftr " in done.hint


def test_another_model_cannot_match(tmp_path):
    np.savez(tmp_path / "other.npz", **{"params/dense/kernel": np.ones((2, 2), np.float32)})
    with pytest.raises(NoMatcher, match="no LoFTR that can match"):
        load_weights(tmp_path / "other.npz")


def test_a_leaf_that_is_missing_is_named(flax, tmp_path):
    with np.load(flax) as arrays:
        leaves = {name: arrays[name] for name in arrays.files if "layers_1/merge" not in name}
    np.savez(tmp_path / "short.npz", **leaves)
    with pytest.raises(MappingMismatch, match=r"short\.npz: .*layers_1/merge"):
        load_weights(tmp_path / "short.npz", FACTS)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"head": 4}, "did you mean heads?"),
        ({"heads": 0}, "a whole number above 0"),
        ({"heads": 2.5}, "a whole number above 0"),
        ({"heads": 3}, "--fact heads=1"),
        ({"attention": "flash"}, "linear or full"),
        ({"layer_norm_eps": "small"}, "a number above 0"),
        ({"temp_bug_fix": 1}, "true or false"),
        ({"block_dims": 3}, "the shapes show it"),
    ],
)
def test_facts_are_checked(flax, facts, told):
    with pytest.raises(UsageError) as refusal:
        load_weights(flax, facts)
    assert told in refusal.value.hint


def test_facts_overrule_the_file(flax):
    config = load_weights(flax, {"heads": 2, "temp_bug_fix": True, "layer_norm_eps": 1e-7}).config
    assert (config.heads, config.temp_bug_fix, config.layer_norm_eps) == (2, True, 1e-7)
    assert config == LoFTRConfig(
        block_dims=(8, 12, 16), coarse_layers=("self", "cross") * 2, heads=2, temp_bug_fix=True, layer_norm_eps=1e-7
    )


def test_what_is_assumed_is_told(call: Call, sample, flax, tmp_path):
    """A file that says nothing of its attention is matched with linear attention, but not without a word."""
    with np.load(flax) as arrays:
        np.savez(tmp_path / "bare.npz", **arrays)
    assert load_weights(flax).assumed == ()
    assert load_weights(tmp_path / "bare.npz").assumed[0] == "heads"
    told = "does not say: attention=linear, layer_norm_eps=1e-05, temperature=0.1, temp_bug_fix=false (`--fact`)"
    for path in ("bare.npz", sample):
        done = call("match", PHOTO, PHOTO, "-c", path, *FEW, "--json")
        assert told in done.err
        assert done.json["weights"]["assumed"]["temp_bug_fix"] is False


def test_a_record_that_lies_is_refused(sample, tmp_path):
    convert_checkpoint(sample, tmp_path / "loftr.safetensors", "loftr", facts=FACTS)
    forged = (tmp_path / "loftr.safetensors").read_bytes()
    assert forged.count(HEADS) == 1
    (tmp_path / "loftr.safetensors").write_bytes(forged.replace(HEADS, HEADS[:-1] + b"0"))
    with pytest.raises(CorruptFile, match="its record states heads=0"):
        load_weights(tmp_path / "loftr.safetensors")


def test_outputs_are_guarded(call: Call, flax, tmp_path):
    (tmp_path / "there.png").write_bytes(b"mine")
    done = call("match", PHOTO, PHOTO, "-c", flax, *FEW, "--draw", "there.png")
    assert done.code == 4
    assert "--force" in done.hint
    assert (tmp_path / "there.png").read_bytes() == b"mine"
    assert call("match", PHOTO, PHOTO, "-c", flax, *FEW, "--draw", "there.png", "--force", "-q").code == 0
    assert (tmp_path / "there.png").read_bytes().startswith(b"\x89PNG")
    own = call("match", "there.png", "there.png", "-c", flax, *FEW, "--draw", "there.png", "--force")
    assert (own.code, own.error) == (2, "there.png: is an input itself")
    assert call("match", PHOTO, PHOTO, "-c", flax, "--draw", "out.jpg").code == 2
    assert call("match", PHOTO, PHOTO, "-c", flax, "--draw", "nowhere/out.png").code == 4


def test_bad_inputs_name_the_file(call: Call, flax, tmp_path):
    (tmp_path / "bad\x1b[31m.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    bad = call("match", "bad\x1b[31m.png", PHOTO, "-c", flax, *FEW)
    assert bad.code == 3
    assert bad.error.startswith(r"bad\x1b[31m.png: ")
    assert "\x1b" not in bad.err
    assert call("match", PHOTO, "none.png", "-c", flax, *FEW).error == "none.png: no such file"
    assert call("match", PHOTO, PHOTO, "-c", "none.npz").code == 3
    assert call("match", PHOTO, PHOTO).code == 2
    assert call("match", PHOTO, PHOTO, "-c", flax, "--threshold", "2").code == 2


def test_too_large_is_refused_before_it_is_tried(call: Call, flax, tmp_path):
    Image.new("L", (4000, 4000)).save(tmp_path / "large.png")
    done = call("match", "large.png", "large.png", "-c", flax, "--size", "4000")
    assert done.code == 4
    assert "GiB of memory" in done.error
    assert "--size" in done.hint


@pytest.mark.parametrize("missing", ["jax", "flax", "PIL"])
def test_a_missing_extra_is_told(flax, missing):
    hidden = f"import sys\nsys.modules[{missing!r}] = None"
    done = run_program("match", PHOTO, PHOTO, "-c", flax, prefix=hidden)
    assert done.code == 4, done.err
    assert missing in done.error
    assert done.hint == "pip install 'loftr2flax[parity]'"


def test_the_module_of_the_verb_loads_neither_jax_nor_pillow():
    code = "import sys, loftr2flax.cli.match; print([m for m in ('jax', 'flax', 'PIL', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
