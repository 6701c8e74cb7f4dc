"""What `verify parity` finds, as frozen values that hold no network and no open file.

    report.passed, report.exit_code              # the verdict
    report.culprit                               # the first stage that is wrong by itself, and why
    for run in report.runs:                      # one for each pair of images
        for row in run.stages:                   # one for each stage, in the order in which they run
            row.drift_ratio, row.own_ratio       # the two curves

*Drift* is the free run: each stage gets what the same network made before it. *Own error* is one stage alone, from
torch's own input; it alone says where a mistake is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

PASS, FAIL, NOTHING = 0, 1, 5
"""Exit codes: the same function, not the same, nothing was compared."""


@dataclass(frozen=True, slots=True)
class Spot:
    """The place where an error is largest.

    Attributes:
      error: the largest absolute error, relative error or distance in float32 steps (ulp).
      index: where, in the array.
      expected, actual: torch's float64 value there, and the candidate's.
    """

    error: float
    index: tuple[int, ...]
    expected: float
    actual: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """One array against the float64 oracle.

    Attributes:
      array: its name in the trace ("backbone/coarse/0").
      ratio: r = rmse(candidate32, torch64) / rmse(torch32, torch64): how many times torch's own rounding error. 0
        where both are exact, inf where torch's float32 is exact or there is no number to compute it from.
      limit: what r may be.
      reason: why it does not pass, one line; "" where it does.
      rmse, reference_rmse: numerator and denominator of r.
      elements: how many were compared.
      max_abs, max_rel, max_ulp: the worst elements; None where nothing could be compared.
      cosine: of the two arrays as vectors; NaN where one of them is zero.
    """

    array: str
    ratio: float
    limit: float
    reason: str = ""
    rmse: float = math.nan
    reference_rmse: float = math.nan
    elements: int = 0
    max_abs: Spot | None = None
    max_rel: Spot | None = None
    max_ulp: Spot | None = None
    cosine: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether there is no reason against it."""
        return not self.reason

    @property
    def excess(self) -> float:
        """r as a share of its limit: above 1 is a failure; inf for a failure of another kind."""
        share = self.ratio / self.limit
        return share if self.passed or share > 1 else max(share, 1.0) if math.isfinite(share) else math.inf


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage in one run.

    Attributes:
      stage: its name ("loftr_coarse/layers.3").
      drift: each of its arrays in the free run.
      own: each of its arrays computed from torch's input; empty where the stage is absent.
      missing: arrays that the candidate did not give, by name.
    """

    stage: str
    drift: tuple[Judgement, ...]
    own: tuple[Judgement, ...]
    missing: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every array is there and within its limit, on both curves."""
        judged = (*self.drift, *self.own)
        return bool(judged) and not self.missing and all(j.passed for j in judged)

    @property
    def wrong_by_itself(self) -> bool:
        """Whether the stage makes an error beyond the limit from torch's own input, or is not there."""
        return bool(self.missing) or not self.own or not all(j.passed for j in self.own)

    @property
    def worst_drift(self) -> Judgement | None:
        """The array of the free run nearest to its limit or furthest beyond it."""
        return max(self.drift, key=lambda j: j.excess, default=None)

    @property
    def worst_own(self) -> Judgement | None:
        """The same of the stage by itself."""
        return max(self.own, key=lambda j: j.excess, default=None)

    @property
    def drift_ratio(self) -> float:
        """r of `worst_drift`; NaN where nothing was compared."""
        return self.worst_drift.ratio if self.worst_drift else math.nan

    @property
    def own_ratio(self) -> float:
        """r of `worst_own`; NaN where nothing was compared."""
        return self.worst_own.ratio if self.worst_own else math.nan


@dataclass(frozen=True, slots=True)
class Points:
    """Matches as points in pixels.

    Attributes:
      points0, points1: (x, y) in image 0 and in image 1, both [M, 2].
      confidence: [M].
      batch: which pair of the batch each is of, [M].
    """

    points0: np.ndarray
    points1: np.ndarray
    confidence: np.ndarray
    batch: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)

    def of_pair(self, number: int) -> Points:
        """Those of one pair of the batch."""
        own = self.batch == number
        return Points(self.points0[own], self.points1[own], self.confidence[own], self.batch[own])


@dataclass(frozen=True, slots=True)
class Flip:
    """A match that only one side has.

    Attributes:
      ids: batch, coarse cell of image 0, coarse cell of image 1.
      side: who has it, "torch" or "flax".
      margin: how far the oracle's confidence would have to move for the oracle to decide the other way.
      noise: what rounding can do to that margin.
    """

    ids: tuple[int, int, int]
    side: Literal["torch", "flax"]
    margin: float
    noise: float

    @property
    def tie(self) -> bool:
        """Whether rounding alone decides it."""
        return self.margin <= self.noise


@dataclass(frozen=True, slots=True)
class MatchComparison:
    """The matches of torch in float32 and of the candidate, as sets.

    Attributes:
      common: how many both have.
      flips: those that one side alone has.
      torch, flax: all of them as points, for a picture.
    """

    common: int
    flips: tuple[Flip, ...]
    torch: Points
    flax: Points

    @property
    def ties(self) -> int:
        """Flips that rounding alone decides."""
        return sum(flip.tie for flip in self.flips)

    @property
    def differences(self) -> int:
        """Flips that rounding does not explain."""
        return len(self.flips) - self.ties

    @property
    def passed(self) -> bool:
        """Whether the sets are equal up to ties."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class InputsInfo:
    """What a run was fed with.

    Attributes:
      title: for people, "96×136 with 120×160, masks".
      origin: "procedural, seed 0" or the names of the image files.
      arrays: shape of each input by name.
      images: both images as [H, W] float32 in 0 … 1, for a picture; () for a network that takes none.
      sha256: of all input arrays.
    """

    title: str
    origin: str
    arrays: Mapping[str, tuple[int, ...]]
    images: tuple[np.ndarray, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class PairRun:
    """One set of inputs through both networks."""

    inputs: InputsInfo
    stages: tuple[StageRow, ...]
    matches: MatchComparison | None = None

    @property
    def passed(self) -> bool:
        """Whether all stages pass and the matches are equal up to ties; False where nothing was compared."""
        return (
            self.compared > 0
            and all(row.passed for row in self.stages)
            and (self.matches is None or self.matches.passed)
        )

    @property
    def compared(self) -> int:
        """Arrays that were judged."""
        return sum(len(row.drift) + len(row.own) for row in self.stages)

    @property
    def culprit_row(self) -> StageRow | None:
        """The first stage that is wrong by itself."""
        return next((row for row in self.stages if row.wrong_by_itself), None)


@dataclass(frozen=True, slots=True)
class LeafFinding:
    """A leaf of the target that is not bit for bit what the mapping names.

    Attributes:
      leaf: its path.
      stage: the stage that it belongs to, or "".
      cause: short, from the table in `weights`: "transposed", "swapped", "at its initial value", ….
      detail: one line for people.
    """

    leaf: str
    stage: str
    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class WeightsCheck:
    """Every leaf of the target against the tensor that the mapping names."""

    compared: int
    numbers: int
    findings: tuple[LeafFinding, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was compared, and all of it is equal bit for bit."""
        return self.compared > 0 and not self.findings


@dataclass(frozen=True, slots=True)
class Culprit:
    """Where the first mistake is made, and the likely cause.

    Attributes:
      stage: the first stage that is wrong by itself; "" where the weights alone tell.
      cause: one line, such as "LayerNorm epsilon 1e-06 instead of 1e-05" or "layers_3/q_proj/kernel is transposed".
      kind: "weights", "computation", "missing" or "unknown".
      evidence: how the cause was established: the leaf, or r with the change applied to torch.
      leaves: the leaves concerned.
      run: index of the run in `ParityReport.runs`, or -1.
    """

    stage: str
    cause: str
    kind: Literal["weights", "computation", "missing", "unknown"]
    evidence: str = ""
    leaves: tuple[str, ...] = ()
    run: int = -1


@dataclass(frozen=True, slots=True)
class GradientCheck:
    """The gradient of one scalar of all outputs, leaf by leaf through the mapping.

    Attributes:
      leaves: a judgement for each leaf (its `array` is the leaf's path; tied leaves are summed and folded into one).
      inputs: title of the run.
    """

    leaves: tuple[Judgement, ...]
    inputs: str = ""

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it is within the limit."""
        return bool(self.leaves) and all(leaf.passed for leaf in self.leaves)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which leaves the runs exercised: those with a gradient other than zero.

    Attributes:
      exercised: path → share of the leaf's elements with a gradient, 0 … 1, the largest over the runs.
      unreached: leaves that no output depends on.
    """

    exercised: Mapping[str, float]
    unreached: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every leaf was reached."""
        return bool(self.exercised) and not self.unreached


@dataclass(frozen=True)
class ParityReport:
    """The verdict and everything behind it.

    Attributes:
      source, target, mapping: the files and the mapping's name ("loftr/1"). With a golden bundle, `source` is it.
      network: one line: "LoFTR at 1/8, 8 coarse layers of width 256".
      runs: one for each set of inputs.
      weights: the bit-for-bit comparison that comes before any run.
      culprit: where the mistake is; None where all passes.
      gradients: with ``--gradients``.
      coverage: None where the networks cannot give gradients.
      config: the fields of the network's config that were used.
      environment: versions, threads, precisions and flags, in the order in which they are printed.
      notes: things that a user should be told, each one line.
      seconds: wall time.
    """

    source: str
    target: str
    mapping: str
    network: str
    runs: tuple[PairRun, ...]
    weights: WeightsCheck
    culprit: Culprit | None = None
    gradients: GradientCheck | None = None
    coverage: Coverage | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def compared(self) -> int:
        """Arrays of all runs that were judged."""
        return sum(run.compared for run in self.runs)

    @property
    def passed(self) -> bool:
        """Whether something was compared, and all of it, weights, stages, matches, gradients and coverage, passes."""
        parts = (self.weights, *self.runs, self.gradients, self.coverage)
        return self.compared > 0 and all(part.passed for part in parts if part is not None)

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 5 nothing compared."""
        if self.passed:
            return PASS
        return FAIL if self.compared or self.weights.findings else NOTHING

    @property
    def worst(self) -> tuple[int, str, Judgement] | None:
        """Run, curve ("drift" or "own") and judgement of the array nearest to its limit or furthest beyond it."""
        judged = [
            (number, curve, judgement)
            for number, run in enumerate(self.runs)
            for row in run.stages
            for curve, judgements in (("drift", row.drift), ("own", row.own))
            for judgement in judgements
        ]
        return max(judged, key=lambda entry: entry[2].excess, default=None)

    def __repr__(self) -> str:
        return f"<parity of {self.target} with {self.source}: {'pass' if self.passed else 'fail'}>"
