"""Processes meet before jax is told of them: jaxlib aborts where one does not come, here it is named.

Process 0 listens at the port at which it will coordinate. The others say who they are, and wait for its word.
"""

from __future__ import annotations

import contextlib
import socket
import time
from contextlib import ExitStack
from typing import NoReturn

from loftr2flax.errors import EnvironmentFault, UsageError

PATIENCE = 300.0
"""Seconds to wait for the others; jax's own."""

_GREETING, _GO = "loftr2flax", "go"
_PAUSE, _ANSWER = 0.2, 2.0  # seconds from one try to the next; for a stranger to say who it is
_LONGEST = 200  # characters of what is said


def meet(address: str, processes: int, rank: int, patience: float = PATIENCE) -> None:
    """Returns when all ``processes`` are there; this one is number ``rank``, and number 0 is at ``address``.

    Args:
      address: ``HOST:PORT``; an IPv6 address stands in brackets.
      patience: seconds to wait.

    Raises:
      UsageError: two have the same rank, or were told of different numbers of processes.
      EnvironmentFault: process 0 cannot listen or be reached there, or not all came.
    """
    host, _, port = address.rpartition(":")
    place, until = (host.strip("[]"), int(port)), time.monotonic() + patience
    if rank == 0:
        _await_others(address, place, processes, until)
    else:
        _await_word(address, place, processes, rank, until)


def _await_others(address: str, place: tuple[str, int], processes: int, until: float) -> None:
    with ExitStack() as open_sockets:
        try:
            server = open_sockets.enter_context(_listening(place[1]))
            with socket.create_connection(place, _left(until)):  # jax's coordinator calls itself by this address too
                pass
        except OSError as error:
            told = f"--distributed {address}: process 0 cannot be reached here: {_reason(error)}"
            raise EnvironmentFault(told, "a HOST of this machine and a PORT that is free, for all processes") from None
        met: dict[int, socket.socket] = {}
        while len(met := {rank: one for rank, one in met.items() if not _hung_up(one)}) < processes - 1:
            server.settimeout(_left(until))
            try:
                other = open_sockets.enter_context(server.accept()[0])
            except OSError:
                missing = ", ".join(str(one) for one in range(1, processes) if one not in met)
                _fail(address, f"of {processes} processes these did not come: {missing}")
            said = _hear(other, min(time.monotonic() + _ANSWER, until)).split()
            if len(said) != 3 or said[0] != _GREETING or not all(word.isdecimal() for word in said[1:]):
                continue  # our own call, or a stranger
            count, rank = map(int, said[1:])
            trouble = f"two processes have rank {rank}" if rank in met or not 0 < rank < processes else ""
            if count != processes:
                trouble = f"process {rank} was told of {count} processes, process 0 of {processes}"
            if trouble:
                for one in (*met.values(), other):
                    _say(one, f"{_GREETING}: {trouble}")
                _disagree(address, trouble)
            met[rank] = other
        for other in met.values():
            _say(other, f"{_GREETING}: {_GO}")
        for other in met.values():
            _hear(other, time.monotonic() + _ANSWER)  # until it hangs up, so that the port is free at once


def _await_word(address: str, place: tuple[str, int], processes: int, rank: int, until: float) -> None:
    while True:
        try:
            with socket.create_connection(place, _left(until)) as server:
                _say(server, f"{_GREETING} {processes} {rank}")
                word = _hear(server, until)
            break
        except OSError as error:
            if time.monotonic() + _PAUSE > until:
                _fail(address, f"process 0 is not there: {_reason(error)}")
            time.sleep(_PAUSE)
    if not word:
        _fail(address, "process 0 went away, or others did not come")
    if not word.startswith(f"{_GREETING}: "):
        raise EnvironmentFault(f"--distributed {address}: something else answers there", "take another port for all")
    if word != f"{_GREETING}: {_GO}":
        _disagree(address, word.removeprefix(f"{_GREETING}: "))


def _listening(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _say(other: socket.socket, words: str) -> None:
    with contextlib.suppress(OSError):  # it went away: it will be missed where it is needed
        other.sendall(f"{words}\n".encode())


def _hear(other: socket.socket, until: float) -> str:
    """One line; empty where the other hangs up, or says nothing in time."""
    heard = b""
    with contextlib.suppress(OSError):
        while b"\n" not in heard and len(heard) < _LONGEST and time.monotonic() < until:
            other.settimeout(_left(until))
            if not (more := other.recv(_LONGEST)):
                break
            heard += more
    return heard.partition(b"\n")[0].decode("ascii", "replace").strip()


def _hung_up(other: socket.socket) -> bool:
    """Whether a process that has said who it is has gone; it has nothing more to say."""
    other.setblocking(False)
    try:
        return not other.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.01)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _fail(address: str, trouble: str) -> NoReturn:
    raise EnvironmentFault(
        f"--distributed {address}: {trouble}", "all processes start with the HOST:PORT of process 0, within minutes"
    )


def _disagree(address: str, trouble: str) -> NoReturn:
    raise UsageError(f"--distributed {address}: {trouble}", "ranks are 0 to N - 1, and N is the same for all")
