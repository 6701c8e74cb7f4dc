"""Names cut to branches of their tree, for summaries and for pages that would be too long."""

from __future__ import annotations

import re

DEEPEST = 8
"""Deeper than any leaf that is worth telling from its neighbours."""

_SEPARATOR = re.compile(r"[./]")


def branch(name: str, depth: int) -> str:
    """The first segments of a name: ``a.b`` of ``a.b.c`` at depth 2; the whole name where it has no more."""
    ends = [m.start() for m in _SEPARATOR.finditer(name)]
    return name[: ends[depth - 1]] if len(ends) >= depth else name


def last_segment(name: str) -> str:
    """``kernel`` of ``a/b/kernel``."""
    return _SEPARATOR.split(name)[-1]


def common_tail(one: str, other: str) -> int:
    """How many segments two names have in common, counted from the end."""
    count = 0
    for mine, theirs in zip(reversed(_SEPARATOR.split(one)), reversed(_SEPARATOR.split(other)), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
