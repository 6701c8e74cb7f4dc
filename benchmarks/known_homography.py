"""A LoFTR on scikit-image's pictures under a known homography: are its matches right, and does Flax find kornia's?

    python -m benchmarks.known_homography loftr.ckpt

For each picture: matches, whether kornia has the same, and the share of matches within 3 pixels of the truth.
"""

from __future__ import annotations

import sys

import numpy as np

PICTURES = ("camera", "astronaut", "coffee", "chelsea")
SIZE = (160, 200)
HOMOGRAPHY = np.array([[0.97, -0.12, 14], [0.10, 1.02, -8], [2e-4, -1e-4, 1.0]])
"""From points (x, y) of the picture to those of the other view."""


def run(path: str) -> None:
    """Measures and prints."""
    from skimage import color, data, transform

    from loftr2flax import open_checkpoint
    from loftr2flax.matching.weights import load_weights
    from loftr2flax.models.loftr import LoFTR
    from loftr2flax.models.loftr.reference import TorchLoFTR

    weights = load_weights(path)
    with open_checkpoint(path) as checkpoint:
        state = {name: checkpoint.read(name) for name in checkpoint.infos}
    ours, theirs = LoFTR(weights.config), TorchLoFTR(state, weights.config)
    errors = []
    for name in PICTURES:
        image = getattr(data, name)()
        image = color.rgb2gray(image) if image.ndim == 3 else image / 255
        image = transform.resize(image, SIZE, anti_aliasing=True)
        view = transform.warp(image, np.linalg.inv(HOMOGRAPHY), mode="reflect")
        pair = [one.astype(np.float32)[None, :, :, None] for one in (image, view)]
        found = ours.apply(weights.variables, *pair).compact()
        same = {tuple(row) for row in found.ids.T} == {tuple(row) for row in np.asarray(theirs.trace(*pair)["ids"]).T}
        truth = np.concatenate([found.mkpts0, np.ones((len(found.mkpts0), 1))], 1) @ HOMOGRAPHY.T
        errors.append(np.hypot(*(truth[:, :2] / truth[:, 2:] - found.mkpts1).T))
        _tell(name, errors[-1], "the same in kornia" if same else "NOT the same in kornia")
    _tell("all", np.concatenate(errors), "")


def _tell(name: str, error: np.ndarray, word: str) -> None:
    share = f"{100 * (error < 3).mean():.1f} % within 3 pixels" if len(error) else "nothing to judge"
    print(f"  {name:10} {len(error):4} matches, {share}  {word}".rstrip())


if __name__ == "__main__":
    run(sys.argv[1])
