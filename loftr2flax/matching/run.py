"""Matching two photographs, from files to points in their own pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from time import perf_counter
from typing import Any, cast

import numpy as np

from loftr2flax.errors import EnvironmentFault
from loftr2flax.extras import needed
from loftr2flax.matching.weights import Weights, load_weights, template

with needed("matching", "parity", "jax", "flax", "PIL"):
    import jax

    from loftr2flax.models.loftr import LoFTR, LoFTRConfig, Matches
    from loftr2flax.pictures.photograph import Photograph, Size, read_photograph, to_original

LONGEST = 640
"""Pixels of the longer side as the network sees an image; what LoFTR's authors take indoors."""

_COPIES = 3
"""Confidence matrices that the network holds at a time: the similarity, and its softmax over rows and columns."""

Shape = tuple[int, ...]
Forward = Callable[..., Matches]


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """Matches of two photographs, the surest first.

    Attributes:
      photographs: the two images.
      weights: the network.
      seen: the sizes at which it saw them, width and height.
      points0, points1: [N, 2] float64, (x, y) in pixels of the originals; (0, 0) is the centre of the first pixel.
      confidence: [N] float32, 0 … 1.
      found: how many there are above the threshold, also those that ``top`` leaves out.
      threshold: the confidence that all are above.
      compile_seconds, run_seconds: time of XLA's compiler and of the network itself.
    """

    photographs: tuple[Photograph, Photograph]
    weights: Weights
    seen: tuple[Size, Size]
    points0: np.ndarray
    points1: np.ndarray
    confidence: np.ndarray
    found: int
    threshold: float
    compile_seconds: float
    run_seconds: float

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def median(self) -> float | None:
        """The median confidence, None without a match."""
        return float(np.median(self.confidence)) if len(self) else None

    def __repr__(self) -> str:
        return f"<{len(self)} matches of {self.photographs[0]} and {self.photographs[1]}>"


def match_images(
    image0: str | os.PathLike[str] | Photograph,
    image1: str | os.PathLike[str] | Photograph,
    weights: str | os.PathLike[str] | Weights,
    *,
    longest: int = LONGEST,
    threshold: float | None = None,
    top: int | None = None,
) -> ImageMatches:
    """Finds the points that two images share.

    Args:
      image0, image1: image files, or photographs read before.
      weights: a file as `load_weights` takes it, or what it returned; the network is compiled once for each pair of
        sizes.
      longest: pixels of the longer side as the network sees it. Larger images are shrunk, none is enlarged.
      threshold: the confidence that a match must exceed; None for the network's own, 0.2.
      top: how many to keep, the surest; None for all.

    Raises:
      Loftr2FlaxError: a file is refused.
      EnvironmentFault: there is not enough memory for images of that size.
    """
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    photographs = _photograph(image0), _photograph(image1)
    config = loaded.config if threshold is None else replace(loaded.config, threshold=threshold)
    arrays = [photo.fitted(longest, config.resolution[0])[None, :, :, None] for photo in photographs]
    started = perf_counter()
    with _memory(arrays, config):
        forward = _compiled(config, arrays[0].shape, arrays[1].shape)
        ready = perf_counter()
        matches = forward(loaded.variables, *arrays).compact()
    done = perf_counter()
    order = np.argsort(-matches.mconf, kind="stable")[:top]
    seen = [(array.shape[2], array.shape[1]) for array in arrays]
    points0, points1 = (
        to_original(np.asarray(points)[order], small, photo.size)
        for points, small, photo in zip((matches.mkpts0, matches.mkpts1), seen, photographs, strict=True)
    )
    return ImageMatches(
        photographs, loaded, (seen[0], seen[1]), points0, points1, np.asarray(matches.mconf)[order],
        len(matches.mconf), config.threshold, ready - started, done - ready,
    )  # fmt: skip


def _photograph(image: str | os.PathLike[str] | Photograph) -> Photograph:
    return image if isinstance(image, Photograph) else read_photograph(image)


@lru_cache(maxsize=8)
def _compiled(config: LoFTRConfig, shape0: Shape, shape1: Shape) -> Forward:
    """The network for images of these shapes; one config has one tree of shapes, so nothing else can differ."""
    images = [np.zeros(shape, np.float32) for shape in (shape0, shape1)]

    def forward(variables: Any, image0: jax.Array, image1: jax.Array) -> Matches:
        found = cast(Matches, LoFTR(config).apply(variables, image0, image1))
        return replace(found, conf_matrix=None)  # the largest array by far stays inside

    return jax.jit(forward).lower(template(config), *images).compile()


@contextmanager
def _memory(arrays: list[np.ndarray], config: LoFTRConfig) -> Iterator[None]:
    """Refuses, before the system does it with SIGKILL, images whose confidence matrix cannot be held."""
    cells = [array.shape[1] * array.shape[2] // config.resolution[0] ** 2 for array in arrays]
    need = _COPIES * 4 * cells[0] * cells[1]
    have = _physical_memory()
    hint = "make the images smaller: `--size 640`"
    if have is not None and need > have:
        message = f"{cells[0]:,} × {cells[1]:,} pairs of cells need {need / 2**30:.1f} GiB of memory"
        raise EnvironmentFault(f"{message}; this machine has {have / 2**30:.1f}", hint)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise EnvironmentFault("not enough memory to match images of that size", hint) from None


def _physical_memory() -> int | None:
    """Bytes of memory, where the system says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None
