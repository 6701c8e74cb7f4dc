"""`--distributed`: one of several processes that train together."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from loftr2flax.cli.output import say
from loftr2flax.errors import EnvironmentFault, UsageError

_HOST = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.]+(%\w+)?\]")


def join(distributed: str | None) -> None:
    """Makes this process one of several; jax must know of them before it looks for devices.

    Args:
      distributed: ``HOST:PORT,N,RANK``, or ``auto``; None for one process alone.

    Raises:
      UsageError: it is none of these, or the processes were told different things.
      EnvironmentFault: they cannot meet.
    """
    if distributed is None:
        return
    import jax
    from jax.experimental import multihost_utils

    from loftr2flax.training.meeting import meet

    where: tuple[Any, ...] = ()
    if distributed != "auto":
        address, *numbers = distributed.split(",")
        host, _, port = address.rpartition(":")
        whole = all(number.isascii() and number.isdecimal() and len(number) < 6 for number in [*numbers, port])
        if len(numbers) != 2 or not whole or not _HOST.fullmatch(host) or not 0 < int(port) < 65536:
            raise UsageError(
                f"--distributed {distributed}: not HOST:PORT,N,RANK",
                "such as `--distributed localhost:9911,2,0`; an IPv6 address stands in brackets",
            )
        count, rank = map(int, numbers)
        if rank >= count:
            raise UsageError(
                f"--distributed {distributed}: {count} processes have no rank {rank}", "ranks are 0 to N - 1"
            )
        where = (address, count, rank)
        say(f"process {rank} of {count}, which meet at {address}")
        meet(*where)
    with suppress(AttributeError):  # a jax that has no such service
        # this service takes SIGTERM for itself
        jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]
    try:
        with stdout_for_us():
            jax.distributed.initialize(*where)
            multihost_utils.sync_global_devices("met")  # connects them while they are all there
    except (ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise EnvironmentFault(
            f"--distributed {distributed}: the processes cannot meet: {reason}",
            "all of them start with the same HOST:PORT, which process 0 can listen at",
        ) from error


@contextmanager
def stdout_for_us(needed: bool = True) -> Iterator[None]:
    """Until the block ends, what libraries write to stdout goes to stderr: Gloo greets its peers there."""
    if not needed or sys.stdout is None or sys.stderr is None:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
