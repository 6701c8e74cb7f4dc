"""The curves of a run as a PNG: the loss, and what the evaluation says, over the epochs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLUMNS = 2
_NOT_DRAWN = ("kind", "step", "epoch")


def draw_curves(rows: Sequence[dict[str, Any]]) -> bytes:
    """A PNG with a panel for the loss and one for each figure of the evaluation that changes."""
    panels = {"loss": _points(rows, "train", "loss")}
    for name in dict.fromkeys(name for row in rows if row["kind"] == "evaluation" for name in row):
        points = _points(rows, "evaluation", name)
        if name not in _NOT_DRAWN and len({y for _, y in points}) > 1:
            panels[name.replace("_", " ")] = points
    height = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(5.6 * _COLUMNS, 3 * height), layout="constrained")  # no pyplot: it keeps what it draws
    for number, (name, points) in enumerate(panels.items(), start=1):
        panel = figure.add_subplot(height, _COLUMNS, number)
        panel.plot(*zip(*points, strict=True) if points else ((), ()), marker="." if len(points) < 50 else "")
        panel.set(title=name, xlabel="epoch")
        panel.grid(alpha=0.3)
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png")
    return file.getvalue()


def _points(rows: Sequence[dict[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[name]) for row in rows if row["kind"] == kind and row.get(name) is not None]
