"""Warps with exact correspondences: a homography or a rotation, then an elastic field that is a sum of waves.

Points are (x, y) in pixels. A warp is a function, not a picture of one: where a point goes is computed to the last
digit in float64, and the picture is sampled from the way back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_STEPS = 40


@dataclass(frozen=True, eq=False)
class Warp:
    """From image 0 to image 1: ``matrix`` is applied to q + elastic(q) on the way *back*, so that `back` is explicit.

    Attributes:
      matrix: 3×3, takes points of image 1 to image 0.
      waves: [K, 6]: amplitude along x and y, angular frequency along x and y, and two phases.
    """

    matrix: np.ndarray
    waves: np.ndarray

    def back(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] of image 1 → image 0."""
        return _project(self.matrix, points + self._elastic(points))

    def forth(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] of image 0 → image 1: the elastic field is undone by iteration, exact to 1e-9 pixels."""
        straight = _project(np.linalg.inv(self.matrix), points)
        found = straight
        for _ in range(_STEPS):
            found = straight - self._elastic(found)
        return found

    def picture(self, image: np.ndarray, fill: float) -> np.ndarray:
        """Image 0 [H, W] as image 1 of the same size, cubic; ``fill`` where image 0 ends."""
        height, width = image.shape
        x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        source = self.back(np.stack([x, y], -1))
        sampled = ndimage.map_coordinates(
            image.astype(np.float64), [source[..., 1], source[..., 0]], order=3, mode="constant", cval=fill
        )
        return np.asarray(np.clip(sampled, 0, 1), np.float32)

    def _elastic(self, points: np.ndarray) -> np.ndarray:
        moved = np.zeros_like(points)
        for ax, ay, wx, wy, px, py in self.waves:
            phase = wx * points[..., 0] + wy * points[..., 1]
            moved[..., 0] += ax * np.sin(phase + px)
            moved[..., 1] += ay * np.sin(phase + py)
        return moved


def random_warp(
    rng: np.random.Generator,
    height: int,
    width: int,
    rotation: float = 60.0,
    elastic: float = 1.0,
    perspective: float = 0.0,
) -> Warp:
    """A rotation of at most ``rotation`` degrees about the centre, with a little scale and shift, and bent.

    Args:
      rng: what decides.
      height, width: pixels of both images.
      rotation: degrees, to either side.
      elastic: 1 bends by at most about 3 % of the shorter side; 0 not at all.
      perspective: how far the corners move, in parts of the shorter side; 0 for a similarity.
    """
    scale = min(height, width)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    angle = np.deg2rad(rng.uniform(-rotation, rotation))
    size = np.exp(rng.uniform(-0.08, 0.08))
    shift = rng.uniform(-0.06, 0.06, 2) * scale
    cos, sin = size * np.cos(angle), size * np.sin(angle)
    to_centre, from_centre = np.eye(3), np.eye(3)
    to_centre[:2, 2], from_centre[:2, 2] = -centre, centre + shift
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-perspective, perspective, 2) / scale
    waves = []
    for _ in range(4):
        frequency = 2 * np.pi * rng.uniform(0.5, 1.5) / scale
        direction = rng.uniform(0, 2 * np.pi)
        amplitude = elastic * 0.0075 * scale * rng.uniform(-1, 1, 2)
        waves.append(
            [*amplitude, frequency * np.cos(direction), frequency * np.sin(direction), *rng.uniform(0, 6.3, 2)]
        )
    return Warp(from_centre @ turn @ tilt @ to_centre, np.array(waves))


def _project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    ahead = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(ahead[..., :2] / ahead[..., 2:])
