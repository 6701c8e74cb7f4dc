"""A new file appears whole or not at all."""

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest

from loftr2flax.errors import EnvironmentFault, OutputExists, UsageError
from loftr2flax.formats import atomic
from loftr2flax.formats.atomic import new_file


@pytest.fixture(params=["nameless", "named"])
def _temporary(request, monkeypatch):
    """Both ways to write: the file that has no name until it is done, and the one that has."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


both = pytest.mark.usefixtures("_temporary")


def _put(path, data=b"new", **options):
    with new_file(path, **options) as file:
        file.write(data)


@both
def test_a_new_file(tmp_path):
    _put(tmp_path / "out", b"a" * 200_000)
    assert (tmp_path / "out").read_bytes() == b"a" * 200_000
    assert os.listdir(tmp_path) == ["out"]


def test_no_call_writes_more_than_a_megabyte(tmp_path, monkeypatch):
    sizes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: sizes.append(len(data)) or real(descriptor, data))
    data = bytes(range(251)) * 10_001
    _put(tmp_path / "out", data)
    monkeypatch.undo()
    assert (tmp_path / "out").read_bytes() == data
    assert sizes == [1 << 20, 1 << 20, len(data) - (2 << 20)]


@both
@pytest.mark.parametrize("at", [0, 3, 65_530, 65_536, 139_990])
def test_bytes_are_rewritten_in_their_place(tmp_path, at):
    with new_file(tmp_path / "out") as file:
        file.write(b"a" * 70_000)
        file.write(b"b" * 70_000)
        file.write(b"c" * 5)  # waits in memory
        file.rewrite(at, b"rewritten!")
        file.write(b"d")
        head = bytes(file.head)
    expected = bytearray(b"a" * 70_000 + b"b" * 70_000 + b"ccccc")
    expected[at : at + 10] = b"rewritten!"
    assert (tmp_path / "out").read_bytes() == expected + b"d"
    assert head == expected[:65_536]


@both
def test_small_and_large_pieces_in_order(tmp_path):
    pieces = [bytes([number]) * size for number, size in enumerate([1, 0, 70_000, 3, 65_535, 65_536, 7])]
    with new_file(tmp_path / "out") as file:
        for piece in pieces:
            file.write(memoryview(piece))
        assert file.position == sum(map(len, pieces))
        assert file.head == b"".join(pieces)[:65_536]
    assert (tmp_path / "out").read_bytes() == b"".join(pieces)


@both
def test_what_is_there_is_not_replaced_without_force(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(OutputExists, match="exists already") as refusal:
        _put(tmp_path / "out")
    assert "--force" in refusal.value.hint
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


@both
def test_force_replaces(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    with new_file(tmp_path / "out", force=True) as file:
        file.write(b"new")
        assert (tmp_path / "out").read_bytes() == b"old"
    assert (tmp_path / "out").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


@both
def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path):
    ours = new_file(tmp_path / "out")
    ours.__enter__().write(b"ours")
    (tmp_path / "out").write_bytes(b"theirs")
    with pytest.raises(OutputExists, match="exists already"):
        ours.__exit__(None, None, None)
    assert (tmp_path / "out").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["out"]


@both
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_after_any_exception_the_old_file_is_there_and_no_other(tmp_path, kind):
    (tmp_path / "out").write_bytes(b"old")

    def fail():
        with new_file(tmp_path / "out", force=True) as file:
            file.write(b"x" * 100_000)
            raise kind

    with pytest.raises(kind):
        fail()
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


@both
@pytest.mark.parametrize("call", ["open", "write", "pwrite", "fsync", "link", "replace"])
def test_a_system_call_that_fails_at_any_time(tmp_path, monkeypatch, call):
    """The k-th call fails, for all k; past the last one everything must have gone well."""
    real = getattr(os, call)
    for k in range(12):
        (tmp_path / "out").write_bytes(b"old")
        calls = iter(range(100))

        def failing(*arguments, k=k, calls=calls, **options):
            if next(calls) == k:
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        monkeypatch.setattr(os, call, failing)
        try:
            with new_file(tmp_path / "out", force=True) as file:
                for _ in range(4):
                    file.write(b"o" + b"n" * 69_999)
                    file.rewrite(file.position - 70_000, b"n")
        except EnvironmentFault as fault:
            message, expected = fault.message, b"old"
        else:
            message, expected = "", b"n" * 280_000
        monkeypatch.setattr(os, call, real)
        done = "written" if call in ("write", "pwrite", "fsync") else "created"
        assert message in ("", f"{tmp_path / 'out'}: cannot be {done}: No space left on device")
        assert (tmp_path / "out").read_bytes() == expected
        assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"n" * 280_000


@both
def test_a_disk_that_fills_up(tmp_path):
    """A limit on file sizes stands for a full disk: the kernel writes part, then refuses."""
    (tmp_path / "out").write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(EnvironmentFault, match="out: cannot be written: File too large"):
            _put(tmp_path / "out", b"x" * 300_000, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


@both
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open(tmp_path, mask):
    before = os.umask(mask)
    try:
        _put(tmp_path / "out")
        _put(tmp_path / "out", force=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o666 & ~mask


@both
def test_a_link_stays_and_what_it_points_at_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real/file")
    _put(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path / "real") == ["file"]


def test_a_dangling_link_is_written_through(tmp_path):
    (tmp_path / "link").symlink_to("file")
    _put(tmp_path / "link")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(EnvironmentFault, match="a: cannot be created: Too many levels of symbolic links"):
        _put(tmp_path / "a")


def _make_socket(path):
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        unix.bind(path.name)
        os.chdir(here)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "a directory"),
        (os.mkfifo, "not a regular file"),
        (_make_socket, "not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
    ],
    ids=["directory", "fifo", "socket", "device"],
)
def test_what_is_no_file_is_never_replaced(tmp_path, make, kind, force):
    make(tmp_path / "out")
    before = os.lstat(tmp_path / "out")
    with pytest.raises(UsageError, match=f"out: cannot be replaced: it is {kind}"):
        _put(tmp_path / "out", force=force)
    assert os.lstat(tmp_path / "out").st_ino == before.st_ino
    assert os.listdir(tmp_path) == ["out"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(EnvironmentFault, match="the folder does not exist") as refusal:
        _put(tmp_path / "no" / "where" / "out")
    assert refusal.value.hint == f"mkdir -p {tmp_path / 'no' / 'where'}"


def test_a_file_taken_for_a_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="cannot be created: Not a directory"):
        _put(tmp_path / "file" / "out")


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EnvironmentFault, match="out: cannot be created: Permission denied") as refusal:
        _put(tmp_path / "out")
    assert refusal.value.hint == f"check the permissions: `ls -ld {tmp_path}`"


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)

    def refuse(*arguments, **options):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    _put(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"
    with pytest.raises(OutputExists):
        _put(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_of_writers_at_once_one_wins(tmp_path):
    together = threading.Barrier(4)
    outcomes = []

    def write(number):
        try:
            with new_file(tmp_path / "out") as file:
                file.write(bytes([number]) * 100_000)
                together.wait()
        except OutputExists:
            outcomes.append(-1)
        else:
            outcomes.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (number for number in outcomes if number >= 0)
    assert (tmp_path / "out").read_bytes() == bytes([winner]) * 100_000
    assert os.listdir(tmp_path) == ["out"]


_VICTIM = """
import sys, time
from loftr2flax.formats.atomic import new_file
with new_file(sys.argv[1], force=True) as file:
    file.write(b"x" * 100_000)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="only Linux has files without names")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_writer_leaves_the_old_file_and_no_other(tmp_path, number):
    (tmp_path / "out").write_bytes(b"old")
    command = [sys.executable, "-c", _VICTIM, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as victim:
        assert victim.stdout.readline() == b"ready\n"
        victim.send_signal(number)
        victim.wait(30)
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    for call in ("fsync", "link", "replace"):
        real = getattr(os, call)
        monkeypatch.setattr(os, call, lambda *a, call=call, real=real, **o: (done.append(call), real(*a, **o))[1])
    _put(tmp_path / "out", force=True)
    assert [call for call in done if call != "link"] == ["fsync", "replace", "fsync"]
    assert atomic.__doc__
