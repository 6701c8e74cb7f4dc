"""What the networks are fed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_loftr import SIZES

from loftr2flax.errors import CorruptFile, MissingInput, UsageError
from loftr2flax.parity import verify_parity
from loftr2flax.parity.inputs import DEFAULT_SIZES, image_feeds, paths_of, textured_pair


def test_a_seed_makes_the_same_pair_and_another_seed_another():
    one, again, other = (image_feeds((), seed, ()) for seed in (0, 0, 1))
    assert [feed.info.sha256 for feed in one] == [feed.info.sha256 for feed in again]
    assert not {feed.info.sha256 for feed in one} & {feed.info.sha256 for feed in other}


def test_there_is_a_run_for_each_size_and_one_with_masks_and_two_sizes():
    feeds = image_feeds((), 0, ())
    titles = [feed.info.title for feed in feeds]
    assert titles == ["96×136 with 96×136", "120×104 with 120×104", "96×136 with 120×104, masks"]
    assert all(height != width for height, width in DEFAULT_SIZES)
    masked = feeds[2].arrays
    assert 0.5 < masked["mask/0"].mean() < 0.8
    assert not masked["image/0"][~masked["mask/0"]].any()
    assert len(image_feeds((), 0, [(64, 80)], masks=False)) == 1


def test_pictures_have_texture_and_two_views_that_differ():
    first, second = textured_pair(0, (96, 136), (96, 136))
    assert first.dtype == np.float32
    assert (first.min() >= 0, first.max() <= 1) == (True, True)
    assert first.std() > 0.1
    assert np.abs(first - second).mean() > 0.05


def test_photographs_are_made_grey_and_brought_to_size(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for n, path in enumerate(paths):
        pixels = np.random.default_rng(n).integers(0, 255, (70, 101, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    own, sized = image_feeds(paths, 0, (), masks=False)[0], image_feeds(paths, 0, [(48, 64)], masks=False)[0]
    assert own.arrays["image/0"].shape == (1, 64, 96, 1)
    assert sized.arrays["image/1"].shape == (1, 48, 64, 1)
    assert own.info.origin == "a.png and b.png"
    assert 0.2 < own.arrays["image/0"].mean() < 0.8


def test_what_cannot_be_fed_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    here = tmp_path / "text.png"
    with pytest.raises(CorruptFile, match="not an image"):
        image_feeds([here, here], 0, ())
    with pytest.raises(MissingInput):
        image_feeds([tmp_path / "no.png", here], 0, ())
    with pytest.raises(UsageError, match="two files, not 1"):
        image_feeds([here], 0, ())
    with pytest.raises(UsageError, match="too small"):
        image_feeds((), 0, [(16, 16)])


def test_images_are_named_by_text_or_by_path(folder, tmp_path):
    for number, name in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(0, 255, SIZES[0], np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    names = str(tmp_path / "a.png"), tmp_path / "b.png"
    report = verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", images=names)
    assert report.passed, report.culprit
    assert report.runs[0].inputs.origin.startswith("a.png and b.png")


@pytest.mark.parametrize("kind", [str, Path])
def test_one_image_is_not_taken_for_a_sequence_of_letters(kind):
    with pytest.raises(UsageError, match=r"images='a\.png': one file"):
        paths_of(kind("a.png"))
