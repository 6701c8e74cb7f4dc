"""`diff`, leaf by leaf: each way in which the values of two leaves can differ is told as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from pairs import FORMATS, Diff, Run, base, normal, save, the_one

from loftr2flax import diff_checkpoints
from loftr2flax.errors import UsageError


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
