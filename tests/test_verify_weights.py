"""`verify weights`: each kind of difference is seen, and what is equal in every bit is not called different."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from program import Outcome

from loftr2flax import convert_checkpoint, load_loftr_weights
from loftr2flax.compare import verify_weights
from loftr2flax.compare.leaves import bit_difference
from tools.sample import write_sample

Run = Callable[..., Outcome]
KERNEL = "params/loftr_coarse/layers_2/mlp_2/kernel"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint and the leaves of its conversion, ``good.npz``."""
    write_sample(tmp_path / "a.ckpt")
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "good.npz", "loftr")
    return tmp_path / "a.ckpt", load_loftr_weights(tmp_path / "good.npz")


def judged(call: Run, pair: tuple[Path, dict[str, np.ndarray]], *words: str) -> Outcome:
    """The verdict on the pair's leaves as they are now, written by numpy."""
    np.savez(pair[0].parent / "bad.npz", **pair[1])
    return call("verify", "weights", pair[0], "bad.npz", "-m", "loftr", *words)


@pytest.mark.parametrize("ending", [".npz", ".msgpack", ".safetensors"])
def test_a_conversion_is_right(
    call: Run, pair: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, ending: str
) -> None:
    convert_checkpoint(pair[0], tmp_path / f"out{ending}", "ifvit_jax")
    done = call("verify", "weights", pair[0], f"out{ending}")  # the mapping is the one that the record names
    assert (done.code, done.out) == (0, "")
    assert done.err == "80 leaves, 20,992 numbers compared by ifvit_jax/1: same, bit for bit\n"


def test_one_bit(call: Run, pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    leaf = pair[1][KERNEL]
    before = leaf[3, 5]
    leaf[3, 5] = np.nextafter(before, np.float32(np.inf))
    done = judged(call, pair)
    assert done.code == 1
    assert done.out == f"{KERNEL}: 1 of 512 elements differ; at [3, 5] {leaf[3, 5]!s} instead of {before!s}\n"
    assert done.err.endswith("154 leaves, 36,056 numbers compared by loftr/1: 1 leaf differs\n")


def test_transposed(call: Run, pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    """A square matrix, whose shape says nothing."""
    name = "params/loftr_coarse/layers_1/merge/kernel"
    pair[1][name] = np.ascontiguousarray(pair[1][name].T)
    done = judged(call, pair)
    assert done.code == 1
    assert done.out.startswith(f"{name}: 240 of 256 elements differ; at [0, 1] ")


def test_shape_dtype_missing_and_extra(call: Run, pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    leaves = pair[1]
    leaves[KERNEL] = np.ascontiguousarray(leaves[KERNEL].T)
    leaves["params/backbone/conv1/kernel"] = leaves["params/backbone/conv1/kernel"].astype(np.float64)
    del leaves["params/loftr_fine/layers_0/norm1/bias"]
    leaves["params/more"] = np.ones(2)
    done = judged(call, pair, "--json")
    assert done.code == 1
    reasons = {d["leaf"]: d["reason"] for d in done.json["differences"]}
    assert reasons == {
        KERNEL: "shape (16, 32) instead of (32, 16)",
        "params/backbone/conv1/kernel": "float64 instead of float32",
        "params/loftr_fine/layers_0/norm1/bias": "missing",
        "params/more": "the mapping names no tensor for it",
    }
    assert (done.json["schema"], done.json["same"], done.json["compared"]) == (
        "loftr2flax.verify.weights/1",
        False,
        153,
    )


def test_many_differences_are_counted(call: Run, pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    for leaf in pair[1].values():
        leaf += 1
    done = judged(call, pair)
    assert done.code == 1
    assert len(done.out.splitlines()) == 21
    assert done.out.endswith("and 134 more\n")


def test_nothing_compared_is_no_pass(call: Run, pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    leaves = {f"other/{name}": leaf for name, leaf in pair[1].items()}
    done = judged(call, (pair[0], leaves))
    assert done.code == 5
    assert done.err.endswith("0 leaves, 0 numbers compared by loftr/1: nothing could be compared\n")


def test_an_empty_verdict_is_no_pass(pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    verdict = verify_weights(pair[0], pair[0].parent / "good.npz")
    assert verdict.same
    assert not replace(verdict, compared=0).same


def test_two_torch_files(call: Run, pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    done = call("verify", "weights", pair[0], pair[0])
    assert (done.code, done.error) == (2, f"{pair[0]}: is a PyTorch file")


def test_a_record_of_nonsense_is_no_bug_of_ours(call: Run, pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    good = (pair[0].parent / "good.npz").read_bytes()
    record = good[good.index(b'{"loftr2flax"') :]
    for nonsense in (
        b'{"loftr2flax":{"mapping":7}}',
        b'{"loftr2flax":{"mapping":{"name":[1]}}}',
        b'{"loftr2flax":{"dtype":7}}',
        b'{"loftr2flax":{"dtype":"bogus"}}',
    ):
        bad = good[: -len(record) - 2] + len(nonsense).to_bytes(2, "little") + nonsense
        (pair[0].parent / "odd.npz").write_bytes(bad)
        for words in (["verify", "weights", pair[0], "odd.npz"], ["inspect", "odd.npz"]):
            done = call(*words)
            assert done.code in (0, 3), done


def test_progress(pair: tuple[Path, dict[str, np.ndarray]]) -> None:
    steps: list[tuple[int, int]] = []
    verdict = verify_weights(pair[0], pair[0].parent / "good.npz", progress=lambda *step: steps.append(step))
    assert verdict.same
    assert steps == [(n, 154) for n in range(1, 155)]


class TestBits:
    @pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.complex64])
    def test_minus_zero_is_not_zero(self, dtype: type) -> None:
        one, two = np.zeros((2, 3), dtype), np.zeros((2, 3), dtype)
        assert bit_difference("a", one, two) is None
        two[1, 2] = -two[1, 2]
        found = bit_difference("a", one, two)
        assert found is not None
        assert found.index == (1, 2)
        assert "-0" in found.actual

    def test_the_same_nan_is_the_same_and_another_is_not(self) -> None:
        one = np.array([1, 0x7FC00000, 3], np.uint32).view(np.float32)
        two = np.array([1, 0x7FC00001, 3], np.uint32).view(np.float32)
        assert bit_difference("a", one, one.copy()) is None
        found = bit_difference("a", one, two)
        assert str(found) == "a: 1 of 3 elements differ; at [1] nan (0x7fc00001) instead of nan (0x7fc00000)"

    def test_nan_on_one_side(self) -> None:
        found = bit_difference("a", np.array([[1.5, np.nan]]), np.array([[1.5, 2.5]]))
        assert str(found) == "a: 1 of 2 elements differ; at [0, 1] 2.5 instead of nan"

    @pytest.mark.parametrize("shape", [(0, 3), (0,), (2, 0, 5)])
    def test_nothing_equals_nothing(self, shape: tuple[int, ...]) -> None:
        assert bit_difference("a", np.ones(shape, np.float32), np.ones(shape, np.float32)) is None

    def test_nothing_of_another_shape_or_type(self) -> None:
        assert str(bit_difference("a", np.ones((0, 3)), np.ones((3, 0)))) == "a: shape (3, 0) instead of (0, 3)"
        assert str(bit_difference("a", np.ones(0), np.ones(0, np.int8))) == "a: int8 instead of float64"

    def test_a_scalar(self) -> None:
        found = bit_difference("a", np.array(3), np.array(4))
        assert str(found) == "a: 1 of 1 elements differ; at [] 4 instead of 3"
        assert bit_difference("a", np.array(True), np.array(True)) is None


def test_a_cast_is_said(call: Run, tmp_path: Path) -> None:
    write_sample(tmp_path / "a.ckpt")
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.safetensors", "loftr", dtype="bfloat16")
    done = call("verify", "weights", "a.ckpt", "a.safetensors")
    assert done.code == 0
    assert done.err.endswith("same, bit for bit after the cast to bfloat16\n")
    assert call("verify", "weights", "a.ckpt", "a.safetensors", "--json").json["cast_to"] == ["bfloat16"]


def test_the_place_that_the_record_names_is_the_one_compared(call: Run, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    names = {"a.weight": (3, 5), "a.bias": (3,)}
    state = {f"{net}.{key}": torch.randn(size, generator=generator) for net in "gd" for key, size in names.items()}
    torch.save(state, tmp_path / "gan.pt")
    (tmp_path / "net.yaml").write_text("mapping: net/1\ndense:\n  a: a\n")
    assert call("convert", "gan.pt", "-m", "net.yaml", "--prefix", "d", "-o", "d.npz").code == 0
    assert call("verify", "weights", "gan.pt", "d.npz", "-m", "net.yaml").code == 0
    assert call("verify", "weights", "gan.pt", "d.npz", "-m", "net.yaml", "--prefix", "g").code == 1


def test_a_tree_without_a_record_is_compared_by_the_mapping_whose_leaves_it_has(call: Run, tmp_path: Path) -> None:
    write_sample(tmp_path / "a.ckpt")
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "ifvit_jax")
    np.savez(tmp_path / "bare.npz", **load_loftr_weights(tmp_path / "a.npz"))
    done = call("verify", "weights", "a.ckpt", "bare.npz")
    assert done.code == 0
    assert "80 leaves, 20,992 numbers compared by ifvit_jax/1" in done.err
