"""What the tests of parity share about their network: its heads, and the size of its images."""

from __future__ import annotations

HEADS = 4
SIZES = ((64, 88),)
"""One size, and the run with masks that always comes: enough for a mistake, and compiled once for all tests."""
