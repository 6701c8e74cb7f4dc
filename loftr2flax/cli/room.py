"""Whether the system has room for a verb's start: told before a library finds out in its own way."""

from __future__ import annotations

import mmap

NO_THREAD = "can't start new thread"
"""What Python says, in a RuntimeError, where the system refuses one."""

_ROOM = 256 << 20
"""Bytes of address space for numpy (96 MiB) while the first thread takes its stack and its heap (136 MiB on Linux).

It is address space that is asked for, not memory: of that there is enough for anybody, unless it is limited.
"""


def check_room() -> None:
    """Asks for the memory that every verb needs, and gives it back untouched.

    Where numpy's linear algebra gets none, it ends the process by itself with code 1, which would be an answer.

    Raises:
      MemoryError: there is not so much.
    """
    try:
        mmap.mmap(-1, _ROOM).close()
    except OSError:
        raise MemoryError from None
