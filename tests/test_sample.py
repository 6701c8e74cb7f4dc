"""The small LoFTR that the package makes itself."""

from __future__ import annotations

from pathlib import Path

import kornia
import pytest
import torch
from oracle import torch_state

from loftr2flax import inspect_checkpoint
from loftr2flax.errors import OutputExists
from tools.sample import SampleSizes, sample_shapes, write_sample

PUBLISHED = SampleSizes(stages=(128, 196, 256), coarse_width=256, coarse_layers=8, fine_width=128, fine_layers=2)


def test_at_the_published_sizes_it_has_the_published_tensors() -> None:
    """The same keys in the same order, the same shapes and types as kornia's LoFTR."""
    with torch.device("meta"):
        state = kornia.feature.LoFTR(pretrained=None).state_dict()
    assert list(sample_shapes(PUBLISHED)) == list(state)
    assert sample_shapes(PUBLISHED) == {key: tuple(value.shape) for key, value in state.items()}


def test_torch_reads_it_and_no_two_tensors_are_alike(tmp_path: Path) -> None:
    shapes = write_sample(tmp_path / "a.ckpt")
    state = torch_state(tmp_path / "a.ckpt")
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes
    assert len({value.numpy().tobytes() for value in state.values()}) == len(state)
    for key, value in state.items():
        assert value.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        assert bool(torch.isfinite(value).all())
        assert not key.endswith("running_var") or bool((value > 0).all())


def test_the_same_seed_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_sample(tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_the_whole_mapping_fits_it(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.ckpt")
    (first, *_) = inspect_checkpoint(tmp_path / "a.ckpt").fits
    assert (first.mapping, first.absent) == ("loftr", ())


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("precious")
    with pytest.raises(OutputExists):
        write_sample(tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_text() == "precious"
