"""What the processes of one run agree on; with one process there is nothing to agree on.

Each function is called by all processes at the same place, as jax's collectives are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from loftr2flax.errors import EnvironmentFault, Loftr2FlaxError, UsageError
from loftr2flax.training.record import Record

_OWN = {"workers", "dataset_root"}
"""What each process may have otherwise: the images themselves are compared."""


@contextmanager
def all_or_none() -> Iterator[None]:
    """The block is done by all processes, or by none: where one of them fails, the others end with its word.

    Raises:
      EnvironmentFault: another process failed.
    """
    try:
        yield
    except Loftr2FlaxError as error:
        _gathered({"trouble": error.message})
        raise
    for rank, said in enumerate(_gathered({})):
        if "trouble" in said:
            raise EnvironmentFault(
                f"process {rank} ended: {said['trouble']}", "mend what it says, and start all of them again"
            )


def demand_same(record: Record, resume: bool) -> None:
    """Whether all processes train the same.

    Raises:
      UsageError: a process has another config, other images, or resumes where others do not.
    """
    said = {"config": record.config, "command": record.command, "images": record.images, "resume": resume}
    first, *others = _gathered(said)
    for rank, other in enumerate(others, 1):
        differ = {name: (first[name], other[name]) for name in first if name != "config" and first[name] != other[name]}
        for name in first["config"].keys() - _OWN:
            if first["config"][name] != other["config"].get(name):
                differ[name] = (first["config"][name], other["config"].get(name))
        if differ:
            name, (one, two) = next(iter(sorted(differ.items())))
            raise UsageError(
                f"process 0 has {name}={json.dumps(one)}, and process {rank} has {json.dumps(two)}",
                "give all processes the same options, config and images",
            )


def latest(signal: int) -> int:
    """The highest of the numbers: the signal that any process got, or 0."""
    if jax.process_count() == 1:
        return signal
    from jax.experimental.multihost_utils import process_allgather

    return int(np.max(process_allgather(np.int32(signal))))


def _gathered(said: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process says, by rank."""
    if jax.process_count() == 1:
        return [said]
    from jax.experimental.multihost_utils import process_allgather

    text = json.dumps(said).encode()
    room = int(np.max(process_allgather(np.int32(len(text)))))
    padded = np.frombuffer(text.ljust(room), np.uint8)
    return [json.loads(bytes(row)) for row in np.asarray(process_allgather(padded))]
