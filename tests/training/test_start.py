"""Converted weights in a run: what was loaded, what was not and why; and the way back to torch."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from tiny import tiny_config

from loftr2flax import convert_checkpoint, load_params, open_checkpoint
from loftr2flax.errors import InputError, MappingMismatch
from loftr2flax.sample import SampleSizes, write_sample
from loftr2flax.training.export import write_weights
from loftr2flax.training.network import dense_model, loftr_config
from loftr2flax.training.start import Loaded, WrongNetwork, load_start
from loftr2flax.training.step import TrainState

DIMS = (6, 10, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LoFTR of 4 layers in the official layout, and its conversions."""
    place = tmp_path_factory.mktemp("start")
    write_sample(place / "a.ckpt", sizes=SampleSizes(DIMS, 16, 4, 6, 2))
    facts = {"heads": 2}
    convert_checkpoint(place / "a.ckpt", place / "whole.npz", "loftr", facts=facts)
    convert_checkpoint(place / "a.ckpt", place / "coarse.msgpack", "loftr_coarse", facts=facts)
    convert_checkpoint(place / "a.ckpt", place / "ifvit.npz", "ifvit_jax", facts=facts)
    return place


@pytest.fixture
def start(folder, tmp_path):
    """Loads a file of that folder into a network that fits it but for the changes."""

    def load(name: str, **changes) -> Loaded:
        options = {"transformer_layers": 4, "backbone_dims": DIMS, "loftr_pretrained_ckpt": str(folder / name)}
        config = tiny_config(tmp_path, **{**options, **changes})
        model = dense_model(config)
        image = jax.ShapeDtypeStruct((1, *config.image_size, 1), np.float32)
        ids = jax.ShapeDtypeStruct((3, 1), np.int32)
        shapes = jax.eval_shape(lambda a, b, i: model.init(jax.random.key(0), a, b, ids=i), image, image, ids)
        return load_start(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), config)

    return load


def states(loaded: Loaded) -> dict[str, str]:
    return {row.part: row.state for row in loaded.rows}


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
    assert loaded.notes == ()


def test_the_backbone_fits_any_transformer(start):
    for changes in ({"use_loftr": False}, {"num_heads": 4, "transformer_layers": 2}, {"sublayers": "separate"}):
        assert states(start("whole.npz", loftr_parts="backbone", **changes))["backbone"] == "loaded"


def test_a_file_without_a_backbone(start):
    rows = {row.part: row for row in start("coarse.msgpack").rows}
    assert (rows["backbone"].state, rows["backbone"].why) == ("left at its start", "the file does not hold it")
    assert rows["loftr_coarse"].state == "loaded"
    with pytest.raises(WrongNetwork, match="holds no backbone, and loftr_parts=backbone") as caught:
        start("coarse.msgpack", loftr_parts="backbone")
    assert caught.value.hint == "`--loftr-parts transformer`"


def test_a_backbone_without_its_statistics(start, folder):
    leaves = {name: value for name, value in np.load(folder / "whole.npz").items() if "batch_stats" not in name}
    np.savez(folder / "bare.npz", **leaves)
    with pytest.raises(WrongNetwork, match="not its running statistics") as caught:
        start("bare.npz")
    assert "`--loftr-parts transformer`" in caught.value.hint
    assert states(start("bare.npz", loftr_parts="transformer"))["loftr_coarse"] == "loaded"


def test_a_backbone_beside_separate_sublayers(start):
    loaded = start("a.ckpt", sublayers="separate")
    assert (states(loaded)["backbone"], states(loaded)["loftr_coarse"]) == ("loaded", "loaded")


def test_separate_sublayers_take_the_layer_twice(start):
    for name in ("a.ckpt", "ifvit.npz"):
        tree = start(name, sublayers="separate").variables["params"]["loftr_coarse"]
        one, other = tree["layers.3.0"]["q_proj"]["kernel"], tree["layers.3.1"]["q_proj"]["kernel"]
        assert one.any()
        assert (one == other).all()


def test_fewer_layers_need_a_word(start):
    with pytest.raises(WrongNetwork, match="has 4 layers, 4 to take, and transformer_layers=2") as caught:
        start("whole.npz", transformer_layers=2)
    assert caught.value.hint == "`--loftr-layers 2` takes the first 2"
    row = next(
        row for row in start("whole.npz", transformer_layers=2, loftr_layers=2).rows if row.part == "loftr_coarse"
    )
    assert (row.leaves, row.why) == (20, "the first 2 layers")
    with pytest.raises(WrongNetwork, match="has 4 layers, 4 to take, and transformer_layers=8"):
        start("whole.npz", transformer_layers=8)


@pytest.mark.parametrize(
    ("name", "changes", "words", "hint"),
    [
        ("whole.npz", {"hidden_dim": 32, "backbone_dims": ()}, "is 16 wide, and hidden_dim=32", "`--hidden-dim 16`"),
        ("whole.npz", {"num_heads": 4}, "states heads=2, and num_heads=4", "`--num-heads 2`"),
        ("whole.npz", {"attention_type": "full"}, "states attention=linear, and attention_type=full", "linear`"),
        ("whole.npz", {"sublayers": "separate"}, "has one layer for both images, and sublayers=separate", "shared"),
        ("ifvit.npz", {}, "has one layer for each image, and sublayers=shared", "separate"),
        ("whole.npz", {"temp_bug_fix": True}, "states temp_bug_fix=false", "`--temp-bug-fix false`"),
        ("a.ckpt", {"use_loftr": False}, "no LoFTR weights fit the generic SiameseTransformer", "--use-loftr true"),
    ],
)  # fmt: skip
def test_a_wrong_network_is_told_by_its_setting(start, name, changes, words, hint):
    with pytest.raises(WrongNetwork) as caught:
        start(name, **changes)
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_a_backbone_of_other_widths(start):
    with pytest.raises(MappingMismatch, match="backbone: the weights do not fit") as caught:
        start("whole.npz", backbone_dims=(8, 12, 16))
    assert "`--loftr-parts transformer`" in caught.value.hint
    assert states(start("whole.npz", backbone_dims=(8, 12, 16), loftr_parts="transformer"))["loftr_coarse"] == "loaded"


def test_a_file_without_a_loftr(start, folder):
    np.savez(folder / "other.npz", **{"dense/kernel": np.zeros((2, 3), np.float32)})
    with pytest.raises(InputError, match="holds neither a LoFTR nor its transformer"):
        start("other.npz")


def test_real_weights_start_a_run(student, tmp_path):
    config = tiny_config(
        tmp_path, stride=16, backbone_dims=(8, 16, 32, 32), hidden_dim=32, num_heads=1, transformer_layers=4,
        image_size=(48, 64), loftr_pretrained_ckpt=str(student),
    )  # fmt: skip
    model = dense_model(config)
    image = np.zeros((1, 48, 64, 1), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, image)
    loaded = load_start(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), config)
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
    expected = TorchLoFTR(tensors, loftr_config(config)).trace(*images)["conf_matrix"]
    found = dense_model(config).apply(trained, *images).confidence
    assert np.abs(np.asarray(found) - np.asarray(expected)).max() < 1e-5
