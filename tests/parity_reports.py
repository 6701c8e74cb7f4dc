"""Parity reports made by hand, so that the page can be tested without running a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loftr2flax.parity.values import (
    Coverage,
    Culprit,
    Flip,
    GradientCheck,
    InputsInfo,
    Judgement,
    LeafFinding,
    MatchComparison,
    PairRun,
    ParityReport,
    Points,
    Spot,
    StageRow,
    WeightsCheck,
)

STAGES = (
    "backbone",
    "pos_encoding",
    *(f"loftr_coarse/layers.{i}" for i in range(8)),
    "conf_matrix",
    "fine_preprocess",
    *(f"loftr_fine/layers.{i}" for i in (0, 1)),
    "expectation",
)
HOSTILE = "<script>alert(1)</script>\n::error::\x1b[31m\u202e"


def judgement(array: str, ratio: float, limit: float = 2.0, reason: str = "") -> Judgement:
    if not reason and not ratio <= limit:
        reason = f"r {ratio:.3g} is above {limit:g}"
    spot = Spot(3.1e-7 * ratio, (0, 12, 5, 7), 0.48213345, 0.48213345 + 3.1e-7 * ratio)
    return Judgement(
        array, ratio, limit, reason, 1e-7 * ratio, 1e-7, 40960, spot, Spot(6e-7 * ratio, (0, 1, 2, 3), 1e-3, 1.1e-3),
        Spot(4.0, (0, 0, 0, 1), 0.1, 0.1), 1 - 1e-13 * ratio,
    )  # fmt: skip


def stage_rows(seed: int, broken: str = "", factor: float = 1.0) -> tuple[StageRow, ...]:
    generator = np.random.default_rng(seed)
    rows, carried = [], 1.0
    for stage in STAGES:
        own = float(generator.uniform(0.7, 1.2))
        if stage == broken:
            own, carried = own * factor, factor
        drift = float(generator.uniform(0.8, 1.3)) * carried
        names = [stage] if stage in ("conf_matrix", "expectation") else [f"{stage}/0", f"{stage}/1"]
        rows.append(
            StageRow(
                stage,
                tuple(judgement(name, drift * (1 - 0.1 * n)) for n, name in enumerate(names)),
                tuple(judgement(name, own * (1 - 0.1 * n)) for n, name in enumerate(names)),
            )
        )
    return tuple(rows)


def points(image: np.ndarray, count: int, seed: int = 0) -> Points:
    generator = np.random.default_rng(seed)
    height, width = image.shape
    cells = 8.0 * np.stack(
        [generator.integers(2, width // 8 - 2, count), generator.integers(2, height // 8 - 2, count)], 1
    )
    cells = np.unique(cells, axis=0)
    moved = cells - [6.0, 0.0] + generator.uniform(-2, 2, cells.shape)
    confidence = generator.uniform(0.2, 0.95, len(cells)).astype(np.float32)
    return Points(cells, moved, confidence, np.zeros(len(cells), int))


def matches(image: np.ndarray, lost: Sequence[int] = (), tie: bool = True) -> MatchComparison:
    theirs = points(image, 90)
    keep = np.setdiff1d(np.arange(len(theirs)), lost)
    ours = Points(theirs.points0[keep], theirs.points1[keep] + 1e-4, theirs.confidence[keep], theirs.batch[keep])
    flips = tuple(Flip((0, n, n), "torch", 1e-9 if tie else 0.05, 1e-7) for n in lost)
    return MatchComparison(len(keep), flips, theirs, ours)


def inputs(title: str, images: tuple[np.ndarray, ...] = ()) -> InputsInfo:
    shapes = {f"image/{n}": (1, *image.shape, 1) for n, image in enumerate(images)}
    return InputsInfo(title, "procedural, seed 0", shapes, images, "3f" * 32)


def picture(height: int = 120, width: int = 160) -> np.ndarray:
    """A checked ground with a slope: enough to see where it lies."""
    y, x = np.mgrid[:height, :width]
    return (((x // 20 + y // 20) % 2) * 0.4 + x / width * 0.5).astype(np.float32)


ENVIRONMENT = {
    "torch": "2.13.0+cpu, float32 and float64, 2 threads",
    "jax": "0.10.2, cpu, matmul precision highest",
    "flax": "0.12.8",
    "flags": "--per-layer --gradients",
}
CONFIG = {"resolution": (8, 2), "heads": 8, "layer_norm_eps": 1e-5, "temp_bug_fix": False, "capacity": None}


def report(runs: tuple[PairRun, ...], **changes: object) -> ParityReport:
    values = {
        "source": "outdoor_ds.ckpt", "target": "loftr.npz", "mapping": "loftr/1",
        "network": "LoFTR at 1/8, 8 coarse layers of width 256", "runs": runs, "weights": WeightsCheck(194, 11_567_088),
        "config": CONFIG, "environment": ENVIRONMENT, "seconds": 41.27,
    }  # fmt: skip
    return ParityReport(**{**values, **changes})  # type: ignore[arg-type]


def passing(image0: np.ndarray | None = None, image1: np.ndarray | None = None) -> ParityReport:
    first = picture() if image0 is None else image0
    second = first if image1 is None else image1
    runs = (
        PairRun(inputs("96×136", (first, second)), stage_rows(0), matches(first, lost=(3,))),
        PairRun(inputs("240×320, masks"), stage_rows(1)),
        PairRun(inputs("96×136 with 120×160"), stage_rows(2)),
    )
    leaves = tuple(judgement(f"params/loftr_coarse/layers_{i}/q_proj/kernel", 0.9 + i / 10) for i in range(8))
    coverage = Coverage({leaf.array: 0.97 + 0.03 * (n % 2) for n, leaf in enumerate(leaves)})
    return report(runs, gradients=GradientCheck(leaves, "96×136"), coverage=coverage)


def failing(image0: np.ndarray | None = None, image1: np.ndarray | None = None) -> ParityReport:
    first = picture() if image0 is None else image0
    second = first if image1 is None else image1
    broken = "loftr_coarse/layers.3"
    leaf = "params/loftr_coarse/layers_3/q_proj/kernel"
    runs = (
        PairRun(
            inputs("96×136", (first, second)), stage_rows(0, broken, 2.4e5), matches(first, range(0, 60, 3), tie=False)
        ),
        PairRun(inputs("240×320, masks"), stage_rows(1, broken, 1.1e5)),
    )
    return report(
        runs,
        weights=WeightsCheck(
            194, 11_567_088, (LeafFinding(leaf, broken, "transposed", "equal to the tensor with its axes swapped"),)
        ),
        culprit=Culprit(broken, "q_proj/kernel is transposed", "weights", "it equals its transpose", (leaf,), 0),
        coverage=Coverage({leaf: 1.0}, ("params/coarse_matching/bin_score",)),
        notes=("the target was made with another version of the mapping",),
    )  # fmt: skip


def hostile() -> ParityReport:
    """A failing report all of whose texts want to be markup; a stage is absent and an array has NaNs."""
    rows = (
        StageRow(
            HOSTILE,
            (judgement(HOSTILE, math.inf, reason=HOSTILE),),
            (judgement(HOSTILE, math.nan, reason="NaN on one side"),),
        ),
        StageRow("absent", (), (), (HOSTILE,)),
    )
    run = PairRun(InputsInfo(HOSTILE, HOSTILE, {HOSTILE: (1,)}, sha256=HOSTILE), rows)
    return report(
        (run,), source=HOSTILE, target=HOSTILE, mapping=HOSTILE, network=HOSTILE, notes=(HOSTILE,),
        weights=WeightsCheck(1, 1, (LeafFinding(HOSTILE, HOSTILE, HOSTILE, HOSTILE),)),
        culprit=Culprit(HOSTILE, HOSTILE, "unknown", HOSTILE, (HOSTILE,), 0),
        coverage=Coverage({HOSTILE: 0.5}, (HOSTILE,)), gradients=GradientCheck((judgement(HOSTILE, 3.0),), HOSTILE),
        config={HOSTILE: HOSTILE}, environment={HOSTILE: HOSTILE},
    )  # fmt: skip
