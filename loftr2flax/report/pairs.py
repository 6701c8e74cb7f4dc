"""Matches of torch and of Flax, drawn side by side as SVG over the images of the run, image 0 above image 1.

Each image is in the file once, as a JPEG in a data URI; both drawings refer to it. A match that one side alone has is
drawn in a colour of its own, dashed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loftr2flax.extras import needed
from loftr2flax.markup import Markup, counted, element, joined
from loftr2flax.parity.values import MatchComparison, PairRun, Points

with needed("a report with pictures", "parity", "PIL"):
    from PIL import Image

    from loftr2flax.pictures.colours import css, ramp

MOST_LINES = 150
"""Lines in a drawing; where there are more matches, the surest, and all that one side alone has."""

_SIDE = 480
_GAP = 6
_NEAR = 4.0  # pixels: half a coarse cell, and far more than rounding


@dataclass(frozen=True)
class Layout:
    """Where the two images of a drawing stand, in its own pixels: one above the other, or beside it if both are tall.

    Attributes:
      originals, sizes: width and height of each image, in its own pixels and as drawn.
      second: the top left corner of image 1; that of image 0 is (0, 0).
      whole: width and height of the drawing.
    """

    originals: tuple[tuple[int, int], tuple[int, int]]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    second: tuple[int, int]
    whole: tuple[int, int]

    @classmethod
    def of(cls, shape0: tuple[int, ...], shape1: tuple[int, ...]) -> Layout:
        """The layout for images of these shapes, [H, W]."""
        (height0, width0), (height1, width1) = shape0, shape1
        if width0 + width1 < height0 + height1:  # tall: of one height, side by side
            first, second = round(_SIDE * width0 / height0), round(_SIDE * width1 / height1)
            sizes = (first, _SIDE), (second, _SIDE)
            corner, whole = (first + _GAP, 0), (first + _GAP + second, _SIDE)
        else:
            first, second = round(_SIDE * height0 / width0), round(_SIDE * height1 / width1)
            sizes = (_SIDE, first), (_SIDE, second)
            corner, whole = (0, first + _GAP), (_SIDE, first + _GAP + second)
        return cls(((width0, height0), (width1, height1)), sizes, corner, whole)

    def placed(self, side: int, points: np.ndarray) -> np.ndarray:
        """Points [N, 2] of image ``side`` → in pixels of the drawing."""
        scale = np.array(self.sizes[side]) / np.array(self.originals[side])
        corner = np.array(self.second if side else (0, 0))
        moved: np.ndarray = (points.astype(np.float64).reshape(-1, 2) + 0.5) * scale + corner
        return moved


def match_pictures(run: PairRun, number: int) -> Markup | None:
    """Both drawings of a run, of the first pair of a batch; None where it has no images or no matches to show.

    Args:
      run: the run.
      number: of the run in the page, for names that are its own.
    """
    if run.matches is None or len(run.inputs.images) != 2:
        return None
    torch, flax = run.matches.torch.of_pair(0), run.matches.flax.of_pair(0)
    if not (len(torch) or len(flax)):
        return None
    layout = Layout.of(*(image.shape for image in run.inputs.images))
    stored = (_image(run.inputs.images[n], layout.sizes[n], f"run{number}-image{n}") for n in (0, 1))
    store = element("svg", *stored, class_="store", aria_hidden="true")
    sets = (("torch", torch, flax), ("Flax", flax, torch))
    figures = (_figure(name, mine, other, run, number, layout) for name, mine, other in sets)
    return joined(store, element("div", *figures, class_="pair"))


def _image(image: np.ndarray, size: tuple[int, int], name: str) -> Markup:
    grey = Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    file = io.BytesIO()
    grey.save(file, "JPEG", quality=82, optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    uri = f"data:image/jpeg;base64,{data}"
    return element("image", id=name, href=uri, width=size[0], height=size[1], preserveAspectRatio="none")


def _figure(name: str, mine: Points, other: Points, run: PairRun, number: int, layout: Layout) -> Markup:
    starts, ends = layout.placed(0, mine.points0), layout.placed(1, mine.points1)
    alone = ~shared(mine, other)
    order = np.argsort(mine.confidence, kind="stable")
    shown = [n for rank, n in enumerate(order) if alone[n] or rank >= len(order) - MOST_LINES]
    low = float(mine.confidence.min(initial=1.0))
    colours = ramp(mine.confidence, low, max(float(mine.confidence.max(initial=0.0)), low + 1e-6))
    lines = []
    for n in shown:
        (x0, y0), (x1, y1) = starts[n], ends[n]
        colour = None if alone[n] else css(colours[n])
        kind = "alone" if alone[n] else "common"
        dots = f"M{x0:.1f} {y0:.1f}h0M{x1:.1f} {y1:.1f}h0"  # lines of no length with round ends
        lines.append(element("path", d=f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}", class_=kind, stroke=colour))
        lines.append(element("path", d=dots, class_=f"ends {kind}", stroke=colour))
    only = int(alone.sum())
    told = f"{name}: {counted(len(mine), 'match', 'matches')}" + (
        f", {only:,} that the other does not have" if only else ""
    )
    if len(shown) < len(mine):
        told += f" ({len(shown):,} drawn, the surest)"
    drawing = element(
        "svg",
        element("title", told),
        element("use", href=f"#run{number}-image0"),
        element("use", href=f"#run{number}-image1", x=layout.second[0], y=layout.second[1]),
        *lines,
        viewBox=f"0 0 {layout.whole[0]} {layout.whole[1]}",
        role="img",
        class_="matches",
    )
    return element("figure", drawing, element("figcaption", told))


def shared(mine: Points, other: Points) -> np.ndarray:
    """Which of my matches the other side has too: [N] bool. Same cell of image 0, same place in image 1."""
    there: dict[tuple[int, ...], list[np.ndarray]] = {}
    for start, end in zip(other.points0, other.points1, strict=True):
        there.setdefault(tuple(np.rint(start).astype(int)), []).append(end)
    found = [
        any(np.abs(end - one).max() < _NEAR for one in there.get(tuple(np.rint(start).astype(int)), ()))
        for start, end in zip(mine.points0, mine.points1, strict=True)
    ]
    return np.array(found, bool)


def flips_told(compared: Sequence[MatchComparison]) -> str:
    """The comparison of two sets, or of several pairs of sets, in words."""
    text = f"{counted(sum(one.common for one in compared), 'match', 'matches')} in common"
    flips, ties = sum(len(one.flips) for one in compared), sum(one.ties for one in compared)
    if not flips:
        return f"{text}, none that one side alone has"
    alone = f"{flips:,} that one side alone has"
    if ties == flips:
        return f"{text}, {alone}: {'a tie' if ties == 1 else 'all ties'}, decided by rounding"
    return f"{text}, {alone}: {flips - ties:,} that rounding does not explain"
