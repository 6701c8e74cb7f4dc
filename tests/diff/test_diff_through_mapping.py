"""`diff` of a torch checkpoint and a Flax tree: the same through the mapping, what is not by the tree's names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from program import Outcome

from loftr2flax import convert_checkpoint, diff_checkpoints, load_loftr_weights
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]
MERGE = "params/loftr_coarse/layers_1/merge/kernel"
"""16×16: its shape says nothing of its layout."""
MLP = "params/loftr_coarse/layers_2/mlp_2/kernel"
"""32×16 in the tree, 16×32 in the checkpoint."""


@pytest.fixture
def leaves(tmp_path: Path) -> dict[str, np.ndarray]:
    """The leaves of ``good.npz``, made from ``a.ckpt``."""
    write_sample(tmp_path / "a.ckpt")
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "good.npz", "loftr")
    return load_loftr_weights(tmp_path / "good.npz")


@pytest.mark.parametrize("ending", ["npz", "msgpack", "safetensors"])
def test_the_official_checkpoint_and_its_conversion(run: Run, official: Path, tmp_path: Path, ending: str) -> None:
    convert_checkpoint(official, tmp_path / f"out.{ending}", "loftr")
    done = run("diff", official, f"out.{ending}")
    assert done.code == 0
    assert done.out.splitlines() == [
        "same     22 leaves      [o i w ...] → [w ... i o]",
        "same     62 leaves      [o i] → [i o]",
        "dropped  17 leaves      the mapping gives it no leaf; the record keeps the same value",
        "",
        "same, bit for bit: 194 leaves, 11,568,160 numbers, 84 of them in the mapping's other layout, "
        "17 dropped by the mapping",
    ]
    assert done.err == "note: compared through the mapping loftr/1\n"


def test_either_side_may_be_the_tree(call: Run, leaves: dict[str, np.ndarray]) -> None:
    there, back = call("diff", "a.ckpt", "good.npz", "--json").json, call("diff", "good.npz", "a.ckpt", "--json").json
    assert (there["same"], back["same"]) == (True, True)
    assert there["counts"] == back["counts"] == {"dropped": 17, "same": 154}
    one = next(f for f in there["findings"] if f["leaf"] == MLP)
    other = next(f for f in back["findings"] if f["leaf"] == MLP)
    assert one["layout"] == other["layout"] == "[o i] → [i o]"
    assert one["left"] == other["right"] == {
        "name": "matcher.loftr_coarse.layers.2.mlp.2.weight", "shape": [16, 32], "dtype": "float32"
    }  # fmt: skip
    assert one["right"] == other["left"] == {"name": MLP, "shape": [32, 16], "dtype": "float32"}


def test_one_element(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    leaves[MLP][31, 5] = 0.5
    np.savez(tmp_path / "b.npz", **leaves)
    before = float(load_loftr_weights(tmp_path / "good.npz")[MLP][31, 5])
    done = call("diff", "a.ckpt", "b.npz")
    assert done.code == 1
    row = done.out.splitlines()[0]
    assert row.startswith(f"changed  {MLP}  (32, 16) f32    1 of 512 elements differ, max abs ")
    assert f" at [31, 5]: {np.float32(before)!s} → 0.5, " in row
    assert done.out.splitlines()[-1] == f"only {MLP} changed: 1 changed, 17 dropped, 153 same"


def test_a_square_kernel_that_was_not_turned(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    leaves[MERGE] = np.ascontiguousarray(leaves[MERGE].T)
    np.savez(tmp_path / "b.npz", **leaves)
    done = call("diff", "a.ckpt", "b.npz")
    assert done.code == 1
    assert done.out.startswith(
        f"layout   {MERGE}  (16, 16) f32    the same numbers, transposed: axes [1, 0] of the left\n"
    )


def test_missing_more_and_renamed(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    leaves["params/loftr_coarse/layers_1/fuse/kernel"] = leaves.pop(MERGE)
    del leaves[MLP]
    leaves["params/head/kernel"] = np.ones((2, 7))
    np.savez(tmp_path / "b.npz", **leaves)
    document = call("diff", "a.ckpt", "b.npz", "--json").json
    kinds = {f["leaf"]: f["kind"] for f in document["findings"] if not f["accepted"]}
    assert kinds == {MERGE: "renamed", MLP: "removed", "params/head/kernel": "added"}


def test_counters_that_moved_on(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    state = torch.load(tmp_path / "a.ckpt")
    counter = state["state_dict"]["matcher.backbone.bn1.num_batches_tracked"]
    before = int(counter)
    counter += 1
    torch.save(state, tmp_path / "later.ckpt")
    done = call("diff", "later.ckpt", "good.npz")
    assert done.code == 1
    kept = f"the record keeps another value: {before + 1} here, {before} there"
    assert f"matcher.backbone.bn1.num_batches_tracked  () i64    the mapping gives it no leaf; {kept}" in " ".join(
        done.out.split(" ")
    )
    assert done.out.splitlines()[-1].startswith("only BatchNorm statistics changed: 1 changed")


def test_a_tree_without_a_record(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", **leaves)
    done = call("diff", "a.ckpt", "bare.npz")
    assert done.code == 0
    assert "dropped  17 leaves      the mapping gives it no leaf; no record of its value\n" in done.out


def test_shared_sublayers_and_a_part_of_the_network(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Each tensor is two leaves there, and the backbone none."""
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "part.npz", "ifvit_jax")
    done = call("diff", "a.ckpt", "part.npz")
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("same, bit for bit: 80 leaves, 20,992 numbers, ")
    assert "out of its scope" in done.out
    part = load_loftr_weights(tmp_path / "part.npz")
    part["layers.3.1/q_proj/kernel"][0, 3] += 1
    np.savez(tmp_path / "part.npz", **part)
    changed = [f.leaf for f in diff_checkpoints(tmp_path / "a.ckpt", tmp_path / "part.npz").differences]
    assert changed == ["layers.3.1/q_proj/kernel"]


def test_a_cast_conversion(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "b.safetensors", "loftr", dtype="bfloat16")
    done = call("diff", "a.ckpt", "b.safetensors")
    assert done.code == 1
    assert done.out.splitlines()[-1] == "only dtype changed (float32 → bfloat16): 154 cast, 17 dropped"
    near = call("diff", "a.ckpt", "b.safetensors", "--tolerance", 2**-8)
    assert (near.code, near.out.splitlines()[-1]) == (
        0, "154 leaves within the tolerance, 17 dropped by the mapping (tolerance 0.00390625)"
    )  # fmt: skip


def test_globs_know_both_names(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    leaves[MLP] += 1
    np.savez(tmp_path / "b.npz", **leaves)
    assert call("diff", "a.ckpt", "b.npz", "--ignore", "*.mlp.2.weight").code == 0
    assert call("diff", "a.ckpt", "b.npz", "--ignore", "*/mlp_2/kernel").code == 0
    only = call("diff", "a.ckpt", "b.npz", "--only", "*layers_[23]/*", "--json").json
    assert (only["compared"], only["counts"]["changed"]) == (20, 1)


def test_the_mapping_is_given(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert call("diff", "a.ckpt", "good.npz", "-m", "loftr").err == ""
    wrong = call("diff", "a.ckpt", "good.npz", "-m", "ifvit_jax")
    assert (wrong.code, "the same numbers: now params/loftr_coarse/layers_{0..3}" in wrong.out) == (1, True)
    refused = call("diff", "a.ckpt", "good.npz", "-m", "loftr", "--prefix", "nowhere")
    assert (refused.code, "nowhere" in refused.error) == (3, True)


def test_no_mapping_fits(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Names are compared as they are, and leaves paired by what they hold, turned as they may be."""
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.save({"fc.weight": weight, "fc.bias": weight[:, 0]}, tmp_path / "own.pt")
    np.savez(tmp_path / "own.npz", **{"fc/kernel": weight.numpy().T, "fc/bias": weight[:, 0].numpy()})
    done = call("diff", "own.pt", "own.npz")
    assert done.code == 1
    assert "note: no shipped mapping fits, so names are compared as they are; " in done.err
    assert "the same numbers: fc.weight → fc/kernel, the same numbers, transposed: axes [1, 0] of the left" in done.out
    assert "only names changed: 2 renamed" in done.out


def test_a_mapping_of_ones_own_is_asked_for(call: Run, tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(3, 5), "a.bias": torch.ones(3)}, tmp_path / "own.pt")
    (tmp_path / "net.yaml").write_text("mapping: net/1\ndense:\n  a: a\n")
    assert call("convert", "own.pt", "-m", "net.yaml", "-o", "own.npz").code == 0
    done = call("diff", "own.pt", "own.npz")
    assert (done.code, done.error) == (3, "own.npz: was made with net/1, which does not ship with loftr2flax")
    assert done.hint == "give its file with `--mapping`"
    assert call("diff", "own.pt", "own.npz", "-m", "net.yaml").code == 0


def test_another_network(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_sample(tmp_path / "b.ckpt", 3, SampleSizes((10, 14, 18), 24, 6, 12, 2))
    done = call("diff", "b.ckpt", "good.npz")
    assert done.code == 1
    assert len(done.out.splitlines()) <= 42


def test_the_place_that_the_record_names(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    state = torch.load(tmp_path / "a.ckpt")["state_dict"]
    double = {name: tensor * 2 for name, tensor in state.items()}
    torch.save({"model": double, "model_ema": state}, tmp_path / "two.pt")
    convert_checkpoint(tmp_path / "two.pt", tmp_path / "ema.npz", "loftr", state_dict="model_ema")
    assert call("diff", "two.pt", "ema.npz").code == 0
    assert call("diff", "two.pt", "ema.npz", "--state-dict", "model").code == 1


def test_the_verdict_agrees_with_verify_weights(call: Run, leaves: dict[str, np.ndarray], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "good.npz", tmp_path / "b.npz")
    assert call("diff", "a.ckpt", "b.npz").code == call("verify", "weights", "a.ckpt", "b.npz").code == 0
    leaves[MERGE][2, 3] = np.nan
    np.savez(tmp_path / "b.npz", **leaves)
    assert call("diff", "a.ckpt", "b.npz").code == call("verify", "weights", "a.ckpt", "b.npz").code == 1
