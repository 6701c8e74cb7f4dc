"""Synthetic scenes for LoFTR's own task: overlapping shapes with textures of many scales, grey [H, W]."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def synthetic_scene(seed: int, height: int, width: int) -> np.ndarray:
    """[H, W] float32, 0 … 1. The same seed and size give the same scene."""
    rng = np.random.default_rng([0x5C, seed])
    y, x = np.mgrid[:height, :width].astype(np.float64)
    scale = min(height, width)
    image = _texture(rng, height, width)
    for _ in range(rng.integers(15, 45)):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        size = scale * np.exp(rng.uniform(np.log(0.03), np.log(0.3)))
        turn, tone = rng.uniform(0, np.pi), rng.uniform(0, 1)
        u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / size
        v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / (size * rng.uniform(0.3, 1))
        kind = rng.integers(3)
        inside = (
            (u**2 + v**2 < 1)
            if kind == 0
            else (np.maximum(abs(u), abs(v)) < 1)
            if kind == 1
            else (v > abs(u) - 0.5) & (v < 0.5)
        )
        image = np.where(inside, tone + 0.25 * _texture(rng, height, width) - 0.12, image)
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.9))
    return np.asarray(np.clip(image, 0, 1), np.float32)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise whose strength falls with frequency, 0 … 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(0, 1, (height, width))) / frequency ** rng.uniform(0.5, 1.3)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray(0.5 + 0.5 * np.clip(noise / (2.5 * noise.std() + 1e-12), -1, 1))
