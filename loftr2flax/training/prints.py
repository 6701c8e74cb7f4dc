"""Synthetic fingerprints: an orientation field with cores and deltas, and ridges grown along it.

The field is the zero-pole model (Sherlock and Monro, 1993): the orientation is half the sum of the angles seen from the
loops, less those seen from the deltas. Ridges grow from noise by filtering it again and again along the field, as
in SFinGe (Cappelli and others, 2000); minutiae come by themselves, where ridges have no room.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

ORIENTATIONS = 16
ROUNDS = 8


def synthetic_print(seed: int, height: int, width: int) -> np.ndarray:
    """One finger: [H, W] float32, ridges dark (0) and valleys white (1), white around the print.

    The same seed and size give the same print. Ridges are 5 to 7 pixels apart.
    """
    rng = np.random.default_rng([0xF1, seed])
    y, x = np.mgrid[:height, :width].astype(np.float64)
    scale = min(height, width)
    theta = _orientation(rng, (x - width / 2) / scale, (y - height / 2) / scale)
    ridges = _grow(rng, theta, period=rng.uniform(5.0, 7.0))
    grey = 0.5 - 0.5 * np.tanh(1.5 * ridges)
    tone = ndimage.gaussian_filter(rng.normal(0, 1, grey.shape), scale / 8)
    grey = np.clip(grey * (0.85 + 0.15 * tone / (np.abs(tone).max() + 1e-9)), 0, 1)
    rx, ry = rng.uniform(0.44, 0.52) * width, rng.uniform(0.46, 0.54) * height
    wobble = 0.03 * np.sin(np.arctan2(y - height / 2, x - width / 2) * 5 + rng.uniform(0, 6))
    radius = np.hypot((x - width / 2) / rx, (y - height / 2) / ry) + wobble
    inside = np.clip((1 - radius) * 12, 0, 1)
    return np.asarray(grey * inside + (1 - inside), np.float32)


def _orientation(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ridge directions [H, W] in radians for one of the usual classes, coordinates in parts of the shorter side."""

    def near(cx: float, cy: float) -> tuple[float, float]:
        dx, dy = rng.normal(0, 0.05, 2)
        return cx + dx, cy + dy

    kind = rng.choice(5, p=[0.08, 0.32, 0.32, 0.22, 0.06])  # arch, left loop, right loop, whorl, tented arch
    loops: list[tuple[float, float]] = []
    deltas: list[tuple[float, float]] = []
    if kind == 0:
        height, place = rng.uniform(0.3, 0.6), rng.normal(0, 0.05)
        return np.asarray(np.arctan(-height * np.pi * np.sin(np.pi * (x - place)) * np.exp(-4 * (y - 0.1) ** 2)))
    if kind in (1, 2):
        side = 1 if kind == 1 else -1
        loops, deltas = [near(0, -0.08)], [near(0.28 * side, 0.36)]
    elif kind == 3:
        loops, deltas = [near(0, -0.12), near(0, 0.08)], [near(-0.36, 0.4), near(0.36, 0.4)]
    else:
        loops, deltas = [near(0, -0.1)], [near(0, 0.34)]
    angle = np.zeros_like(x)
    for sign, places in ((1, loops), (-1, deltas)):
        for cx, cy in places:
            angle += sign * np.arctan2(y - cy, x - cx)
    theta = 0.5 * angle + (np.pi / 2 if len(loops) == len(deltas) == 1 else 0.0)
    bend = ndimage.gaussian_filter(rng.normal(0, 1, x.shape), min(x.shape) / 5)
    return np.asarray(theta + 0.15 * bend / (np.abs(bend).max() + 1e-9))


def _grow(rng: np.random.Generator, theta: np.ndarray, period: float) -> np.ndarray:
    """Noise filtered along the field [H, W] until it is ridges, about -1 … 1."""
    height, width = theta.shape
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    angles = np.arange(ORIENTATIONS) * np.pi / ORIENTATIONS
    spread = 0.45 / period
    bank = []
    for angle in angles:  # a ridge along `angle` is a wave across it
        cy, cx = np.cos(angle) / period, -np.sin(angle) / period
        lobes = (np.exp(-((fy - s * cy) ** 2 + (fx - s * cx) ** 2) / (2 * (0.5 * spread) ** 2)) for s in (1, -1))
        bank.append(sum(lobes))
    place = np.mod(theta, np.pi) / np.pi * ORIENTATIONS
    low = np.floor(place).astype(int) % ORIENTATIONS
    part = place - np.floor(place)
    image = rng.normal(0, 1, theta.shape)
    rows, columns = np.indices(theta.shape)
    for _ in range(ROUNDS):
        spectrum = np.fft.rfft2(image)
        filtered = np.stack([np.fft.irfft2(spectrum * lobe, s=theta.shape) for lobe in bank])
        image = (1 - part) * filtered[low, rows, columns]
        image += part * filtered[(low + 1) % ORIENTATIONS, rows, columns]
        strength = np.sqrt(ndimage.gaussian_filter(image**2, period)) + 1e-12
        image = np.tanh(1.2 * image / strength)
    return image
