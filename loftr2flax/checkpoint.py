"""What a checkpoint is: leaf infos by name, and arrays read on demand.

Names are a file's own: dotted keys in a PyTorch state dict, slashed paths in a Flax tree. Nothing is
read at opening time but headers; ``read`` fetches one leaf.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from loftr2flax import dtypes
from loftr2flax.errors import NoSuchLeaf


class LeafInfo(NamedTuple):
    """What a header says of one leaf.

    Attributes:
      shape: sizes, () for a scalar.
      dtype: one of `loftr2flax.dtypes.NAMES`.
      layout: how a tensor lies in its storage where that is not plain: "transposed", "strided (1, 64)", "offset 128".
      shares: the first leaf with which this one shares storage, or "".
      refused: why `read` cannot give this leaf ("sparse tensor"), or "".
    """

    shape: tuple[int, ...]
    dtype: str
    layout: str = ""
    shares: str = ""
    refused: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, laid out densely."""
        return self.size * dtypes.itemsize(self.dtype)


class Container(NamedTuple):
    """A place inside a file that holds tensors: the file itself (""), ``state_dict``, ``model_state_dict``, …"""

    path: str
    tensors: int


def told_choice(taken: str, containers: Sequence[Container]) -> str:
    """Which of several containers was taken, for people; "" where there was nothing to choose."""
    others = [one for one in containers if one.path != taken]
    if not others:
        return ""
    listed = ", ".join(f"{one.path or 'the file itself'} ({one.tensors})" for one in others)
    return f"took {taken or 'the file itself'}; also there: {listed} (--state-dict)"


class Unread(NamedTuple):
    """Content beside the tensors, listed and never loaded: ``epoch``, ``optimizer_state_dict``.

    Attributes:
      path: where it lies.
      what: what it is, in a few words.
      nbytes: of its tensors' storages, or of its record; what a pickle itself holds is not counted.
    """

    path: str
    what: str
    nbytes: int = 0


class Location(NamedTuple):
    """Where a leaf's first byte lies.

    Attributes:
      file: the file, a shard of several where there are some.
      offset: from the file's beginning, in bytes; None where the bytes lie there in another form (deflated).
      record: the archive's record that it is in, or "".
    """

    file: Path
    offset: int | None
    record: str = ""


class Scratch:
    """Memory lent to `Checkpoint.read`, used again for the next leaf: fresh pages cost more than the copy."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> np.ndarray:
        """A uint8 array of ``nbytes``, valid until the next call."""
        if self._buffer.size < nbytes:
            self._buffer = np.empty(0, np.uint8)  # let go of the old block before asking for a larger one
            self._buffer = np.empty(nbytes, np.uint8)
        return self._buffer[:nbytes]


@dataclass(frozen=True)
class Contents:
    """What a reader found on opening a file, before any leaf is read.

    Attributes:
      infos: leaf infos by name, in the file's own order.
      container: the place that `infos` was taken from ("" for the file itself).
      containers: every place that holds tensors.
      unread: what stands beside them.
      foreign: globals that a pickle names and that were neither imported nor called ("argparse.Namespace").
      provenance: what an output of this package says of its making, or None.
      notes: things a user should be told, each one line ("records carry no CRC").
    """

    infos: Mapping[str, LeafInfo]
    container: str = ""
    containers: tuple[Container, ...] = ()
    unread: tuple[Unread, ...] = ()
    foreign: tuple[str, ...] = ()
    provenance: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())


class Checkpoint(ABC):
    """An open file. One subclass for each format, in `loftr2flax.formats`; use as a context manager.

    ``read`` may be called from several threads at once, each with a `Scratch` of its own.
    """

    format: str
    """"torch", "torch-legacy", "safetensors", "npz" or "msgpack"."""
    separator: str = "/"
    """What joins the segments of a name: "." for state dicts, "/" for Flax trees."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.contents = contents

    @property
    def infos(self) -> Mapping[str, LeafInfo]:
        """Leaf infos by name, in the file's own order."""
        return self.contents.infos

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that its bytes come from."""
        return (self.path,)

    def info(self, name: str) -> LeafInfo:
        """The info of one leaf.

        Raises:
          NoSuchLeaf: with the nearest name as a hint.
        """
        try:
            return self.infos[name]
        except KeyError:
            import difflib

            near = difflib.get_close_matches(name, self.infos, 1)
            raise NoSuchLeaf(
                f"{self.path}: no leaf is called {name!r}",
                f"did you mean {near[0]!r}?" if near else "`loftr2flax inspect` lists the names",
            ) from None

    @abstractmethod
    def read(self, name: str, scratch: Scratch | None = None) -> np.ndarray:
        """One leaf as a C-contiguous array of native byte order.

        With ``scratch`` the array may lie in it, and is then valid only until the next read with the same one;
        without, the array is the caller's own.

        Raises:
          NoSuchLeaf, UnsupportedTensor: the name is not there, or not a plain array.
          CorruptFile: a checksum or a length is wrong.
        """

    def pieces(self, name: str, size: int) -> Iterator[np.ndarray] | None:
        """The bytes of a leaf that lies in its file dense and little-endian, ``size`` at a time; None for others.

        Each piece is a uint8 array, valid until the next. A checksum is known when the last was asked for, so nothing
        is certain before the iterator ends. `loftr2flax.formats.leaf_blocks` gives the elements of any leaf.

        Raises:
          CorruptFile: while iterating, as for `read`.
        """
        return None

    @abstractmethod
    def locate(self, name: str) -> Location | None:
        """Where the leaf's bytes lie; None for one that has none, or is refused.

        A leaf in several pieces is where its first piece is.

        Raises:
          NoSuchLeaf: the name is not there.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. Reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.format} checkpoint {str(self.path)!r}: {len(self.infos)} leaves>"
