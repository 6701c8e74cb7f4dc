"""A mistake that does less than twice what rounding does is still told from a right port."""

from __future__ import annotations

from small_loftr import SIZES
from usual_mistakes import factory

from loftr2flax.convert import convert_checkpoint
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import open_writer
from loftr2flax.parity import verify_parity


def test_an_epsilon_that_does_little_more_than_rounding_is_named(folder, tmp_path):
    """The larger the norms' variance, the less an epsilon does: here merge is large enough to hide it in rounding."""
    with (
        open_checkpoint(folder / "small.ckpt") as small,
        open_writer(tmp_path / "large.ckpt", "torch", small.infos, {}, container="state_dict") as writer,
    ):
        for key in writer.order:
            grown = 3.0 if key.endswith(("merge.weight", "mlp.2.weight")) else 1.0
            value = small.read(key)
            writer.write(key, (value * grown).astype(value.dtype))
    convert_checkpoint(tmp_path / "large.ckpt", tmp_path / "large.npz", "ifvit_jax", facts={"heads": 4})
    right, wrong = (
        verify_parity(tmp_path / "large.ckpt", tmp_path / "large.npz", sizes=SIZES, flax=factory(4, *mistakes))
        for mistakes in ([], ["eps 1e-6"])
    )
    assert right.passed, right.culprit
    row = wrong.runs[0].stages[0]
    assert row.own_ratio < 1.25
    assert not wrong.passed
    assert wrong.culprit.cause == "LayerNorm epsilon 1e-06 instead of 1e-05"
