"""Two trees of arrays and what differs between them."""

from loftr2flax.compare.weights import WeightsVerdict as WeightsVerdict
from loftr2flax.compare.weights import verify_weights as verify_weights
