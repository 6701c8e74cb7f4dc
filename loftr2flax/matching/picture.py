"""Matches as a picture, with the numbers that a person wants above it."""

from __future__ import annotations

import numpy as np

from loftr2flax.matching.run import ImageMatches
from loftr2flax.pictures import Drawing, Panel, Photograph
from loftr2flax.pictures import draw_matches as draw

_ENOUGH = 10  # matches from which on shares of them mean something


def draw_matches(found: ImageMatches) -> bytes:
    """A PNG file: both photographs, a line for each match, counts, confidence, weights, sizes and time."""
    left, right = (
        Panel(photo.colour, points, _caption(photo, seen))
        for photo, points, seen in zip(found.photographs, (found.points0, found.points1), found.seen, strict=True)
    )
    title = f"{len(found):,} {'match' if len(found) == 1 else 'matches'}"
    if found.found > len(found):
        title = f"the {len(found):,} surest of {found.found:,} matches"
    about = [f"confidence above {found.threshold:g}"]
    if found.median is not None:
        about.append(f"median {found.median:.2g}")
    if len(found) >= _ENOUGH:
        low, high = np.quantile(found.confidence, (0.1, 0.9))
        about.append(f"8 of 10 between {low:.2g} and {high:.2g}")
    lines = [" · ".join(about), f"{found.weights.path.name} · {found.weights.model} · {found.run_seconds:.2f} s"]
    return draw(Drawing(left, right, found.confidence, title, lines, found.threshold))


def _caption(photo: Photograph, seen: tuple[int, int]) -> str:
    width, height = photo.size  # a plain x below: Pillow's own font has no ×
    smaller = f", seen at {seen[0]} x {seen[1]}" if seen != photo.size else ""
    return f"{photo.path.name} · {width} x {height}{smaller}"
