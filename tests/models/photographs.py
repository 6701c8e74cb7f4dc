"""Real photographs, grey, cut and shrunk to size; the second view of one is a mild homography of it."""

from __future__ import annotations

import numpy as np
from skimage import color, data, transform


def grey(name: str, height: int, width: int) -> np.ndarray:
    """One of scikit-image's photographs as [1, height, width, 1] float32 in 0 … 1."""
    image = getattr(data, name)()
    image = color.rgb2gray(image) if image.ndim == 3 else image / 255
    image = transform.resize(image, (height, width), anti_aliasing=True)
    return image[None, :, :, None].astype(np.float32)


def other_view(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The same scene, turned a little and seen from the side, at another size."""
    turn = transform.ProjectiveTransform(np.array([[1.03, 0.06, -4.0], [-0.05, 0.98, 3.0], [1e-4, 5e-5, 1.0]]))
    warped = transform.warp(image[0, :, :, 0], turn, mode="reflect")
    return transform.resize(warped, (height, width), anti_aliasing=True)[None, :, :, None].astype(np.float32)


def stereo(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-image's motorcycle, left and right, and each left pixel's disparity at this size (NaN: unknown)."""
    left, right, disparity = data.stereo_motorcycle()
    shrink = disparity.shape[1] / width
    images = [transform.resize(color.rgb2gray(view), (height, width), anti_aliasing=True) for view in (left, right)]
    rows = (np.arange(height) * disparity.shape[0] / height).astype(int)
    columns = (np.arange(width) * shrink).astype(int)
    shown = np.where(np.isfinite(disparity), disparity, np.nan)[np.ix_(rows, columns)] / shrink
    first, second = (image[None, :, :, None].astype(np.float32) for image in images)
    return first, second, shown
