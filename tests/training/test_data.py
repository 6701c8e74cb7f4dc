"""What a run is fed with: prints, noise, warps, pairs, folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_config

from loftr2flax.errors import MissingInput, UsageError
from loftr2flax.training import noise
from loftr2flax.training.images import identity_of, open_images
from loftr2flax.training.pairs import batches, gathered, make_pair
from loftr2flax.training.prints import synthetic_print
from loftr2flax.training.scenes import synthetic_scene
from loftr2flax.training.warp import random_warp


@pytest.mark.parametrize("make", [synthetic_print, synthetic_scene])
def test_a_synthetic_image_is_its_seed(make):
    one, again, other = make(3, 48, 64), make(3, 48, 64), make(4, 48, 64)
    assert one.shape == (48, 64)
    assert one.dtype == np.float32
    assert (one == again).all()
    assert np.abs(one - other).mean() > 0.05
    assert 0 <= one.min() < 0.2
    assert 0.8 < one.max() <= 1


def test_a_print_has_ridges_of_the_period_it_says():
    """Its spectrum has its energy where waves of 4.5 to 8 pixels are."""
    image = synthetic_print(0, 96, 128)[24:72, 32:96].astype(float)
    spectrum = np.abs(np.fft.fft2(image - image.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(48)[:, None], np.fft.fftfreq(64)[None, :])
    ring = (frequency > 1 / 8) & (frequency < 1 / 4.5)
    assert spectrum[ring].sum() > 0.8 * spectrum.sum()


def test_dry_ridges_are_thinner_and_pressed_ones_thicker():
    image = synthetic_print(1, 64, 96)
    assert noise.dry(np.random.default_rng(0), image).mean() > image.mean() + 0.02
    assert noise.pressed(np.random.default_rng(0), image).mean() < image.mean() - 0.02


def test_perlin_noise_is_zero_on_its_lattice_and_smooth():
    field = noise.perlin(np.random.default_rng(0), 64, 96, cells=4, octaves=1)
    assert np.abs(field[::16, ::16]).max() < 1e-12
    assert 0.2 < np.abs(field).max() < 1
    assert np.abs(np.diff(field, axis=0)).max() < 0.2


def test_no_noise_leaves_the_image():
    image = synthetic_print(1, 32, 48)
    assert noise.corrupted(np.random.default_rng(0), image, 0) is image


@pytest.mark.parametrize("perspective", [0.0, 0.2])
def test_a_warp_goes_back_and_forth(perspective):
    warp = random_warp(np.random.default_rng(5), 80, 120, 60, 1, perspective)
    points = np.random.default_rng(6).uniform(0, 80, (200, 2))
    assert np.abs(warp.back(warp.forth(points)) - points).max() < 1e-9


def test_a_picture_shows_at_the_true_point_what_the_other_has():
    """A smooth image, so that interpolation errs little: its value travels with the point."""
    y, x = np.mgrid[:80, :120]
    image = (0.5 + 0.4 * np.sin(x / 15) * np.cos(y / 11)).astype(np.float32)
    warp = random_warp(np.random.default_rng(5), 80, 120)
    picture = warp.picture(image, 1.0)
    points = np.stack(np.meshgrid(np.arange(50, 70), np.arange(30, 50)), -1).reshape(-1, 2)
    sources = warp.back(points.astype(float))
    there = 0.5 + 0.4 * np.sin(sources[:, 0] / 15) * np.cos(sources[:, 1] / 11)
    assert np.abs(picture[points[:, 1], points[:, 0]] - there).max() < 1e-3


def test_cells_are_those_nearest_to_the_true_points(config):
    images = open_images(config)
    pairs = [make_pair(config, images, n) for n in range(12)]
    assert {bool(pair["genuine"]) for pair in pairs} == {True, False}
    for pair in pairs:
        known = pair["cells"] >= 0
        assert known.any() == bool(pair["genuine"])
        cells = pair["cells"][known]
        assert len(set(cells)) == len(cells)
        centre = 8 * np.stack([cells % 6, cells // 6], -1)
        assert (np.abs(centre - pair["points"][known]) <= 4 + 1e-4).all()
        assert (pair["label0"] == pair["label1"]) == pair["genuine"]


def test_imposters_are_as_many_as_asked_for(tmp_path):
    config = tiny_config(tmp_path, imposters=0.25, elastic=0, noise=0)
    images = open_images(config)
    share = np.mean([not make_pair(config, images, n)["genuine"] for n in range(200)])
    assert 0.17 < share < 0.33


def test_batches_are_the_pairs_in_order_and_split_by_process(config):
    images = open_images(config)
    whole = list(batches(config, images, 1, 3))
    assert len(whole) == 2
    wanted = make_pair(config, images, config.batch_size + 3)
    for name, value in wanted.items():
        assert (whole[0][name][3] == value).all()
    halves = [list(batches(config, images, 1, 3, rank, 2)) for rank in (0, 1)]
    for first, second, both in zip(*halves, whole, strict=True):
        assert (np.concatenate([first["image1"], second["image1"]]) == both["image1"]).all()


def test_the_evaluation_has_other_prints(config):
    train, held = open_images(config), open_images(config, held_out=True)
    assert not set(train.identities) & set(held.identities)


@pytest.mark.parametrize(
    ("path", "finger"),
    [
        ("DB1_A/101_3.tif", "DB1_A/101"),
        ("DB2_A/101_3.tif", "DB2_A/101"),
        ("f0001_01.png", "0001"),
        ("s0001_10.png", "0001"),
        ("sd300/00001000_roll_500_01.png", "00001000/01"),
        ("sd300/00001000_plain_500_01.png", "00001000/01"),
        ("holiday.jpg", "holiday.jpg"),
    ],
)
def test_identities_of_known_layouts(path, finger):
    assert identity_of(Path("data") / path, Path("data")) == finger


def _folder(place: Path, fingers: int, impressions: int = 2) -> Path:
    place.mkdir()
    for finger in range(fingers):
        for n in range(impressions):
            pixels = (255 * synthetic_print(10 * finger + n, 40, 36)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{100 + finger}_{n + 1}.png")
    return place


def test_a_folder_with_broken_images(tmp_path):
    folder = _folder(tmp_path / "data", 12)
    whole = (folder / "101_1.png").read_bytes()
    (folder / "101_1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "102_1.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    config = tiny_config(tmp_path / "run", dataset_root=str(folder))
    train, held = open_images(config), open_images(config, held_out=True)
    assert [line.split(":")[0] for line in train.skipped] == ["101_1.png", "102_1.png"]
    assert len(train) + len(held) == 22
    assert not set(train.identities) & set(held.identities)
    assert train.read(0).shape == (32, 48)
    assert gathered(config, train, 2)["image0"].shape == (2, 32, 48, 1)


def _ink(grey: np.ndarray) -> np.ndarray:
    """Black whose opacity is the picture: on white it is the picture."""
    return np.concatenate([np.zeros((*grey.shape, 3), np.uint8), 255 - grey[..., None]], -1)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("png", lambda grey: grey.astype(np.uint16) * 257),
        ("tif", lambda grey: np.rint(grey * (4095 / 255)).astype(np.uint16)),
        ("tif", lambda grey: grey.astype(np.int32) * 257),
        ("tif", lambda grey: (grey / 255).astype(np.float32)),
        ("tif", lambda grey: grey.astype(np.float32)),
        ("png", _ink),
        ("png", lambda grey: _ink(grey)[..., 2:]),
        ("png", lambda grey: np.repeat(grey[..., None], 3, -1)),
    ],
    ids=["16_bits", "12_bits", "32_bits", "parts_of_1", "parts_of_255", "alpha", "grey_and_alpha", "colour"],
)
def test_a_picture_is_the_same_in_every_depth(tmp_path, ending, kind):
    grey = np.random.default_rng(0).integers(0, 256, (32, 48), dtype=np.uint8)
    grey[0, :2] = 0, 255
    _folder(tmp_path / "data", 3, 4)
    for path in sorted((tmp_path / "data").iterdir()):
        path.unlink()
        Image.fromarray(kind(grey)).save(path.with_suffix(f".{ending}"))
    images = open_images(tiny_config(tmp_path / "run", dataset_root=str(tmp_path / "data")))
    assert not images.skipped
    assert np.abs(images.read(0) - grey / 255).max() < 1.01 / 255


def test_numbers_that_are_no_picture_are_named(tmp_path):
    folder = _folder(tmp_path / "data", 12)
    for name, value in (("a", -1.0), ("b", np.nan), ("c", 300.0)):
        Image.fromarray(np.full((32, 48), value, np.float32)).save(folder / f"{name}.tif")
    images = open_images(tiny_config(tmp_path / "run", dataset_root=str(folder)))
    assert images.skipped == tuple(f"{name}.tif: its numbers are not 0 to 255" for name in "abc")


def test_folders_that_will_not_do(tmp_path):
    (tmp_path / "empty").mkdir()
    few = _folder(tmp_path / "few", 1)
    with pytest.raises(MissingInput, match="no such folder"):
        open_images(tiny_config(tmp_path, dataset_root=str(tmp_path / "nothing")))
    with pytest.raises(MissingInput, match="holds no image"):
        open_images(tiny_config(tmp_path, dataset_root=str(tmp_path / "empty")))
    with pytest.raises(UsageError, match="only 2 images"):
        open_images(tiny_config(tmp_path, dataset_root=str(few)))
    (few / "100_1.png").write_bytes(b"")
    (few / "100_2.png").write_bytes(b"GIF")
    with pytest.raises(MissingInput, match="none of its 2 images"):
        open_images(tiny_config(tmp_path, dataset_root=str(few)))


def test_one_finger_alone_has_no_imposters(tmp_path):
    config = replace(tiny_config(tmp_path, dataset_root=str(_folder(tmp_path / "one", 1, 4))), imposters=0.9)
    images = open_images(config)
    assert all(make_pair(config, images, n)["genuine"] for n in range(5))
