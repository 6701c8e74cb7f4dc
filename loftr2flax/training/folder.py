"""The folder of a run: one run at a time, and nothing of an earlier one written over."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loftr2flax.errors import EnvironmentFault, OutputExists, UsageError

STATES = "states"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, for this run alone until the block ends or the process does.

    The hold is the system's lock on the folder itself, so nothing is left behind. Where a file system has no locks, two
    runs are not kept apart.

    Raises:
      EnvironmentFault: another run is at work there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentFault(f"{folder}: {error.strerror}", "name another --checkpoint-dir") from None
    try:
        with contextlib.suppress(OSError):  # no locks here
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EnvironmentFault(
                    f"{folder}: another run is at work there", "wait until it ends, or name another --checkpoint-dir"
                ) from None
        yield
    finally:
        os.close(descriptor)


def no_run(folder: Path) -> UsageError:
    """The error that nothing in the folder can be resumed."""
    return UsageError(f"{folder}: holds no run to resume", "leave out --resume")


def demand_run(folder: Path) -> None:
    """Raises `no_run` where there has been none; nothing is made there then."""
    if not (folder / STATES).is_dir():
        raise no_run(folder)


def demand_ahead(folder: Path, step: int, steps: int, per_epoch: int) -> None:
    """Raises UsageError where a run is further than it is asked to go."""
    if step > steps:
        raise UsageError(
            f"{folder}: the run is at step {step}, and num_epochs={steps // per_epoch} ends at step {steps}",
            f"`--num-epochs {-(-step // per_epoch)}` or more",
        )


def demand_empty(folder: Path, step: int | None, *results: str) -> None:
    """Raises OutputExists where a run has saved a ``step`` already, or a file of these names is there."""
    if step is not None:
        raise OutputExists(
            f"{folder}: holds a run at step {step}", "`--resume` continues it; else name another --checkpoint-dir"
        )
    for name in results:
        if (folder / name).exists():
            raise OutputExists(
                f"{folder / name}: is there, and no state to go on from", "name another --checkpoint-dir"
            )
