"""Reading photographs: whatever Pillow reads becomes colour for people and grey for the network.

An image is turned upright first, as viewers show it; "the original" means that, and points are in its pixels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from loftr2flax.errors import CorruptFile, EnvironmentFault, LimitExceeded, MissingInput, UnsupportedFile

Size = tuple[int, int]
"""Width and height in pixels."""

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than 8 bits; files of 16 bits arrive in them."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image, upright.

    Attributes:
      path: the file, as it was named.
      colour: [H, W, 3] uint8, transparency over white.
      grey: [H, W] float32, 0 … 1; all 16 bits of a file that has them.
    """

    path: Path
    colour: np.ndarray
    grey: np.ndarray

    @property
    def size(self) -> Size:
        """Width and height of the original."""
        height, width = self.grey.shape
        return width, height

    def fitted(self, longest: int, multiple: int) -> np.ndarray:
        """The grey image at `fitted_size`, [h, w] float32, averaged where it shrinks."""
        size = fitted_size(self.size, longest, multiple)
        if size == self.size:
            return self.grey
        shrunk: np.ndarray = np.asarray(Image.fromarray(self.grey).resize(size, Image.Resampling.BILINEAR))
        return shrunk

    def __repr__(self) -> str:
        return f"<photograph {str(self.path)!r}: {self.size[0]}×{self.size[1]}>"


def fitted_size(size: Size, longest: int, multiple: int) -> Size:
    """The size at which a network sees an image: no side above ``longest``, each a multiple of ``multiple``.

    Images are never enlarged but to reach one multiple. Each side is rounded by itself: the aspect changes by less
    than half a ``multiple``, and no row is lost and none is padded.
    """
    scale = min(1.0, longest / max(size))
    most = max(longest // multiple, 1)
    width, height = (min(max(round(side * scale / multiple), 1), most) * multiple for side in size)
    return width, height


def to_original(points: np.ndarray, seen: Size, original: Size) -> np.ndarray:
    """Points [N, 2] of an image seen at one size → in pixels of the original, float64.

    Centres of pixels are at whole numbers, so it is the edges, half a pixel outside, that scale.
    """
    scale = np.array(original) / np.array(seen)
    scaled: np.ndarray = (points.astype(np.float64) + 0.5) * scale - 0.5
    return scaled


def read_photograph(path: str | os.PathLike[str]) -> Photograph:
    """Reads an image file: grey or colour, palette, 16 bits, transparency, turned by EXIF; the first of several frames.

    Raises:
      MissingInput: nothing is there, or a folder is.
      EnvironmentFault: the system does not let us read it.
      UnsupportedFile: Pillow knows no such format.
      CorruptFile: the data ends early, or contradicts itself.
      LimitExceeded: more pixels than Pillow thinks safe.
    """
    asked = Path(path)
    with _blaming(asked), asked.open("rb") as file, Image.open(file) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
        if image.mode in (*_DEEP, "F"):
            grey = _deep(asked, image)
            return Photograph(asked, np.repeat(np.rint(grey * 255).astype(np.uint8)[:, :, None], 3, 2), grey)
        flat = _over_white(image)
    grey = np.asarray(flat.convert("L"), np.float32) / np.float32(255)
    return Photograph(asked, np.asarray(flat), grey)


def _deep(path: Path, image: Image.Image) -> np.ndarray:
    """More than 8 bits, or floats: [H, W] float32 in 0 … 1."""
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise UnsupportedFile(f"{path}: has pixels that are not finite", "save it as an 8-bit or 16-bit PNG")
    top = values.max(initial=0)
    # integers are 16-bit counts; floats are 0 … 1 by custom, and counts where they go beyond it
    full = 65535 if image.mode != "F" or top > 255 else 255 if top > 1 else 1
    return np.asarray(np.clip(values / np.float32(full), 0, 1), np.float32)


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Pillow's many errors, and the system's, become ours with the file's name; its warnings are about metadata."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file", "check the path: `ls` shows what is there") from None
    except IsADirectoryError:
        raise MissingInput(f"{path}: is a directory", "name an image in it") from None
    except PermissionError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror}", f"ls -l {path}") from None
    except UnidentifiedImageError:
        raise UnsupportedFile(f"{path}: not an image of a format that Pillow reads", "save it as PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise LimitExceeded(f"{path}: more pixels than are safe to read", "make the image smaller first") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, TypeError) as error:
        # what Pillow's decoders raise on damaged files, each format in its own way
        raise CorruptFile(
            f"{path}: a damaged image: {error}", "fetch it again, or open and save it elsewhere"
        ) from None
