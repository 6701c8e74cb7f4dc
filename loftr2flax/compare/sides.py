"""The two sides of a comparison: a checkpoint as it is, or as a mapping arranges it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from loftr2flax.checkpoint import Checkpoint, LeafInfo
from loftr2flax.compare.values import Seen
from loftr2flax.formats import leaf_blocks
from loftr2flax.plan import Move, Plan, is_plain, run_move


class Side(ABC):
    """Leaves by name, read in blocks. Several threads may read at once."""

    infos: Mapping[str, LeafInfo]

    @abstractmethod
    def blocks(self, name: str, elements: int) -> Iterator[np.ndarray]:
        """The elements in C order, ``elements`` at a time; each block is valid until the next."""

    @abstractmethod
    def whole(self, name: str) -> np.ndarray:
        """The leaf at once."""

    @abstractmethod
    def streamed(self, name: str) -> bool:
        """Whether `blocks` holds no more than a block in memory."""

    @abstractmethod
    def seen(self, name: str) -> Seen:
        """The leaf as its file has it."""

    def layout(self, name: str) -> str:
        """How a mapping moves the leaf's axes, or ""."""
        return ""


class OneSide(Side):
    """A checkpoint's own leaves, under names that may be shortened."""

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
        self._checkpoint = checkpoint
        self._names = names
        self.infos = {name: checkpoint.infos[own] for name, own in names.items()}

    def blocks(self, name: str, elements: int) -> Iterator[np.ndarray]:
        """See `Side.blocks`."""
        return leaf_blocks(self._checkpoint, self._names[name], elements)

    def whole(self, name: str) -> np.ndarray:
        """See `Side.whole`."""
        return self._checkpoint.read(self._names[name])

    def streamed(self, name: str) -> bool:
        """See `Side.streamed`."""
        return self._checkpoint.pieces(self._names[name], 1) is not None

    def seen(self, name: str) -> Seen:
        """See `Side.seen`."""
        info = self.infos[name]
        return Seen(self._names[name], info.shape, info.dtype)


class MappedSide(Side):
    """A state dict as the tree that a plan makes of it, or as some of its leaves."""

    def __init__(self, plan: Plan, source: Checkpoint, names: Iterable[str]) -> None:
        self._source = source
        self._moves = {move.leaf: move for move in plan.moves}
        self.infos = {name: self._moves[name].info for name in names}

    def blocks(self, name: str, elements: int) -> Iterator[np.ndarray]:
        """See `Side.blocks`.

        Raises:
          CopiesDiffer: tensors that the mapping makes one are not equal.
        """
        move = self._moves[name]
        if _lies_so(move):
            yield from leaf_blocks(self._source, move.pieces[0].leaf, elements)
            return
        flat = self.whole(name).reshape(-1)
        yield from (flat[start : start + elements] for start in range(0, flat.size, elements))

    def whole(self, name: str) -> np.ndarray:
        """See `Side.whole`."""
        return run_move(self._moves[name], self._source.read)

    def streamed(self, name: str) -> bool:
        """See `Side.streamed`."""
        move = self._moves[name]
        return _lies_so(move) and self._source.pieces(move.pieces[0].leaf, 1) is not None

    def seen(self, name: str) -> Seen:
        """See `Side.seen`."""
        move = self._moves[name]
        if len(move.inputs) == 1:
            info = self._source.infos[move.inputs[0]]
            return Seen(move.inputs[0], info.shape, info.dtype)
        return Seen(", ".join(move.inputs) or f"({move.rule.line})", move.info.shape, move.info.dtype)

    def layout(self, name: str) -> str:
        """See `Side.layout`: from the torch side's axes to the tree's."""
        move = self._moves[name]
        if _lies_so(move) or move.rule.source is None or move.rule.target is None:
            return ""
        here, there = str(move.rule.source.layout), str(move.rule.target.layout)
        return f"{here} → {there}" if here != there else ""


def _lies_so(move: Move) -> bool:
    return not move.copies and move.constant is None and is_plain(move) and move.info.dtype == move.stored
