"""What is worth a second look in a leaf's numbers, and what is only as a fresh network begins.

A warning is for what no training leaves behind; it has to be rare enough to be believed. Zeros and ones in biases,
norms and running statistics are where these begin, so they are told, and are no warning.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.inspection.statistics import LeafStats

_SEGMENTS = re.compile(r"[./]")
_MATRICES = ("weight", "kernel")
_STARTS: dict[str, float] = {
    "bias": 0.0, "in_proj_bias": 0.0, "running_mean": 0.0, "mean": 0.0, "num_batches_tracked": 0.0,
    "weight": 1.0, "scale": 1.0, "running_var": 1.0, "var": 1.0,
}  # fmt: skip
"""What a leaf with at most one axis, of this last name, holds before its first step."""

_VARIANCES = ("running_var", "var")
_HUGE, _TINY = 100.0, 1e-12  # a matrix of a working network has a std between 1e-4 and 2
_LOOKED_UP = re.compile(r"emb|token|lookup", re.IGNORECASE)  # rows of these are padding as often as not
_BEGINS_ZERO = re.compile(r"lora_b", re.IGNORECASE)
_MAY_BE_INFINITE = re.compile(r"mask|bias_table|alibi", re.IGNORECASE)


class Remarks(NamedTuple):
    """What there is to say of one leaf: warnings, and what is merely told."""

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def channel_axis(name: str, info: LeafInfo) -> int | None:
    """Where a leaf's output channels lie: first in a PyTorch ``weight``, last in a Flax ``kernel``; None for others."""
    last = _SEGMENTS.split(name)[-1]
    if last not in _MATRICES or len(info.shape) < 2 or _LOOKED_UP.search(name) or not info.size:
        return None
    return 0 if last == "weight" else -1


def remarks(name: str, info: LeafInfo, stats: LeafStats) -> Remarks:
    """What a leaf's numbers give cause to say."""
    warnings: list[str] = []
    if stats.nans:
        warnings.append(f"NaN: {stats.nans:,} of {info.size:,}")
    if stats.infinities and not _MAY_BE_INFINITE.search(name):
        warnings.append(f"infinite: {stats.infinities:,} of {info.size:,}")
    last = _SEGMENTS.split(name)[-1]
    if last in _VARIANCES and stats.minimum is not None and stats.minimum < 0:
        warnings.append(f"a variance below zero: {stats.minimum:.3g}")
    if len(info.shape) < 2 or info.dtype not in dtypes.FLOATING:
        notes, more = _small(name, last, info, stats)
        return Remarks((*warnings, *more), notes)
    if last in _MATRICES:
        notes, more = _matrix(name, info, stats)
        return Remarks((*warnings, *more), notes)
    return Remarks(tuple(warnings), ("all zeros",) if stats.zeros == info.size > 0 else ())


def _small(name: str, last: str, info: LeafInfo, stats: LeafStats) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Notes and warnings on a leaf with at most one axis, or of whole numbers."""
    same = stats.constant or info.size == 1
    if not same or stats.minimum is None:
        return (), ()
    start = _STARTS.get(last)
    if start is not None and stats.minimum == start:
        return (f"at its initial value ({start:.0f})",), ()
    if last in _VARIANCES and stats.minimum == 0:
        return (), ("a variance of zero throughout",)
    if stats.constant and info.dtype in dtypes.FLOATING:
        return (("all zeros",) if stats.minimum == 0 else (f"constant {stats.minimum:.6g}",)), ()
    return (), ()


def _matrix(name: str, info: LeafInfo, stats: LeafStats) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Notes and warnings on a matrix or a filter: something that a network multiplies by."""
    if stats.zeros == info.size > 1:
        return (("at its initial value (0)",), ()) if _BEGINS_ZERO.search(name) else ((), ("all zeros",))
    if stats.constant and stats.minimum is not None:
        return (), (f"constant {stats.minimum:.6g}",)
    warnings: list[str] = []
    if stats.dead_channels:
        warnings.append(f"{stats.dead_channels:,} of {stats.channels:,} output channels are all zeros")
    if stats.std is not None and (stats.std > _HUGE or stats.std < _TINY) and info.size > 1:
        warnings.append(f"std {stats.std:.3g} is no weight's")
    return (), tuple(warnings)
