"""LoFTR as a subject of `verify parity`: what is read from the files, and the two sides made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import InputError, UsageError
from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.parity.inputs import Feed, Size, image_feeds
from loftr2flax.parity.loftr.names import MATCHES, settle, stage_of
from loftr2flax.parity.matches import compare_matches
from loftr2flax.parity.network import Network
from loftr2flax.parity.run import Record, Replay
from loftr2flax.parity.subject import Subject, TorchPart
from loftr2flax.parity.values import MatchComparison, Points

KEPT = ("conf_matrix", MATCHES, "expectation")
"""Arrays of torch's float32 run that the comparison of matches wants."""


def config_of(infos: Mapping[str, LeafInfo], facts: Mapping[str, Any]) -> LoFTRConfig:
    """The config of a state dict's headers, keys without a prefix; a coarse transformer may come alone.

    Raises:
      UsageError: a fact is no field of the config, or does not fit the widths.
    """
    facts = {name: value for name, value in facts.items() if name != "model"}  # that one only says what kind it is
    try:
        if any(key.startswith("backbone.") for key in infos):
            return LoFTRConfig.from_checkpoint(infos, facts)
        norms = [key for key in infos if key.startswith("loftr_coarse.layers.") and key.endswith(".norm1.weight")]
        layers: tuple[Any, ...] = (("self", "cross") * len(norms))[: len(norms)]
        width = infos[norms[0]].shape[0] if norms else 0
        fields: dict[str, Any] = {"block_dims": (8, 8, width), "coarse_layers": layers, "fine": False, **facts}
        return LoFTRConfig(**fields)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"the network's config: {error}", "state what the weights cannot show: `--fact heads=4`"
        ) from None


def config_from_json(config: Mapping[str, Any], facts: Mapping[str, Any]) -> LoFTRConfig:
    """The config that a golden bundle remembers, overruled by facts.

    Raises:
      UsageError: a fact is no field of the config.
    """
    stated = {**config, **{name: value for name, value in facts.items() if name != "model"}}
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stated.items()}
    try:
        return LoFTRConfig(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the network's config: {error}", "facts are fields of `LoFTRConfig`") from None


def torch_part(
    state: Mapping[str, np.ndarray],
    config: LoFTRConfig,
    images: Sequence[Path],
    seed: int,
    sizes: Sequence[Size],
    coarse_only: bool,
) -> TorchPart:
    """kornia's LoFTR with the source's weights, and its inputs.

    Raises:
      InputError: the weights are not those of a LoFTR.
    """
    from loftr2flax.parity.loftr.changes import explain_with
    from loftr2flax.parity.loftr.rounding import Otherwise
    from loftr2flax.parity.loftr.torch_side import TorchSide

    try:
        oracle, reference = (TorchSide(state, config, dtype, coarse_only) for dtype in ("float64", "float32"))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the source is no LoFTR that kornia can hold: {error}", "`loftr2flax inspect` it") from None
    masks = config.attention == "linear"  # upstream's masked softmax is 0 / 0 for padded queries: no judge there
    feeds = image_feeds(images, seed, sizes, masks)
    if coarse_only:
        has_backbone = any(key.startswith("backbone.") for key in state)
        feeds = [_features(reference if has_backbone else None, feed, config, seed) for feed in feeds]
    keep = () if coarse_only else KEPT
    explain = explain_with(state, config, coarse_only)
    others = (Otherwise(reference),)
    return TorchPart(oracle, reference, feeds, others, None if coarse_only else settle, keep, explain)


def loftr_subject(
    config: LoFTRConfig, whole: bool, candidate: Callable[[Mapping[str, Any]], Network] | None
) -> Subject:
    """What is known of a LoFTR; ``candidate`` makes a Flax network of the user's own in place of this package's."""
    last = f"loftr_coarse/layers.{len(config.coarse_layers) - 1}"
    fine = ("expectation",) if config.fine else ("backbone/fine/0", "backbone/fine/1")
    return Subject(
        "loftr",
        _title(config, whole),
        candidate or (lambda variables: _flax_side(config, variables)),
        stage_of,
        outputs=("conf_matrix", *fine) if whole else (f"{last}/0", f"{last}/1"),
        apart=(MATCHES,),
        match=_match_with(config) if whole else None,
        config=asdict(config),
        heads=config.heads,
    )


def _flax_side(config: LoFTRConfig, variables: Mapping[str, Any]) -> Network:

    from loftr2flax.parity.loftr.flax_side import FlaxLoFTR

    return FlaxLoFTR(config, variables)


def _title(config: LoFTRConfig, whole: bool) -> str:
    layers = f"{len(config.coarse_layers)} layers of width {config.coarse_dim}, {config.heads} heads"
    if not whole:
        return f"LoFTR's coarse transformer, {layers}"
    fine = f"fine stage of width {config.fine_dim}" if config.fine else "no fine stage"
    return f"LoFTR at 1/{config.resolution[0]}, coarse: {layers}; {fine}; {config.matching}".replace("_", " ")


def _features(backbone: Any, feed: Feed, config: LoFTRConfig, seed: int) -> Feed:
    """What the coarse transformer is fed with: torch's features of the images; without a backbone, drawn ones."""
    info = feed.info
    if backbone is not None:
        arrays = dict(backbone.features(feed.arrays))
    else:
        rng = np.random.default_rng(seed)
        stride = config.resolution[0]
        shapes = [(1, -(-h // stride), -(-w // stride), config.coarse_dim) for _, h, w, _ in _image_shapes(feed)]
        arrays = {f"pos_encoding/{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    arrays |= {name: array for name, array in feed.arrays.items() if name.startswith("mask/")}
    made = Feed.of(
        arrays, info.title, f"{info.origin}, through torch's backbone" if backbone else f"drawn, seed {seed}"
    )
    return made if backbone is None else made.showing(info.images)


def _image_shapes(feed: Feed) -> list[tuple[int, ...]]:
    return [feed.arrays[f"image/{side}"].shape for side in (0, 1)]


def _match_with(config: LoFTRConfig) -> Callable[[Record, Replay], MatchComparison | None]:
    def match(record: Record, replay: Replay) -> MatchComparison | None:
        needed = {"conf_matrix", MATCHES}
        if not (needed <= replay.made.keys() and needed <= record.reference.keys()):
            return None
        sides = record.reference, replay.made
        if any(side["conf_matrix"].shape != record.free["conf_matrix"].shape for side in sides):
            return None
        points = tuple(_points(side, record, config) for side in sides)
        return compare_matches(
            record.reference[MATCHES],
            replay.made[MATCHES],
            record.free["conf_matrix"],
            record.reference["conf_matrix"],
            config.threshold,
            (points[0], points[1]),
        )

    return match


def _points(side: Mapping[str, np.ndarray], record: Record, config: LoFTRConfig) -> Points:
    """A side's matches in pixels: centres of coarse cells, refined where the fine stage looked at the pair."""
    ids = side[MATCHES]
    coarse, fine = config.resolution
    widths = [record.free[f"pos_encoding/{image}"].shape[2] for image in (0, 1)]
    first, second = (
        coarse * np.stack([cells % width, cells // width], -1).astype(np.float32)
        for cells, width in zip(ids[1:], widths, strict=True)
    )
    if "expectation" in side:
        refined = {tuple(pair): n for n, pair in enumerate(record.inputs["ids"].T.tolist())}
        rows = np.array([refined.get(tuple(pair), -1) for pair in ids.T.tolist()], int)
        offset = side["expectation"][rows, :2] * (config.fine_window // 2 * fine)
        second = second + np.where(rows[:, None] >= 0, offset, 0).astype(np.float32)
    return Points(first, second, side["conf_matrix"][tuple(ids)].astype(np.float32), ids[0])
