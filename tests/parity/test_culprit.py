"""A right port passes; each usual mistake fails, and is named where it is made."""

from __future__ import annotations

import numpy as np
import pytest
from small_loftr import HEADS, SIZES
from usual_mistakes import factory

from loftr2flax.parity import ParityReport, verify_parity


def judged(folder, *mistakes: str) -> ParityReport:
    return verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES, flax=factory(HEADS, *mistakes))


def test_a_right_port_by_another_hand_passes(folder):
    report = judged(folder)
    assert report.passed, report.culprit
    assert report.culprit is None
    assert {row.stage for run in report.runs for row in run.stages} == {f"loftr_coarse/layers.{i}" for i in (0, 1)}


@pytest.mark.parametrize(
    ("mistakes", "stage", "cause"),
    [
        (["norm before the merge"], 0, "norm placement: first before the merge"),
        (["norm after the residual"], 0, "norm placement: second after the residual"),
        (["stale features"], 1, "stale features"),
        (["eps 1e-6"], 0, "LayerNorm epsilon 1e-06 instead of 1e-05"),
        (["q and k swapped"], 0, "projections qk have changed places"),
        (["full attention"], 0, "full attention instead of linear"),
        (["no masks"], 0, "masks are not obeyed"),
        (["bfloat16"], 0, "precision: numbers go through bfloat16"),
        (["norm before the merge", "eps 1e-6"], 0, "LayerNorm epsilon 1e-06 instead of 1e-05; norm placement: first"),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, list) else None,
)
def test_a_usual_mistake_is_named_where_it_is_made(folder, mistakes, stage, cause):
    report = judged(folder, *mistakes)
    assert not report.passed
    assert report.exit_code == 1
    assert report.culprit.stage == f"loftr_coarse/layers.{stage}"
    assert cause in report.culprit.cause
    assert report.culprit.kind == "computation"


def test_a_port_that_fills_only_sublayer_0_fails_by_the_leaves_it_left(folder, changed):
    """The second sublayers at a random start, and code with all the usual mistakes: the weights are told first."""
    with np.load(folder / "ifvit_jax.npz") as arrays:
        second = {name: arrays[name] for name in arrays.files if name.split(".")[2].startswith("1/")}
    rng = np.random.default_rng(0)
    start = {name: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32) for name, leaf in second.items()}
    mistakes = "norm before the merge", "stale features", "eps 1e-6"
    options = {"sizes": SIZES, "facts": {"heads": HEADS}}
    target = changed("ifvit_jax", start)
    for flax in (None, factory(HEADS, *mistakes)):
        report = verify_parity(folder / "small.ckpt", target, "ifvit_jax", flax=flax, **options)
        assert report.exit_code == 1
        assert set(report.culprit.leaves) == set(second)
        assert report.culprit.stage == "loftr_coarse/layers.0"
        assert "unrelated to the tensor that the mapping names" in report.culprit.cause
        assert report.runs[0].stages[0].own_ratio > 100  # the run alone would have told


def test_a_stage_that_is_not_there_is_named(folder):
    report = judged(folder, "last layer left out")
    assert not report.passed
    assert (report.culprit.stage, report.culprit.kind) == ("loftr_coarse/layers.1", "missing")
