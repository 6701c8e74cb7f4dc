"""Reading safetensors in several files: an index says which leaf lies in which, and every word of it is checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loftr2flax.checkpoint import Checkpoint, Contents, LeafInfo, Location, Scratch
from loftr2flax.errors import CorruptFile, LimitExceeded, MissingInput, UnsupportedFile
from loftr2flax.formats.provenance import KEY, from_json
from loftr2flax.formats.safetensors_file import SafetensorsFile
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.formats.strict_json import parse_json
from loftr2flax.limits import DEFAULT, Limits

_MAX_SHARDS = 1000


class ShardedSafetensors(Checkpoint):
    """A ``model.safetensors.index.json`` and the shards beside it, as one checkpoint.

    Raises:
      MissingInput: a shard is not there.
      CorruptFile: index and shards disagree on a leaf, or the index points out of its folder.
      LimitExceeded: more tensors, or a larger index, than ``limits`` allow.
    """

    format = "safetensors"

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT) -> None:
        target = Path(path)
        weight_map, metadata = read_index(target, limits)
        limits.check_tensors(len(weight_map), target)
        self._shards: dict[str, SafetensorsFile] = {}
        self._shard_of = weight_map
        try:
            for shard in dict.fromkeys(weight_map.values()):
                self._shards[shard] = _open_shard(target, shard, limits)
            _check_agreement(target, weight_map, self._shards)
        except BaseException:
            self.close()
            raise
        infos: dict[str, LeafInfo] = {name: self._shards[shard].infos[name] for name, shard in weight_map.items()}
        super().__init__(target, Contents(infos, provenance=_provenance(metadata)))
        self.separator = "/" if any("/" in name for name in infos) else "."

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Checkpoint.files`."""
        return (self.path, *(shard.path for shard in self._shards.values()))

    def read(self, name: str, scratch: Scratch | None = None) -> np.ndarray:
        """See `Checkpoint.read`."""
        self.info(name)
        return self._shards[self._shard_of[name]].read(name, scratch)

    def pieces(self, name: str, size: int) -> Iterator[np.ndarray]:
        """See `Checkpoint.pieces`."""
        self.info(name)
        return self._shards[self._shard_of[name]].pieces(name, size)

    def locate(self, name: str) -> Location | None:
        """See `Checkpoint.locate`."""
        self.info(name)
        return self._shards[self._shard_of[name]].locate(name)

    def close(self) -> None:
        """See `Checkpoint.close`."""
        for shard in self._shards.values():
            shard.close()


def read_index(path: Path, limits: Limits = DEFAULT) -> tuple[dict[str, str], dict[str, Any]]:
    """The index's ``weight_map``, leaf to shard, and its ``metadata``.

    Raises:
      CorruptFile: it is not JSON, or not a map of strings, or names a shard outside its folder.
      UnsupportedFile: an index of other files than safetensors.
    """
    source = SourceFile(path)
    try:
        limits.check_memory(2 * source.size, path, "the index")
        text = source.read(source.size, 0, "the index")
    finally:
        source.close()
    index = parse_json(text, path, "the index", limits)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UnsupportedFile(f"{path}: JSON, but not an index with a weight_map", "name the checkpoint itself")
    shards = dict.fromkeys(weight_map.values())
    if len(shards) > _MAX_SHARDS:
        raise LimitExceeded(f"{path}: names {len(shards)} shards, the limit is {_MAX_SHARDS}", FETCH_AGAIN)
    for shard in shards:
        if "/" in shard or "\\" in shard or "\0" in shard or shard in ("", ".", ".."):
            raise CorruptFile(f"{path}: the shard {shard!r} lies outside the index's folder", "do not trust this file")
        if not shard.endswith(".safetensors"):
            raise UnsupportedFile(f"{path}: the shard {shard!r} is not safetensors", "convert the shards one by one")
    metadata = index.get("metadata")
    return weight_map, metadata if isinstance(metadata, dict) else {}


def _open_shard(index: Path, shard: str, limits: Limits) -> SafetensorsFile:
    try:
        return SafetensorsFile(index.parent / shard, limits)
    except MissingInput:
        raise MissingInput(f"{index}: the shard {shard!r} is missing", f"download it to {index.parent}") from None


def _check_agreement(path: Path, weight_map: dict[str, str], shards: dict[str, SafetensorsFile]) -> None:
    """Every leaf stands in the shard that the index names, in no other, and no shard has a leaf beside these."""
    for name, shard in weight_map.items():
        if name not in shards[shard].infos:
            raise CorruptFile(f"{path}: leaf {name!r} is not in the shard {shard!r}", FETCH_AGAIN)
    for shard, checkpoint in shards.items():
        for name in checkpoint.infos:
            where = weight_map.get(name)
            if where is None:
                raise CorruptFile(f"{path}: leaf {name!r} of the shard {shard!r} is not in the index", FETCH_AGAIN)
            if where != shard:
                raise CorruptFile(f"{path}: leaf {name!r} is in two shards, {where!r} and {shard!r}", FETCH_AGAIN)


def _provenance(metadata: dict[str, Any]) -> dict[str, Any] | None:
    text = metadata.get(KEY)
    return from_json(text) if isinstance(text, str) else None
