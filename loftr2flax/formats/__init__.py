"""One file for each format: bytes on one side, leaves on the other. Formats know nothing of mappings."""

from loftr2flax.formats.open import open_checkpoint

__all__ = ["open_checkpoint"]
