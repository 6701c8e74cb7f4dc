"""Running a plan leaf by leaf, the next leaf being read and arranged while the last is written.

Memory holds two leaves at a time (one being made, one being written), whatever the size of the file.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from functools import partial
from queue import SimpleQueue

import numpy as np

from loftr2flax.checkpoint import Checkpoint, Scratch
from loftr2flax.plan import Move, run_move

Made = tuple[Move, np.ndarray]
Slot = tuple[Scratch, Scratch]
"""Memory for a leaf as it is read, and as it is arranged."""
Batch = tuple[list[Made], Slot]
"""Leaves handed over at once: small ones in memory of their own, and at most one large one in the slot's."""

_SLOTS = 2
_SMALL = 1 << 16
_MOST_SMALL = 64
"""Small leaves are handed over together: to pass one from thread to thread takes longer than to read it."""


def stream(moves: Sequence[Move], checkpoint: Checkpoint) -> Generator[Made]:
    """Each move with its array, in order. An array is valid until the next one is asked for.

    Close it (`contextlib.closing`) before the checkpoint: a worker may still be reading where the consumer gave up.

    Raises:
      Loftr2FlaxError: whatever reading or running a move raises, at that move's turn.
    """
    free: SimpleQueue[Slot | None] = SimpleQueue()
    made: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
    for _ in range(_SLOTS):
        free.put((Scratch(), Scratch()))
    worker = threading.Thread(target=_work, args=(moves, checkpoint, free, made), daemon=True)
    worker.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, slot = item
            yield from batch
            free.put(slot)
    finally:
        free.put(None)  # where the consumer stopped early, so does the worker
        worker.join()


def _work(
    moves: Sequence[Move],
    checkpoint: Checkpoint,
    free: SimpleQueue[Slot | None],
    made: SimpleQueue[Batch | BaseException | None],
) -> None:
    batch: list[Made] = []
    try:
        slot = free.get()
        for move in moves:
            if slot is None:
                return
            small = max(move.info.nbytes, *(checkpoint.infos[name].nbytes for name in move.inputs), 0) < _SMALL
            taken, given = (None, None) if small else slot
            batch.append((move, run_move(move, partial(checkpoint.read, scratch=taken), given)))
            if not small or len(batch) == _MOST_SMALL:
                made.put((batch, slot))
                batch, slot = [], free.get()
        if slot is not None and batch:
            made.put((batch, slot))
        made.put(None)
    except BaseException as error:  # handed over whole, and raised where the leaf was wanted
        if batch and slot is not None:
            made.put((batch, slot))
        made.put(error)
