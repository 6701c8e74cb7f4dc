"""A small LoFTR checkpoint in the official layout, with random weights: for tests and benchmarks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.formats.writer import open_writer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SampleSizes:
    """Widths and depths of the sample; the published networks have (128, 196, 256), 256, 8, 128 and 2."""

    stages: tuple[int, int, int] = (8, 12, 16)
    coarse_width: int = 16
    coarse_layers: int = 4
    fine_width: int = 8
    fine_layers: int = 2


def sample_shapes(sizes: SampleSizes | None = None) -> dict[str, Shape]:
    """Key -> shape of every tensor of a LoFTR at 1/8 with a fine stage, in the official order, without ``matcher.``."""
    sizes = sizes or SampleSizes()
    shapes = {f"backbone.{key}": shape for key, shape in _backbone(sizes.stages)}
    shapes |= _transformer("loftr_coarse", sizes.coarse_width, sizes.coarse_layers)
    for name in ("down_proj", "merge_feat"):
        width = sizes.coarse_width if name == "down_proj" else 2 * sizes.fine_width
        shapes[f"fine_preprocess.{name}.weight"] = (sizes.fine_width, width)
        shapes[f"fine_preprocess.{name}.bias"] = (sizes.fine_width,)
    return shapes | _transformer("loftr_fine", sizes.fine_width, sizes.fine_layers)


def write_sample(path: str | os.PathLike[str], seed: int = 0, sizes: SampleSizes | None = None) -> dict[str, Shape]:
    """Writes ``{"state_dict": {"matcher.…": tensor}}`` with weights drawn from a seed: the same seed, the same bytes.

    Returns:
      The shapes by key, ``matcher.`` included.

    Raises:
      EnvironmentFault: the file exists already or cannot be written.
    """
    generator = np.random.default_rng(seed)
    shapes = {f"matcher.{key}": shape for key, shape in sample_shapes(sizes).items()}
    infos = {key: LeafInfo(shape, "int64" if key.endswith("tracked") else "float32") for key, shape in shapes.items()}
    with open_writer(path, "torch", infos, {}, container="state_dict") as writer:
        for key in writer.order:
            writer.write(key, _draw(key, infos[key], generator))
    return shapes


def _draw(key: str, info: LeafInfo, generator: np.random.Generator) -> np.ndarray:
    if info.dtype == "int64":
        return np.array(generator.integers(1000, 9000))
    values = generator.normal(0, 1 / np.sqrt(max(info.size // max(info.shape[0], 1), 1)), info.shape)
    if key.endswith("running_var"):
        values = 0.5 + values**2
    elif len(info.shape) == 1 and key.endswith("weight"):
        values = 1 + 0.1 * values
    return values.astype(np.float32)


def _backbone(stages: tuple[int, int, int]) -> Iterator[tuple[str, Shape]]:
    first, second, third = stages
    yield "conv1.weight", (first, 1, 7, 7)
    yield from _batch_norm("bn1", first)
    width = first
    for number, out in enumerate(stages, 1):
        for block in (0, 1):
            at = f"layer{number}.{block}"
            yield f"{at}.conv1.weight", (out, width, 3, 3)
            yield f"{at}.conv2.weight", (out, out, 3, 3)
            yield from _batch_norm(f"{at}.bn1", out)
            yield from _batch_norm(f"{at}.bn2", out)
            if number > 1 and block == 0:
                yield f"{at}.downsample.0.weight", (out, width, 1, 1)
                yield from _batch_norm(f"{at}.downsample.1", out)
            width = out
    yield "layer3_outconv.weight", (third, third, 1, 1)
    for number, here, above in ((2, second, third), (1, first, second)):
        yield f"layer{number}_outconv.weight", (above, here, 1, 1)
        yield f"layer{number}_outconv2.0.weight", (above, above, 3, 3)
        yield from _batch_norm(f"layer{number}_outconv2.1", above)
        yield f"layer{number}_outconv2.3.weight", (here, above, 3, 3)


def _batch_norm(at: str, width: int) -> Iterator[tuple[str, Shape]]:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{at}.{leaf}", (width,)
    yield f"{at}.num_batches_tracked", ()


def _transformer(name: str, width: int, layers: int) -> dict[str, Shape]:
    one: dict[str, Shape] = {f"{p}.weight": (width, width) for p in ("q_proj", "k_proj", "v_proj", "merge")}
    one |= {"mlp.0.weight": (2 * width, 2 * width), "mlp.2.weight": (width, 2 * width)}
    one |= {f"norm{n}.{leaf}": (width,) for n in (1, 2) for leaf in ("weight", "bias")}
    return {f"{name}.layers.{i}.{leaf}": shape for i in range(layers) for leaf, shape in one.items()}
