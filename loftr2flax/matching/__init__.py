"""The converted network at work: two photographs in, matches in their pixels out. Needs the extra `parity`.

from loftr2flax.matching import match_images

found = match_images("left.png", "right.png", "loftr.npz")
found.points0, found.points1, found.confidence
"""

from loftr2flax.matching.run import ImageMatches as ImageMatches
from loftr2flax.matching.run import match_images as match_images
from loftr2flax.matching.weights import Weights as Weights
from loftr2flax.matching.weights import load_weights as load_weights
