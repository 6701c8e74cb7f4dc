"""Leaves as the nested maps that `flax.serialization.msgpack_restore` reads, streamed.

A map's entries stand together in the file, so leaves are wanted grouped by their prefixes; apart from that they keep
the order given. The file has no room beside the leaves: the provenance goes into a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import UnwritableLeaf
from loftr2flax.formats import msgpack_wire as wire
from loftr2flax.formats.atomic import NewFile

_Tree: TypeAlias = "dict[str, _Tree | str]"


class MsgpackEncoder:
    """See `loftr2flax.formats.writer.Encoder`.

    Raises:
      UnwritableLeaf: a name that is also a branch of others, that Flax keeps for itself, or that is too deep.
    """

    beside = True

    def __init__(self, path: Path, infos: Mapping[str, LeafInfo]) -> None:
        self._infos = infos
        tree = _nest(path, infos)
        self._before = dict(_lead_ins(tree))
        self.order = tuple(self._before)

    def begin(self, file: NewFile) -> None:
        """Write what precedes the first leaf."""
        if not self.order:
            file.write(wire.map_header(0))

    def leaf(self, file: NewFile, name: str, data: memoryview) -> None:
        """Write one leaf."""
        info = self._infos[name]
        file.write(self._before[name])
        if len(data) > wire.CHUNK_BYTES:
            _write_chunked(file, info, data)
        else:
            file.write(wire.array_head(info.shape, info.dtype, len(data)))
            file.write(data)

    def end(self, file: NewFile) -> None:
        """Nothing follows the last leaf."""


def _write_chunked(file: NewFile, info: LeafInfo, data: memoryview) -> None:
    """The array as a map of flat pieces, each of at most `CHUNK_BYTES`."""
    step = max(1, wire.CHUNK_BYTES // dtypes.itemsize(info.dtype)) * dtypes.itemsize(info.dtype)
    starts = range(0, len(data), step)
    file.write(wire.map_header(3) + wire.text(wire.CHUNKED) + b"\xc3")
    file.write(wire.text("shape") + wire.map_header(len(info.shape)))
    for axis, size in enumerate(info.shape):
        file.write(wire.text(str(axis)) + wire.unsigned(size))
    file.write(wire.text("chunks") + wire.map_header(len(starts)))
    for index, start in enumerate(starts):
        piece = data[start : start + step]
        file.write(wire.text(str(index)))
        file.write(wire.array_head((len(piece) // dtypes.itemsize(info.dtype),), info.dtype, len(piece)))
        file.write(piece)


def _nest(path: Path, infos: Mapping[str, LeafInfo]) -> _Tree:
    """The tree of maps that the slashed names make; its leaves are the names."""
    tree: _Tree = {}
    for name in infos:
        *branches, last = name.split("/")
        if len(branches) >= wire.MAX_DEPTH:
            raise UnwritableLeaf(f"{path}: leaf {name!r:.80}: {len(branches)} levels are too deep", "rename it")
        if wire.CHUNKED in branches or last == wire.CHUNKED:
            raise UnwritableLeaf(f"{path}: leaf {name!r}: Flax keeps {wire.CHUNKED!r} for itself", "rename it")
        node = tree
        for branch in branches:
            inner = node.setdefault(branch, {})
            if isinstance(inner, str):
                raise _both(path, inner)
            node = inner
        if last in node:
            raise _both(path, name)
        node[last] = name
    return tree


def _both(path: Path, name: str) -> UnwritableLeaf:
    return UnwritableLeaf(
        f"{path}: leaf {name!r}: it is also a branch that holds other leaves", "use --format npz, or rename it"
    )


def _lead_ins(tree: _Tree) -> Iterator[tuple[str, bytes]]:
    """Every leaf's name in file order, with the map headers and keys that stand between the leaf before and it."""
    pending = wire.map_header(len(tree))
    stack = [iter(tree.items())]
    while stack:
        for key, value in stack[-1]:
            pending += wire.text(key)
            if isinstance(value, str):
                yield value, pending
                pending = b""
            else:
                pending += wire.map_header(len(value))
                stack.append(iter(value.items()))
                break
        else:
            stack.pop()
