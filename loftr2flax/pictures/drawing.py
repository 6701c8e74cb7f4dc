"""Two photographs side by side, each match a line in the colour of its confidence.

The same values give the same pixels and, with one version of Pillow, the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from loftr2flax.pictures.colours import BACKGROUND, FAINT, TEXT, Colour, ramp

WIDTH = 1600
"""Pixels of a drawing's width, less where images are small or tall."""

_TALLEST = 1000
_NARROWEST = 760  # room for the header
_MARGIN = 28
_GAP = 14
_HEADER = 116
_FOOTER = 54
_ENLARGE = 4  # at most, so that small images are not a blur
_SMOOTH = 3  # lines are drawn this much larger, then averaged
_CROWD = 250  # matches from which on lines are finer

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the drawing."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One side: the image [H, W, 3] uint8, the points [N, 2] (x, y) in its pixels, and the line below it."""

    colour: np.ndarray
    points: np.ndarray
    caption: str


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is drawn.

    Attributes:
      left, right: the two images with as many points each.
      confidence: [N], 0 … 1.
      title: the large line ("87 matches").
      lines: up to two smaller lines below it.
      low: the confidence at which the colours begin, usually the threshold; they end at the surest match.
    """

    left: Panel
    right: Panel
    confidence: np.ndarray
    title: str
    lines: Sequence[str] = ()
    low: float = 0.2

    @property
    def high(self) -> float:
        """The confidence at which the colours end: that of the surest match, rounded up to a tenth or a hundredth."""
        top = float(np.max(self.confidence, initial=0))
        parts = 10 if top > 0.1 else 100
        return max(math.ceil(top * parts) / parts, self.low + 1 / parts)


def draw_matches(drawing: Drawing) -> bytes:
    """The drawing as a PNG file."""
    boxes, size = _layout(drawing.left.colour, drawing.right.colour)
    canvas = Image.new("RGB", size, BACKGROUND)
    for panel, box in zip((drawing.left, drawing.right), boxes, strict=True):
        _paste(canvas, panel.colour, box)
    canvas.paste(layer := _lines(drawing, boxes, size), mask=layer.getchannel("A"))
    pen = ImageDraw.Draw(canvas)
    for panel, box in zip((drawing.left, drawing.right), boxes, strict=True):
        _text(pen, (box[0], box[3] + 12), panel.caption, 17, FAINT, box[2] - box[0])
    legend = _legend(canvas, pen, drawing.low, drawing.high)
    _text(pen, (_MARGIN, 18), drawing.title, 32, TEXT, legend - 2 * _MARGIN)
    for number, line in enumerate(drawing.lines[:2]):
        _text(pen, (_MARGIN, 57 + 22 * number), line, 16, FAINT, legend - 2 * _MARGIN)
    file = io.BytesIO()
    canvas.save(file, "PNG", compress_level=9)
    return file.getvalue()


def _layout(left: np.ndarray, right: np.ndarray) -> tuple[tuple[Box, Box], tuple[int, int]]:
    """Where the images go, both of one height, and the size of the drawing."""
    aspects = [image.shape[1] / image.shape[0] for image in (left, right)]
    room = WIDTH - 2 * _MARGIN - _GAP
    height = max(int(min(room / sum(aspects), _TALLEST, _ENLARGE * max(len(left), len(right)))), 1)
    first, second = (max(round(height * aspect), 1) for aspect in aspects)
    width = max(first + second + _GAP + 2 * _MARGIN, _NARROWEST)
    start = (width - first - second - _GAP) // 2
    top, bottom = _HEADER, _HEADER + height
    boxes = (start, top, start + first, bottom), (start + first + _GAP, top, start + first + _GAP + second, bottom)
    return boxes, (width, bottom + _FOOTER)


def _paste(canvas: Image.Image, colour: np.ndarray, box: Box) -> None:
    """The photograph, a little darker and greyer than it is: the lines are what the drawing is about."""
    image = Image.fromarray(colour)
    shown = image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS)
    muted = Image.blend(shown, shown.convert("L").convert("RGB"), 0.5)
    canvas.paste(Image.blend(muted, Image.new("RGB", shown.size, BACKGROUND), 0.25), box[:2])


def _lines(drawing: Drawing, boxes: tuple[Box, Box], size: tuple[int, int]) -> Image.Image:
    """The matches alone on a transparent layer, the surest on top."""
    layer = Image.new("RGBA", (size[0] * _SMOOTH, size[1] * _SMOOTH))
    pen = ImageDraw.Draw(layer)
    starts, ends = (
        _placed(panel, box) * _SMOOTH for panel, box in zip((drawing.left, drawing.right), boxes, strict=True)
    )
    crowded = len(drawing.confidence) > _CROWD
    width, dot = (_SMOOTH, 2 * _SMOOTH) if crowded else (round(1.6 * _SMOOTH), 3 * _SMOOTH)
    colours = ramp(drawing.confidence, drawing.low, drawing.high)
    order = np.argsort(drawing.confidence, kind="stable")
    for n in order:
        pen.line([*map(float, (*starts[n], *ends[n]))], (*map(int, colours[n]), 170 if crowded else 210), width)
    for n in order:  # above all lines, so that both ends of each can be seen
        for x, y in (starts[n], ends[n]):
            pen.ellipse([x - dot - 2, y - dot - 2, x + dot + 2, y + dot + 2], (0, 0, 0, 190))
            pen.ellipse([x - dot, y - dot, x + dot, y + dot], (*map(int, colours[n]), 255))
    return layer.reduce(_SMOOTH)


def _placed(panel: Panel, box: Box) -> np.ndarray:
    """The panel's points [N, 2] in pixels of the drawing, (0, 0) being a corner there and not a centre."""
    height, width = panel.colour.shape[:2]
    scale = np.array([(box[2] - box[0]) / width, (box[3] - box[1]) / height])
    placed: np.ndarray = (np.asarray(panel.points, np.float64).reshape(-1, 2) + 0.5) * scale + box[:2]
    return placed


def _legend(canvas: Image.Image, pen: ImageDraw.ImageDraw, low: float, high: float) -> int:
    """The colour bar at the top right, its ends labelled; returns where it begins."""
    width, height = 220, 14
    left, top = canvas.width - _MARGIN - width, 48
    colours = ramp(np.linspace(low, high, width), low, high)
    canvas.paste(Image.fromarray(np.repeat(colours[None], height, 0)), (left, top))
    pen.text((left, top - 26), "confidence", TEXT, _font(16))
    for value, share, anchor in ((low, 0.0, "la"), ((low + high) / 2, 0.5, "ma"), (high, 1.0, "ra")):
        pen.text((left + share * width, top + height + 6), f"{value:.2g}", FAINT, _font(15), anchor)
    return left


def _text(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, room: int) -> None:
    """A line of text, its end left out where it is longer than ``room`` pixels."""
    font = _font(size)
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    while pen.textlength(shown, font) > room and len(shown) > 1:
        shown = shown[:-2].rstrip() + "…"
    pen.text(at, shown, colour, font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow carries: the same letters on every machine."""
    return ImageFont.load_default(size)
