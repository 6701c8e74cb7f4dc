"""The order in which people count: ``layers.2`` before ``layers.10``."""

from __future__ import annotations

import re
from functools import cache

_DIGITS = re.compile(r"([0-9]+)")

Key = tuple[object, ...]


def natural_key(name: str, separator: str) -> Key:
    """A key to sort names by, segment by segment, so that a branch stays together; runs of digits are numbers."""
    return tuple(map(_segment_key, name.split(separator)))


@cache
def _segment_key(segment: str) -> Key:
    # a number is compared by its length, then its digits: int() refuses a name of 5,000 of them
    parts = _DIGITS.split(segment)
    return tuple(
        (len(part.lstrip("0")), part.lstrip("0"), part) if odd else part
        for part, odd in zip(parts, (n % 2 for n in range(len(parts))), strict=True)
    )
