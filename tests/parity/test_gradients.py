"""Gradients through the mapping, and leaves that nothing depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from small_loftr import SIZES

from loftr2flax.parity import verify_parity
from loftr2flax.parity.loftr.flax_side import FlaxLoFTR
from loftr2flax.parity.loftr.subject import config_of
from loftr2flax.parity.values import Coverage, GradientCheck


@dataclass(frozen=True)
class Differently:
    """A right network whose gradient of one leaf is another."""

    network: FlaxLoFTR
    leaf: str
    change: Any

    @property
    def stage_names(self):
        return self.network.stage_names

    def stage(self, name, given):
        return self.network.stage(name, given)

    def gradients(self, inputs, cotangents):
        found = self.network.gradients(inputs, cotangents)
        made = self.change(found[self.leaf])
        return {key: value for key, value in {**found, self.leaf: made}.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda gradient: gradient * np.float32(1.001), "r "),
        (lambda gradient: gradient.T, "r "),
        (lambda gradient: None, "no gradient for layers.1.0/v_proj/kernel"),
        (lambda gradient: gradient * np.nan, "NaN on one side"),
    ],
    ids=["scaled", "transposed", "none", "nan"],
)
def test_a_wrong_gradient_of_a_right_function_fails(folder, change, reason):
    def make(variables, facts):
        from loftr2flax.formats import open_checkpoint

        with open_checkpoint(folder / "small.ckpt") as small:
            infos = {key.removeprefix("matcher."): info for key, info in small.infos.items()}
        return Differently(FlaxLoFTR(config_of(infos, facts), variables), "layers.1.0/v_proj/kernel", change)

    report = verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES, flax=make, gradients=True)
    assert all(run.passed for run in report.runs)
    assert not report.passed
    wrong = [leaf for leaf in report.gradients.leaves if not leaf.passed]
    assert [leaf.array for leaf in wrong] == ["layers.1.{0,1}/v_proj/kernel"] or "layers.1" in wrong[0].array
    assert reason in wrong[0].reason


def test_a_leaf_that_no_output_depends_on_is_no_pass():
    assert not Coverage({"a": 1.0, "b": 0.0}, ("b",)).passed
    assert not Coverage({}).passed
    assert not GradientCheck(()).passed
