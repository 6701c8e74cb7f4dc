"""`diff`, name by name: each way in which two leaves can differ is told as what it is, and nothing else is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from program import Outcome, on_terminal, run_program

from loftr2flax import diff_checkpoints
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.compare.pairing import common_prefix
from loftr2flax.compare.values import KINDS, CheckpointDiff, Finding
from loftr2flax.errors import UsageError
from loftr2flax.formats.writer import open_writer
from loftr2flax.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]
Leaves = Mapping[str, np.ndarray]
FORMATS = {"torch": "ckpt", "safetensors": "safetensors", "npz": "npz", "msgpack": "msgpack"}


def save(path: Path, leaves: Leaves, format: str = "npz") -> Path:
    infos = {name: LeafInfo(array.shape, array.dtype.name) for name, array in leaves.items()}
    with open_writer(path, format, infos, {}, force=True) as writer:
        for name in writer.order:
            writer.write(name, leaves[name])
    return path


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def base() -> dict[str, np.ndarray]:
    return {
        "a.weight": normal(6, 4, seed=1),
        "a.bias": normal(6, seed=2),
        "b.weight": normal(3, 5, 2, seed=3),
        "b.steps": np.array(7),
    }


@pytest.fixture
def diff(tmp_path: Path) -> Callable[..., CheckpointDiff]:
    """Two dicts of arrays, saved and compared."""

    def compare(left: Leaves, right: Leaves, **options: object) -> CheckpointDiff:
        one, other = save(tmp_path / "left.npz", left), save(tmp_path / "right.npz", right)
        return diff_checkpoints(one, other, **options)  # type: ignore[arg-type]

    return compare


Diff = Callable[..., CheckpointDiff]


def the_one(found: CheckpointDiff) -> Finding:
    (finding,) = found.differences
    return finding


class TestSame:
    @pytest.mark.parametrize("other", FORMATS)
    @pytest.mark.parametrize("one", FORMATS)
    def test_whatever_the_formats(self, tmp_path: Path, one: str, other: str) -> None:
        leaves = {**base(), "nan": np.array([np.nan, -0.0, np.inf], np.float32), "none": np.zeros((0, 3))}
        paths = [save(tmp_path / f"{n}.{FORMATS[f]}", leaves, f) for n, f in enumerate((one, other))]
        found = diff_checkpoints(*paths)
        assert (found.same, found.exit_code, found.counts) == (True, 0, {"same": 6})
        assert found.summary == "same, bit for bit: 6 leaves, 64 numbers"

    def test_the_same_file_twice(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz")
        assert (done.code, done.out, done.err) == (0, "same, bit for bit: 4 leaves, 61 numbers\n", "")

    def test_legacy_and_zip_tied_strided_and_expanded(self, call: Run, tmp_path: Path) -> None:
        weight = torch.from_numpy(normal(8, 5))
        lies = {
            "w": weight,
            "tied": weight,
            "turned": weight.T,
            "cut": weight[2:, 1:3],
            "wide": weight[:1].expand(4, 5),
        }
        dense = {name: tensor.contiguous().clone() for name, tensor in lies.items()}
        torch.save(lies, tmp_path / "lies.pt", _use_new_zipfile_serialization=False)
        torch.save(dense, tmp_path / "dense.pt")
        assert call("diff", "lies.pt", "dense.pt").code == 0
        dense["turned"][0, 3] += 1
        torch.save(dense, tmp_path / "dense.pt")
        done = call("diff", "lies.pt", "dense.pt")
        assert done.code == 1
        assert done.out.startswith("changed  turned  (5, 8) f32    1 of 40 elements differ, max abs 1 at [0, 3]: ")

    def test_nothing_is_loaded_that_is_heavy(self, run: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        script = "import atexit, sys; atexit.register(lambda: print(sorted({'torch','jax'} & set(sys.modules))))"
        assert run("diff", "a.npz", "a.npz", prefix=script).out.endswith("[]\n")


class TestValues:
    def test_one_element(self, call: Run, tmp_path: Path) -> None:
        left, right = base(), base()
        left["b.weight"][2, 3, 1], right["b.weight"][2, 3, 1] = 0.25, 0.5
        save(tmp_path / "a.npz", left)
        save(tmp_path / "b.safetensors", right, "safetensors")
        done = call("diff", "a.npz", "b.safetensors")
        assert done.code == 1
        assert done.out.splitlines()[0].startswith(
            "changed  b.weight  (3, 5, 2) f32    1 of 30 elements differ, max abs 0.25 at [2, 3, 1]: 0.25 → 0.5, "
        )
        assert done.out.splitlines()[-1] == "only b.weight changed: 1 changed, 3 same"

    def test_the_measures(self, diff: Diff) -> None:
        left = np.array([[3.0, 4.0, 0.0]], np.float32)
        right = left.copy()
        right[0, 1] = np.nextafter(np.float32(4), np.float32(9))
        found = the_one(diff({"w": left}, {"w": right})).measures
        assert found is not None
        assert "another order" not in str(the_one(diff({"w": left}, {"w": right})))
        assert (found.elements, found.changed, found.index, found.left, found.right) == (
            3,
            1,
            (0, 1),
            "4.0",
            "4.0000005",
        )
        assert (found.max_ulp, found.one_sided, found.share) == (1, 0, 1 / 3)
        step = float(right[0, 1]) - 4
        assert found.max_abs == step
        assert found.rel_l2 == pytest.approx(step / 5, rel=1e-12)
        exact = (9 + 4 * (4 + step)) / (5 * np.hypot(3, 4 + step))
        assert found.cosine == pytest.approx(exact, rel=1e-12)

    def test_the_place_is_right_beyond_the_first_block(self, diff: Diff) -> None:
        left = normal(3, 100_001)
        right = left.copy()
        right[1, 70_000] += 1
        right[2, 99_999] -= 2
        found = the_one(diff({"w": left}, {"w": right})).measures
        assert found is not None
        assert (found.changed, found.index) == (2, (2, 99_999))
        assert found.max_abs == pytest.approx(2)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
    def test_steps_of_the_type(self, diff: Diff, dtype: type) -> None:
        """From the smallest negative number to the smallest positive one are two steps; the zeros are one number."""
        tiny = ml_dtypes.finfo(dtype).smallest_subnormal
        left, right = np.array([-tiny, 0.0, 1], dtype), np.array([tiny, -0.0, 1], dtype)
        found = the_one(diff({"w": left}, {"w": right})).measures
        assert found is not None
        assert (found.changed, found.max_ulp) == (2, 2)

    def test_the_whole_range_in_steps(self, diff: Diff) -> None:
        big = np.finfo(np.float64).max
        found = the_one(diff({"w": np.array([-big, 1])}, {"w": np.array([big, 1])})).measures
        assert found is not None
        assert found.max_ulp == 2 * int(np.float64(big).view(np.uint64))
        assert found.max_abs is not None  # more than float64 holds
        assert "inf" not in json.dumps([found.rel_l2, found.cosine], allow_nan=True).lower()

    def test_beyond_the_range_of_float64(self, call: Run, tmp_path: Path) -> None:
        big = np.finfo(np.float64).max
        for name, sign in (("a", 1), ("b", -1)):
            save(tmp_path / f"{name}.npz", {"w": np.array([sign * big, 1]), "c": np.array([big * (1 + sign * 1j), 1])})
        done = call("diff", "a.npz", "b.npz", "--json", "--tolerance", "0.5")
        assert done.code == 1
        findings = json.loads(done.out, parse_constant=pytest.fail)["findings"]
        assert [(f["kind"], f["measures"]["max_abs"], f["measures"]["rel_l2"]) for f in findings] == 2 * [
            ("changed", None, None)
        ]

    def test_permuted_with_equal_mean_and_deviation(self, call: Run, tmp_path: Path) -> None:
        left = normal(40, 30)
        right = np.random.default_rng(5).permutation(left.reshape(-1)).reshape(left.shape)
        assert sorted(left.reshape(-1)) == sorted(right.reshape(-1))
        save(tmp_path / "a.npz", {"w": left})
        save(tmp_path / "b.npz", {"w": right})
        done = call("diff", "a.npz", "b.npz")
        assert done.code == 1
        assert done.out.startswith("changed  w  (40, 30) f32    ")
        assert "the same numbers in another order" in done.out

    def test_the_same_nan_is_the_same(self, diff: Diff) -> None:
        left = np.array([1, np.nan, 3], np.float32)
        right = left.copy()
        assert diff({"w": left}, {"w": right}).same
        right[2] += 1
        found = the_one(diff({"w": left}, {"w": right})).measures
        assert found is not None
        assert (found.changed, found.max_abs, found.one_sided) == (1, 1, 0)

    def test_nan_elsewhere(self, diff: Diff) -> None:
        left, right = np.array([1, np.nan, 3, np.inf], np.float32), np.array([np.nan, 1, 3, -np.inf], np.float32)
        found = the_one(diff({"w": left}, {"w": right}, tolerance=1e6))
        assert found.kind == "changed"
        assert found.measures is not None
        assert (found.measures.one_sided, found.measures.changed, found.measures.max_abs) == (3, 3, None)
        assert "NaN or inf on one side in 3, the first at [0]: 1.0 → nan" in found.reason

    def test_another_nan(self, diff: Diff) -> None:
        left = np.array([1, 0x7FC00000], np.uint32).view(np.float32)
        right = np.array([1, 0x7FC00001], np.uint32).view(np.float32)
        found = the_one(diff({"w": left}, {"w": right}))
        assert found.kind == "changed"
        assert "nan (0x7fc00000) → nan (0x7fc00001)" in found.reason

    def test_minus_zero(self, diff: Diff) -> None:
        found = the_one(diff({"w": np.array([0.0, 1])}, {"w": np.array([-0.0, 1])}))
        assert (found.kind, found.measures and found.measures.max_ulp) == ("changed", 0)
        assert "the first at [0]: 0.0 → -0.0" in found.reason

    def test_whole_numbers_truth_values_and_complex(self, diff: Diff) -> None:
        left = {"i": np.array([1, 2, 3]), "b": np.array([True, False]), "c": np.array([1 + 2j, 3, 4])}
        right = {"i": np.array([1, 2, 9]), "b": np.array([True, True]), "c": np.array([1 + 2j, 3, 4 + 3j])}
        found = {finding.leaf: finding.measures for finding in diff(left, right, tolerance=10.0).differences}
        assert {name: m and (m.changed, m.max_abs) for name, m in found.items()} == {"i": (1, 6), "b": (1, 1)}
        assert diff(left, right).counts == {"changed": 3}

    def test_shape_and_dtype(self, diff: Diff) -> None:
        right = base() | {"a.weight": normal(4, 7), "a.bias": normal(6, seed=9, dtype=np.float64)}
        reasons = {finding.leaf: finding.reason for finding in diff(base(), right).differences}
        assert reasons["a.weight"] == "shape (6, 4) → (4, 7)"
        assert reasons["a.bias"].startswith("float32 → float64, all elements differ, max abs ")


class TestCasts:
    @pytest.mark.parametrize("narrow", [ml_dtypes.bfloat16, np.float16])
    def test_a_round_trip(self, diff: Diff, narrow: type) -> None:
        left = {f"layers.{n}.w": normal(9, 7, seed=n) for n in range(3)} | {"scale": np.array(0.3, np.float32)}
        right = {name: array.astype(narrow).astype(np.float32) for name, array in left.items()}
        found = diff(left, right)
        name = np.dtype(narrow).name
        assert found.counts == {"cast": 4}
        assert {finding.reason for finding in found.findings} == {f"float32 → {name} → float32"}
        assert found.summary == f"only rounding differs (float32 → {name} → float32): 4 cast"
        assert found.exit_code == 1
        back = diff(right, left)
        assert {finding.reason for finding in back.findings} == {f"the left went through {name}"}

    def test_one_number_that_could_be_rounded_is_no_evidence(self, diff: Diff) -> None:
        found = diff({"var": np.full(8, 1.1, np.float32)}, {"var": np.ones(8, np.float32)})
        assert found.counts == {"changed": 1}
        assert "max abs 0.1 at [0]: 1.1 → 1.0" in the_one(found).reason

    @pytest.mark.parametrize("narrow", [ml_dtypes.bfloat16, np.float16])
    def test_another_dtype(self, diff: Diff, narrow: type) -> None:
        left = {"w": normal(9, 7), "ones": np.ones(3, np.float32)}
        right = {name: array.astype(narrow) for name, array in left.items()}
        name = np.dtype(narrow).name
        found = diff(left, right)
        reasons = {finding.leaf: finding.reason for finding in found.findings}
        assert reasons == {"w": f"float32 → {name}, rounded", "ones": f"float32 → {name}, no number changed"}
        assert found.summary == f"only dtype changed (float32 → {name}): 2 cast"
        back = diff(right, left)
        assert back.findings[0].reason == f"{name} → float32, the left is the right one rounded"

    def test_whole_numbers_of_another_width(self, diff: Diff) -> None:
        left = {"n": np.array([1, -2, 70_000])}
        assert the_one(diff(left, {"n": left["n"].astype(np.int32)})).reason == "int64 → int32, no number changed"
        assert the_one(diff(left, {"n": left["n"].astype(np.int16)})).kind == "changed"  # 70,000 went round
        assert the_one(diff(left, {"n": left["n"].astype(np.complex64)})).kind == "changed"

    @pytest.mark.parametrize(("one", "other"), [("int8", "uint8"), ("uint16", "int16"), ("int16", "uint64")])
    def test_a_sign_that_is_lost_is_a_change(self, diff: Diff, one: str, other: str) -> None:
        left = {"n": np.array([-1, 2, 3]).astype(one)}
        found = the_one(diff(left, {"n": left["n"].astype(other)}))
        assert (found.kind, found.measures and found.measures.changed) == ("changed", 1)
        left = {"n": np.array([1, 2, 3]).astype(one)}
        assert the_one(diff(left, {"n": left["n"].astype(other)})).reason == f"{one} → {other}, no number changed"

    def test_whole_numbers_that_float64_cannot_tell_apart(self, diff: Diff) -> None:
        found = diff({"n": np.array([2**53 + 1, 2])}, {"n": np.array([2.0**53, 2])})
        assert (the_one(found).kind, found.exit_code) == ("changed", 1)
        assert the_one(found).reason == "int64 → float64, all elements are equal in float64"

    def test_nan_stays_nan(self, diff: Diff) -> None:
        left = {"w": np.array([0.1, 0.2, 0.3, 0.4, np.nan], np.float32)}
        right = {"w": left["w"].astype(ml_dtypes.bfloat16)}
        right["w"][4] = -right["w"][4]  # a NaN of other bits
        assert the_one(diff(left, right)).kind == "cast"
        right["w"][3], right["w"][4] = right["w"][4], right["w"][3]
        assert the_one(diff(left, right)).kind == "changed"


class TestTolerance:
    def test_it_is_measured_by_the_largest_number_of_the_leaf(self, call: Run, tmp_path: Path) -> None:
        left = {"w": np.array([8, 1e-6, 2], np.float32)}
        right = {"w": np.array([8, 5e-4, 2], np.float32)}
        save(tmp_path / "a.npz", left)
        save(tmp_path / "b.npz", right)
        done = call("diff", "a.npz", "b.npz", "--tolerance", "1e-4")
        assert done.code == 0
        assert done.out.startswith("close  w  (3,) f32    within 0.0001: 1 of 3 elements differ")
        assert done.out.endswith("\n1 leaf within the tolerance (tolerance 0.0001)\n")
        strict = call("diff", "a.npz", "b.npz", "--tolerance", "1e-5")
        assert (strict.code, strict.out.endswith("1 changed (tolerance 1e-05)\n")) == (1, True)

    def test_a_cast_is_accepted(self, diff: Diff) -> None:
        left = {"w": normal(9, 7), "n": np.array([3])}
        right = {"w": left["w"].astype(ml_dtypes.bfloat16), "n": np.array([3])}
        assert diff(left, right, tolerance=2**-8).same
        assert not diff(left, right, tolerance=2**-12).same

    def test_another_layout_name_or_whole_number_is_not(self, diff: Diff) -> None:
        for left, right in (
            ({"w": normal(4, 4)}, {"w": normal(4, 4).T.copy()}),
            ({"w": normal(4, 3)}, {"w": normal(4, 3).T.copy()}),
            ({"w": normal(4, 3)}, {"v": normal(4, 3)}),
            ({"n": np.array([100, 3])}, {"n": np.array([101, 3])}),
        ):
            assert diff(left, right, tolerance=1.0).exit_code == 1

    def test_one_number(self, diff: Diff) -> None:
        assert diff({"n": np.array(3)}, {"n": np.array(3)}).summary == "same, bit for bit: 1 leaf, 1 number"

    def test_the_imaginary_part_beside_a_nan_counts(self, diff: Diff) -> None:
        left, right = np.array([[complex(np.nan, part), 3] for part in (2, 99)], np.complex64)
        found = diff({"c": left}, {"c": right}, tolerance=0.5)
        assert (the_one(found).kind, found.exit_code) == ("changed", 1)
        assert diff({"c": left}, {"c": left.astype(np.complex128)}, tolerance=0.5).same

    def test_a_difference_beyond_float64_is_not(self, diff: Diff) -> None:
        left, right = ({"w": np.array([number, 1.0])} for number in (1.7e308, -1.7e308))
        assert diff(left, right, tolerance=1.5).exit_code == 1

    @pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
    def test_nonsense(self, diff: Diff, tolerance: float) -> None:
        with pytest.raises(UsageError, match="not a number from 0 on"):
            diff(base(), base(), tolerance=tolerance)


class TestLayouts:
    def test_a_square_matrix_transposed(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", {"w": normal(16, 16)})
        save(tmp_path / "b.npz", {"w": normal(16, 16).T.copy()})
        done = call("diff", "a.npz", "b.npz")
        assert done.code == 1
        row = "layout  w  (16, 16) f32    the same numbers, transposed: axes [1, 0] of the left"
        assert done.out == f"{row}\n\nonly the layout changed: 1 layout\n"

    @pytest.mark.parametrize("axes", [(2, 3, 1, 0), (0, 2, 1, 3), (3, 2, 1, 0)])
    def test_the_permutation_is_found(self, diff: Diff, axes: tuple[int, ...]) -> None:
        left = normal(5, 4, 3, 2)
        found = the_one(diff({"w": left}, {"w": left.transpose(axes).copy()}))
        assert (found.kind, found.layout) == ("layout", f"axes {list(axes)}")

    def test_reshaped_is_not_transposed(self, diff: Diff) -> None:
        left = normal(6, 4)
        found = the_one(diff({"w": left}, {"w": left.reshape(4, 6)}))
        assert (found.kind, found.reason) == ("layout", "the same bytes, reshaped: (6, 4) → (4, 6)")
        assert the_one(diff({"w": left}, {"w": left.reshape(-1)})).layout == "reshaped"

    def test_two_numbers_that_changed_places_are_no_layout(self, diff: Diff) -> None:
        """In the last of several portions of a large leaf, where no probe looks."""
        left = normal(700, 600)
        right = left.T.copy()
        right[599, [3, 5]] = right[599, [5, 3]]
        assert the_one(diff({"w": left}, {"w": right})).reason.endswith(", the same numbers in another order")

    def test_one_number_off_is_no_layout(self, diff: Diff) -> None:
        left = normal(6, 4)
        right = left.T.copy()
        right[0, 0] += 1
        assert the_one(diff({"w": left}, {"w": right})).reason == "shape (6, 4) → (4, 6)"


class TestNames:
    @pytest.mark.parametrize("prefix", ["module.", "model.encoder.", "params/"])
    def test_a_prefix(self, diff: Diff, prefix: str) -> None:
        with_it = {prefix + name: array for name, array in base().items()}
        for left, right, arrow in ((base(), with_it, f"* → {prefix}*"), (with_it, base(), f"{prefix}* → *")):
            found = diff(left, right)
            assert found.counts == {"renamed": 4}
            assert found.summary == "only names changed: 4 renamed"
            assert any(f"{prefix!r} stands before 4 names" in note for note in found.notes), arrow

    def test_a_prefix_and_a_change(self, call: Run, tmp_path: Path) -> None:
        left = {f"module.{name}": array for name, array in base().items()}
        right = base()
        right["a.bias"] = right["a.bias"] + 1
        save(tmp_path / "a.npz", left)
        save(tmp_path / "b.npz", right)
        done = call("diff", "a.npz", "b.npz")
        assert done.code == 1
        assert "changed  module.a.bias  (6,) f32  " in done.out
        assert "renamed  3 leaves" in done.out
        assert "the same numbers: module.* → *" in done.out
        looked_past = call("diff", "a.npz", "b.npz", "--prefix", "module", "--prefix", "")
        assert looked_past.out.splitlines()[-1] == "only a.bias changed: 1 changed, 3 same"

    def test_equal_content(self, diff: Diff) -> None:
        right = base()
        right["head.kernel"] = right.pop("a.weight")
        found = the_one(diff(base(), right))
        assert (found.kind, found.guess) == ("renamed", False)
        assert found.reason == "the same numbers: a.weight → head.kernel"
        assert (found.left and found.left.name, found.right and found.right.name) == ("a.weight", "head.kernel")

    def test_equal_content_in_another_layout(self, diff: Diff) -> None:
        right = base()
        right["head.kernel"] = right.pop("a.weight").T.copy()
        found = the_one(diff(base(), right))
        assert (found.kind, found.layout) == ("renamed", "axes [1, 0]")

    def test_many_of_equal_content_go_by_their_names(self, diff: Diff) -> None:
        weight = normal(5, 3)
        left = {f"old.{n}.{leaf}": weight for n in "abc" for leaf in ("x", "y")}
        right = {f"new.{n}.{leaf}": weight for n in "cba" for leaf in ("y", "x")}
        pairs = {f.left.name: f.right.name for f in diff(left, right).findings if f.left and f.right}
        assert pairs == {name: name.replace("old", "new") for name in left}

    def test_constants_prove_nothing(self, diff: Diff) -> None:
        found = diff({"a.bias": np.zeros(4)}, {"b.shift": np.zeros(4)})
        assert found.counts == {"removed": 1, "added": 1}
        assert diff({"a.bias": np.zeros(4)}, {"b.bias": np.zeros(4)}).counts == {"renamed": 1}

    def test_the_same_numbers_in_disorder_are_no_rename(self, diff: Diff) -> None:
        left = normal(40, 30)
        right = np.random.default_rng(5).permutation(left.reshape(-1)).reshape(left.shape)
        assert diff({"old.w": left}, {"new.w": right}).counts == {"removed": 1, "added": 1}

    def test_a_prefix_that_goes_both_ways_is_none(self) -> None:
        assert common_prefix(["p.x"], ["x", "p.p.x"]) == ("", "")
        assert common_prefix(["p.x", "p.y", "z"], ["x", "y", "w"]) == ("p.", "")
        assert common_prefix(["x", "y", "w"], ["q/p.x", "q/p.y"]) == ("", "q/p.")
        assert common_prefix(["p.x", "a", "b", "c"], ["x", "d", "e", "f"]) == ("", "")

    def test_a_guess_is_called_one(self, diff: Diff) -> None:
        left = {f"old{n}.w": normal(8, 6, seed=n) for n in range(3)}
        right = {f"new{n}.w": left[f"old{n}.w"] + 0.01 * normal(8, 6, seed=9) for n in range(3)}
        found = diff(left, right)
        assert found.counts == {"renamed": 3}
        for finding in found.findings:
            assert finding.guess
            assert finding.right is not None
            assert finding.right.name == finding.leaf.replace("old", "new")
            assert finding.reason.startswith(f"perhaps {finding.leaf} → {finding.right.name}: shape and statistics")
        assert found.summary == "3 renamed"

    def test_alike_in_statistics_alone_is_no_guess(self, diff: Diff) -> None:
        found = diff({"old.w": normal(80, 60, seed=1)}, {"new.w": normal(80, 60, seed=2)})
        assert found.counts == {"removed": 1, "added": 1}
        scales = [1 + 0.01 * normal(90, seed=seed) for seed in (1, 2)]
        assert diff({"old.scale": scales[0]}, {"new.scale": scales[1]}).counts == {"removed": 1, "added": 1}

    def test_added_and_removed(self, diff: Diff) -> None:
        left, right = base(), base()
        del left["a.weight"], right["b.weight"]
        found = diff(left, right)
        assert {finding.leaf: finding.kind for finding in found.differences} == {
            "a.weight": "added",
            "b.weight": "removed",
        }
        assert diff(base(), right).summary == "only leaves of the left's own are gone: 1 removed, 3 same"


SUMMARIES = {
    "only BatchNorm statistics changed": ["bn1.running_mean", "bn1.running_var", "norm.num_batches_tracked"],
    "only layers.{0..1} changed": [f"layers.{n}.{leaf}" for n in (0, 1) for leaf in ("q.weight", "k.weight", "k.bias")],
    "only layers.{0..3}.k.bias changed": [f"layers.{n}.k.bias" for n in range(4)],
    "only head changed": ["head.weight", "head.bias"],
}


def network() -> dict[str, np.ndarray]:
    leaves = {
        f"layers.{n}.{leaf}": normal(4, 3, seed=n) for n in range(4) for leaf in ("q.weight", "k.weight", "k.bias")
    }
    leaves |= {"bn1.running_mean": normal(3), "bn1.running_var": normal(3, seed=1), "bn1.weight": normal(3, seed=2)}
    return leaves | {"norm.num_batches_tracked": np.array(5), "head.weight": normal(2, 3), "head.bias": normal(2)}


@pytest.mark.parametrize("summary", SUMMARIES)
def test_what_alone_changed(diff: Diff, summary: str) -> None:
    changed = {name: network()[name] + 1 for name in SUMMARIES[summary]}
    assert diff(network(), network() | changed).summary.startswith(f"{summary}: ")


def test_changes_that_are_not_all_of_a_branch(diff: Diff) -> None:
    leaves = {f"net.layers.{n}.{leaf}.w": normal(3, seed=n) for n in range(6) for leaf in "abcd"} | {
        "net.head": normal(2)
    }
    changed = {f"net.layers.{n}.{leaf}.w": normal(3, seed=9) for n, leaf in enumerate("abcd")}
    summary = diff(leaves, leaves | changed).summary
    assert summary == "all changes lie in net.layers.{0..3} (4 of 16 leaves there): 4 changed, 21 same"


def test_where_values_changed_among_other_differences(diff: Diff) -> None:
    right = {f"module.{name}": array + 1 if "layers.2" in name else array for name, array in network().items()}
    found = diff(network(), right | {"module.more": np.arange(3)})
    assert found.summary == "3 changed, 15 renamed, 1 added; of values, only layers.2 changed"


def test_as_a_difftool_of_git(tmp_path: Path) -> None:
    """The two lines that docs/diff.md shows, in a repository."""
    manual = (Path(__file__).parents[1] / "docs" / "diff.md").read_text("utf-8")
    block = re.search(r"As a difftool.*?```sh\n(.*?)```", manual, re.DOTALL)
    assert block is not None
    program = Path(sys.executable).with_name("loftr2flax")
    if not (program.exists() and shutil.which("git")):
        pytest.skip("git, or the installed program, is not there")
    script = [
        "git init -q . && git config user.email a@b && git config user.name n",
        "git add weights.safetensors && git commit -qm one && mv later.safetensors weights.safetensors",
        "git commit -qam two",
        block[1],
    ]
    save(tmp_path / "weights.safetensors", base(), "safetensors")
    save(tmp_path / "later.safetensors", base() | {"a.bias": normal(6, seed=8)}, "safetensors")
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("only a.bias changed: 1 changed, 3 same\n")


class TestNothingCompared:
    def test_two_empty_files(self, call: Run, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz")
        done = call("diff", "a.npz", "b.npz", "--exit-zero")
        assert (done.code, done.out) == (5, "nothing was compared\n")

    def test_an_empty_file_and_another(self, call: Run, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz")
        save(tmp_path / "b.npz", base())
        assert call("diff", "a.npz", "b.npz").out.endswith("4 added\n")
        assert (call("diff", "a.npz", "b.npz").code, call("diff", "b.npz", "a.npz").code) == (1, 1)

    def test_a_glob_that_matches_nothing(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", "--only", "*.wieght")
        assert done.code == 5
        assert "note: --only '*.wieght' matches no leaf on either side\n" in done.err

    def test_what_cannot_be_read_is_never_the_same(self, call: Run, tmp_path: Path) -> None:
        torch.save({"s": torch.eye(3).to_sparse(), "w": torch.ones(2)}, tmp_path / "a.pt")
        done = call("diff", "a.pt", "a.pt")
        assert done.code == 1
        assert (
            "unread  s  (3, 3) f32    cannot be compared: sparse tensor on the left, sparse tensor on the right"
            in done.out
        )
        assert call("diff", "a.pt", "a.pt", "--only", "s").code == 5
        assert call("diff", "a.pt", "a.pt", "--ignore", "s").code == 0


class TestChoices:
    def test_globs(self, diff: Diff) -> None:
        right = base() | {"a.weight": normal(6, 4, seed=8), "a.bias": normal(6, seed=8)}
        assert diff(base(), right, ignore=["a.*"]).same
        assert diff(base(), right, only=["b.*"]).same
        assert diff(base(), right, only=["a.*", "b.*"], ignore=["*.bias"]).counts == {"changed": 1, "same": 2}
        found = diff(base(), right, only=["b.*"], ignore=["nowhere"])
        assert found.left_out == 4
        assert found.notes == ("--ignore 'nowhere' matches no leaf on either side",)

    def test_two_dicts_of_one_file(self, call: Run, tmp_path: Path) -> None:
        model = {"w": torch.ones(3, 2), "b": torch.zeros(3)}
        torch.save({"model": model, "ema": {**model, "w": 2 * model["w"]}}, tmp_path / "a.pt")
        done = call("diff", "a.pt", "a.pt", "--state-dict", "model", "--state-dict", "ema")
        assert (done.code, done.out.splitlines()[-1]) == (1, "only w changed: 1 changed, 1 same")
        assert call("diff", "a.pt", "a.pt", "--state-dict", "ema").code == 0
        assert [side["container"] for side in self._sides(call)] == ["model", "ema"]

    def _sides(self, call: Run) -> list[dict[str, str]]:
        document = call("diff", "a.pt", "a.pt", "--state-dict", "model", "--state-dict", "ema", "--json").json
        return [document["left"], document["right"]]

    def test_one_word_for_the_side_that_has_dicts(self, call: Run, tmp_path: Path) -> None:
        torch.save({"model": {"w": torch.ones(3)}, "ema": {"w": torch.zeros(3)}}, tmp_path / "a.pt")
        np.savez(tmp_path / "b.npz", w=np.zeros(3, np.float32))
        assert call("diff", "a.pt", "b.npz", "--state-dict", "ema").code == 0
        done = call("diff", "b.npz", "b.npz", "--state-dict", "ema")
        assert (done.code, done.hint) == (2, "leave out --state-dict")

    def test_below_a_prefix(self, diff: Diff) -> None:
        left = {f"net.{name}": array for name, array in base().items()} | {"other": normal(3)}
        found = diff(left, base(), prefix=("net", None))
        assert (found.same, found.left_out) == (True, 1)
        assert diff(left, left, prefix="net.").counts == {"same": 4}
        with pytest.raises(UsageError, match="no leaf on either side begins so"):
            diff(left, base(), prefix="ney")
        with pytest.raises(UsageError, match=r"--prefix ney: no leaf in .*left\.npz begins so"):
            diff(left, {f"net.{name}": array for name, array in base().items()}, prefix=("ney", "net"))

    @pytest.mark.parametrize("option", ["--prefix", "--state-dict"])
    def test_three_words(self, call: Run, tmp_path: Path, option: str) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", option, "a", option, "b", option, "c")
        assert (done.code, done.error) == (2, f"{option} is given 3 times")

    def test_a_mapping_for_two_of_a_kind(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", "-m", "loftr")
        assert (done.code, done.hint) == (2, "leave out --mapping")


class TestPage:
    def test_two_unrelated_networks(self, call: Run, tmp_path: Path) -> None:
        write_sample(tmp_path / "a.ckpt")
        shutil.copy(tmp_path / "a.ckpt", tmp_path / "plain.ckpt")
        write_sample(tmp_path / "b.ckpt", 7, SampleSizes((10, 14, 18), 24, 6, 12, 2))
        state = {f"blocks.{n}.{leaf}.w": torch.ones(n + 2, 3) for n in range(150) for leaf in "abc"}
        torch.save(state, tmp_path / "c.pt")
        for other in ("b.ckpt", "c.pt"):
            done = call("diff", "a.ckpt", other)
            assert done.code == 1
            assert len(done.out.splitlines()) <= 42
            assert len(call("diff", "a.ckpt", other, "--limit", 8).out.splitlines()) <= 11
        assert len(call("diff", "a.ckpt", "c.pt", "--full").out.splitlines()) == 171 + 450 + 2

    def test_every_leaf_of_a_full_page(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        save(tmp_path / "b.npz", base() | {"a.bias": normal(6, seed=8)})
        rows = call("diff", "a.npz", "b.npz", "--full").out.splitlines()
        assert [row.split()[:2] for row in rows[:4]] == [
            ["changed", "a.bias"], ["same", "a.weight"], ["same", "b.weight"], ["same", "b.steps"],
        ]  # fmt: skip

    def test_stat(self, call: Run, tmp_path: Path) -> None:
        left = {f"layers.{n}.w": normal(10, 4, seed=n) for n in range(4)} | {"gone": np.ones(10), "kept": np.ones(3)}
        right = {name: array + 1 if "layers" in name else array for name, array in left.items() if name != "gone"}
        save(tmp_path / "a.npz", left)
        save(tmp_path / "b.npz", right | {"new": np.full((20, 2), 3.0)})
        done = call("diff", "a.npz", "b.npz", "--stat")
        assert done.code == 1
        assert done.out.splitlines() == [
            " layers.{0..3}.w  |  160  " + 40 * "~",
            " gone             |   10  --",
            " new              |   40  " + 10 * "+",
            " 6 leaves of 7 differ, 210 numbers",
            " 4 changed, 1 removed, 1 added, 1 same; of values, only layers changed",
        ]

    def test_hostile_names(self, call: Run, tmp_path: Path) -> None:
        name = "a\n::error::forged\x1b[31m.w"
        torch.save({name: torch.ones(2), "\x07.w": torch.ones(3)}, tmp_path / "a.pt")
        torch.save({name: torch.zeros(2), "\x07.w": torch.zeros(3)}, tmp_path / "b.pt")
        for words in ([], ["--stat"], ["--full"], ["--only", "\x07*"]):
            done = call("diff", "a.pt", "b.pt", *words)
            assert done.code == 1
            assert not {"\x1b", "\x07"} & set(done.out + done.err)
            assert not any(line.startswith("::") for line in done.out.splitlines())
        assert "error::forged\\x1b[31m.w" in call("diff", "a.pt", "b.pt").out

    def test_json(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        save(tmp_path / "b.npz", base() | {"a.bias": base()["a.bias"] + 1, "nan": np.array([np.nan])})
        done = call("diff", "a.npz", "b.npz", "--json")
        assert (done.code, done.err) == (1, "")
        document = json.loads(done.out, parse_constant=pytest.fail)
        assert list(document) == [
            "schema", "left", "right", "mapping", "tolerance", "same", "exit_code", "summary", "compared", "numbers",
            "left_out", "counts", "notes", "findings",
        ]  # fmt: skip
        assert document["schema"] == "loftr2flax.diff/1"
        assert document["counts"] == {"changed": 1, "added": 1, "same": 3}
        finding = next(f for f in document["findings"] if f["leaf"] == "a.bias")
        assert finding["left"] == {"name": "a.bias", "shape": [6], "dtype": "float32"}
        assert (finding["measures"]["changed"], finding["measures"]["share"]) == (6, 1.0)

    def test_exit_zero(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        save(tmp_path / "b.npz", base() | {"a.bias": normal(6, seed=8)})
        assert call("diff", "a.npz", "b.npz", "--exit-zero").code == 0
        assert call("diff", "a.npz", "b.npz").code == 1

    def test_quiet(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", "--ignore", "zzz", "-q")
        assert (done.code, done.err) == (0, "")

    def test_every_kind_is_in_the_manual(self) -> None:
        manual = (Path(__file__).parents[1] / "docs" / "diff.md").read_text("utf-8")
        for kind in KINDS:
            assert f"`{kind}`" in manual


class TestBadFiles:
    @pytest.mark.parametrize("format", FORMATS)
    def test_truncated(self, call: Run, tmp_path: Path, format: str) -> None:
        save(tmp_path / "a.npz", base())
        path = save(tmp_path / f"b.{FORMATS[format]}", base(), format)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        done = call("diff", "a.npz", path)
        assert done.code == 3
        assert str(path) in done.error
        assert "Traceback" not in done.err

    @pytest.mark.parametrize("place", ["equal", "differs"])
    def test_damage_is_told_before_any_answer(self, call: Run, tmp_path: Path, place: str) -> None:
        weight = normal(300, 1000)
        save(tmp_path / "a.npz", {"w": weight, "v": normal(3)})
        if place == "differs":
            weight[0, 0] += 1
        path = save(tmp_path / "b.npz", {"w": weight, "v": normal(3)})
        data = bytearray(path.read_bytes())
        data[data.index(weight[-1].tobytes()) + 2000] ^= 64
        path.write_bytes(data)
        done = call("diff", "a.npz", path)
        assert (done.code, done.out) == (3, "")
        assert "fails its check" in done.error

    def test_missing_and_folder(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        assert call("diff", "a.npz", "nowhere.npz").code == 3
        assert call("diff", "a.npz", tmp_path).code == 3
        assert call("diff", tmp_path, "a.npz", "--state-dict", "x").code == 3
        assert call("diff", "a.npz").code == 2


def test_memory_does_not_follow_the_leaf(run: Run, tmp_path: Path) -> None:
    """Two leaves of 512 MiB each; holes in files of zeros, so that nothing is written."""
    count = 1 << 27
    for name in ("a", "b"):
        header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
        with (tmp_path / f"{name}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 4 * count)
    with (tmp_path / "b.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(2).tobytes())
    script = "import atexit; atexit.register(lambda: print([s for s in open('/proc/self/status') if 'VmHWM' in s]))"
    done = run("diff", "a.safetensors", "b.safetensors", prefix=script)
    assert done.code == 1
    assert f"1 of {count:,} elements differ, max abs 2 at [{count - 1}]: 0.0 → 2.0" in done.out
    assert int(done.out.splitlines()[-1].split()[1]) * 1024 < 100e6


def test_a_terminal_is_not_overrun(tmp_path: Path) -> None:
    """Names lose their middle, what differs goes on below itself; nothing of it is lost, and a file gets it all."""
    name = f"{'very_' * 20}long.weight"
    torch.save({name: torch.ones(2, 3), "short": torch.ones(4)}, tmp_path / "a.pt")
    torch.save({name: torch.zeros(2, 3), "short": torch.zeros(5)}, tmp_path / "b.pt")
    words = ["diff", "a.pt", "b.pt"]
    whole = run_program(*words, cwd=tmp_path, COLUMNS="90").out
    assert name in whole
    shown = on_terminal(*words, cwd=tmp_path, columns=90)
    assert max(map(len, shown.splitlines())) <= 90 < max(map(len, whole.splitlines()))
    label = shown.split()[1]
    assert name.startswith(label.split("…")[0])
    assert name.endswith(label.split("…")[1])
    assert shown.replace(label, name).split() == whole.split()  # the rest is all there, in its order
