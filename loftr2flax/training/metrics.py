"""The figures of a run, one JSON object a line, and TensorBoard's files where that is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from loftr2flax.errors import CorruptFile
from loftr2flax.formats.atomic import new_file

FILE = "metrics.jsonl"
KINDS = ("train", "evaluation")


class Metrics:
    """``metrics.jsonl`` in a folder: rows of kind ``train`` and ``evaluation``, each with its step and epoch.

    A resumed run drops what was written after the step at which it resumes, so that the file reads as if nothing had
    happened; a number that JSON cannot hold is null. A new run sets rows that are there aside.
    """

    def __init__(self, folder: Path, step: int, enabled: bool = True) -> None:
        self.rows = [row for row in read_metrics(folder) if row["step"] <= step] if step else []
        self._file = folder / FILE
        self._enabled = enabled
        if enabled:
            if not step:
                _set_aside(self._file)
            with new_file(self._file, force=True) as file:
                file.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())
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
            self._board.flush()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The rows of a kind, in order."""
        return [row for row in self.rows if row["kind"] == kind]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run; a last line that was cut off is left out.

    Raises:
      CorruptFile: another line is no row.
    """
    path = folder / FILE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            row = None
        if not _is_row(row):
            raise CorruptFile(f"{path}: line {number} is no row of metrics", "mend that line, or move the file away")
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or row.get("kind") not in KINDS:
        return False
    figures = [value for name, value in row.items() if name != "kind"]
    whole = row.get("step")
    return (
        all(value is None or (type(value) in (int, float) and math.isfinite(value)) for value in figures)
        and type(whole) is int
        and whole >= 0
        and row.get("epoch") is not None
    )


def _set_aside(path: Path) -> None:
    """What a run left that saved no state keeps its rows, as ``metrics.1.jsonl`` and so on."""
    if path.exists() and path.stat().st_size:
        names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
        path.rename(next(name for name in names if not name.exists()))


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
