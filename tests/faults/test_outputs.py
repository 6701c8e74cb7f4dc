"""Outputs that are no place for a file, and two that want the same one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conversion import OLD, Conversion
from program import Outcome

Run = Callable[..., Outcome]


def _directory(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/null")


def _ours_by_link(path: Path) -> None:
    path.symlink_to("a.ckpt")


def _ours_by_name(path: Path) -> None:
    os.link(path.with_name("a.ckpt"), path)


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_directory, "it is a directory"),
        (os.mkfifo, "it is not a regular file"),
        (_device, "it is not a regular file"),
        (_ours_by_link, "is the input itself"),
        (_ours_by_name, "is the input itself"),
    ],
)
def test_what_is_never_written_to(
    call: Run, npz: Conversion, make: Callable[[Path], None], reason: str, force: tuple[str, ...]
) -> None:
    path = npz.folder / "target.npz"
    make(path)
    before = (os.lstat(path), (npz.folder / "a.ckpt").read_bytes(), sorted(os.listdir(npz.folder)))
    done = call("convert", "a.ckpt", "-m", "loftr", "-o", "target.npz", "-q", *force)
    assert done.code == 2
    assert reason in done.error
    assert done.hint
    after = (os.lstat(path), (npz.folder / "a.ckpt").read_bytes(), sorted(os.listdir(npz.folder)))
    assert after[0][:6] == before[0][:6]
    assert after[1:] == before[1:]


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full", "/dev/stdout"])
def test_devices_by_their_own_name(run: Run, npz: Conversion, name: str) -> None:
    done = run("convert", "a.ckpt", "-m", "loftr", "-o", name, "--format", "npz", "-q", "--force")
    assert done.code == 2
    assert "it is not a regular file" in done.error
    assert done.out == ""


def test_a_link_stays_a_link(call: Run, npz: Conversion) -> None:
    (npz.folder / "real").mkdir()
    (npz.folder / "real" / "file").write_bytes(OLD)
    link = npz.folder / "target.npz"
    link.symlink_to("real/file")
    assert call("convert", "a.ckpt", "-m", "loftr", "-o", "target.npz", "-q").code == 4
    assert link.read_bytes() == OLD
    assert call("convert", "a.ckpt", "-m", "loftr", "-o", "target.npz", "-q", "--force").code == 0
    assert link.is_symlink()
    assert (npz.folder / "real" / "file").read_bytes() == npz.outputs["out.npz"]
    assert os.listdir(npz.folder / "real") == ["file"]


def test_a_read_only_file_in_a_folder_of_ours(call: Run, npz: Conversion) -> None:
    """The name is the folder's: what is replaced need not be writable, and the permissions are those of a new file."""
    (npz.folder / "out.npz").chmod(0o400)
    before = os.umask(0o027)
    try:
        assert call(*npz.words).code == 0
    finally:
        os.umask(before)
    assert npz.judge(0, "")
    assert (npz.folder / "out.npz").stat().st_mode & 0o777 == 0o640


def test_two_writers_at_once(conversion: Conversion) -> None:
    """Both replace; whoever comes last has written a whole file, as the other had."""
    programs = [conversion.start() for _ in range(2)]
    errors = [program.communicate()[1] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], errors
    assert conversion.judge(0, str(errors))


def test_two_writers_at_once_of_which_none_may_replace(npz: Conversion) -> None:
    """Both see a free name before either has taken it: one is turned away at the end, and takes nothing with it."""
    (npz.folder / "out.npz").unlink()
    meet = (
        "import os, time\nfrom loftr2flax.formats.writer import Writer\nend = Writer.end\n"
        "def together(self):\n    open(f'here-{os.getpid()}', 'w').close()\n"
        "    while sum(name.startswith('here-') for name in os.listdir()) < 2: time.sleep(0.01)\n    end(self)\n"
        "Writer.end = together"
    )
    npz = Conversion(npz.folder, tuple(word for word in npz.words if word != "--force"), npz.outputs)
    programs = [npz.start(meet) for _ in range(2)]
    errors = [program.communicate()[1] for program in programs]
    for mark in npz.folder.glob("here-*"):
        mark.unlink()
    assert sorted(program.returncode for program in programs) == [0, 4], errors
    assert "error: out.npz: exists already" in "".join(errors)
    assert npz.judge(0, str(errors))
