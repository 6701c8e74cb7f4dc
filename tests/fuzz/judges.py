"""What a fuzzed file is held against: refused by our errors, or equal to what the format's own library reads."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.errors import Loftr2FlaxError, UnsupportedTensor
from loftr2flax.formats import open_checkpoint

Leaves = dict[str, np.ndarray]


class Disagreement(AssertionError):
    """A file was read, and not as its own library reads it. (Not of our errors: those are refusals.)"""


def read_all(path: Path) -> tuple[Checkpoint, Leaves]:
    """Every leaf of a file; those that are refused by name are left out.

    Raises:
      Loftr2FlaxError: the file is refused, on opening or on reading one of its leaves.
    """
    leaves: Leaves = {}
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.infos:
            try:
                leaves[name] = checkpoint.read(name)
            except UnsupportedTensor:
                continue
    return checkpoint, leaves


def refused_or_equal(path: Path, judge: Callable[[Checkpoint, Leaves], None]) -> bool:
    """Whether the file at ``path`` was read; if so, ``judge`` agreed.

    Raises:
      Disagreement: the judge has another opinion. Any other error is a crash.
    """
    try:
        checkpoint, leaves = read_all(path)
    except Loftr2FlaxError as error:
        if not error.message or "\n" in error.message or len(error.message) > 2000:
            raise Disagreement(f"an error that is not one line: {error.message[:3000]!r}") from error
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge(checkpoint, leaves)
    return True


def assert_same(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """The same shape, type and bits."""
    theirs = np.asarray(theirs)
    if theirs.dtype.byteorder == ">" or not theirs.dtype.isnative:
        theirs = theirs.astype(theirs.dtype.newbyteorder("="))
    said = (ours.shape, ours.dtype.name, ours.tobytes())
    wanted = (theirs.shape, theirs.dtype.name, theirs.tobytes())
    if said != wanted:
        raise Disagreement(f"{name!r}: read as {said!r:.300}, the library has {wanted!r:.300}")


def none(checkpoint: Checkpoint, leaves: Leaves) -> None:
    """No library reads it, or another format's may; that it ends as it should is all."""


def torch_judge(checkpoint: Checkpoint, leaves: Leaves) -> None:
    """`torch.load`, where it reads the file; it gives up on foreign globals, which are read past here."""
    import torch

    try:
        loaded = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
    except Exception:
        return
    found: dict[str, list[Any]] = {}
    for name, value in _tensors(loaded):
        found.setdefault(name, []).append(value)
    container = checkpoint.contents.container
    for name, array in leaves.items():
        values = found.get(f"{container}.{name}" if container else name, [])
        if not values:
            raise Disagreement(f"torch has no tensor {name!r} under {container!r}")
        for value in values:
            _assert_tensor(name, array, value)


def _tensors(value: Any) -> Iterator[tuple[str, Any]]:
    """All tensors below a dict, by dotted name."""
    import torch

    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        prefix, node, depth = waiting.pop()
        for key, child in node.items() if isinstance(node, dict) and depth < 50 else ():
            if isinstance(child, torch.Tensor):
                yield f"{prefix}{key}", child
            elif isinstance(key, str):
                waiting.append((f"{prefix}{key}.", child, depth + 1))


def _assert_tensor(name: str, array: np.ndarray, tensor: Any) -> None:
    import torch

    dense = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    raw = dense.view(torch.uint8).numpy().tobytes()
    said = (array.shape, array.dtype.name, array.tobytes())
    wanted = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), raw)
    if said != wanted:
        raise Disagreement(f"{name!r}: read as {said!r:.300}, torch has {wanted!r:.300}")


def safetensors_judge(checkpoint: Checkpoint, leaves: Leaves) -> None:
    """The safetensors library, which must read what is read here; for one unknown type it gives up on a whole file."""
    import safetensors.torch
    import torch

    if any(info.refused for info in checkpoint.infos.values()):
        return
    loaded = safetensors.torch.load(checkpoint.path.read_bytes())
    if not leaves.keys() <= loaded.keys() or loaded.keys() != checkpoint.infos.keys():
        raise Disagreement(f"names {sorted(leaves)} against {sorted(loaded)}")
    for name, array in leaves.items():
        raw = loaded[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes() if loaded[name].numel() else b""
        said = (array.shape, array.tobytes(), array.dtype.name)
        wanted = (tuple(loaded[name].shape), raw, str(loaded[name].dtype).removeprefix("torch."))
        if said != wanted:
            raise Disagreement(f"{name!r}: read as {said!r:.300}, the library has {wanted!r:.300}")


def shards_judge(checkpoint: Checkpoint, leaves: Leaves) -> None:
    """Each leaf as the shard has it that the index names."""
    import json

    import safetensors.numpy

    weight_map = json.loads(checkpoint.path.read_bytes())["weight_map"]
    shards = {name: safetensors.numpy.load_file(checkpoint.path.parent / name) for name in set(weight_map.values())}
    if leaves.keys() != weight_map.keys() or sum(map(len, shards.values())) != len(leaves):
        raise Disagreement(f"{sorted(leaves)} were read, the index has {sorted(weight_map)}")
    for name, array in leaves.items():
        assert_same(name, array, shards[weight_map[name]][name])


def numpy_judge(checkpoint: Checkpoint, leaves: Leaves) -> None:
    """numpy's own parser of each record, fetched by `zipfile`; names are not looked up through `numpy.load`."""
    with zipfile.ZipFile(checkpoint.path) as archive:
        for name, array in leaves.items():
            data = archive.read(f"{name}.npy")
            theirs = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            if theirs.dtype.names:  # the convention for bfloat16 and float8
                (kind,) = theirs.dtype.names
                theirs = theirs[kind].astype(theirs.dtype[kind].newbyteorder("=")).view(array.dtype)
                if array.dtype.name != kind:
                    raise Disagreement(f"{name!r}: {kind} was read as {array.dtype}")
            assert_same(name, array, theirs)


def zip_judge(path: Path, records: dict[str, bytes]) -> None:
    """`zipfile`, which must find the same records with the same bytes."""
    with zipfile.ZipFile(path) as archive:
        theirs = {info.filename: archive.read(info) for info in archive.infolist() if not info.filename.endswith("/")}
    ours = {name: data for name, data in records.items() if not name.endswith("/")}
    if theirs != ours:
        raise Disagreement(f"{ours!r:.300} were read, zipfile has {theirs!r:.300}")


def flax_judge(checkpoint: Checkpoint, leaves: Leaves) -> None:
    """`flax.serialization`, where it reads the whole file."""
    import flax

    try:
        tree = flax.serialization.msgpack_restore(checkpoint.path.read_bytes())
    except Exception:
        if len(leaves) < len(checkpoint.infos) or checkpoint.contents.unread:
            return  # it refuses a whole file for one value that is listed and not read here
        raise
    for name, array in leaves.items():
        value = tree
        for part in name.split("/"):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert_same(name, array, value)
