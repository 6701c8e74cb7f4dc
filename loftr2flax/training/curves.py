"""The curves of a run as a PNG: the loss, and what the evaluation says, over the epochs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 560, 300, 56
_INK, _GRID, _LINES = (30, 30, 30), (225, 225, 225), ((31, 90, 170), (200, 80, 30), (40, 130, 70))

Curve = tuple[str, Sequence[tuple[float, float]]]
"""A name, and points (x, y)."""


def draw_curves(rows: Sequence[dict[str, Any]]) -> bytes:
    """A PNG with a panel for the loss and one for each figure of the evaluation that changes."""
    panels: list[Curve] = [("loss", _points(rows, "train", "loss"))]
    names = [name for row in rows if row["kind"] == "evaluation" for name in row]
    for name in dict.fromkeys(names):
        points = _points(rows, "evaluation", name)
        if name not in ("kind", "step", "epoch") and len({y for _, y in points}) > 1:
            panels.append((name.replace("_", " "), points))
    columns = min(2, len(panels))
    picture = Image.new("RGB", (columns * WIDTH, -(-len(panels) // columns) * HEIGHT), "white")
    for number, panel in enumerate(panels):
        corner = (number % columns * WIDTH, number // columns * HEIGHT)
        picture.paste(_panel(panel, _LINES[number % len(_LINES)]), corner)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _points(rows: Sequence[dict[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[name]) for row in rows if row["kind"] == kind and row.get(name) is not None]


def _panel(curve: Curve, colour: tuple[int, int, int]) -> Image.Image:
    name, points = curve
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    draw.text((MARGIN, 12), name, _INK, font)
    if not points:
        return image
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(0.0, *(y for _, y in points)), max(y for _, y in points)
    right, high = max(right, left + 1e-9), max(high, low + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = MARGIN + (x - left) / (right - left) * (WIDTH - 1.4 * MARGIN)
        return across, HEIGHT - 0.8 * MARGIN - (y - low) / (high - low) * (HEIGHT - 1.6 * MARGIN)

    for part in range(5):
        value = low + part / 4 * (high - low)
        level = place(left, value)[1]
        draw.line([(MARGIN, level), (WIDTH - 0.4 * MARGIN, level)], _GRID)
        draw.text((MARGIN - 6, level), f"{value:.3g}", _INK, font, anchor="rm")
        when = left + part / 4 * (right - left)
        draw.text((place(when, low)[0], HEIGHT - 0.6 * MARGIN), f"{when:.3g}", _INK, font, anchor="mm")
    draw.text((WIDTH / 2, HEIGHT - 12), "epoch", _INK, font, anchor="mm")
    draw.line([place(x, y) for x, y in points] if len(points) > 1 else [place(*points[0])] * 2, colour, 2)
    return image
