"""Leaves as several safetensors files and an index that says which leaf lies in which, as the Hugging Face hub has it.

``out.safetensors`` becomes ``out-00001-of-00003.safetensors`` and so on, and ``out.safetensors.index.json``, which is
what one opens. All of them are written and on the disk before the first takes its name, and the index takes its name
last: whoever finds it finds all that it names. What it replaces goes before the shards come, so that no index ever
stands beside shards of another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import Loftr2FlaxError, UsageError
from loftr2flax.formats.atomic import NewFile, check_target, new_file
from loftr2flax.formats.provenance import KEY, Told, to_json
from loftr2flax.formats.safetensors_writer import SafetensorsEncoder

MOST_SHARDS = 500
"""More files than this are not held open at once."""

Infos = Mapping[str, LeafInfo]


class ShardWriter(Protocol):
    """What is needed of `loftr2flax.formats.writer.Writer`."""

    order: tuple[str, ...]

    def write(self, name: str, array: np.ndarray) -> None:
        """Write one leaf."""

    def end(self) -> None:
        """Write what follows the last leaf."""


MakeWriter = Callable[[NewFile, SafetensorsEncoder, Infos], ShardWriter]


def divided(infos: Infos, most: int) -> tuple[Infos, ...]:
    """The leaves in their order, in groups of at most ``most`` bytes; a larger leaf is a group of its own."""
    groups: list[dict[str, LeafInfo]] = [{}]
    held = 0
    for name, info in infos.items():
        if groups[-1] and held + info.nbytes > most:
            groups.append({})
            held = 0
        groups[-1][name] = info
        held += info.nbytes
    return tuple(groups)


def index_of(path: Path) -> Path:
    """``out.safetensors`` → ``out.safetensors.index.json``."""
    return path.with_name(f"{_stem(path)}.safetensors.index.json")


def shards_of(path: Path, count: int) -> tuple[Path, ...]:
    """``out.safetensors``, 3 → ``out-00001-of-00003.safetensors``, …"""
    return tuple(
        path.with_name(f"{_stem(path)}-{n:05}-of-{count:05}.safetensors") for n in range(1, count + 1)
    )  # fmt: skip


def _stem(path: Path) -> str:
    return path.name.removesuffix(".safetensors")


class Shards:
    """An open output of several files; see `loftr2flax.formats.writer.Writer`."""

    def __init__(self, writers: Sequence[Callable[[], ShardWriter]], order: Sequence[tuple[str, ...]]) -> None:
        self.order = tuple(name for names in order for name in names)
        """The names in the order in which `write` wants them."""
        self._last = {names[-1] for names in order}
        self._waiting = iter(writers)
        self._open: ShardWriter | None = None

    def write(self, name: str, array: np.ndarray) -> None:
        """Write the leaf ``name``; see `loftr2flax.formats.writer.Writer.write`."""
        if self._open is None:
            self._open = next(self._waiting)()
        self._open.write(name, array)
        if name in self._last:
            self._open.end()
            self._open = None

    def end(self) -> None:
        """Write what follows the last leaf.

        Raises:
          RuntimeError: a leaf is missing.
        """
        if self._open is not None or next(self._waiting, None) is not None:
            raise RuntimeError("a leaf was announced and never written")


@contextmanager
def open_shards(path: Path, groups: Sequence[Infos], told: Told, make: MakeWriter, *, force: bool) -> Iterator[Shards]:
    """A writer for one file for each group and their index.

    Raises:
      UsageError: there would be more than `MOST_SHARDS` of them.
      OutputExists: one of the files, or ``path`` itself, is there, and ``force`` is not set.
      UnwritableLeaf, EnvironmentFault: as for one file.
    """
    if len(groups) > MOST_SHARDS:
        message = f"{path}: would become {len(groups)} files, the limit is {MOST_SHARDS}"
        raise UsageError(message, "give a larger --max-shard-size")
    index, shards = index_of(path), shards_of(path, len(groups))
    for target in (path, *shards):
        check_target(target, force=force)
    encoders = [
        SafetensorsEncoder(shard, group, lambda *, final=True: {}) for shard, group in zip(shards, groups, strict=True)
    ]
    with ExitStack() as stack:
        head = stack.enter_context(new_file(index, force=force))  # the first to enter is the last to take its name
        files: list[NewFile] = []

        def begun(shard: Path, encoder: SafetensorsEncoder, group: Infos) -> ShardWriter:
            file = stack.enter_context(new_file(shard, force=force))
            files.append(file)
            encoder.begin(file)
            return make(file, encoder, group)

        opening = [
            lambda shard=shard, encoder=encoder, group=group: begun(shard, encoder, group)
            for shard, encoder, group in zip(shards, encoders, groups, strict=True)
        ]
        writer = Shards(opening, [encoder.order for encoder in encoders])
        yield writer
        writer.end()
        head.write(_index(groups, shards, told))
        for file in (*files, head):
            file.settle()
        former = _former(index) if force else ()
        if force:
            index.unlink(missing_ok=True)
    for old in {path, *former} - set(shards) if force else ():
        with suppress(OSError):
            old.unlink()


def _index(groups: Sequence[Infos], shards: Sequence[Path], told: Told) -> bytes:
    where = {name: shard.name for group, shard in zip(groups, shards, strict=True) for name in group}
    total = sum(info.nbytes for group in groups for info in group.values())
    index = {"metadata": {"total_size": total, KEY: to_json(told())}, "weight_map": where}
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"


def _former(index: Path) -> tuple[Path, ...]:
    """The shards of the index that is there; none where it cannot be read."""
    from loftr2flax.formats.safetensors_index import read_index

    try:
        return tuple(index.with_name(shard) for shard in dict.fromkeys(read_index(index)[0].values()))
    except (Loftr2FlaxError, OSError):
        return ()
