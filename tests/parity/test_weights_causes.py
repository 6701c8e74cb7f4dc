"""Every way in which a leaf can be wrong is caught, named, and told apart from the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_loftr import SIZES

from loftr2flax.parity import ParityReport, verify_parity
from loftr2flax.parity.culprit import find_culprit
from loftr2flax.parity.loftr.names import stage_of
from loftr2flax.parity.source import opened
from loftr2flax.parity.weights import check_weights, sentence

LAYER = "params/loftr_coarse/layers_1"
NORM = "batch_stats/backbone/layer2_0"


def judged(folder, target, mapping="loftr") -> ParityReport:
    return verify_parity(folder / "small.ckpt", target, mapping, sizes=SIZES, facts={"heads": 4})


def by_weights(folder, target, mapping="loftr") -> ParityReport:
    """The comparison that comes before any run, alone."""
    with opened(folder / "small.ckpt", target, mapping, {}, None, None) as pair:
        weights = check_weights(pair.expected(), pair.array, pair.target, stage_of, heads=4)
    report = ParityReport("", "", mapping, "", (), weights)
    return replace(report, culprit=find_culprit(report))


def one_element(leaf: np.ndarray) -> np.ndarray:
    leaf = leaf.copy()
    leaf[3, 5] *= np.float32(1.001)
    return leaf


def other_heads(leaf: np.ndarray) -> np.ndarray:
    return leaf.reshape(32, 4, 8)[:, [1, 0, 3, 2]].reshape(32, 32)


@pytest.mark.parametrize(
    ("path", "new", "cause", "stage"),
    [
        (f"{LAYER}/q_proj/kernel", lambda leaf: leaf.T, "transposed", "loftr_coarse/layers.1"),
        (f"{LAYER}/mlp_2/kernel", np.zeros_like, "at its initial value", "loftr_coarse/layers.1"),
        (f"{LAYER}/norm1/scale", np.ones_like, "at its initial value", "loftr_coarse/layers.1"),
        (f"{LAYER}/merge/kernel", one_element, "elements changed", "loftr_coarse/layers.1"),
        (f"{LAYER}/q_proj/kernel", other_heads, "heads reordered", "loftr_coarse/layers.1"),
        (f"{LAYER}/v_proj/kernel", lambda leaf: leaf[:, ::-1], "mirrored", "loftr_coarse/layers.1"),
        (f"{LAYER}/merge/kernel", lambda leaf: leaf[np.r_[5:32, 0:5]], "slices reordered", "loftr_coarse/layers.1"),
        (f"{LAYER}/v_proj/kernel", lambda leaf: 2 * leaf, "scaled", "loftr_coarse/layers.1"),
        (f"{LAYER}/v_proj/kernel", lambda leaf: leaf.astype(np.float16).astype("f4"), "narrower type", None),
        (f"{LAYER}/mlp_2/kernel", lambda leaf: leaf.T.reshape(leaf.shape), "reshaped, not transposed", None),
        ("params/backbone/conv1/kernel", lambda leaf: leaf.transpose(1, 0, 2, 3), "transposed", "backbone"),
        ("params/loftr_fine/layers_0/merge/kernel", lambda leaf: leaf.T, "transposed", "loftr_fine/layers.0"),
        ("params/fine_preprocess/down_proj/bias", np.zeros_like, "at its initial value", "fine_preprocess"),
        (
            "params/fine_preprocess/down_proj/kernel",
            lambda leaf: leaf.T.reshape(leaf.shape),
            "reshaped, not transposed",
            "fine_preprocess",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_leaf_is_named_with_its_cause(folder, changed, path, new, cause, stage):
    report = by_weights(folder, changed("loftr", {path: new}))
    assert not report.passed
    assert [(finding.leaf, finding.cause) for finding in report.weights.findings] == [(path, cause)]
    assert report.culprit.kind == "weights"
    assert report.culprit.leaves == (path,)
    assert report.culprit.cause == sentence([path], cause)
    assert report.culprit.cause.startswith(f"{path} is ")
    assert len(report.culprit.cause.split()) > 2
    assert stage is None or report.culprit.stage == stage


def test_two_projections_that_are_swapped_name_each_other(folder, changed):
    with np.load(folder / "loftr.npz") as arrays:
        q, k = (arrays[f"{LAYER}/{name}_proj/kernel"] for name in "qk")
    report = by_weights(folder, changed("loftr", {f"{LAYER}/q_proj/kernel": k, f"{LAYER}/k_proj/kernel": q}))
    assert {finding.cause for finding in report.weights.findings} == {"swapped"}
    assert f"holds what belongs to {LAYER}/k_proj/kernel" in report.culprit.evidence


def test_statistics_of_another_layer_are_named(folder, changed):
    with np.load(folder / "loftr.npz") as arrays:
        other = arrays[f"{NORM}/bn2/mean"]
    report = by_weights(folder, changed("loftr", {f"{NORM}/bn1/mean": other}))
    assert report.culprit.cause == f"{NORM}/bn1/mean is filled with the statistics of another layer"
    assert f"{NORM}/bn2/mean" in report.culprit.evidence
    assert report.culprit.stage == "backbone"


def test_the_run_sees_what_the_bits_show(folder, changed):
    """A transposed matrix is far beyond the limit by itself, whatever the comparison of weights says."""
    report = judged(folder, changed("loftr", {f"{LAYER}/q_proj/kernel": lambda leaf: leaf.T}))
    rows = {row.stage: row for row in report.runs[0].stages}
    assert rows["loftr_coarse/layers.1"].own_ratio > 1000
    assert rows["loftr_coarse/layers.0"].passed
    assert rows["conf_matrix"].drift_ratio > 10
    assert not rows["conf_matrix"].wrong_by_itself


def test_a_leaf_that_is_not_there_stops_the_run_by_name(folder, changed):
    report = judged(folder, changed("loftr", {f"{LAYER}/q_proj/kernel": None}))
    assert not report.runs
    assert report.exit_code == 1
    assert report.culprit.kind == "missing"
    assert report.culprit.leaves == (f"{LAYER}/q_proj/kernel",)


def test_a_leaf_of_another_shape_stops_the_run_by_name(folder, changed):
    report = judged(folder, changed("loftr", {f"{LAYER}/mlp_2/kernel": lambda leaf: leaf[:-1]}))
    assert not report.runs
    assert "shape (63, 32) instead of (64, 32)" in report.culprit.evidence


@pytest.mark.parametrize("start", ["zeros", "random"])
def test_sublayers_that_were_never_filled_are_named(folder, changed, start):
    with np.load(folder / "ifvit_jax.npz") as arrays:
        second = {name: arrays[name] for name in arrays.files if name.startswith(("layers.0.1/", "layers.1.1/"))}
    rng = np.random.default_rng(1)
    blank = {
        name: np.zeros_like(leaf) if start == "zeros" else rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in second.items()
    }
    report = by_weights(folder, changed("ifvit_jax", blank), "ifvit_jax")
    assert {finding.leaf for finding in report.weights.findings} == set(second)
    said = {"zeros": "still at the initial value", "random": "unrelated to the tensor that the mapping names"}[start]
    folded = "layers.{0..1}.1/q_proj/kernel, layers.{0..1}.1/k_proj/kernel and 5 more"
    assert report.culprit.cause == f"20 leaves ({folded}) are {said}"
    assert report.culprit.stage == "loftr_coarse/layers.0"
