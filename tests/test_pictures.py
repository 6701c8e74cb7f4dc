"""Reading photographs of every kind, sizes and points between original and network, and the drawing of matches."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loftr2flax.errors import CorruptFile, LimitExceeded, Loftr2FlaxError, MissingInput, UnsupportedFile
from loftr2flax.pictures import Drawing, Panel, draw_matches, read_photograph
from loftr2flax.pictures.colours import css, ramp
from loftr2flax.pictures.drawing import WIDTH
from loftr2flax.pictures.photograph import fitted_size, to_original

GREY = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
"""Twelve rows, twenty columns, no two pixels alike."""


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_grey_stays_as_it_is(tmp_path):
    photo = read_photograph(saved(tmp_path / "grey.png", Image.fromarray(GREY)))
    np.testing.assert_array_equal(photo.grey, GREY / np.float32(255))
    np.testing.assert_array_equal(photo.colour, np.repeat(GREY[:, :, None], 3, 2))
    assert photo.size == (20, 12)
    assert photo.grey.dtype == np.float32


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK", "YCbCr"])
def test_modes_give_the_grey_of_what_is_seen(tmp_path, mode):
    image = Image.fromarray(np.where(GREY > 100, 255, 0).astype(np.uint8)).convert(mode)
    path = saved(tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png"), image)
    photo = read_photograph(path)
    np.testing.assert_allclose(photo.grey, GREY > 100, atol=0.02)


def test_all_bits_of_sixteen_are_kept(tmp_path):
    deep = (np.arange(240, dtype=np.uint16) * 257 + 3).reshape(12, 20)
    photo = read_photograph(saved(tmp_path / "deep.png", Image.fromarray(deep)))
    np.testing.assert_allclose(photo.grey, deep / 65535, rtol=1e-6)
    assert len(np.unique(photo.grey)) == 240


@pytest.mark.parametrize(("values", "full"), [((0.0, 1.0), 1), ((0.0, 255.0), 255), ((7.0, 40000.0), 65535)])
def test_floats_are_scaled_by_their_custom(tmp_path, values, full):
    floats = np.linspace(*values, 240, dtype=np.float32).reshape(12, 20)
    photo = read_photograph(saved(tmp_path / "floats.tif", Image.fromarray(floats)))
    np.testing.assert_allclose(photo.grey, floats / full, rtol=1e-6)


def test_transparent_is_white(tmp_path):
    image = np.zeros((12, 20, 4), np.uint8)
    image[:, 10:, 3] = 255
    palette = Image.fromarray(GREY % 2).convert("P")
    assert (read_photograph(saved(tmp_path / "alpha.png", Image.fromarray(image))).grey[:, :10] == 1).all()
    assert (read_photograph(saved(tmp_path / "palette.png", palette, transparency=0)).grey[GREY % 2 == 0] == 1).all()


def test_exif_turns_the_image_upright(tmp_path):
    turned = Image.fromarray(GREY).transpose(Image.Transpose.ROTATE_90)  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    photo = read_photograph(saved(tmp_path / "turned.png", turned, exif=exif))
    np.testing.assert_array_equal(photo.grey, GREY / np.float32(255))


def test_first_of_several_frames(tmp_path):
    frames = [Image.fromarray(GREY + n) for n in range(3)]
    path = tmp_path / "frames.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_photograph(path).grey, GREY / np.float32(255))


def test_refusals_name_the_file(tmp_path, monkeypatch):
    whole = saved(
        tmp_path / "whole.png", Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    )
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    nan = saved(tmp_path / "nan.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    expected: dict[Path, type[Loftr2FlaxError]] = {
        tmp_path / "none.png": MissingInput,
        tmp_path: MissingInput,
        tmp_path / "cut.png": CorruptFile,
        tmp_path / "text.png": UnsupportedFile,
        tmp_path / "empty.png": UnsupportedFile,
        nan: UnsupportedFile,
    }
    for path, kind in expected.items():
        with pytest.raises(kind) as refusal:
            read_photograph(path)
        assert refusal.value.message.startswith(f"{path}: ")
        assert refusal.value.hint
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(LimitExceeded):
        read_photograph(whole)


def test_any_damage_is_refused_or_read(tmp_path):
    """No change of a byte ends in an error that is not ours."""
    generator = np.random.default_rng(0)
    for ending in ("png", "jpg", "tif", "gif", "bmp", "webp"):
        path = saved(tmp_path / f"image.{ending}", Image.fromarray(GREY))
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[generator.integers(len(data), size=3)] = generator.integers(256, size=3)
            path.write_bytes(damaged.tobytes())
            with contextlib.suppress(Loftr2FlaxError):
                read_photograph(path)


@pytest.mark.parametrize(
    ("size", "longest", "multiple", "fitted"),
    [
        ((741, 500), 640, 16, (640, 432)),
        ((500, 741), 640, 16, (432, 640)),
        ((100, 60), 640, 8, (96, 64)),
        ((3, 5000), 640, 8, (8, 640)),
        ((640, 480), 640, 8, (640, 480)),
        ((1000, 1000), 100, 16, (96, 96)),
        ((1, 1), 16, 16, (16, 16)),
    ],
)
def test_fitted_sizes(size, longest, multiple, fitted):
    assert fitted_size(size, longest, multiple) == fitted


def test_points_go_back_to_the_pixel_that_they_came_from(tmp_path):
    """A bright spot is where it was, after the image is shrunk and its place scaled back."""
    image = np.zeros((300, 400), np.uint8)
    image[117:123, 237:243] = 255  # its centre is (239.5, 119.5)
    photo = read_photograph(saved(tmp_path / "spot.png", Image.fromarray(image)))
    seen = photo.fitted(128, 8)
    weights = seen / seen.sum()
    y, x = np.mgrid[: seen.shape[0], : seen.shape[1]]
    centre = np.array([[(x * weights).sum(), (y * weights).sum()]])
    np.testing.assert_allclose(to_original(centre, (128, 96), (400, 300)), [[239.5, 119.5]], atol=0.05)


def test_lightness_of_the_colours_rises():
    colours = ramp(np.linspace(0.2, 1, 50), 0.2).astype(float)
    assert (np.diff(colours @ [0.2126, 0.7152, 0.0722]) > 0).all()
    assert css(colours[0]) == "#9c3cd6"
    np.testing.assert_array_equal(ramp(np.array([0.0, 5.0]), 0.2), ramp(np.array([0.2, 1.0]), 0.2))


def panel(height: int, width: int, points: list[tuple[float, float]]) -> Panel:
    return Panel(np.full((height, width, 3), 90, np.uint8), np.array(points, float).reshape(-1, 2), "caption 90 x 60")


def drawn(left: Panel, right: Panel, confidence: list[float], title: str = "matches") -> np.ndarray:
    data = draw_matches(Drawing(left, right, np.array(confidence), title, ("one", "two"), 0.2))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_drawing_is_the_same_each_time_and_shows_both_ends():
    left, right = panel(300, 400, [(100, 50)]), panel(300, 400, [(300, 250)])
    picture = drawn(left, right, [0.9])
    np.testing.assert_array_equal(picture, drawn(left, right, [0.9]))
    assert WIDTH - 4 < picture.shape[1] <= WIDTH
    bare = drawn(panel(300, 400, []), panel(300, 400, []), [])
    y, x = np.nonzero((picture != bare).any(2))
    below = y > 100  # the legend ends at another value
    scale = (WIDTH - 2 * 28 - 14) / 800
    assert abs(x[below].min() - (28 + 100.5 * scale)) < 8
    assert abs(x[below].max() - (28 + 14 + (400 + 300.5) * scale)) < 8


@pytest.mark.parametrize(
    "sizes", [((8, 8), (8, 8)), ((2000, 40), (40, 2000)), ((1, 500), (500, 1)), ((96, 136), (120, 60))]
)
def test_drawings_of_all_shapes(sizes):
    left, right = (panel(*size, [(0, 0)]) for size in sizes)
    picture = drawn(left, right, [0.5], title="a title that is far too long for a small drawing " * 3 + "\x1b\n")
    assert 300 < picture.shape[1] <= WIDTH
    assert picture.shape[0] < 1300


def test_hundreds_of_matches_at_equal_confidence():
    points = [(float(x), 30.0) for x in range(300)]
    assert drawn(panel(60, 300, points), panel(60, 300, points), [1.0] * 300).any()
