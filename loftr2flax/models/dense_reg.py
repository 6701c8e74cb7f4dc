"""Module 1 of IFViT (arXiv 2404.08237): dense registration of two prints.

The network is a LoFTR, module for module and name for name, so that weights go either way without a translation: a
backbone of ResNet-18's blocks with a feature pyramid, sinusoidal positions, a transformer that alternates between
self and cross attention, and the dual softmax. At stride 16 the backbone has all eight blocks of ResNet-18, at stride 8
the first six, as LoFTR's; unlike ResNet-18 it has no pooling layer. IFViT-JAX differs, see `docs/training.md`.
"""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from loftr2flax.models.loftr.matcher import LoFTR, flatten, grid


class DenseMatch(NamedTuple):
    """What the network says of a pair.

    Attributes:
      confidence: [B, L, S], at least float32, of each pair of cells.
      expectation: [M, 3], `fine.expectation` of the matches asked for; None without a fine stage.
    """

    confidence: Array
    expectation: Array | None


class DenseRegModel(LoFTR):
    """LoFTR with an output to train on. ``transformer=SiameseTransformer`` makes it generic."""

    def __call__(  # type: ignore[override]
        self, image0: Array, image1: Array, train: bool = False, ids: Array | None = None
    ) -> DenseMatch:
        """Both images [B, H, W, 1], 0 … 1.

        Args:
          image0, image1: the pair.
          train: whether BatchNorm takes the statistics of the batch; then ``batch_stats`` is mutable.
          ids: [3, M] int32, batch, cell of image 0 and cell of image 1, of the matches that the fine stage refines.
        """
        (coarse0, fine0), (coarse1, fine1) = self.features(image0, image1, train)
        grid0, grid1 = grid(coarse0), grid(coarse1)
        coarse0, coarse1 = self.transformed(coarse0, coarse1)
        confidence = self.confidence(coarse0, coarse1)
        if not self.config.fine or ids is None:
            return DenseMatch(confidence, None)
        return DenseMatch(confidence, self.refine_windows(fine0, fine1, coarse0, coarse1, ids, grid0, grid1))

    def transformed(self, coarse0: Array, coarse1: Array) -> tuple[Array, Array]:
        """Coarse maps [B, H, W, C̃] → sequences [B, L, C̃] that have seen each other."""
        coarse0, coarse1 = (flatten(self.encode_position(coarse)) for coarse in (coarse0, coarse1))
        return self.loftr_coarse(coarse0, coarse1)
