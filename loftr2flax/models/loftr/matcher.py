"""The whole matcher (paper, figure 2): backbone, position encoding, coarse transformer, coarse matching, fine matching.

Conventions: images are [B, H, W, 1] grey floats in 0 … 1 (torch has [B, 1, H, W]); image 0 and image 1 may differ in
size, and sizes need not be multiples of 8. Masks are [B, H, W], True where there is image and False where there is
padding, at the bottom and on the right. Points are (x, y) in pixels; coarse cell (x, y) sits on pixel (8 x, 8 y).
Matmul precision is jax's own setting; `jax.default_matmul_precision("highest")` matters on GPU and TPU, not on CPU.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import Array, lax

from loftr2flax.models.loftr.backbone import ResNetFPN
from loftr2flax.models.loftr.chunks import by_chunks
from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.fine import FinePreprocess, expectation
from loftr2flax.models.loftr.matching import CoarseMatching, mutual_nearest, off_border, select
from loftr2flax.models.loftr.position import add_position
from loftr2flax.models.loftr.transformer import FeatureTransformer
from loftr2flax.models.loftr.windows import smoothed_windows, windows, worth_windows

Grid = tuple[int, int]
"""Rows and columns of a coarse map."""


@struct.dataclass
class Matches:
    """Matches of a batch in arrays of a fixed length M, the valid ones first, in the order of batch and cell.

    Attributes:
      ids: [3, M] int32: batch, coarse cell of image 0, coarse cell of image 1; cells in row-major order.
      mkpts0: [M, 2] float32, (x, y) in pixels of image 0, centres of coarse cells.
      mkpts1: [M, 2] float32, (x, y) in pixels of image 1, refined by the fine stage where there is one.
      mconf: [M], the coarse confidence, 0 … 1.
      valid: [M] bool.
      found: int32, how many matches there are, also those that ``capacity`` leaves out.
      expec_f: [M, 3], `fine.expectation` of each match; None without a fine stage.
      conf_matrix: [B, L, S], the confidence of each pair of coarse cells; None after `compact`.
    """

    ids: Array
    mkpts0: Array
    mkpts1: Array
    mconf: Array
    valid: Array
    found: Array
    expec_f: Array | None = None
    conf_matrix: Array | None = None

    def compact(self) -> Matches:
        """The valid matches alone, as numpy arrays, without the confidence matrix. Outside of jit only."""
        keep = np.flatnonzero(np.asarray(self.valid))
        rows: dict[str, Any] = {
            name: np.asarray(value)[keep]
            for name in ("mkpts0", "mkpts1", "mconf", "valid", "expec_f")
            if (value := getattr(self, name)) is not None
        }
        rows["ids"] = np.asarray(self.ids)[:, keep]
        return dataclasses.replace(self, conf_matrix=None, **rows)


class LoFTR(nn.Module):
    """Detector-free matching of two images.

    >>> model = LoFTR(LoFTRConfig.outdoor_ds())                                     # doctest: +SKIP
    >>> matches = jax.jit(model.apply)(variables, image0, image1).compact()         # doctest: +SKIP
    >>> matches.mkpts0, matches.mkpts1, matches.mconf                               # doctest: +SKIP

    ``transformer`` is the class of the coarse and the fine transformer; a subclass may compute something else.
    Each step is a method, so that it can be run alone: ``model.apply(variables, image0, image1, method="features")``.
    """

    config: LoFTRConfig
    transformer: type[FeatureTransformer] = FeatureTransformer

    def setup(self) -> None:
        """Names the modules as torch does."""
        config = self.config
        self.backbone = ResNetFPN(config)
        self.loftr_coarse = self.transformer(config.coarse_layers, config)
        self.coarse_matching = CoarseMatching(config)
        if config.fine:
            self.fine_preprocess = FinePreprocess(config)
            self.loftr_fine = self.transformer(config.fine_layers, config)

    def __call__(
        self,
        image0: Array,
        image1: Array,
        mask0: Array | None = None,
        mask1: Array | None = None,
        train: bool = False,
        ids: Array | None = None,
    ) -> Matches:
        """Matches image0 [B, H0, W0, 1] with image1 [B, H1, W1, 1]; masks [B, H0, W0] and [B, H1, W1].

        Args:
          image0, image1, mask0, mask1: as the module says.
          train: whether BatchNorm takes the statistics of the batch; then ``batch_stats`` is mutable.
          ids: [3, M] int32, matches to refine instead of those found, for training on known ones and for comparing two
            networks at the same places; all count as valid.
        """
        rough = not train and not self.is_initializing()  # the fine maps are made where there is a match
        (coarse0, fine0), (coarse1, fine1) = self.features(image0, image1, train, rough)
        grid0, grid1 = grid(coarse0), grid(coarse1)
        coarse0, coarse1 = self.encode_position(coarse0), self.encode_position(coarse1)
        mask0, mask1 = self.coarse_mask(mask0), self.coarse_mask(mask1)
        coarse0, coarse1 = self.loftr_coarse(flatten(coarse0), flatten(coarse1), mask0, mask1)
        conf_matrix = self.coarse_matching(coarse0, coarse1, mask0, mask1)

        if ids is None:
            ids, mconf, valid, found = self.coarse_matches(conf_matrix, grid0, grid1, mask0, mask1)
        else:
            mconf, valid, found = conf_matrix[tuple(ids)], jnp.ones(ids.shape[1:], bool), jnp.int32(ids.shape[1])
        maps = fine0, fine1, coarse0, coarse1
        expec_f = self.refine(*maps, ids, valid, grid0, grid1, rough) if self.config.fine else None
        mkpts0, mkpts1 = self.points(ids, grid0, grid1, expec_f)
        return Matches(ids, mkpts0, mkpts1, mconf, valid, found, expec_f, conf_matrix)

    def features(
        self, image0: Array, image1: Array, train: bool = False, rough: bool = False
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Coarse and fine maps of both images; the fine ones before their last step, if they are to be ``rough``.

        In training, where sizes agree, they go through in one pass, so that BatchNorm sees both. Else one by one, which
        needs half the memory; on a CPU, whose allocator asks the system for each large block anew, it takes a tenth
        less time.
        """
        check_images(image0, image1)
        backbone = self.backbone.rough if rough else self.backbone
        if not train or image0.shape != image1.shape:
            return backbone(image0, train), backbone(image1, train)
        coarse, fine = backbone(jnp.concatenate([image0, image1]), train)
        batch = len(image0)
        return (coarse[:batch], fine[:batch]), (coarse[batch:], fine[batch:])

    def encode_position(self, coarse: Array) -> Array:
        """[B, H, W, C̃] → the same, with the position added."""
        return add_position(coarse, self.config.temp_bug_fix)

    def coarse_mask(self, mask: Array | None) -> Array | None:
        """[B, H, W] of pixels → [B, L] of coarse cells: a cell takes the value of the pixel on which it sits."""
        stride = self.config.resolution[0]
        return None if mask is None else mask[:, ::stride, ::stride].reshape(len(mask), -1).astype(bool)

    def coarse_layer(
        self, i: int, feat0: Array, feat1: Array, mask0: Array | None = None, mask1: Array | None = None
    ) -> tuple[Array, Array]:
        """Coarse encoder layer ``i``: [B, L, C̃] and [B, S, C̃], masks of coarse cells."""
        return self.loftr_coarse.layer(i, feat0, feat1, mask0, mask1)

    def confidence(self, feat0: Array, feat1: Array, mask0: Array | None = None, mask1: Array | None = None) -> Array:
        """[B, L, C̃] and [B, S, C̃] → the confidence matrix [B, L, S]."""
        return self.coarse_matching(feat0, feat1, mask0, mask1)

    def coarse_matches(
        self,
        conf_matrix: Array,
        grid0: Grid,
        grid1: Grid,
        mask0: Array | None = None,
        mask1: Array | None = None,
    ) -> tuple[Array, Array, Array, Array]:
        """Mutual nearest neighbours in [B, L, S] → ids [3, M], mconf [M], valid [M] and how many there are."""
        border = self.config.border
        allowed0, allowed1 = off_border(*grid0, border, mask0), off_border(*grid1, border, mask1)
        cell, best, match = mutual_nearest(lax.stop_gradient(conf_matrix), allowed0, allowed1, self.config.threshold)
        return *select(cell, best, match, self.config.capacity), match.sum(dtype=jnp.int32)

    def fine_windows(
        self,
        fine0: Array,
        fine1: Array,
        coarse0: Array,
        coarse1: Array,
        ids: Array,
        grid0: Grid,
        grid1: Grid,
        rough: bool = False,
    ) -> tuple[Array, Array]:
        """The windows of matches ``ids`` [3, M] with their coarse context, two of [M, w², Ĉ]."""
        cut = partial(smoothed_windows, self.backbone.smooth) if rough else windows
        stride, side = self.config.fine_stride, self.config.fine_window
        window0 = cut(fine0, ids[0], ids[1], grid0[1], stride, side)
        window1 = cut(fine1, ids[0], ids[2], grid1[1], stride, side)
        return self.fine_preprocess(window0, window1, coarse0, coarse1, ids)

    def fine_layer(self, i: int, feat0: Array, feat1: Array) -> tuple[Array, Array]:
        """Fine encoder layer ``i`` over windows [M, w², Ĉ]."""
        return self.loftr_fine.layer(i, feat0, feat1)

    def refine_windows(
        self,
        fine0: Array,
        fine1: Array,
        coarse0: Array,
        coarse1: Array,
        ids: Array,
        grid0: Grid,
        grid1: Grid,
        rough: bool = False,
    ) -> Array:
        """The fine stage for all of ``ids`` at once: [3, M] → [M, 3]."""
        window0, window1 = self.fine_windows(fine0, fine1, coarse0, coarse1, ids, grid0, grid1, rough)
        return expectation(*self.loftr_fine(window0, window1))

    def refine(
        self,
        fine0: Array,
        fine1: Array,
        coarse0: Array,
        coarse1: Array,
        ids: Array,
        valid: Array,
        grid0: Grid,
        grid1: Grid,
        rough: bool = False,
    ) -> Array:
        """The fine stage, chunk by chunk: ids [3, M], valid [M] → [M, 3], zeros where not valid.

        Rough maps are smoothed in the windows of the matches; as a whole, where there are so many that this is less.
        """
        if self.is_initializing():  # shapes the parameters, outside of the loop
            return self.refine_windows(fine0, fine1, coarse0, coarse1, ids, grid0, grid1)
        module: LoFTR = self.clone(parent=None)
        variables = self.variables

        def run(fine0: Array, fine1: Array, rough: bool) -> Array:
            def some(ids: Array) -> Array:
                maps = fine0, fine1, coarse0, coarse1
                out: Any = module.apply(variables, *maps, ids, grid0, grid1, rough, method="refine_windows")
                return jnp.asarray(out)

            return by_chunks(some, ids, valid)

        def smoothed(rough0: Array, rough1: Array) -> Array:
            smooth = partial(module.apply, variables, method=lambda module, x: module.backbone.smooth(x))
            return run(jnp.asarray(smooth(rough0)), jnp.asarray(smooth(rough1)), False)

        if not rough:
            return run(fine0, fine1, False)
        few = worth_windows(self.config) * (coarse0.size + coarse1.size) / (2 * self.config.coarse_dim)
        if len(valid) <= few:
            return run(fine0, fine1, True)
        return jnp.asarray(lax.cond(valid.sum() <= few, partial(run, rough=True), smoothed, fine0, fine1))

    def points(self, ids: Array, grid0: Grid, grid1: Grid, expec_f: Array | None) -> tuple[Array, Array]:
        """Matches [3, M] and their expectation [M, 3] → points (x, y) in pixels of image 0 and image 1, [M, 2] each."""
        coarse, fine = self.config.resolution
        dtype = jnp.promote_types(jnp.float32, self.config.dtype)
        mkpts0 = coarse * jnp.stack([ids[1] % grid0[1], ids[1] // grid0[1]], -1).astype(dtype)
        mkpts1 = coarse * jnp.stack([ids[2] % grid1[1], ids[2] // grid1[1]], -1).astype(dtype)
        if expec_f is not None:
            mkpts1 = mkpts1 + expec_f[:, :2] * (self.config.fine_window // 2 * fine)
        return mkpts0, mkpts1


def check_images(image0: Array, image1: Array) -> None:
    """Whether the network can take them.

    Raises:
      ValueError: one is not [B, H, W, 1], or they hold different numbers of images.
    """
    for name, image in (("image0", image0), ("image1", image1)):
        if image.ndim != 4 or image.shape[-1] != 1:
            raise ValueError(f"{name} is [B, H, W, 1], grey with the channel last, not {list(image.shape)}")
    if len(image0) != len(image1):
        raise ValueError(f"image0 and image1 are one batch, but hold {len(image0)} and {len(image1)} images")


def grid(features: Array) -> Grid:
    """Rows and columns of a map [B, H, W, C]."""
    return features.shape[1], features.shape[2]


def flatten(features: Array) -> Array:
    """[B, H, W, C] → [B, L, C], L = H · W in row-major order."""
    return features.reshape(len(features), -1, features.shape[-1])
