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
_SLOTS = 2


def stream(moves: Sequence[Move], checkpoint: Checkpoint) -> Generator[Made]:
    """Each move with its array, in order. An array is valid until the next one is asked for.

    Close it (`contextlib.closing`) before the checkpoint: a worker may still be reading where the consumer gave up.

    Raises:
      Loftr2FlaxError: whatever reading or running a move raises, at that move's turn.
    """
    free: SimpleQueue[Slot | None] = SimpleQueue()
    made: SimpleQueue[tuple[Move, np.ndarray, Slot] | BaseException | None] = SimpleQueue()
    for _ in range(_SLOTS):
        free.put((Scratch(), Scratch()))
    worker = threading.Thread(target=_work, args=(moves, checkpoint, free, made), daemon=True)
    worker.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            move, array, slot = item
            yield move, array
            free.put(slot)
    finally:
        free.put(None)  # where the consumer stopped early, so does the worker
        worker.join()


def _work(
    moves: Sequence[Move],
    checkpoint: Checkpoint,
    free: SimpleQueue[Slot | None],
    made: SimpleQueue[tuple[Move, np.ndarray, Slot] | BaseException | None],
) -> None:
    try:
        for move in moves:
            slot = free.get()
            if slot is None:
                return
            taken, given = slot
            made.put((move, run_move(move, partial(checkpoint.read, scratch=taken), given), slot))
        made.put(None)
    except BaseException as error:  #  handed over whole, and raised where the leaf was wanted
        made.put(error)
