"""Real, trained weights at 240×320: a right conversion passes, and what the weights do not show comes from facts."""

from __future__ import annotations

from loftr2flax.convert import convert_checkpoint
from loftr2flax.parity import verify_parity

FACTS = {"heads": 1, "layer_norm_eps": 1e-7}


def test_trained_weights_pass(student, tmp_path):
    convert_checkpoint(student, tmp_path / "student.npz", facts=FACTS)
    report = verify_parity(student, tmp_path / "student.npz", sizes=[(240, 320)])
    assert report.passed, report.culprit
    assert report.config["resolution"] == (16, 4)
    assert report.config["layer_norm_eps"] == 1e-7
    assert report.coverage.passed
    assert report.runs[0].matches.passed


def test_an_epsilon_that_nobody_stated_is_named(student, tmp_path):
    """The published epsilon, where the student was trained with another: torch is told 1e-7, Flax got 1e-5."""
    convert_checkpoint(student, tmp_path / "student.npz", facts=FACTS)

    def published(variables, facts):
        from dataclasses import replace

        from loftr2flax.formats import open_checkpoint
        from loftr2flax.parity.loftr.flax_side import FlaxLoFTR
        from loftr2flax.parity.loftr.subject import config_of

        with open_checkpoint(student) as file:
            config = config_of(file.infos, facts)
        return FlaxLoFTR(replace(config, layer_norm_eps=1e-5), variables)

    report = verify_parity(student, tmp_path / "student.npz", sizes=[(96, 136)], flax=published)
    assert not report.passed
    assert report.culprit.cause == "LayerNorm epsilon 1e-05 instead of 1e-07"
