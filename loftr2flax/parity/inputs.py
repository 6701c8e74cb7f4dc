"""What the networks are fed with: photographs of the user's, or pairs of pictures made from a seed.

Images are grey, [1, H, W, 1] float32 in 0 … 1, as the Flax network takes them. No two axes are equal in size, so that
rows and columns cannot change places unseen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loftr2flax.errors import CorruptFile, EnvironmentFault, MissingInput, UsageError
from loftr2flax.parity.values import InputsInfo

Size = tuple[int, int]
"""Rows and columns."""

DEFAULT_SIZES: tuple[Size, ...] = ((96, 136), (120, 104))
"""Two sizes, neither square; 120×104 turned is no other."""

PADDED = 0.8
"""The share of rows and of columns that a mask leaves, about."""


@dataclass(frozen=True)
class Feed:
    """The inputs of one run, and what to call them."""

    info: InputsInfo
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], title: str, origin: str) -> Feed:
        """Arrays by name with a title for people."""
        images = tuple(arrays[f"image/{side}"][0, :, :, 0] for side in (0, 1) if f"image/{side}" in arrays)
        shapes = {name: array.shape for name, array in arrays.items()}
        return cls(InputsInfo(title, origin, shapes, images, digest(arrays)), arrays)

    def showing(self, images: tuple[np.ndarray, ...]) -> Feed:
        """The same inputs with the pictures that they were made from."""
        return replace(self, info=replace(self.info, images=images))


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def paths_of(images: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """Names of image files as paths.

    Raises:
      UsageError: one name where two are meant: a text is a sequence of letters.
    """
    if isinstance(images, str | os.PathLike):
        raise UsageError(f"images={os.fspath(images)!r}: one file", "name two, such as `images=(left, right)`")
    return tuple(Path(image) for image in images)


def image_feeds(images: Sequence[Path], seed: int, sizes: Sequence[Size], masks: bool = True) -> list[Feed]:
    """The runs of an image matcher.

    One for each size, both images of that size; and, where ``masks``, one with the first size against the last, both
    padded and masked.

    Args:
      images: two files, or none for pictures made from the seed.
      seed: for the pictures.
      sizes: to shrink the files to or to make the pictures in; () for the files' own, cut to multiples of 8.

    Raises:
      UsageError: not two images, or a size too small.
      MissingInput, CorruptFile: an image is not there or cannot be read.
    """
    if len(images) not in (0, 2):
        raise UsageError(f"--images takes two files, not {len(images)}", "such as `--images left.png right.png`")
    for height, width in sizes:
        if min(height, width) < 48:
            message = f"--sizes {height}x{width}: too small for a network that shrinks by 8 and drops two cells a side"
            raise UsageError(message, "use 96x136 or larger")
    origin = " and ".join(path.name for path in images) or f"procedural, seed {seed}"
    pairs = [(size, size) for size in sizes or ([] if images else DEFAULT_SIZES)]
    if images and not sizes:
        natural = [_photograph(path, None) for path in images]
        pairs = [(natural[0].shape, natural[1].shape)]
    plans = [(first, second, False) for first, second in pairs]
    if masks:
        plans.append((pairs[0][0], pairs[-1][1], True))
    return [_feed(images, seed, first, second, padded, origin) for first, second, padded in plans]


def _feed(images: Sequence[Path], seed: int, first: Size, second: Size, padded: bool, origin: str) -> Feed:
    if images:
        pictures = [_photograph(path, size) for path, size in zip(images, (first, second), strict=True)]
    else:
        pictures = list(textured_pair(seed, first, second))
    arrays = {f"image/{side}": picture[None, :, :, None] for side, picture in enumerate(pictures)}
    if padded:
        for side, (height, width) in enumerate((first, second)):
            mask = np.zeros((1, height, width), bool)
            mask[:, : int(PADDED * height), : width if side else int(PADDED * width)] = True
            arrays[f"image/{side}"] = arrays[f"image/{side}"] * mask[..., None]
            arrays[f"mask/{side}"] = mask
    title = f"{first[0]}×{first[1]} with {second[0]}×{second[1]}" + (", masks" if padded else "")
    return Feed.of(arrays, title, origin)


def textured_pair(seed: int, first: Size, second: Size) -> tuple[np.ndarray, np.ndarray]:
    """Two views of one made scene, [H, W] float32 each: waves, blobs and edges; the second view is turned and shifted.

    Every number comes from the seed and from plain arithmetic, so the same seed gives the same pair.
    """
    rng = np.random.default_rng(seed)
    waves = rng.normal(0, 1, (24, 4))
    blobs = rng.uniform(0, 1, (60, 4))

    def scene(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        value = sum(
            np.sin(2 * np.pi * (2.5 * fy * y + 2.5 * fx * x + phase)) * 0.05 * weight for fy, fx, phase, weight in waves
        )
        for cy, cx, radius, tone in blobs:
            inside = (y - cy) ** 2 + (x - cx) ** 2 < (0.02 + 0.06 * radius) ** 2
            value = np.where(inside, tone - 0.5 + 0.3 * value, value)
        return np.asarray(value)

    def view(size: Size, turn: float, shift: tuple[float, float]) -> np.ndarray:
        y, x = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1], indexing="ij")
        cos, sin = np.cos(turn), np.sin(turn)
        picture = scene(cos * y - sin * x + shift[0], sin * y + cos * x + shift[1])
        noise = 0.02 * rng.normal(0, 1, size)
        return np.clip(0.5 + picture + noise, 0, 1).astype(np.float32)

    return view(first, 0.0, (0.0, 0.0)), view(second, 0.05, (0.03, -0.04))


def _photograph(path: Path, size: Size | None) -> np.ndarray:
    """A file as [H, W] grey float32 in 0 … 1, shrunk to ``size`` or cut to multiples of 8."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise EnvironmentFault("reading images needs Pillow", "pip install 'loftr2flax[parity]'") from None
    if not path.is_file():
        raise MissingInput(f"{path}: no such image", "check the path")
    try:
        with Image.open(path) as file:
            grey = file.convert("L")
            grey = grey.resize((size[1], size[0]), Image.Resampling.LANCZOS) if size else grey
            pixels = np.asarray(grey, np.float32) / 255
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise CorruptFile(f"{path}: not an image that Pillow reads: {error}", "give a PNG or a JPEG") from None
    if size:
        return pixels
    if min(pixels.shape) < 48:
        raise UsageError(f"{path}: {pixels.shape[0]}×{pixels.shape[1]} is too small", "give a larger image")
    return pixels[: pixels.shape[0] // 8 * 8, : pixels.shape[1] // 8 * 8]
