"""One file for each format: bytes on one side, leaves on the other. Formats know nothing of mappings."""

from loftr2flax.formats.leaf_bytes import leaf_blocks
from loftr2flax.formats.open import open_checkpoint
from loftr2flax.limits import Limits

__all__ = ["Limits", "leaf_blocks", "open_checkpoint"]
