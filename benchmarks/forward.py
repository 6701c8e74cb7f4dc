"""The forward pass: LoFTR in Flax, compiled beforehand, against kornia's eager one; same CPU, threads, weights, inputs.

Both run in one process, in turn. Where the time goes is measured on the stages, each run alone and in turn likewise.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversion import official

SIZES = ((240, 320), (480, 640))
ROUNDS = 9
PAUSE = 0.5
"""Seconds before each measurement: the threads of one side wait for more work for a while, and would take it from the
other's."""
PARTS = {
    "backbone": ("backbone",),
    "transformer": ("pos_encoding", "loftr_coarse/"),
    "matching": ("conf_matrix", "fine_preprocess", "loftr_fine/", "expectation"),
}
"""Stages by what a reader would call them."""


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
    config = LoFTRConfig.outdoor_ds()
    theirs, ours = TorchLoFTR(state, config), LoFTR(config)
    forward = jax.jit(ours.apply)
    print(
        f"forward pass of the full LoFTR, float32, {torch.get_num_threads()} threads, median of {ROUNDS} rounds in turn"
    )
    for height, width in SIZES:
        first, second = _pair(height, width)
        images = [torch.from_numpy(image).permute(0, 3, 1, 2).contiguous() for image in (first, second)]
        times = _in_turn(
            {
                "kornia": lambda images=images: _kornia(theirs, images),
                "flax": lambda first=first, second=second: jax.block_until_ready(forward(variables, first, second)),
            }
        )
        ratio = times["kornia"] / times["flax"]
        shown = f"kornia {1e3 * times['kornia']:.0f} ms, Flax {1e3 * times['flax']:.0f} ms"
        print(f"  {height}×{width}: {shown}, {ratio:.2f} times as fast")
        _parts(stages, ours, variables, theirs, first, second)


def _parts(stages: Any, ours: Any, variables: Any, theirs: Any, first: np.ndarray, second: np.ndarray) -> None:
    """Where the time goes: the stages of either side, each fed with torch's results."""
    given = theirs.trace(first, second)
    for part, begins in PARTS.items():
        names = [name for name in stages.stage_names(ours.config) if name.startswith(begins)]

        def kornia(names: list[str] = names) -> None:
            for name in names:
                theirs.stage(name, given)

        def flax(names: list[str] = names) -> None:
            for name in names:
                stages.run_stage(ours, variables, name, given)

        times = _in_turn({"kornia": kornia, "flax": flax}, rounds=3)
        print(f"    {part:12} kornia {1e3 * times['kornia']:6.0f} ms, Flax {1e3 * times['flax']:6.0f} ms")


def _kornia(side: Any, images: list[Any]) -> None:
    import torch

    with torch.inference_mode():
        side.module({"image0": images[0], "image1": images[1]})


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


def _pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and a turned view of it, [1, height, width, 1] float32 in 0 … 1."""
    from skimage import color, data, transform

    image = transform.resize(color.rgb2gray(data.astronaut()), (height, width), anti_aliasing=True)
    turned = transform.rotate(image, 4, mode="reflect")
    return image[None, :, :, None].astype(np.float32), turned[None, :, :, None].astype(np.float32)
