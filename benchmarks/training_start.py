"""Epochs to the same accuracy, from converted weights and from scratch: the claim of the guide, measured.

    python -m benchmarks.training_start LoFTR_teacher.pt --out starts.json
    python -m benchmarks.training_start --table starts.json

Each run is one of `loftr2flax train dense` on synthetic prints; the runs of a seed differ in the start alone. A run's
curve is made monotone (the best so far) before it is asked when it reached an accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

STARTS = {
    "scratch": {},
    "transformer": {"loftr_parts": "transformer"},
    "backbone": {"loftr_parts": "backbone"},
    "all": {"loftr_parts": "all"},
    "frozen backbone": {"loftr_parts": "backbone", "freeze": ("backbone",)},
    "all, backbone frozen": {"loftr_parts": "all", "freeze": ("backbone",)},
    "transformer, frozen": {"loftr_parts": "transformer", "freeze": ("loftr_coarse",)},
    "transformer, at a tenth": {"loftr_parts": "transformer", "lr_scale": ("loftr_coarse=0.1",)},
}
NETWORK = {  # that of LoFTR_teacher.pt
    "stride": 16, "backbone_dims": (8, 16, 32, 32), "hidden_dim": 32, "num_heads": 1, "layer_norm_eps": 1e-7,
}  # fmt: skip
RUN = {
    "image_size": (96, 96), "num_prints": 64, "pairs_per_epoch": 64, "batch_size": 8, "num_epochs": 24,
    "lr": 3e-3, "eval_pairs": 24, "eval_pixels": 16, "imposters": 0.25,
}  # fmt: skip


def curve(weights: str, start: str, seed: int, run: dict[str, Any]) -> list[float]:
    """The share of correct correspondences after each epoch, the start first."""
    from loftr2flax.training.config import DenseConfig
    from loftr2flax.training.loop import dense_task, train

    given = {"loftr_pretrained_ckpt": weights, **STARTS[start]} if start != "scratch" else {}
    with tempfile.TemporaryDirectory() as folder:
        config = DenseConfig(**NETWORK, **run, **given, seed=seed, checkpoint_dir=folder, save_every=1000)
        outcome = train(config, dense_task)
        if outcome.signal is not None:
            raise SystemExit(128 + outcome.signal)
    return [row["correct"] for row in outcome.rows if row["kind"] == "evaluation"]


def epochs_to(values: list[float], wanted: float) -> float:
    """Epochs until ``wanted`` is reached, between two evaluations by a straight line; infinite for never."""
    best = values[0]
    for epoch, value in enumerate(values):
        if value >= wanted:
            return epoch if epoch == 0 else epoch - 1 + (wanted - best) / (value - best)
        best = max(best, value)
    return math.inf


def table(curves: dict[str, dict[str, list[float]]]) -> str:
    """Epochs to two accuracies, 0.75 and 0.95 of what runs from scratch come to, and the accuracy at the end.

    Median, lowest and highest over the seeds; a run that never gets there is later than all that do. ``sooner`` counts
    the seeds with which a start got there in fewer epochs than from scratch.
    """
    scratch = curves["scratch"]
    goals = [round(part * statistics.mean(values[-1] for values in scratch.values()), 2) for part in (0.75, 0.95)]
    titles = [f"epochs to {goal} | sooner" for goal in goals]
    lines = [
        "| start | at epoch 0 | " + " | ".join(titles) + " | at the end |",
        "|---|" + "---:|" * (2 * len(goals) + 2),
    ]
    for start, seeds in curves.items():
        columns = [_spread([values[0] for values in seeds.values()], 3)]
        for goal in goals:
            epochs = {seed: epochs_to(values, goal) for seed, values in seeds.items()}
            sooner = sum(epochs[seed] < epochs_to(scratch[seed], goal) for seed in seeds)
            columns += [_spread(list(epochs.values()), 1), f"{sooner} of {len(seeds)}" if start != "scratch" else ""]
        columns.append(_spread([values[-1] for values in seeds.values()], 3))
        lines.append(f"| {start} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    told = ["never" if value == math.inf else f"{value:.{digits}f}" for value in (min(values), max(values))]
    middle = statistics.median(values)
    if middle == math.inf:
        return "never" if told[0] == "never" else f"never (best {told[0]})"
    return f"{middle:.{digits}f} ({told[0]} to {told[1]})"


def main() -> None:
    """Runs what the file of results lacks, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("--starts", default=";".join(STARTS))
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7")
    given = parser.parse_args()
    curves: dict[str, dict[str, list[float]]] = {}
    if given.table:
        for path in given.table:
            for start, seeds in json.loads(path.read_text()).items():
                curves.setdefault(start, {}).update(seeds)
        print(table({start: curves[start] for start in STARTS if start in curves}))
        return
    for seed in given.seeds.split(","):
        for start in given.starts.split(";"):
            curves.setdefault(start, {})[seed] = curve(given.weights, start, int(seed), RUN)
            given.out.write_text(json.dumps(curves))
            print(start, seed, [round(value, 3) for value in curves[start][seed]], flush=True)


if __name__ == "__main__":
    main()
