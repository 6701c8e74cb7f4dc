"""From every format that is read to every one that is written: types, shapes, strides and names drawn at random."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from formats.torch_files import DTYPES, bits, numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_leaves import SEGMENTS, infos_of, same_bits, write

from loftr2flax import dtypes
from loftr2flax.errors import UnwritableLeaf
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import open_writer

WRITTEN = ("npz", "msgpack", "safetensors", "torch")
READ = (*WRITTEN, "torch-saved", "torch-legacy")


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of any type and any strides under dotted names, no name being a part of another."""
    names = draw(st.lists(st.lists(SEGMENTS.filter(lambda word: "." not in word), min_size=1, max_size=3).map(tuple),
                          min_size=1, max_size=4, unique=True))  # fmt: skip
    branches = {name[:depth] for name in names for depth in range(1, len(name))}
    state = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        stride = draw(st.lists(st.integers(0, 20), min_size=len(shape), max_size=len(shape)))
        base = numbers(draw(st.sampled_from(DTYPES)), 400)
        if name not in branches:
            state[".".join(name)] = base.as_strided(shape, stride, draw(st.integers(0, 80)))
    return state


def _source(path: Path, format: str, state: dict[str, torch.Tensor], leaves: dict[str, np.ndarray]) -> Path:
    """The state as a file of a format: by torch itself, strides and all, or by our writer."""
    if format.startswith("torch-"):
        torch.save(state, path, _use_new_zipfile_serialization=format == "torch-saved")
        return path
    separator = "." if format == "torch" else "/"
    return write(path, format, {name.replace("/", separator): array for name, array in leaves.items()})


@pytest.mark.parametrize(("source", "target"), list(product(READ, WRITTEN)), ids=lambda format: format)
def test_any_state_goes_from_any_format_to_any_other(
    tmp_path_factory: pytest.TempPathFactory, source: str, target: str
) -> None:
    folder = tmp_path_factory.mktemp("pair")

    @settings(max_examples=12, database=None)
    @given(states())
    def run(state: dict[str, torch.Tensor]) -> None:
        leaves = {name.replace(".", "/"): _array(tensor) for name, tensor in state.items()}
        try:
            path = _source(folder / "in", source, state, leaves)
        except UnwritableLeaf:  # the source's format has no such type, or no such name
            return
        with open_checkpoint(path) as checkpoint:
            _copy(checkpoint, folder / "out", target, leaves)
        for made in folder.iterdir():
            made.unlink()

    run()


def _copy(checkpoint, out: Path, target: str, leaves: dict[str, np.ndarray]) -> None:
    separator = "." if target == "torch" else "/"
    names = {name.replace(checkpoint.separator, separator): name for name in checkpoint.infos}
    infos = {name: infos_of({"": checkpoint.read(old)})[""] for name, old in names.items()}
    try:
        with open_writer(out, target, infos, {}) as writer:
            for name in writer.order:
                writer.write(name, checkpoint.read(names[name]))
    except UnwritableLeaf:
        assert not out.exists()
        return
    with open_checkpoint(out) as copied:
        found = {name.replace(copied.separator, "/"): copied.read(name) for name in copied.infos}
    assert found.keys() == leaves.keys()
    for name, array in leaves.items():
        assert same_bits(found[name], array), name


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's elements in C order, by torch."""
    name = str(tensor.dtype).removeprefix("torch.")
    return np.frombuffer(bits(tensor), dtypes.numpy_dtype(name)).reshape(tuple(tensor.shape))
