"""What both kinds of PyTorch file share once their pickle has run: from claims to leaf infos, and reading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loftr2flax.checkpoint import Checkpoint, Contents, LeafInfo, Location, Scratch
from loftr2flax.errors import CorruptFile, UnsupportedTensor
from loftr2flax.formats.source_file import FETCH_AGAIN
from loftr2flax.formats.torch_containers import find_state_dict
from loftr2flax.formats.torch_globals import GlobalFinder, StorageTable, TensorClaim
from loftr2flax.formats.torch_tensors import TensorPlace, check_claim, is_contiguous, read_tensor
from loftr2flax.limits import Limits


class Unpickled(NamedTuple):
    """What came out of a file's pickle, and what the file really holds.

    Attributes:
      top: the value that was saved.
      finder: which globals the pickle named.
      table: the storages that it points to.
      sizes: bytes of each storage that the file holds, by key.
      notes: things a user should be told.
      provenance: what our own writer put into the file, or None.
    """

    top: object
    finder: GlobalFinder
    table: StorageTable
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] | None = None


class TorchCheckpoint(Checkpoint):
    """An open PyTorch file. A subclass finds the storages' bytes; the rest is here."""

    separator = "."

    def __init__(self, path: Path, unpickled: Unpickled, state_dict: str | None, limits: Limits, *, swap: bool) -> None:
        found = find_state_dict(unpickled.top, str(path), state_dict, limits)
        infos, self._places = _check_leaves(path, found.claims, unpickled)
        contents = Contents(
            infos=infos,
            container=found.container,
            containers=found.containers,
            unread=found.unread,
            foreign=tuple(unpickled.finder.foreign),
            provenance=unpickled.provenance,
            notes=unpickled.notes,
        )
        super().__init__(path, contents)
        self._swap = swap

    def read(self, name: str, scratch: Scratch | None = None) -> np.ndarray:
        """One leaf, equal to what ``torch.load`` gives; see `Checkpoint.read`."""
        info = self.info(name)
        place = self._places.get(name)
        if place is None:
            raise UnsupportedTensor(
                f"{self.path}: {name!r} is a {info.refused}",
                "save it as a plain tensor, or leave it out of the mapping",
            )
        array = read_tensor(place, self._read_storage, scratch, swap=self._swap)
        if place.dtype == "bool" and array.size and array.view(np.uint8).max() > 1:
            raise CorruptFile(f"{self.path}: {name!r} is bool and holds bytes other than 0 and 1", FETCH_AGAIN)
        return array

    def pieces(self, name: str, size: int) -> Iterator[np.ndarray] | None:
        """See `Checkpoint.pieces`."""
        info, place = self.info(name), self._places.get(name)
        if place is None or place.flags or self._swap or not (is_contiguous(place.shape, place.stride) and info.nbytes):
            return None
        return self._storage_pieces(place.key, place.offset, info.nbytes, size)

    def locate(self, name: str) -> Location | None:
        """See `Checkpoint.locate`."""
        place = self._places.get(name) if self.info(name).nbytes else None
        return self._storage_location(place.key, place.offset) if place else None

    @abstractmethod
    def _storage_location(self, key: str, start: int) -> Location:
        """Where byte ``start`` of a storage lies."""

    @abstractmethod
    def _storage_pieces(self, key: str, start: int, nbytes: int, size: int) -> Iterator[np.ndarray] | None:
        """``nbytes`` of a storage from ``start`` on, ``size`` at a time; None where they must be read at once."""

    @abstractmethod
    def _read_storage(self, key: str, out: np.ndarray, start: int) -> None:
        """Fill ``out``, uint8, with the bytes of a storage from ``start`` on, checked as far as the format allows."""


def _check_leaves(
    path: Path, claims: Mapping[str, TensorClaim], unpickled: Unpickled
) -> tuple[dict[str, LeafInfo], dict[str, TensorPlace]]:
    """Every claim held against its storage, and each storage against the file."""
    infos: dict[str, LeafInfo] = {}
    places: dict[str, TensorPlace] = {}
    first: dict[str, str] = {}  # by storage key, the leaf that has it
    for name, claim in claims.items():
        where = f"{path}: {name!r}"
        info, place = check_claim(claim, where)
        if place is not None:
            claimed, real = unpickled.table.storages[place.key].nbytes, unpickled.sizes.get(place.key)
            if real is None and claimed:
                raise CorruptFile(f"{where}: the file has no storage {place.key!r}", FETCH_AGAIN)
            if claimed != (real or 0):
                raise CorruptFile(
                    f"{where}: storage {place.key!r} is claimed to have {claimed} bytes and has {real}", FETCH_AGAIN
                )
            places[name] = place
            owner = first.setdefault(place.key, name) if claimed else name
            info = info._replace(shares=owner) if owner != name else info
        infos[name] = info
    return infos, places
