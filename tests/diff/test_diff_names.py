"""`diff`, leaf by leaf: layouts, names, and which branch alone changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pairs import Diff, Run, base, normal, save, the_one

from loftr2flax.compare.pairing import common_prefix


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
