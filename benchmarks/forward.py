"""The forward pass: LoFTR in Flax, compiled beforehand, against kornia's eager one; same CPU, threads, weights, inputs.

Both run in one process, in turn. Where the time goes is measured on the stages, each run alone and in turn likewise.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversion import official

SIZES = ((240, 320), (480, 640))
CASES = {"nothing found": (0.2, 4.0), "few matches": (0.0, 4.0), "many matches": (0.0, 0.0)}
"""Threshold, and by how many degrees the second view is turned. The weights are random, so that it takes a threshold of
zero to find anything, and an image with itself to find much."""
ROUNDS = 9
PAUSE = 0.5
"""Seconds before each measurement: the threads of one side wait for more work for a while, and would take it from the
other's."""
PARTS = {
    "transformer": ("pos_encoding", "loftr_coarse/"),
    "matching": ("conf_matrix", "fine_preprocess", "loftr_fine/", "expectation"),
}
"""Stages by what a reader would call them, the backbone apart."""


def run() -> None:
    """Measures and prints."""
    import jax
    import torch

    from loftr2flax import convert_checkpoint, load_params, open_checkpoint
    from loftr2flax.models.loftr import LoFTR, LoFTRConfig, stages
    from loftr2flax.models.loftr.reference import TorchLoFTR

    with open_checkpoint(official()) as checkpoint:
        state = {name: checkpoint.read(name) for name in checkpoint.infos}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "loftr.npz"
        convert_checkpoint(official(), output, "loftr")
        variables = jax.device_put(load_params(output))
    print(
        f"forward pass of the full LoFTR, float32, {torch.get_num_threads()} threads, median of {ROUNDS} rounds in turn"
    )
    for height, width in SIZES:
        for case, (threshold, degrees) in CASES.items():
            config = LoFTRConfig.outdoor_ds(threshold=threshold)
            theirs, ours = TorchLoFTR(state, config), LoFTR(config)
            first, second = _pair(height, width, degrees)
            print(f"  {height}×{width}, {case}: {_whole(ours, variables, theirs, first, second)}")
        _parts(stages, ours, variables, theirs, first, second)


def _whole(ours: Any, variables: Any, theirs: Any, first: np.ndarray, second: np.ndarray) -> str:
    import jax
    import torch

    images = [torch.from_numpy(image).permute(0, 3, 1, 2).contiguous() for image in (first, second)]
    forward = jax.jit(ours.apply)
    found = len(_kornia(theirs, images)["confidence"]), int(forward(variables, first, second).found)
    times = _in_turn(
        {
            "kornia": lambda: _kornia(theirs, images),
            "flax": lambda: jax.block_until_ready(forward(variables, first, second)),
        }
    )
    shown = f"kornia {1e3 * times['kornia']:.0f} ms, Flax {1e3 * times['flax']:.0f} ms"
    return f"{shown}, {times['kornia'] / times['flax']:.2f} times as fast ({found[0]} and {found[1]} matches)"


def _parts(stages: Any, ours: Any, variables: Any, theirs: Any, first: np.ndarray, second: np.ndarray) -> None:
    """Where the time goes: the stages of either side, each fed with what this side made before.

    Flax's backbone stops before the last step of the fine map, which "matching" takes in the windows of the matches.
    """
    import jax

    traces = theirs.trace(first, second), stages.trace(ours, variables, first, second)
    rough = jax.jit(partial(ours.apply, rough=True, method="features"))

    def kornia(names: list[str]) -> None:
        for name in names:
            theirs.stage(name, traces[0])

    def flax(names: list[str]) -> None:
        for name in names:
            stages.run_stage(ours, variables, name, traces[1])

    parts = {
        "backbone": (partial(kornia, ["backbone"]), lambda: jax.block_until_ready(rough(variables, first, second)))
    }
    for part, begins in PARTS.items():
        names = [name for name in stages.stage_names(ours.config) if name.startswith(begins)]
        parts[part] = partial(kornia, names), partial(flax, names)
    for part, (one, other) in parts.items():
        times = _in_turn({"kornia": one, "flax": other}, rounds=3)
        print(f"    {part:12} kornia {1e3 * times['kornia']:6.0f} ms, Flax {1e3 * times['flax']:6.0f} ms")


def _kornia(side: Any, images: list[Any]) -> Any:
    import torch

    with torch.inference_mode():
        return side.module({"image0": images[0], "image1": images[1]})


def _in_turn(programs: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            program()
            if number:  # the first round compiles and warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(measured) for name, measured in times.items()}


def _pair(height: int, width: int, degrees: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and a turned view of it, [1, height, width, 1] float32 in 0 … 1."""
    from skimage import color, data, transform

    image = transform.resize(color.rgb2gray(data.astronaut()), (height, width), anti_aliasing=True)
    turned = transform.rotate(image, degrees, mode="reflect") if degrees else image
    return image[None, :, :, None].astype(np.float32), turned[None, :, :, None].astype(np.float32)
