"""Module 2 of IFViT (arXiv 2404.08237): an embedding of fixed length for each print.

Two branches, each a whole Module 1 with a head: one sees the whole image, one the region of interest. An embedding must
not depend on what it will be compared with, so a print is its own partner in the cross layers.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from loftr2flax.models.dense_reg import DenseMatch, DenseRegModel
from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.transformer import FeatureTransformer

BRANCHES = ("whole", "roi")
"""Names of the branches; each is a tree of Module 1's own names."""


class MatcherModel(nn.Module):
    """Embeddings [B, 2 · dim] of unit length: the branches side by side.

    Attributes:
      config: the network of each branch.
      dim: length of one branch's embedding.
      roi: side of the region of interest, in parts of the image; cut to whole cells about the centre.
      identities: how many fingers ArcFace tells apart in training.
      transformer: the class of the transformers.
    """

    config: LoFTRConfig
    dim: int
    roi: float
    identities: int
    transformer: type[FeatureTransformer] = FeatureTransformer

    def setup(self) -> None:
        """Two branches, two heads, and ArcFace's directions, one for each identity."""
        self.whole = DenseRegModel(self.config, self.transformer)
        self.roi_branch = DenseRegModel(self.config, self.transformer, name="roi")
        self.heads = [nn.Dense(self.dim, name=f"head_{name}") for name in BRANCHES]
        shape = (self.identities, len(BRANCHES) * self.dim)
        self.prototypes = self.param("prototypes", nn.initializers.normal(1.0), shape, jnp.float32)

    def __call__(self, image0: Array, image1: Array, train: bool = False) -> tuple[Array, Array, DenseMatch]:
        """The embeddings of both images [B, H, W, 1], and what Module 1 in the branch of the whole says of the pair."""
        both = self.embed(jnp.concatenate([image0, image1]), train)
        return both[: len(image0)], both[len(image0) :], self.whole(image0, image1, train)

    def embed(self, image: Array, train: bool = False) -> Array:
        """[B, H, W, 1] → [B, 2 · dim], unit length."""
        made = []
        seen = (image, centre(image, self.roi, self.config.resolution[0]))
        for branch, head, part in zip((self.whole, self.roi_branch), self.heads, seen, strict=True):
            coarse, _ = branch.backbone(part, train)
            features, _ = branch.transformed(coarse, coarse)
            made.append(unit(head(jnp.concatenate([features.mean(1), features.max(1)], -1).astype(jnp.float32))))
        return unit(jnp.concatenate(made, -1))

    def cosines(self, embedding: Array) -> Array:
        """[B, 2 · dim] → [B, identities], the cosine with each identity's direction."""
        return embedding @ unit(self.prototypes).T


def centre(image: Array, part: float, stride: int) -> Array:
    """The middle of [B, H, W, C], ``part`` of each side, in whole cells and at least two of them."""
    sides = [max(2, round(length * part / stride)) * stride for length in image.shape[1:3]]
    top, left = ((length - side) // 2 for length, side in zip(image.shape[1:3], sides, strict=True))
    return image[:, top : top + sides[0], left : left + sides[1]]


def unit(x: Array) -> Array:
    """Rows of length one."""
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
