"""A tree in a narrower type is judged by torch with its weights rounded likewise, and the verdict says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_loftr import HEADS, SIZES

from loftr2flax.convert import convert_checkpoint
from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.parity import verify_golden, verify_parity
from loftr2flax.parity.loftr.flax_side import FlaxLoFTR

NOTE = "the conversion cast weights to {kind}, and torch ran with its weights rounded likewise"


@pytest.fixture(scope="module")
def narrow(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("narrow") / "loftr.safetensors"
    convert_checkpoint(folder / "small.ckpt", path, "loftr", facts={"heads": HEADS}, dtype="bfloat16")
    return path


def test_a_cast_tree_passes_and_the_verdict_says_what_it_was_judged_by(folder, narrow, run):
    size = "x".join(map(str, SIZES[0]))
    done = run("verify", "parity", folder / "small.ckpt", narrow, "--sizes", size, "--save-golden", "golden.npz")
    assert done.code == 0, done.out + done.err
    assert NOTE.format(kind="bfloat16") in done.out.replace("\n", " ") + done.err.replace("\n", " ")


def test_a_golden_bundle_judges_it_too(folder, narrow, tmp_path):
    verify_parity(folder / "small.ckpt", narrow, sizes=SIZES, save_golden=tmp_path / "golden.npz")
    assert verify_golden(tmp_path / "golden.npz", narrow).passed


def test_a_mistake_is_not_hidden_by_the_cast(folder, narrow):
    def make(variables, facts):
        known = {name: value for name, value in facts.items() if name != "model"}
        config = LoFTRConfig(block_dims=(16, 24, 32), coarse_layers=("self", "cross"), **known)
        return FlaxLoFTR(replace(config, layer_norm_eps=1e-6), variables)

    report = verify_parity(folder / "small.ckpt", narrow, sizes=SIZES, flax=make)
    assert report.culprit.cause == "LayerNorm epsilon 1e-06 instead of 1e-05"
    assert report.notes[0].startswith(NOTE.format(kind="bfloat16"))


def test_a_tree_that_was_cast_behind_the_mapping_s_back_fails(folder, changed):
    path = "params/loftr_coarse/layers_1/q_proj/kernel"
    report = verify_parity(
        folder / "small.ckpt", changed("loftr", {path: lambda leaf: leaf.astype(np.float16)}), "loftr", sizes=SIZES
    )
    assert report.exit_code == 1
    assert report.culprit.cause == f"{path} is of another shape or type"
    assert "float16" in report.culprit.evidence


def test_a_tree_that_was_not_cast_says_nothing_of_it(folder):
    report = verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES)
    assert report.passed
    assert not report.notes
