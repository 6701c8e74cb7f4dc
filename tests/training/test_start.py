"""Converted weights in a run: what was loaded, what was not and why; and the way back to torch."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from starting import DIMS, started, states, trained
from tiny import tiny_config

from loftr2flax import convert_checkpoint, load_params, open_checkpoint
from loftr2flax.errors import MappingMismatch
from loftr2flax.training.export import write_weights
from loftr2flax.training.fit import WrongNetwork
from loftr2flax.training.network import dense_model, initial, loftr_config
from loftr2flax.training.step import TrainState


@pytest.mark.parametrize("name", ["a.ckpt", "whole.npz", "coarse.msgpack"])
def test_the_transformer_comes_from_any_of_our_files(start, folder, name):
    loaded = start(name, loftr_parts="transformer")
    reference = load_params(folder / "whole.npz")["params"]["loftr_coarse"]
    got = loaded.variables["params"]["loftr_coarse"]
    assert jax.tree.structure(got) == jax.tree.structure(reference)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(reference), strict=True))
    assert states(loaded)["loftr_coarse"] == "loaded"
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(loaded.variables["params"]["backbone"]))


def test_the_table_says_what_was_not_taken_and_why(start):
    rows = {row.part: row for row in start("whole.npz", loftr_parts="transformer").rows}
    assert rows["loftr_coarse"].leaves == 40
    assert (rows["backbone"].state, rows["backbone"].why[:29]) == ("left at its start", "loftr_parts=transformer takes")
    assert rows["loftr_fine"][3:] == ("not taken", "the network has no such part")
    (note,) = start("a.ckpt").notes
    assert "taken for granted" in note
    assert "num_heads=2" in note
    assert start("whole.npz").notes == ()


def test_all_of_it(start, folder):
    loaded = start("a.ckpt", fine=True)
    reference = load_params(folder / "whole.npz")
    got = {name: loaded.variables[name] for name in reference}
    assert jax.tree.structure(got) == jax.tree.structure(reference)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(reference), strict=True))
    assert set(states(loaded).values()) == {"loaded"}


@pytest.mark.parametrize("name", ["a.ckpt", "whole.npz"])
def test_the_backbone_alone(start, folder, name):
    loaded = start(name, loftr_parts="backbone")
    reference = load_params(folder / "whole.npz")
    for kind in ("params", "batch_stats"):
        got = loaded.variables[kind]["backbone"]
        assert jax.tree.structure(got) == jax.tree.structure(reference[kind]["backbone"])
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), got, reference[kind]["backbone"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(loaded.variables["params"]["loftr_coarse"]))
    assert states(loaded)["loftr_coarse"] == "left at its start"
    note = f"taken for granted, as {folder / 'a.ckpt'} does not say: batch_norm_eps=1e-05"
    assert loaded.notes == ((note,) if name == "a.ckpt" else ())


def test_the_backbone_fits_any_transformer(start):
    for changes in ({"use_loftr": False}, {"num_heads": 4, "transformer_layers": 2}, {"sublayers": "separate"}):
        assert states(start("whole.npz", loftr_parts="backbone", **changes))["backbone"] == "loaded"


def test_a_generic_transformer_starts_another(start, tmp_path):
    """What a run with use_loftr=false wrote; no shipped mapping brings it to torch."""
    config = tiny_config(tmp_path / "run", use_loftr=False, transformer_layers=4, backbone_dims=DIMS)
    variables = initial(dense_model(config), config)
    state = TrainState(jax.numpy.int32(1), variables["params"], variables["batch_stats"], ())
    write_weights(state, config, tmp_path / "generic.npz")
    loaded = start(tmp_path / "generic.npz", use_loftr=False)
    assert states(loaded)["loftr_coarse"] == "loaded"
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), loaded.variables["params"], state.params))
    with pytest.raises(WrongNetwork, match="holds the generic SiameseTransformer, and use_loftr=true") as caught:
        start(tmp_path / "generic.npz")
    assert caught.value.hint == "`--use-loftr false`, or `--loftr-parts backbone`"
    with pytest.raises(MappingMismatch, match="holds the generic SiameseTransformer, which no shipped mapping desc"):
        convert_checkpoint(tmp_path / "generic.npz", tmp_path / "back.ckpt", reverse=True)


def test_a_file_without_a_backbone(start):
    rows = {row.part: row for row in start("coarse.msgpack").rows}
    assert (rows["backbone"].state, rows["backbone"].why) == ("left at its start", "the file does not hold it")
    assert rows["loftr_coarse"].state == "loaded"
    with pytest.raises(WrongNetwork, match="holds no backbone, and loftr_parts=backbone") as caught:
        start("coarse.msgpack", loftr_parts="backbone")
    assert caught.value.hint == "`--loftr-parts transformer`"


@pytest.fixture
def tensors(folder):
    """The official layout's tensors, by the names of the paper's code."""
    torch = pytest.importorskip("torch")
    stored = torch.load(folder / "a.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("matcher."): tensor for name, tensor in stored.items()}


def saved(path, value):
    import torch

    torch.save(value, path)
    return path


def test_which_of_several_dicts_was_taken_is_said(start, tensors, tmp_path):
    """A file with two sets of weights: the one that is taken is named, and the other can be asked for."""
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    two = saved(tmp_path / "two.pt", {"model": tensors, "model_ema": other})
    plain, average = start(two), start(two, state_dict="model_ema")
    assert plain.notes[0].startswith("took model; also there: the file itself (342), model_ema (171)")
    assert average.notes[0].startswith("took model_ema; also there: ")
    scales = [one.variables["params"]["loftr_coarse"]["layers_0"]["norm1"]["scale"] for one in (plain, average)]
    assert np.array_equal(scales[0] + np.float32(1), scales[1])


@pytest.mark.parametrize("sublayers", ["shared", "separate"])
def test_which_of_two_networks_is_asked_for(start, tensors, tmp_path, sublayers):
    pair = {f"{who}.{name}": tensor + (who == "teacher") for who in ("student", "teacher")
            for name, tensor in tensors.items()}  # fmt: skip
    path = saved(tmp_path / "pair.pt", pair)
    with pytest.raises(MappingMismatch, match="fits in 2 places: student, teacher") as caught:
        start(path, sublayers=sublayers)
    assert "`--prefix student`" in caught.value.hint
    loaded = start(path, prefix="teacher", sublayers=sublayers).variables["params"]["backbone"]["bn1"]["scale"]
    assert np.array_equal(loaded, tensors["backbone.bn1.weight"].numpy() + 1)


@pytest.mark.parametrize("sublayers", ["shared", "separate"])
def test_a_transformer_beside_another_backbone(start, tensors, tmp_path, sublayers):
    """The transformer alone asks nothing of what stands beside it."""
    mine = {name: tensor for name, tensor in tensors.items() if name.startswith("loftr_coarse")}
    path = saved(tmp_path / "mixed.pt", {"backbone.stem.weight": tensors["backbone.conv1.weight"], **mine})
    loaded = start(path, sublayers=sublayers, loftr_parts="transformer")
    assert states(loaded) == {"loftr_coarse": "loaded", "backbone": "left at its start"}


@pytest.mark.parametrize("parts", ["all", "transformer"])
def test_what_else_a_torch_file_holds_is_in_the_table(start, tensors, tmp_path, parts):
    """The fine stage, which the network has no place for, and a stranger beside it."""
    named = {f"matcher.{name}": tensor for name, tensor in tensors.items()}
    path = saved(tmp_path / "more.pt", {**named, "teacher.head.weight": tensors["backbone.conv1.weight"]})
    rows = {row.part: row for row in start(path, loftr_parts=parts).rows}
    assert rows["teacher"][1:] == (1, 6 * 7 * 7, "not taken", "the network has no such part")
    assert rows["loftr_fine"].state == rows["fine_preprocess"].state == "not taken"
    assert rows["backbone"].state == ("loaded" if parts == "all" else "left at its start")


def test_a_backbone_is_looked_for_where_the_prefix_says(start, tensors, tmp_path):
    """Another network's backbone does not make a transformer a LoFTR."""
    mine = {f"a.{name}": tensor for name, tensor in tensors.items() if name.startswith("loftr_coarse")}
    path = saved(tmp_path / "two.pt", {**mine, "b.backbone.conv1.weight": tensors["backbone.conv1.weight"]})
    assert states(start(path, prefix="a")) == {
        "loftr_coarse": "loaded", "backbone": "left at its start", "b": "not taken",
    }  # fmt: skip


def test_statistics_without_a_place_are_in_the_table(start, folder, tmp_path):
    with np.load(folder / "whole.npz") as arrays:
        leaves = {name: arrays[name] for name in arrays.files if not name.startswith("params/backbone")}
    np.savez(tmp_path / "odd.npz", **leaves, **{"batch_stats/head/mean": np.ones(3, np.float32)})
    rows = {row.part: row[3:] for row in start(tmp_path / "odd.npz").rows}
    assert rows["head (running statistics)"] == ("not taken", "the network has no such part")
    assert rows["backbone (running statistics)"] == ("not taken", "the file does not hold the backbone itself")
    assert rows["backbone"] == ("left at its start", "the file does not hold it")


@pytest.mark.parametrize("name", ["a.ckpt", "whole.npz"])
def test_module_2_takes_both_branches_from_one(folder, tmp_path, name):
    """Each branch is the file's; the fine stage, which Module 2 has no place for, is told and left."""
    loaded = trained(tmp_path, dense_weights=str(folder / name))
    reference = load_params(folder / "whole.npz")
    for branch in ("whole", "roi"):
        for kind in ("params", "batch_stats"):
            got = loaded.variables[kind][branch]
            wanted = {part: reference[kind][part] for part in got}
            assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), got, wanted))
        assert states(loaded)[f"{branch}/loftr_coarse"] == "loaded"
    assert states(loaded)["loftr_fine"] == "not taken"
    assert states(loaded)["prototypes"] == "left at its start"


def test_a_backbone_beside_separate_sublayers(start):
    loaded = start("a.ckpt", sublayers="separate")
    assert (states(loaded)["backbone"], states(loaded)["loftr_coarse"]) == ("loaded", "loaded")


def test_separate_sublayers_take_the_layer_twice(start):
    for name in ("a.ckpt", "ifvit.npz"):
        tree = start(name, sublayers="separate").variables["params"]["loftr_coarse"]
        one, other = tree["layers.3.0"]["q_proj"]["kernel"], tree["layers.3.1"]["q_proj"]["kernel"]
        assert one.any()
        assert (one == other).all()


def test_real_weights_start_a_run(student, tmp_path):
    loaded = started(
        tmp_path, stride=16, backbone_dims=(8, 16, 32, 32), hidden_dim=32, num_heads=1, image_size=(48, 64),
        loftr_pretrained_ckpt=str(student),
    )  # fmt: skip
    assert states(loaded) == dict.fromkeys(["backbone", "loftr_coarse", "backbone (running statistics)"], "loaded")


def test_the_way_back_runs_in_kornia(start, tmp_path):
    """Weights of a run → `convert --reverse` → kornia, strictly: the confidences are those of the Flax network."""
    torch = pytest.importorskip("torch")
    from loftr2flax.models.loftr.reference import TorchLoFTR

    loaded = start("a.ckpt", fine=True)
    config = tiny_config(tmp_path, transformer_layers=4, backbone_dims=DIMS, fine=True)
    trained = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf * 1.01), loaded.variables)
    state = TrainState(jax.numpy.int32(1), trained["params"], trained["batch_stats"], ())
    write_weights(state, config, tmp_path / "weights.npz")
    convert_checkpoint(tmp_path / "weights.npz", tmp_path / "back.ckpt", reverse=True)
    with open_checkpoint(tmp_path / "back.ckpt") as back:
        assert all(name.startswith("matcher.") for name in back.infos)
    tensors = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
    images = [np.random.default_rng(n).uniform(0, 1, (1, 32, 48, 1)).astype(np.float32) for n in (0, 1)]
    exact = TorchLoFTR(tensors, loftr_config(config), "float64").trace(*images)["conf_matrix"]
    model = dense_model(config)
    with jax.enable_x64(True):  # where two orders of summation differ by some 1e-15, and a wrong leaf by far more
        found = model.clone(config=replace(model.config, dtype="float64")).apply(
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trained),
            *(image.astype(np.float64) for image in images),
        )
    np.testing.assert_allclose(found.confidence, exact, rtol=1e-9, atol=1e-11)
