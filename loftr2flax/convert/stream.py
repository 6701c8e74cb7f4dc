"""Running a plan leaf by leaf, the next leaf being read and arranged while the last is written.

Memory holds three leaves at a time (one as it is read, one arranged, one being written), whatever the size of the file.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from functools import partial
from queue import SimpleQueue

import numpy as np

from loftr2flax.checkpoint import Checkpoint, Scratch
from loftr2flax.plan import Move, is_plain, run_move

Made = tuple[Move, np.ndarray]
Batch = tuple[list[Made], Scratch]
"""Leaves handed over at once: small ones in memory of their own, and at most one large one, in the memory beside."""

_AHEAD = 2  # leaves that are made, or being made, before the first of them is written
_SMALL = 1 << 16
_MOST_SMALL = 64
"""Small leaves are handed over together: to pass one from thread to thread takes longer than to read it."""


def stream(moves: Sequence[Move], checkpoint: Checkpoint) -> Generator[Made]:
    """Each move with its array, in order. An array is valid until the next one is asked for.

    Close it (`contextlib.closing`) before the checkpoint: a worker may still be reading where the consumer gave up.

    Raises:
      Loftr2FlaxError: whatever reading or running a move raises, at that move's turn.
    """
    free: SimpleQueue[Scratch | None] = SimpleQueue()
    made: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
    for _ in range(_AHEAD):
        free.put(Scratch())
    worker = threading.Thread(target=_work, args=(moves, checkpoint, free, made), daemon=True)
    worker.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, memory = item
            yield from batch
            free.put(memory)
    finally:
        free.put(None)  # where the consumer stopped early, so does the worker
        worker.join()


def _work(
    moves: Sequence[Move],
    checkpoint: Checkpoint,
    free: SimpleQueue[Scratch | None],
    made: SimpleQueue[Batch | BaseException | None],
) -> None:
    batch: list[Made] = []
    unarranged = Scratch()
    try:
        memory = free.get()
        for move in moves:
            if memory is None:
                return
            small = max(move.info.nbytes, *(checkpoint.infos[name].nbytes for name in move.inputs), 0) < _SMALL
            if small:
                array = run_move(move, checkpoint.read)
            else:  # a leaf that is written as it is read lies where the others are arranged
                reading = memory if move.pieces and is_plain(move) else unarranged
                array = run_move(move, partial(checkpoint.read, scratch=reading), memory)
            batch.append((move, array))
            if not small or len(batch) == _MOST_SMALL:
                made.put((batch, memory))
                batch, memory = [], free.get()
        if memory is not None and batch:
            made.put((batch, memory))
        made.put(None)
    except BaseException as error:  # handed over whole, and raised where the leaf was wanted
        if batch and memory is not None:
            made.put((batch, memory))
        made.put(error)
