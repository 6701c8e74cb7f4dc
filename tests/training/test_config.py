"""Every value is checked, wherever it comes from."""

from __future__ import annotations

import json
from datetime import date

import pytest
from tiny import tiny_options

from loftr2flax.errors import MissingInput, UsageError
from loftr2flax.training.config import DenseConfig, MatchConfig


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": "fast"}, "lr=fast: not a number"),
        ({"lr": float("nan")}, "lr=nan: not a number"),
        ({"lr": 0}, "lr=0: out of range"),
        ({"batch_size": 2.5}, "batch_size=2.5: not a whole number"),
        ({"batch_size": True}, "batch_size=true: not a number"),
        ({"attention_type": "quadratic"}, "attention_type=quadratic: not one of linear, full"),
        ({"stride": 4}, "stride=4: not one of 8, 16"),
        ({"use_loftr": "perhaps"}, "use_loftr=perhaps: neither true nor false"),
        ({"image_size": "96x100"}, "image_size=96,100: is no multiple of 8"),
        ({"image_size": "1x2x3"}, "image_size=1x2x3: a size has height and width"),
        ({"num_heads": 7}, "num_heads=7 does not divide hidden_dim=256"),
        ({"backbone_dims": "8,16"}, "backbone_dims=8,16: does not fit stride=8 and hidden_dim=256"),
        ({"lr_scale": "backbone"}, "lr_scale=backbone: not a part and its factor"),
        ({"freeze": True}, "freeze=true: not a list"),
        ({"freeze": 1}, "freeze=1: not a list of parts"),
        ({"lr_scale": 0.1}, "lr_scale=0.1: not a list of parts"),
        ({"backbone_dims": float("nan")}, "backbone_dims=nan: not whole numbers"),
        ({"image_size": date(2026, 11, 23)}, "image_size=2026-11-23: not a list"),
        ({"checkpoint_dir": True}, "checkpoint_dir=true: not a text"),
        ({"prefix": 8}, "prefix=8: not a text"),
        ({"freeze": "backbone", "lr_scale": "backbone/layer1_0=0.5"}, "freeze=backbone holds it still"),
        ({"lr_scale": "a=0.1,a=2"}, "a comes twice"),
        ({"loftr_parts": "backbone"}, "loftr_parts=backbone: no weights are given to start from"),
        ({"loftr_layers": 2}, "loftr_layers=2: no weights are given to start from"),
        ({"prefix": "student"}, "prefix=student: no weights are given to start from"),
        ({"state_dict": "ema"}, "state_dict=ema: no weights are given to start from"),
        ({"image_size": None}, "image_size=: a size has height and width"),
        ({"lr": None}, "lr=: not a number"),
        ({"use_loftr": None}, "use_loftr=: neither true nor false"),
        ({"checkpoint_dir": None}, "checkpoint_dir is empty"),
    ],
)
def test_a_value_that_cannot_be(changes, words):
    with pytest.raises(UsageError) as caught:
        DenseConfig(**changes)
    assert words in caught.value.message
    assert caught.value.hint


def test_yaml_is_overruled_by_flags_and_comes_back(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("lr: 0.01\nimage_size: [64, 96]\nfreeze: [backbone]\nuse_loftr: false\n")
    config = DenseConfig.from_sources(file, {"lr": "3e-3"})
    assert (config.lr, config.image_size, config.freeze, config.use_loftr) == (3e-3, (64, 96), ("backbone",), False)
    assert DenseConfig.from_sources(None, json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rate: 1", "learning_rate: no such key"),
        ("lr: 1\nlr: 2", "lr comes twice"),
        ("- lr", "not a mapping"),
        ("lr: [", "not YAML"),
        ("seed: 2026-13-45", "not YAML: month must be in"),
        (f"seed: {'9' * 5000}", "not YAML: Exceeds the limit"),
        (f"seed: {'[' * 5000}", "not YAML: "),
        ("seed: !!bool perhaps", "not YAML: 'perhaps'"),
        ("seed: !!timestamp soon", "not YAML: "),
    ],
)
def test_yaml_that_will_not_do(tmp_path, text, words):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        DenseConfig.from_sources(tmp_path / "run.yaml", {})
    with pytest.raises(MissingInput):
        DenseConfig.from_sources(tmp_path / "none.yaml", {})


def test_a_near_key_is_named():
    with pytest.raises(UsageError) as caught:
        DenseConfig.from_sources(None, {"imagesize": 3})
    assert caught.value.hint == "did you mean image_size?"


def test_parts_may_have_spaces_between():
    assert DenseConfig(freeze="backbone, loftr_fine").freeze == ("backbone", "loftr_fine")


def test_modules_have_their_own_keys():
    assert MatchConfig().lambda_D == 0.5
    assert not hasattr(DenseConfig(), "lambda_D")
    assert not hasattr(MatchConfig(), "loftr_pretrained_ckpt")


def test_the_config_is_shown_and_read_back(call, tmp_path):
    done = call("train", "dense", *tiny_options(lr_scale="loftr_coarse=0.1"), "--show-config")
    assert done.code == 0, done.err
    (tmp_path / "run.yaml").write_text(done.out)
    again = call("train", "dense", "--config", "run.yaml", "--show-config")
    assert again.out == done.out
    assert "image_size: [32, 48]" in done.out
    both = call("train", "dense", "--config", "run.yaml", "--image_size", "64", "--show-config", "--json").json
    assert both["config"]["image_size"] == [64, 64]
    assert both["outcome"] is None


@pytest.mark.parametrize(
    "folder",
    [
        "run #2",
        "yes",
        "1_000",
        "a: b",
        "010",
        "[x]",
        "null",
        "a, b",
        "'",
        '"',
        "é",
        " x",
        "-",
        "a: 😀",
        "x\u2028y",
        "~",
    ],
)
def test_a_shown_config_comes_back(call, tmp_path, folder):
    done = call("train", "dense", "--checkpoint-dir", folder, "--freeze", "backbone", "--show-config")
    (tmp_path / "run.yaml").write_text(done.out, "utf-8")
    config = DenseConfig.from_sources(tmp_path / "run.yaml", {})
    assert config == DenseConfig(checkpoint_dir=folder, freeze=("backbone",))


def test_a_part_of_what_learns_slowly_may_be_still():
    assert DenseConfig(lr_scale="backbone=0.1", freeze="backbone/layer1_0").freeze == ("backbone/layer1_0",)


def test_a_wrong_key_is_one_line(call, tmp_path):
    (tmp_path / "run.yaml").write_text("batchsize: 4\n")
    done = call("train", "dense", "--config", "run.yaml")
    assert (done.code, done.error) == (2, "run.yaml: batchsize: no such key of the config")
    assert done.hint == "did you mean batch_size?"


def test_another_wrong_key_names_its_own_command(call, tmp_path):
    (tmp_path / "run.yaml").write_text("quux: 4\n")
    for module in ("dense", "match"):
        done = call("train", module, "--config", "run.yaml")
        assert done.hint == f"`loftr2flax train {module} --show-config` lists all keys"
