"""Writing a checkpoint leaf by leaf, in any format: each leaf is handed over once, written and forgotten.

An encoder knows one format: it is given every header first, refuses what the format cannot hold before any file is
touched, says in which order it wants the leaves, and turns them into bytes. `Writer` holds the caller to that order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import UnwritableLeaf, UsageError
from loftr2flax.formats import provenance as provenances
from loftr2flax.formats.atomic import NewFile, new_file
from loftr2flax.formats.leaf_bytes import little_endian_bytes
from loftr2flax.formats.msgpack_writer import MsgpackEncoder
from loftr2flax.formats.npz_writer import NpzEncoder
from loftr2flax.formats.safetensors_shards import Infos, Shards, divided, index_of, open_shards, shards_of
from loftr2flax.formats.safetensors_writer import SafetensorsEncoder
from loftr2flax.formats.torch_writer import TorchEncoder


class Encoder(Protocol):
    """One format's way to lay leaves out in a file; the same input gives the same bytes."""

    order: tuple[str, ...]
    """Every name once, in the order in which `leaf` takes them."""
    beside: bool
    """Whether the provenance has no place in the file and goes into one beside it."""

    def begin(self, file: NewFile) -> None:
        """Write what precedes the first leaf."""

    def leaf(self, file: NewFile, name: str, data: memoryview) -> None:
        """Write one leaf, given as little-endian bytes in C order."""

    def end(self, file: NewFile) -> None:
        """Write what follows the last leaf."""


FORMATS: dict[str, Callable[[Path, Mapping[str, LeafInfo], provenances.Told, str], Encoder]] = {
    "npz": lambda path, infos, provenance, container: NpzEncoder(path, infos, provenance),
    "msgpack": lambda path, infos, provenance, container: MsgpackEncoder(path, infos),
    "safetensors": lambda path, infos, provenance, container: SafetensorsEncoder(path, infos, provenance),
    "torch": TorchEncoder,
}
"""What can be written: a new format is one line here, and its endings below."""

ENDINGS = {
    ".npz": "npz",
    ".msgpack": "msgpack",
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
    ".bin": "torch",
}
"""Which format an output's ending means."""


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that the ending of ``path`` means: ``out.npz`` → "npz".

    Raises:
      UsageError: the ending means none; the hint lists those that do.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(
            f"{os.fspath(path)}: the ending {ending!r} names no format",
            f"end it in {', '.join(ENDINGS)}, or add --format ({', '.join(FORMATS)})",
        )
    return ENDINGS[ending]


class Writer:
    """An open output. `write` takes every leaf once, in `order`; anything else is a bug in the caller."""

    def __init__(self, file: NewFile, encoder: Encoder, infos: Mapping[str, LeafInfo]) -> None:
        self.order = encoder.order
        """The names in the order in which `write` wants them."""
        self._file = file
        self._encoder = encoder
        self._infos = infos
        self._next = 0

    def write(self, name: str, array: np.ndarray) -> None:
        """Write the leaf ``name``: a C-contiguous array of exactly the shape and type announced.

        Raises:
          RuntimeError: it is not this leaf's turn, or the array is not what was announced.
          EnvironmentFault: the disk is full, or the system refuses for another reason.
        """
        due = self.order[self._next] if self._next < len(self.order) else None
        if name != due:
            raise RuntimeError(f"leaf {name!r} was written out of turn: {due!r} is due")
        info = self._infos[name]
        plain = array.flags.c_contiguous and array.dtype.isnative
        if (array.shape, array.dtype.name) != (info.shape, info.dtype) or not plain:
            came = f"{array.dtype}{array.shape}{'' if plain else ' in another order'}"
            raise RuntimeError(f"leaf {name!r}: {info.dtype}{info.shape} was announced, {came} came")
        self._encoder.leaf(self._file, name, little_endian_bytes(array))
        self._next += 1

    def end(self) -> None:
        """Write what follows the last leaf.

        Raises:
          RuntimeError: a leaf is missing.
        """
        if self._next < len(self.order):
            raise RuntimeError(f"leaf {self.order[self._next]!r} was announced and never written")
        self._encoder.end(self._file)


@contextmanager
def open_writer(
    path: str | os.PathLike[str],
    format: str,
    infos: Mapping[str, LeafInfo],
    provenance: Mapping[str, Any] | provenances.Told,
    *,
    force: bool = False,
    container: str = "",
    most: int | None = None,
) -> Iterator[Writer | Shards]:
    """A `Writer` for a new file at ``path``, which appears when the block ends and not at all when it raises.

    Args:
      path: the output.
      format: one of `FORMATS`; see `format_of`.
      infos: name, shape and type of every leaf, in the order that the file should show.
      provenance: a JSON object on how the file came to be, or what gives it when it is needed; never a leaf.
      force: whether a file that is there is replaced, also one beside it that is no record of ours.
      container: for "torch", the key under which the state dict lies ("state_dict"); "" for the file itself.
      most: the bytes of leaves that one file may hold; what has more becomes several, see
        `loftr2flax.formats.safetensors_shards`.

    Raises:
      UsageError: no such format, or ``path`` is a directory or a device, or the format is not one of several files.
      UnwritableLeaf: the format cannot hold a leaf; nothing has been written then.
      OutputExists, EnvironmentFault: see `loftr2flax.formats.atomic.new_file`.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r} is not known", f"use one of {', '.join(FORMATS)}")
    target = Path(path)
    _check_names(target, infos)
    told: provenances.Told = provenance if callable(provenance) else lambda *, final=True: provenance
    groups = _divided(target, format, infos, most)
    if len(groups) > 1:
        with open_shards(target, groups, told, Writer, force=force) as shards:
            yield shards
        return
    encoder = FORMATS[format](target, infos, told, container)
    if encoder.beside:
        provenances.check_beside(target, force=force)  # again when it is written: an .npz learns late if it needs one
    with new_file(target, force=force) as file:
        encoder.begin(file)
        writer = Writer(file, encoder, infos)
        yield writer
        writer.end()
        if encoder.beside:
            file.settle()
            provenances.write_beside(target, told(), file.position, bytes(file.head), force=force)


def written_files(path: Path, format: str, infos: Mapping[str, LeafInfo], most: int | None) -> tuple[Path, ...]:
    """The files that `open_writer` makes, without a record beside: the one to open first, then its shards if any.

    Raises:
      UsageError: as for `open_writer`.
    """
    groups = _divided(path, format, infos, most)
    return (path,) if len(groups) == 1 else (index_of(path), *shards_of(path, len(groups)))


def _divided(path: Path, format: str, infos: Mapping[str, LeafInfo], most: int | None) -> tuple[Infos, ...]:
    """The leaves of each file; one group where ``most`` is None."""
    if most is None:
        return (infos,)
    if format != "safetensors":
        raise UsageError(f"{path}: only safetensors is written in several files", "leave out --max-shard-size")
    return divided(infos, most)


def _check_names(path: Path, infos: Mapping[str, LeafInfo]) -> None:
    for name in infos:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UnwritableLeaf(f"{path}: leaf {name!r}: the name is not valid Unicode", "rename it") from None
