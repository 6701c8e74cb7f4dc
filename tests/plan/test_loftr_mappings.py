"""The shipped LoFTR mappings on the headers of real state dicts, and on what is met in the wild."""

import dataclasses
import warnings

import numpy as np
import pytest
from round_trip import assert_same, carry, infos_of

from loftr2flax.convert import convert_checkpoint
from loftr2flax.errors import CopiesDiffer, MappingMismatch
from loftr2flax.formats import open_checkpoint
from loftr2flax.mapping import load_mapping
from loftr2flax.plan import PrefixNotFound, Wishes, build_plan
from tools.sample import SampleSizes, write_sample

_DOCUMENTED = {"q_proj": "linear_q", "k_proj": "linear_k", "v_proj": "linear_v", "merge": "linear_out", "mlp": "ffn"}


@pytest.fixture(scope="module")
def bare():
    """kornia's state dict: 211 tensors, the official ones without `matcher.`; values that tell the tensors apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kornia and torch warn of their own future
        from kornia.feature import LoFTR

        state = LoFTR(pretrained=None).state_dict()
    arrays = {}
    for number, (name, tensor) in enumerate(state.items()):
        arrays[name] = np.full(tuple(tensor.shape), number, str(tensor.dtype).removeprefix("torch."))
        arrays[name].reshape(-1)[:3] += np.arange(3, dtype=arrays[name].dtype)[: arrays[name].size]
    assert len(arrays) == 211
    return arrays


@pytest.fixture(scope="module")
def official(bare):
    return {f"matcher.{name}": array for name, array in bare.items()}


def _coarse(arrays, prefix=""):
    at = "matcher.loftr_coarse."
    return {prefix + name.removeprefix(at): array for name, array in arrays.items() if name.startswith(at)}


def _spelled(name):
    return ".".join(_DOCUMENTED.get(segment, segment) for segment in name.split("."))


def _fit(name, arrays, direction="forward", **wishes):
    return build_plan(load_mapping(name), infos_of(arrays), direction, Wishes(**wishes), "net.ckpt")


def _faults(name, arrays, direction="forward", **wishes):
    with pytest.raises(MappingMismatch) as caught:
        _fit(name, arrays, direction, **wishes)
    return [fault.message for fault in caught.value.faults] or caught.value.message


@pytest.mark.parametrize(
    ("name", "leaves", "dropped", "blind", "matrices"),
    [("loftr", 194, 17, 63, 84), ("loftr_coarse", 80, 0, 40, 48), ("ifvit_jax", 160, 0, 80, 96)],
)
def test_official_layout(official, name, leaves, dropped, blind, matrices):
    plan = _fit(name, official)
    assert (len(plan.moves), len(plan.dropped), len(plan.blind)) == (leaves, dropped, blind)
    assert sum(len(move.info.shape) > 1 for move in plan.moves) == matrices
    assert plan.root == ("matcher" if name == "loftr" else "matcher.loftr_coarse")
    assert len(plan.outside) == (0 if name == "loftr" else 131)


@pytest.mark.parametrize("name", ["loftr", "loftr_coarse", "ifvit_jax"])
def test_there_and_back(official, name):
    mapping = load_mapping(name)
    plan, tree = carry(mapping, official)
    _, back = carry(mapping, tree, "reverse", groups=plan.present)
    wanted = official if name == "loftr" else _coarse(official)
    if name == "loftr":
        back = {f"matcher.{key}": array for key, array in back.items()}
        for key in plan.dropped:  # the value in a file comes back by way of the output's record, not of the plan
            assert back.pop(key) == 0
            wanted = {k: v for k, v in wanted.items() if k != key}
    assert_same(back, wanted)


def test_both_sublayers_are_written(official):
    _, tree = carry(load_mapping("ifvit_jax"), official)
    for path in tree:
        layer, _, rest = path.partition("/")
        if layer.endswith(".0"):
            assert tree[path].tobytes() == tree[f"{layer[:-2]}.1/{rest}"].tobytes()
    kernel = official["matcher.loftr_coarse.layers.3.mlp.0.weight"].T
    np.testing.assert_array_equal(tree["layers.3.0/mlp.0/kernel"], kernel)


ROOTS = [
    "",
    "matcher.loftr_coarse.",
    "loftr_coarse.",
    "loftr_coarse.coarse_transformer.",
    "module.matcher.loftr_coarse.",
    "module.",
    "model.module.loftr_coarse.",
]


@pytest.mark.parametrize("spell", [str, _spelled], ids=["real", "documented"])
@pytest.mark.parametrize("root", ROOTS)
def test_roots_and_spellings(official, root, spell):
    arrays = {root + spell(name): array for name, array in _coarse(official).items()}
    plan, tree = carry(load_mapping("ifvit_jax"), arrays)
    assert plan.root == root.rstrip(".")
    assert _fit("ifvit_jax", arrays, prefix=root).root == plan.root
    assert_same(tree, carry(load_mapping("ifvit_jax"), official)[1])
    spelled = {canonical: spell(canonical) for canonical in _coarse(official) if spell(canonical) != canonical}
    assert plan.spelling == spelled


@pytest.mark.parametrize("root", ["", "matcher.loftr_coarse."])
def test_files_with_j_in_their_keys(official, root):
    mapping = load_mapping("ifvit_jax")
    arrays = {}
    for name, array in _coarse(official).items():
        layers, number, rest = name.split(".", 2)
        for j in (0, 1):
            arrays[f"{root}{layers}.{number}.{j}.{rest}"] = array + np.float32(j)
    plan, tree = carry(mapping, arrays)
    assert plan.present == ("sublayers: a layer for each image",)
    assert len(tree) == 160
    _, back = carry(mapping, tree, "reverse", groups=plan.present)
    assert_same({root + name: array for name, array in back.items()}, arrays)


def test_prefix_that_is_in_no_official_file(official):
    with pytest.raises(PrefixNotFound) as caught:
        _fit("ifvit_jax", official, prefix="loftr_coarse.coarse_transformer")
    assert caught.value.message == (
        "net.ckpt: --prefix loftr_coarse.coarse_transformer: no tensor is there; "
        "what the mapping names was found at 'matcher.loftr_coarse'"
    )
    assert caught.value.hint == "--prefix matcher.loftr_coarse"
    assert caught.value.found == ("matcher.loftr_coarse",)


@pytest.mark.parametrize("prefix", ["loftr_coarse", "matcher.loftr_coarse", "matcher", "loftr_coarse."])
def test_prefixes_that_mean_one_place(official, prefix):
    assert _fit("ifvit_jax", official, prefix=prefix).root == "matcher.loftr_coarse"


def test_prefix_that_stands_in_two_places(official):
    both = {f"{root}.{name}": array for root in ("model", "ema") for name, array in official.items()}
    message = "net.ckpt: the mapping fits in 2 places: model.matcher.loftr_coarse, ema.matcher.loftr_coarse"
    for prefix in (None, "loftr_coarse", "matcher"):
        assert _faults("ifvit_jax", both, prefix=prefix) == message
    for prefix in ("ema", "ema.matcher.loftr_coarse"):
        plan = _fit("ifvit_jax", both, prefix=f"{prefix}.matcher" if prefix == "ema" else prefix)
        assert plan.root == "ema.matcher.loftr_coarse"
    assert _faults("loftr", both) == "net.ckpt: the mapping fits in 2 places: model.matcher, ema.matcher"


def test_the_fine_transformer_is_not_taken_for_the_coarse_one(official):
    fine = {name: array for name, array in official.items() if "loftr_coarse" not in name}
    message = "net.ckpt: it has no 'loftr_coarse'; what the mapping names stands at 'matcher.loftr_fine'"
    assert _faults("loftr_coarse", fine) == message


def test_the_place_called_as_the_mapping_says_is_taken_though_it_is_smaller(official):
    layers = {f"matcher.loftr_coarse.layers.{i}." for i in range(1, 8)}
    small = {name: array for name, array in official.items() if not any(name.startswith(layer) for layer in layers)}
    plan = _fit("loftr_coarse", small)
    assert (plan.root, len(plan.moves)) == ("matcher.loftr_coarse", 10)


@pytest.mark.parametrize(("layers", "clear"), [(3, True), (4, False)])
def test_stray_names_do_not_make_a_place(official, layers, clear):
    """Half as many names as elsewhere are a second place, fewer are not."""
    coarse = _coarse(official)
    some = {f"ema.{name}": array for name, array in coarse.items() if int(name.split(".")[1]) < layers}
    arrays = {f"model.{name}": array for name, array in coarse.items()} | some
    if clear:
        mapping = dataclasses.replace(load_mapping("loftr_coarse"), at=())
        assert build_plan(mapping, infos_of(arrays)).root == "model"
    else:
        assert _faults("loftr_coarse", arrays) == "net.ckpt: the mapping fits in 2 places: model, ema"


def test_optimal_transport(official):
    arrays = official | {"matcher.coarse_matching.bin_score": np.array(1.5, np.float32)}
    plan, tree = carry(load_mapping("loftr"), arrays)
    assert len(plan.moves) == 195
    assert tree["params/coarse_matching/bin_score"] == np.float32(1.5)


def _without(arrays, *words):
    return {name: array for name, array in arrays.items() if not any(word in name for word in words)}


def test_fine_stage_absent(official):
    plan, tree = carry(load_mapping("loftr"), _without(official, "fine_preprocess", "loftr_fine"))
    assert plan.absent == ("fine stage",)
    assert not any("fine" in path for path in tree)
    back = carry(load_mapping("loftr"), tree, "reverse", groups=plan.present)[0]
    assert back.absent == ("fine stage",)


def test_half_a_fine_stage(official):
    faults = _faults("loftr", _without(official, "fine_preprocess.merge_feat", "loftr_fine"))
    assert faults == [
        "missing tensor fine_preprocess.merge_feat.weight, "
        "named by 'fine_preprocess.merge_feat: fine_preprocess/merge_feat'",
        "missing tensor fine_preprocess.merge_feat.bias, "
        "named by 'fine_preprocess.merge_feat: fine_preprocess/merge_feat'",
        "missing tensor loftr_fine.layers.0.q_proj.weight, "
        "named by 'loftr_fine.layers.{f}.{p}_proj: loftr_fine/layers_{f}/{p}_proj'",
        "missing tensor loftr_fine.layers.0.merge.weight, "
        "named by 'loftr_fine.layers.{f}.merge: loftr_fine/layers_{f}/merge'",
        "missing tensor loftr_fine.layers.0.mlp.0.weight, "
        "named by 'loftr_fine.layers.{f}.mlp.{m}: loftr_fine/layers_{f}/mlp_{m}'",
        "missing tensor loftr_fine.layers.0.norm1.weight, "
        "named by 'loftr_fine.layers.{f}.norm{n}: loftr_fine/layers_{f}/norm{n}'",
        "missing tensor loftr_fine.layers.0.norm1.bias, "
        "named by 'loftr_fine.layers.{f}.norm{n}: loftr_fine/layers_{f}/norm{n}'",
    ]


def test_a_layer_is_missing(official):
    (fault,) = _faults("loftr_coarse", _without(official, "loftr_coarse.layers.3."))
    assert fault == ("index i runs to 7, but 3 is missing from 'layers.{i}.{p}_proj: layers_{i}/{p}_proj' and its like")


def test_no_coarse_layer_at_all(official):
    faults = _faults("loftr", _without(official, "loftr_coarse"))
    assert "missing tensor loftr_coarse.layers.0.merge.weight, " in " ".join(faults)


def _at_a_sixteenth(arrays):
    """A backbone of four stages, by the names of the paper's ResNetFPN_16_4."""
    found = {name: array for name, array in arrays.items() if "_outconv" not in name}
    found |= {name.replace("layer3.", "layer4."): a for name, a in found.items() if "backbone.layer3." in name}
    weight = np.ones((6, 5, 1, 1), np.float32)
    found |= {f"matcher.backbone.layer{n}_outconv.weight": weight for n in (2, 3, 4)}
    norm = {name: array for name, array in arrays.items() if "layer1_outconv2.1" in name}
    for n in (2, 3):
        found |= {f"matcher.backbone.layer{n}_outconv2.{m}.weight": weight for m in (0, 3)}
        found |= {name.replace("layer1", f"layer{n}"): array for name, array in norm.items()}
    return found


def test_backbone_at_a_sixteenth(official):
    arrays = _at_a_sixteenth(official)
    plan, tree = carry(load_mapping("loftr"), arrays)
    assert plan.present == ("backbone: resolution 1/16", "fine stage")
    assert "params/backbone/layer4_outconv/kernel" in tree
    back, _ = carry(load_mapping("loftr"), tree, "reverse")
    assert back.present == plan.present, "the tree alone shows which backbone it is"
    del arrays["matcher.backbone.layer3_outconv2.3.weight"]
    (fault,) = _faults("loftr", arrays)
    assert "missing tensor backbone.layer3_outconv2.3.weight" in fault


def test_wrong_keys_are_left_over_and_missing(official):
    renamed = {name.replace("norm2", "norm_2"): array for name, array in official.items()}
    assert _faults("loftr_coarse", renamed) == [
        "left over: layers.{0..7}.norm_2.weight (8 in all)",
        "left over: layers.{0..7}.norm_2.bias (8 in all)",
        "missing tensor layers.{0..7}.norm2.weight, named by 'layers.{i}.norm{n}: layers_{i}/norm{n}'",
        "missing tensor layers.{0..7}.norm2.bias, named by 'layers.{i}.norm{n}: layers_{i}/norm{n}'",
    ]


def test_a_bias_that_one_layer_lacks(official):
    """LoFTR's norms have a bias, each of them."""
    lacking = {name: array for name, array in official.items() if not name.endswith("layers.3.norm1.bias")}
    assert len(lacking) == len(official) - 1
    for mapping in ("loftr", "loftr_coarse", "ifvit_jax"):
        (fault,) = _faults(mapping, lacking)
        assert "layers.3.norm1.bias, named by" in fault


def test_biases_are_as_the_architecture_has_them(official):
    """Those that it has are not all absent either, on no side; those that it has not are no leaves of its layers."""
    bare = {n: a for n, a in official.items() if not (n.startswith("matcher.loftr_coarse") and n.endswith(".bias"))}
    for mapping in ("loftr", "loftr_coarse", "ifvit_jax"):
        (fault,) = _faults(mapping, bare)
        assert "missing tensor" in fault
        assert "layers.{0..7}.norm{1..2}.bias, named by" in fault
        _, tree = carry(load_mapping(mapping), official)
        whole = dict(tree)
        tree = {leaf: array for leaf, array in tree.items() if not (leaf.endswith("/bias") and "norm" in leaf)}
        assert len(tree) < len(whole)
        faults = _faults(mapping, tree, "reverse")
        assert all(fault.startswith("missing leaf ") and "/bias, named by" in fault for fault in faults)
        merge = next(name for name in official if name.endswith("loftr_coarse.layers.3.merge.weight"))
        extra = {merge.replace("weight", "bias"): np.ones(256, np.float32)}
        (fault,) = _faults(mapping, official | extra)
        assert fault.startswith("left over: ")
        assert fault.endswith("layers.3.merge.bias")
    for name in ("fine_preprocess.down_proj", "fine_preprocess.merge_feat"):
        (fault,) = _faults("loftr", _without(official, f"{name}.bias"))
        assert fault == f"missing tensor {name}.bias, named by '{name}: {name.replace('.', '/')}'"


def test_sublayers_that_differ(official):
    mapping = load_mapping("ifvit_jax")
    _, tree = carry(mapping, official)
    tree["layers.3.1/merge/kernel"] = tree["layers.3.1/merge/kernel"] + np.float32(1)
    with pytest.raises(CopiesDiffer) as caught:
        carry(mapping, tree, "reverse")
    assert caught.value.message.startswith("layers.3.0/merge/kernel and layers.3.1/merge/kernel differ, and ")
    assert caught.value.hint == "take one side: `--choose j=0`"
    merge = official["matcher.loftr_coarse.layers.3.merge.weight"]
    for j in (0, 1):
        _, back = carry(mapping, tree, "reverse", choose={"j": j})
        np.testing.assert_array_equal(back["layers.3.merge.weight"], merge + np.float32(j))


def test_spelling_and_order_come_back_through_files(official, tmp_path):
    import torch

    names = sorted(_coarse(official), reverse=True)
    arrays = {f"module.loftr_coarse.{_spelled(name)}": _coarse(official)[name] for name in names}
    torch.save({"state_dict": {name: torch.from_numpy(a) for name, a in arrays.items()}}, tmp_path / "net.ckpt")
    convert_checkpoint(tmp_path / "net.ckpt", tmp_path / "net.npz", "ifvit_jax")
    convert_checkpoint(tmp_path / "net.npz", tmp_path / "back.ckpt", reverse=True)
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
    assert list(back) == list(arrays)
    assert_same({name: tensor.numpy() for name, tensor in back.items()}, arrays)
    with open_checkpoint(tmp_path / "net.npz") as file:
        assert len(file.infos) == 160


def test_way_back_of_a_part_of_a_larger_model(official):
    """Such as trained on: whatever the part is called there, and whatever else the tree holds."""
    mapping = load_mapping("ifvit_jax")
    _, tree = carry(mapping, official)
    larger = {f"params/loftr_transformer/{path}": array for path, array in tree.items()}
    plan, back = carry(mapping, larger | {"params/head/kernel": np.ones((4, 3), np.float32)}, "reverse")
    assert (plan.root, plan.outside) == ("params/loftr_transformer", ("params/head/kernel",))
    assert_same(back, _coarse(official))
    twice = larger | {path.replace("params", "ema"): array for path, array in larger.items()}
    with pytest.raises(MappingMismatch) as caught:
        _fit("ifvit_jax", twice, "reverse")
    assert caught.value.hint == "give a file that holds one of them"


def test_way_back_of_the_coarse_part_of_a_whole_tree(tmp_path):
    """Coarse and fine layers look alike below their roots; the mapping's own subtree says which is meant."""
    write_sample(tmp_path / "a.ckpt", sizes=SampleSizes(coarse_layers=2, fine_layers=2))
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr")
    back = convert_checkpoint(tmp_path / "a.npz", tmp_path / "b.ckpt", "loftr_coarse", reverse=True)
    assert back.plan.root == "params/loftr_coarse"
    assert len(back.plan.moves) == 20
