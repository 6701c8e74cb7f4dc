"""The whole network: right conversions pass, and mistakes in its own Flax code are named where they are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from jax import lax
from small_loftr import HEADS, SIZES

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.models.loftr.layers import Convolution
from loftr2flax.parity import verify_parity
from loftr2flax.parity.loftr.flax_side import FlaxLoFTR


def config_of(facts) -> LoFTRConfig:
    """The config of the sample: what is not said by the weights is in the facts."""
    known = {name: value for name, value in facts.items() if name != "model"}
    return LoFTRConfig(block_dims=(16, 24, 32), coarse_layers=("self", "cross"), **known)


@dataclass(frozen=True)
class OneStage:
    """A right network with one stage of another: the other stages need not be compiled again."""

    right: FlaxLoFTR
    wrong: FlaxLoFTR
    named: str

    @property
    def stage_names(self):
        return self.right.stage_names

    def stage(self, name, given):
        return (self.wrong if name == self.named else self.right).stage(name, given)


def judged(folder, stage, **changes):
    def make(variables, facts):
        config = config_of(facts)
        return OneStage(FlaxLoFTR(config, variables), FlaxLoFTR(replace(config, **changes), variables), stage)

    return verify_parity(folder / "small.ckpt", folder / "loftr.npz", sizes=SIZES, flax=make)


@pytest.mark.parametrize("mapping", ["loftr", "loftr_coarse", "ifvit_jax"])
def test_a_right_conversion_passes_in_each_layout(folder, mapping):
    report = verify_parity(folder / "small.ckpt", folder / f"{mapping}.npz", sizes=SIZES, gradients=True)
    assert report.passed, report.culprit
    assert report.config["heads"] == HEADS
    assert report.coverage.passed
    assert report.gradients.passed
    assert len(report.runs) == 2
    assert [run.inputs.title for run in report.runs] == ["64×88 with 64×88", "64×88 with 64×88, masks"]
    assert (report.runs[0].matches is not None) == (mapping == "loftr")


@pytest.mark.parametrize(
    ("changes", "stage", "cause"),
    [
        ({"layer_norm_eps": 1e-6}, "loftr_coarse/layers.0", "LayerNorm epsilon 1e-06 instead of 1e-05"),
        ({"temp_bug_fix": True}, "pos_encoding", "position encoding with temp_bug_fix True instead of False"),
        ({"batch_norm_eps": 1e-3}, "backbone", "BatchNorm epsilon 0.001 instead of 1e-05"),
        ({"heads": 8}, "loftr_coarse/layers.0", "8 attention heads instead of 4"),
        ({"temperature": 1.0}, "conf_matrix", "temperature 1 instead of 0.1"),
        ({"dtype": "bfloat16"}, "loftr_fine/layers.1", "precision: numbers go through bfloat16"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_config_that_the_weights_do_not_show_is_named(folder, changes, stage, cause):
    report = judged(folder, stage, **changes)
    assert not report.passed
    assert (report.culprit.stage, report.culprit.cause) == (stage, cause)


def test_padding_same_is_named(folder, monkeypatch):
    def same(self, x, kernel):
        return lax.conv_general_dilated(
            x, kernel, [self.stride] * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    monkeypatch.setattr(Convolution, "plain", same)
    report = judged(folder, "backbone", capacity=77)  # jax has compiled nothing for such a config
    assert not report.passed
    assert report.culprit.stage == "backbone"
    assert report.culprit.cause == "padding SAME instead of torch's on both sides, at stride 2"
