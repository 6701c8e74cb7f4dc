"""The stages of all runs folded into one row each: what the curves show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loftr2flax.parity.values import Judgement, PairRun, StageRow


@dataclass(frozen=True)
class Track:
    """A stage over all runs.

    Attributes:
      stage: its name.
      rows: the stage in each run; None where the run lacks it.
    """

    stage: str
    rows: tuple[StageRow | None, ...]

    @property
    def drift(self) -> Judgement | None:
        """The array of the free runs nearest to its limit or furthest beyond it; None where nothing was compared."""
        return _worst([row.worst_drift for row in self.rows if row])

    @property
    def own(self) -> Judgement | None:
        """The same of the stage by itself."""
        return _worst([row.worst_own for row in self.rows if row])

    @property
    def limit(self) -> float:
        """What r may be, NaN where nothing was compared."""
        return min((j.limit for j in (self.drift, self.own) if j is not None), default=math.nan)

    @property
    def passed(self) -> bool:
        """Whether the stage passes in every run that has it, and one has."""
        rows = [row for row in self.rows if row]
        return bool(rows) and all(row.passed for row in rows)


def tracks(runs: Sequence[PairRun]) -> tuple[Track, ...]:
    """One track for each stage, in the order in which the stages first come."""
    by_stage = [{row.stage: row for row in run.stages} for run in runs]
    stages = dict.fromkeys(row.stage for run in runs for row in run.stages)
    return tuple(Track(stage, tuple(rows.get(stage) for rows in by_stage)) for stage in stages)


def short(stage: str, room: int = 16) -> str:
    """A stage's name for narrow places: ``loftr_coarse/layers.3`` → ``coarse 3``, others by their end."""
    shown = stage.removeprefix("loftr_").replace("/layers.", " ").replace("_", " ")
    return shown if len(shown) <= room else "…" + shown[1 - room :]


def _worst(judged: Sequence[Judgement | None]) -> Judgement | None:
    return max((j for j in judged if j is not None), key=lambda j: j.excess, default=None)
