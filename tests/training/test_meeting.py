"""Processes that are to train together: they meet, or each is told why not."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from program import run_program

from loftr2flax.errors import EnvironmentFault, UsageError
from loftr2flax.training.meeting import meet


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def together(address: str, *told: tuple[int, int], patience: float = 20.0) -> list[Future[None]]:
    """Processes that were told of so many, and of their rank; what each came to."""
    with ThreadPoolExecutor(len(told)) as pool:
        return [pool.submit(meet, address, processes, rank, patience) for processes, rank in told]


def say_and_go(address: str, words: bytes) -> None:
    """Hangs up on process 0 after these words, once it is there."""
    host, port = address.split(":")
    while True:
        try:
            with socket.create_connection((host, int(port)), 1) as other:
                other.sendall(words)
            return
        except ConnectionRefusedError:
            continue


@pytest.mark.parametrize("ranks", [(0,), (0, 1), (3, 1, 0, 2)])
def test_all_come(address, ranks):
    for done in together(address, *((len(ranks), rank) for rank in ranks)):
        assert done.result() is None


def test_strangers_do_not_matter(address):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, address, 2, 0, 20.0)
        say_and_go(address, b"GET / HTTP/1.1\r\n\r\n")
        second = pool.submit(meet, address, 2, 1, 20.0)
    assert first.result() is second.result() is None


def test_one_that_went_away_may_come_again(address):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, address, 3, 0, 20.0)
        say_and_go(address, b"loftr2flax 3 1\n")
        second = pool.submit(meet, address, 3, 2, 20.0)
        time.sleep(0.3)
        assert not first.done()
        assert not second.done()
        meet(address, 3, 1, 20.0)
    assert first.result() is second.result() is None


def test_a_slow_stranger_takes_no_more_than_the_patience(address):
    host, port = address.split(":")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, address, 2, 0, 1.0)
        time.sleep(0.3)
        with socket.create_connection((host, int(port)), 1) as stranger, contextlib.suppress(OSError):
            for _ in range(30):
                stranger.sendall(b"x")
                time.sleep(0.1)
        with pytest.raises(EnvironmentFault, match="these did not come: 1"):
            first.result(0.1)


def test_something_else_answers(address):
    def answer(server):
        with server, server.accept()[0] as other:
            other.sendall(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(answer, socket.create_server(("localhost", int(address.split(":")[1]))))
        with pytest.raises(EnvironmentFault, match=f"{address}: something else answers there"):
            meet(address, 2, 1, 5.0)


def test_some_do_not_come(address):
    zero, one = together(address, (4, 0), (4, 2), patience=1.5)
    with pytest.raises(EnvironmentFault, match=f"{address}: of 4 processes these did not come: 1, 3"):
        zero.result()
    with pytest.raises(EnvironmentFault, match="process 0 went away, or others did not come"):
        one.result()


def test_process_0_is_not_there(address):
    with pytest.raises(EnvironmentFault, match=f"{address}: process 0 is not there: Connection refused"):
        meet(address, 2, 1, 0.5)


def test_the_port_is_taken(address):
    taken = socket.create_server(("localhost", int(address.split(":")[1])))
    with taken, pytest.raises(EnvironmentFault, match="process 0 cannot be reached here: Address already in use"):
        meet(address, 2, 0, 0.5)


def test_a_host_that_is_none(monkeypatch, address):
    def unknown(*place):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(EnvironmentFault, match="process 0 cannot be reached here: Name or service not known"):
        meet(address, 1, 0, 0.5)


@pytest.mark.parametrize(
    ("told", "trouble"),
    [
        (((2, 0), (3, 1)), "process 1 was told of 3 processes, process 0 of 2"),
        (((3, 0), (3, 1), (3, 1)), "two processes have rank 1"),
    ],
)
def test_they_were_told_different_things(address, told, trouble):
    for done in together(address, *told):
        with pytest.raises(UsageError, match=trouble):
            done.result()


@pytest.mark.parametrize(
    "words",
    ["x", "localhost,2,0", "localhost:abc,1,0", "localhost:99999,1,0", "localhost:9911,2,2", "localhost:9911,2",
     "localhost:9911,٢,0", ":9911,2,0", "localhost:0,1,0", "::1:9911,2,0", "a b:9911,2,1"],
)  # fmt: skip
def test_processes_that_are_not_named(call, tmp_path, words):
    done = call("train", "dense", "--distributed", words)
    assert (done.code, done.error.split(": ")[0]) == (2, f"--distributed {words}")
    assert not list(tmp_path.iterdir())


def test_processes_that_cannot_meet(tmp_path):
    done = run_program("train", "dense", "--distributed", "auto", cwd=tmp_path)
    assert (done.code, done.error.split(": ")[0]) == (4, "--distributed auto")
    assert not list(tmp_path.iterdir())
