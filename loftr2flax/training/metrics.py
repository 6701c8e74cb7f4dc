"""The figures of a run, one JSON object a line, and TensorBoard's files where that is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


class Metrics:
    """``metrics.jsonl`` in a folder: rows of kind ``train`` and ``evaluation``, each with its step and epoch.

    A resumed run drops what was written after the step at which it resumes, so that the file reads as if nothing had
    happened; a number that JSON cannot hold is null.
    """

    def __init__(self, folder: Path, step: int, enabled: bool = True) -> None:
        self.rows = [row for row in read_metrics(folder) if row["step"] <= step] if step else []
        self._file = folder / FILE
        self._enabled = enabled
        if enabled:
            self._file.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._board = _tensorboard(folder) if enabled else None

    def add(self, kind: str, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        """One row."""
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        row = {"kind": kind, "step": step, "epoch": round(epoch, 6), **finite}
        self.rows.append(row)
        if self._enabled:
            with self._file.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The rows of a kind, in order."""
        return [row for row in self.rows if row["kind"] == kind]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run; a last line that was cut off is left out."""
    rows = []
    path = folder / FILE
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
