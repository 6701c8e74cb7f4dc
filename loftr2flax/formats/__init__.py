"""One file for each format: bytes on one side, leaves on the other. Formats know nothing of mappings."""

from loftr2flax.formats.leaf_bytes import leaf_blocks
from loftr2flax.formats.limits import Limits
from loftr2flax.formats.open import open_checkpoint

__all__ = ["Limits", "leaf_blocks", "open_checkpoint"]
