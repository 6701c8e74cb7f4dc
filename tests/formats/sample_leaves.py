"""Leaves to write and read: every element type, shapes that are never square, names as the formats have them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from loftr2flax import dtypes
from loftr2flax.checkpoint import Checkpoint, LeafInfo
from loftr2flax.formats.writer import open_writer

SHAPES = [(), (3,), (2, 5), (0, 3), (3, 0), (1, 4, 2), (2, 1, 3, 5)]
PROVENANCE = {"mapping": "loftr", "source_sha256": "00ff", "facts": {"heads": 8}}


def leaf(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Arbitrary bits of the given type: NaNs, infinities and negative zeros included."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape).astype(bool)).reshape(shape)
    raw = rng.integers(0, 256, math.prod(shape) * dtypes.itemsize(dtype), np.uint8)
    return raw.view(dtypes.numpy_dtype(dtype)).reshape(shape)


def every_type(separator: str = "/", without: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """One leaf for each type and shape."""
    return {
        f"params{separator}{dtype}{separator}k{number}": leaf(dtype, shape, number)
        for dtype in dtypes.NAMES
        if dtype not in without
        for number, shape in enumerate(SHAPES)
    }


def infos_of(leaves: Mapping[str, np.ndarray]) -> dict[str, LeafInfo]:
    return {name: LeafInfo(array.shape, array.dtype.name) for name, array in leaves.items()}


def write(path: Path, format: str, leaves: Mapping[str, np.ndarray], provenance=PROVENANCE, **options) -> Path:
    """Write ``leaves`` with the writer under test."""
    with open_writer(path, format, infos_of(leaves), provenance, **options) as writer:
        for name in writer.order:
            writer.write(name, leaves[name])
    return path


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def assert_holds(checkpoint: Checkpoint, leaves: Mapping[str, np.ndarray]) -> None:
    """The checkpoint has exactly ``leaves``, in headers and in bits."""
    assert dict(checkpoint.infos) == infos_of(leaves)
    for name, array in leaves.items():
        assert same_bits(checkpoint.read(name), array), name


SEGMENTS = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda text: text not in (".", "..") and not text.endswith(".npy") and text != "__metadata__")


@st.composite
def trees(draw: st.DrawFn, separator: str = "/", without: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Leaves under names of one to three segments, no name being a branch of another."""
    names = draw(st.lists(st.lists(SEGMENTS, min_size=1, max_size=3).map(tuple), max_size=6, unique=True))
    branches = {name[:depth] for name in names for depth in range(1, len(name))}
    types = st.sampled_from([name for name in dtypes.NAMES if name not in without])
    return {
        separator.join(name): leaf(draw(types), draw(st.sampled_from(SHAPES)), draw(st.integers(0, 99)))
        for name in names
        if name not in branches
    }
