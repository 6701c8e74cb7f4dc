"""Weights that cannot start a run: each is told by the setting, or by the leaf, that is wrong, with what to do."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starting import states, trained

from loftr2flax.errors import CorruptFile, InputError, Loftr2FlaxError, MappingMismatch
from loftr2flax.training.fit import WrongNetwork


def with_leaves(source: Path, target: Path, change) -> Path:
    """The file's leaves, changed, without a record."""
    with np.load(source) as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
    np.savez(target, **(change(leaves) or leaves))
    return target


def with_facts(source: Path, target: Path, facts: Any) -> Path:
    """The file with other facts in its record; a dict is laid over those that are there."""
    shutil.copy(source, target)
    with zipfile.ZipFile(target, "a") as archive:
        record = json.loads(archive.comment)
        made = next(iter(record.values()))
        made["facts"] = {**made["facts"], **facts} if isinstance(facts, dict) else facts
        archive.comment = json.dumps(record).encode()
    return target


@pytest.mark.parametrize(
    ("name", "changes", "words", "hint"),
    [
        ("whole.npz", {"hidden_dim": 32, "backbone_dims": ()}, "is 16 wide, and hidden_dim=32", "`--hidden-dim 16`"),
        ("whole.npz", {"num_heads": 4}, "states heads=2, and the run has num_heads=4", "`--num-heads 2`"),
        ("whole.npz", {"attention_type": "full"}, "the run has attention_type=full", "linear`"),
        ("whole.npz", {"sublayers": "separate"}, "has one layer for both images, and sublayers=separate", "shared"),
        ("ifvit.npz", {}, "has one layer for each image, and sublayers=shared", "separate"),
        ("whole.npz", {"temp_bug_fix": True}, "states temp_bug_fix=false", "`--temp-bug-fix false`"),
        ("whole.npz", {"temperature": 0.2}, "the run has temperature=0.2", "`--temperature 0.1`"),
        ("whole.npz", {"layer_norm_eps": 1e-6}, "states layer_norm_eps=1e-05", "`--layer-norm-eps 1e-05`"),
        ("whole.npz", {"batch_norm_eps": 1e-3}, "states batch_norm_eps=1e-05", "`--batch-norm-eps 1e-05`"),
        ("whole.npz", {"batch_norm_eps": 1e-3, "loftr_parts": "backbone"}, "states batch_norm_eps=1e-05", "1e-05`"),
        ("a.ckpt", {"use_loftr": False}, "no LoFTR weights fit the generic SiameseTransformer", "--use-loftr true"),
        ("whole.npz", {"transformer_layers": 2}, "has 4 layers, and transformer_layers=2",
         "`--loftr-layers 2` takes the first 2, or `--transformer-layers 4`"),
        ("whole.npz", {"transformer_layers": 8}, "has 4 layers, and transformer_layers=8", "`--transformer-layers 4`"),
        ("whole.npz", {"loftr_layers": 3}, "has 4 layers, loftr_layers=3, and transformer_layers=4",
         "`--loftr-layers 0`, or `--transformer-layers 3`"),
        ("whole.npz", {"loftr_layers": 6, "transformer_layers": 6}, "has 4 layers, and loftr_layers=6",
         "`--loftr-layers 0` takes them all"),
        ("whole.npz", {"backbone_dims": (8, 12, 16)}, "is 6,10,16 wide at stride 8, and the network's 8,12,16 wide",
         "`--backbone-dims 6,10,16`, or `--loftr-parts transformer`"),
        ("whole.npz", {"backbone_dims": (8, 12, 16), "loftr_parts": "backbone"}, "is 6,10,16 wide",
         "`--backbone-dims 6,10,16`"),
        ("whole.npz", {"stride": 16, "backbone_dims": (), "image_size": 32}, "at stride 8, and the network's 4,8,16,16",
         "`--stride 8 --backbone-dims 6,10,16`, or `--loftr-parts transformer`"),
        ("whole.npz", {"hidden_dim": 32, "backbone_dims": (), "loftr_parts": "backbone"}, "is 6,10,16 wide",
         "`--hidden-dim 16 --backbone-dims 6,10,16`"),
        ("a.ckpt", {"fine": True, "sublayers": "separate"}, "its fine stage has one layer for both images",
         "`--sublayers shared`"),
        ("whole.npz", {"fine": True, "fine_layers": 3}, "fine_layers=3, and its fine stage has 2", "`--fine-layers 2`"),
        ("coarse.msgpack", {"loftr_parts": "backbone"}, "holds no backbone, and loftr_parts=backbone",
         "`--loftr-parts transformer`"),
    ],
)  # fmt: skip
def test_a_wrong_network_is_told_by_its_setting(start, name, changes, words, hint):
    with pytest.raises(WrongNetwork) as caught:
        start(name, **changes)
    assert words in caught.value.message
    assert caught.value.hint.startswith(hint) or hint in caught.value.hint.split(", or, if the file")[0]


def test_what_a_hint_says_helps(start):
    """The hint of each refusal is taken, and the file loads."""
    assert states(start("whole.npz", transformer_layers=2, loftr_layers=2))["loftr_coarse"] == "loaded"
    assert states(start("whole.npz", backbone_dims=(8, 12, 16), loftr_parts="transformer"))["loftr_coarse"] == "loaded"
    assert states(start("whole.npz", hidden_dim=16, loftr_parts="backbone"))["backbone"] == "loaded"
    assert states(start("whole.npz", fine=True, fine_layers=2))["loftr_fine"] == "loaded"


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"num_heads": 4}, "states heads=2, and the run has num_heads=4", "`--num-heads 2`"),
        ({"temperature": 0.2}, "the run has temperature=0.2", "`--temperature 0.1`"),
        ({"batch_norm_eps": 1e-3}, "the run has batch_norm_eps=0.001", "`--batch-norm-eps 1e-05`"),
        ({"transformer_layers": 2}, "has 4 layers, and transformer_layers=2", "`--transformer-layers 4`"),
        ({"backbone_dims": (8, 12, 16)}, "is 6,10,16 wide at stride 8", "`--backbone-dims 6,10,16`"),
        ({"use_loftr": False}, "holds LoFTR's transformer, and use_loftr=false", "`--use-loftr true`"),
    ],
)  # fmt: skip
def test_module_2_is_told_the_same(folder, tmp_path, changes, words, hint):
    with pytest.raises(WrongNetwork) as caught:
        trained(tmp_path, dense_weights=str(folder / "whole.npz"), **changes)
    assert words in caught.value.message
    assert caught.value.hint.split(", or, if the file")[0] == hint


def test_module_2_and_a_transformer_alone(folder, tmp_path):
    with pytest.raises(WrongNetwork, match="holds no backbone") as caught:
        trained(tmp_path, dense_weights=str(folder / "coarse.msgpack"))
    assert "`loftr2flax train dense`" in caught.value.hint


def without(*words: str):
    return lambda leaves: {name: leaf for name, leaf in leaves.items() if not any(word in name for word in words)}


def renamed(old: str, new: str):
    return lambda leaves: {name.replace(old, new): leaf for name, leaf in leaves.items()}


def beside(name: str):
    return lambda leaves: {**leaves, name: np.ones(3, np.float32)}


def instead(name: str):
    return lambda leaves: beside(name)(without(f"{name}/")(leaves))


def rounded(leaves):
    return {name: leaf.astype(np.int32) for name, leaf in leaves.items()}


def small(leaves):
    return {name: np.ones(leaf.shape, np.int8) for name, leaf in leaves.items()}


def poisoned(leaves):
    leaves["params/backbone/bn1/bias"][2] = np.nan


ODD = {
    "without_statistics": (without("batch_stats"), WrongNetwork, "not its running statistics"),
    "one_statistic_short": (
        without("batch_stats/backbone/bn1/mean"), MappingMismatch,
        "running statistics of the backbone: no weight for bn1/mean (1 of 34 leaves)",
    ),
    "a_leaf_short": (without("layers_0/norm1/scale"), MappingMismatch, "loftr_coarse: no weight for layers_0/norm1/s"),
    "a_leaf_too_many": (beside("params/loftr_coarse/extra"), MappingMismatch, "loftr_coarse: no leaf for extra (1 of "),
    "only_a_backbone": (without("loftr_", "fine"), WrongNetwork, "holds no coarse transformer, and loftr_parts=all"),
    "numbered_with_a_gap": (renamed("layers_1", "layers_9"), MappingMismatch, "layers are numbered 0, 2, 3, 9"),
    "layers_of_another_name": (renamed("layers_", "block_"), MappingMismatch, "loftr_coarse: it has no layers_0"),
    "a_layer_is_one_array": (instead("params/loftr_coarse/layers_0"), MappingMismatch, "no leaf for layers_0"),
    "a_norm_is_one_array": (
        instead("params/loftr_coarse/layers_0/norm1"), MappingMismatch, "no leaf for layers_0/norm1",
    ),
    "a_part_is_one_array": (instead("params/loftr_coarse"), InputError, "params/loftr_coarse: one array, where"),
    "statistics_are_one_array": (instead("batch_stats/backbone"), InputError, "batch_stats/backbone: one array, where"),
    "all_parameters_are_one_array": (instead("params"), InputError, "holds neither a LoFTR nor its transformer"),
    "a_leaf_and_a_branch": (beside("params/backbone"), InputError, "a leaf is a branch too"),
    "empty": (lambda leaves: {"nothing": np.zeros(0)}, InputError, "holds neither a LoFTR nor its transformer"),
    "another_model": (lambda leaves: {"dense/kernel": np.zeros((2, 3))}, InputError, "holds neither a LoFTR nor"),
    "two_branches": (beside("params/whole/x"), InputError, "holds Module 2, of two branches"),
    "whole_numbers": (rounded, MappingMismatch, "is float32 in the network and int32 in the weights"),
    "small_numbers": (small, MappingMismatch, "is float32 in the network and int8 in the weights"),
    "not_a_number": (poisoned, InputError, "backbone: NaN or infinite numbers in bn1/bias"),
}  # fmt: skip


@pytest.mark.parametrize("fault", ODD)
def test_an_odd_file_is_refused_by_name(start, folder, tmp_path, fault):
    change, kind, words = ODD[fault]
    odd = with_leaves(folder / "whole.npz", tmp_path / "odd.npz", change)
    with pytest.raises(kind) as caught:
        start(odd)
    assert words in caught.value.message
    assert caught.value.message.startswith(str(odd))
    assert caught.value.hint


def test_a_backbone_alone_is_taken_where_it_is_asked_for(start, folder, tmp_path):
    odd = with_leaves(folder / "whole.npz", tmp_path / "odd.npz", without("loftr_", "fine"))
    with pytest.raises(WrongNetwork) as caught:
        start(odd)
    assert caught.value.hint == "`--loftr-parts backbone`"
    assert states(start(odd, loftr_parts="backbone"))["backbone"] == "loaded"


@pytest.mark.parametrize("facts", [[1, 2], "heads", 8, {"heads": "2"}, {"heads": [2]}, {"temp_bug_fix": "no"}])
def test_a_record_that_states_what_cannot_be(start, folder, tmp_path, facts):
    odd = with_facts(folder / "whole.npz", tmp_path / "odd.npz", facts)
    with pytest.raises(CorruptFile, match="its record") as caught:
        start(odd)
    assert caught.value.hint == "convert the torch file again"


def test_numbers_that_are_equal_are_the_same(start, folder, tmp_path):
    assert start(with_facts(folder / "whole.npz", tmp_path / "odd.npz", {"heads": 2.0})).rows


def test_every_fact_that_a_run_writes_is_one_that_a_start_reads(start, folder, tmp_path):
    """Whatever the mapping states and weights do not show is compared: a changed fact is never passed over."""
    stated = {"attention": "full", "heads": 4, "layer_norm_eps": 1e-3, "batch_norm_eps": 1e-3, "temperature": 1.0,
              "temp_bug_fix": True}  # fmt: skip
    with zipfile.ZipFile(folder / "whole.npz") as archive:
        made = next(iter(json.loads(archive.comment).values()))
    assert set(made["facts"]) - {"model"} == set(stated)
    for name, value in stated.items():
        with pytest.raises(WrongNetwork, match=f"states {name}="):
            start(with_facts(folder / "whole.npz", tmp_path / f"{name}.npz", {name: value}))


def test_a_prefix_is_for_torch_files(start):
    with pytest.raises(Loftr2FlaxError, match="prefix=student is for a torch file"):
        start("whole.npz", prefix="student")


def test_a_start_that_is_refused_is_told_before_there_is_a_run(call, tmp_path):
    """No network is made and no folder left behind for a name that is mistyped."""
    done = call("train", "dense", "--loftr-pretrained-ckpt", "nothing.npz", "--checkpoint-dir", "run")
    assert (done.code, done.error) == (3, "nothing.npz: no such file")
    assert list(tmp_path.iterdir()) == []
