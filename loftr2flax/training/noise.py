"""What a sensor and a finger do to a print: the three noise models of IFViT (arXiv 2404.08237).

Images are [H, W] floats with dark ridges (0) on white (1). All take the generator that decides.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def perlin(rng: np.random.Generator, height: int, width: int, cells: int = 4, octaves: int = 3) -> np.ndarray:
    """Perlin's gradient noise [H, W], about -1 … 1: first ``cells`` cells along the shorter side, then more."""
    total = np.zeros((height, width))
    for octave in range(octaves):
        step = min(height, width) / (cells * 2**octave)
        y, x = np.mgrid[:height, :width] / step
        rows, columns = y.astype(int), x.astype(int)
        fy, fx = y - rows, x - columns
        angle = rng.uniform(0, 2 * np.pi, (rows.max() + 2, columns.max() + 2))

        smooth_y, smooth_x = (f * f * f * (f * (f * 6 - 15) + 10) for f in (fy, fx))
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):  # the corners of the cell, each with its gradient
            there = angle[rows + dy, columns + dx]
            slope = np.sin(there) * (fy - dy) + np.cos(there) * (fx - dx)
            near = (smooth_y if dy else 1 - smooth_y) * (smooth_x if dx else 1 - smooth_x)
            total += slope * near / 2**octave
    return total


def sensor(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A dirty sensor: Perlin noise darkens and lightens patches."""
    height, width = image.shape
    noise = perlin(rng, height, width, int(rng.integers(3, 7)))
    return np.asarray(np.clip(image + rng.uniform(0.2, 0.6) * noise, 0, 1), image.dtype)


def dry(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A dry finger: ridges, which are dark, are eroded, and break."""
    thinner = ndimage.grey_dilation(image, footprint=_cross())
    return _mixed(rng, image, thinner)


def pressed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A finger pressed hard, or wet: ridges are dilated, and run into each other."""
    thicker = ndimage.grey_erosion(image, footprint=_cross())
    return _mixed(rng, image, thicker)


def corrupted(rng: np.random.Generator, image: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """One finger model or none, one sensor model or none, and white noise; ``strength`` 0 leaves the image as it is."""
    if strength <= 0:
        return image
    kind = rng.choice(3)
    changed = dry(rng, image) if kind == 0 else pressed(rng, image) if kind == 1 else image
    if rng.random() < 0.7:
        changed = sensor(rng, changed)
    changed = changed + rng.normal(0, 0.03, image.shape)
    mixed = image + min(strength, 1.0) * (changed - image)
    return np.asarray(np.clip(mixed, 0, 1), image.dtype)


def _cross() -> np.ndarray:
    return np.asarray(ndimage.generate_binary_structure(2, 1))


def _mixed(rng: np.random.Generator, image: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Each place takes more of the one or the other: a finger is not dry everywhere alike."""
    patches = ndimage.gaussian_filter(rng.normal(0, 1, image.shape), min(image.shape) / 10)
    share = np.clip(0.6 + 0.4 * patches / (np.abs(patches).max() + 1e-9), 0, 1)
    return np.asarray(image * (1 - share) + changed * share, image.dtype)
