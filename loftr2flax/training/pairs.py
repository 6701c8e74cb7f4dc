"""Pairs of images with exact correspondences, and the batches that a run steps through.

Pair number n is a function of the config and n alone: threads, processes and a resumed run all get the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import grain
import numpy as np
from scipy import ndimage

from loftr2flax.training.config import TrainConfig
from loftr2flax.training.images import ImageSet
from loftr2flax.training.noise import corrupted
from loftr2flax.training.warp import random_warp

Pair = dict[str, np.ndarray]
"""Arrays by name; see `make_pair`. A batch has one axis more at the front."""

_VISIBLE = 0.03  # standard deviation of grey values around a cell that shows something


def make_pair(config: TrainConfig, images: ImageSet, number: int) -> Pair:
    """Pair ``number``: an image and its warped, corrupted self or, in a share of all pairs, another finger's.

    Letters: L = (H / stride) · (W / stride) cells, row by row; cell (x, y) sits on pixel (stride · x, stride · y).

    Returns:
      image0, image1: [H, W, 1] float32.
      points: [L, 2] float32, where each cell of image 0 lies in image 1, (x, y) in pixels.
      cells: [L] int32, the cell of image 1 next to it, or -1: outside, nothing to see, or nearer to another cell.
      genuine: bool, whether both show the same finger.
      label0, label1: int32, numbers of the identities.
    """
    rng = np.random.default_rng([config.seed, number])
    epoch, place = divmod(number, config.pairs_per_epoch)
    first = _draw(config, len(images), epoch, place)
    genuine = not (len(set(images.identities)) > 1 and rng.random() < config.imposters)
    second = first if genuine else _other(rng, images, first)
    (height, width), fingers = config.image_size, {name: n for n, name in enumerate(dict.fromkeys(images.identities))}
    warp = random_warp(rng, height, width, config.rotation, config.elastic, config.perspective)
    image0, source = images.read(first), images.read(second)
    image1 = warp.picture(source, fill=1.0)
    points, cells = _correspondences(warp.forth(_cells(height, width, config.stride)), image0, config.stride)
    return {
        "image0": corrupted(rng, image0, 0.3 * config.noise)[..., None],
        "image1": corrupted(rng, image1, config.noise)[..., None],
        "points": points,
        "cells": cells if genuine else np.full_like(cells, -1),
        "genuine": np.asarray(genuine),
        "label0": np.asarray(fingers[images.identities[first]], np.int32),
        "label1": np.asarray(fingers[images.identities[second]], np.int32),
    }


def batches(
    config: TrainConfig, images: ImageSet, start: int, stop: int, rank: int = 0, processes: int = 1
) -> Iterator[Pair]:
    """Batches ``start`` … ``stop`` of a run, this process's rows alone, made ahead by threads."""
    share = config.batch_size // processes
    rows = [step * config.batch_size + rank * share + row for step in range(start, stop) for row in range(share)]
    if not rows:
        return iter(())
    dataset = grain.MapDataset.source(rows).map(partial(make_pair, config, images)).batch(share)
    options = grain.ReadOptions(num_threads=config.workers, prefetch_buffer_size=2 * config.workers)
    return iter(dataset.to_iter_dataset(options))


def gathered(config: TrainConfig, images: ImageSet, count: int) -> Pair:
    """The first ``count`` pairs in one batch."""
    made = [make_pair(config, images, number) for number in range(count)]
    return {name: np.stack([pair[name] for pair in made]) for name in made[0]}


def _draw(config: TrainConfig, count: int, epoch: int, place: int) -> int:
    """Each image comes once before any comes twice."""
    turn, place = divmod(epoch * config.pairs_per_epoch + place, count)
    return int(np.random.default_rng([config.seed, 7, turn]).permutation(count)[place])


def _other(rng: np.random.Generator, images: ImageSet, first: int) -> int:
    others = [n for n, name in enumerate(images.identities) if name != images.identities[first]]
    return int(rng.choice(others))


def _cells(height: int, width: int, stride: int) -> np.ndarray:
    y, x = np.mgrid[0:height:stride, 0:width:stride]
    return np.stack([x, y], -1).reshape(-1, 2).astype(np.float64)


def _correspondences(points: np.ndarray, image0: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """[L, 2] in pixels of image 1 → the same as float32, and the nearest cells [L], each taken once or -1."""
    height, width = image0.shape
    rows, columns = height // stride, width // stride
    nearest = np.rint(points / stride).astype(int)
    inside = ((nearest >= 0) & (nearest < [columns, rows])).all(-1)
    grey = image0.astype(np.float64)
    mean = ndimage.uniform_filter(grey, 2 * stride + 1)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, 2 * stride + 1) - mean**2, 0))
    inside &= deviation[::stride, ::stride].reshape(-1) > _VISIBLE
    cells = np.where(inside, nearest[:, 1] * columns + nearest[:, 0], -1)
    distance = np.square(points - nearest * stride).sum(-1)
    order = np.argsort(distance, kind="stable")
    taken: dict[int, Any] = {}
    for i in order:
        if cells[i] >= 0 and taken.setdefault(int(cells[i]), i) != i:
            cells[i] = -1
    return points.astype(np.float32), cells.astype(np.int32)
