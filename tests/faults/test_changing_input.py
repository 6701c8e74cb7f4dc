"""An input that somebody else writes to while it is read: told, whatever was done to it, and no output."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conversion import Conversion
from program import Outcome

from loftr2flax.formats.writer import Writer

Run = Callable[..., Outcome]


def _appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def _replaced(path: Path) -> None:
    path.with_name("next").write_bytes(path.read_bytes())
    path.with_name("next").replace(path)


def _removed(path: Path) -> None:
    path.unlink()


def _altered_in_secret(path: Path) -> None:
    """Other bytes, the same size, and the clock turned back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 3)
        file.write(bytes(before.st_size // 3))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


SEEN = [_appended, _cut, _emptied, _rewritten, _altered_in_secret]
"""What the next read must notice."""
UNSEEN = [_replaced, _removed]
"""What an open file does not notice: it is still the one that was opened."""


def _changing(monkeypatch: pytest.MonkeyPatch, leaf: int, change: Callable[[Path], None], path: Path) -> None:
    """Makes the change once so many leaves have been written; -1 is after the last."""
    write, written = Writer.write, 0

    def writing(self: Writer, name: str, array: np.ndarray) -> None:
        nonlocal written
        write(self, name, array)
        written += 1
        if written == (leaf if leaf > 0 else len(self.order)):
            change(path)

    monkeypatch.setattr(Writer, "write", writing)


@pytest.mark.parametrize("change", SEEN)
def test_a_change_before_the_last_leaf_is_read(
    call: Run, npz: Conversion, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """The reader is at most two batches ahead of the first leaf that is written; the last ones are still to come."""
    _changing(monkeypatch, 1, change, npz.folder / "a.ckpt")
    done = call(*npz.words)
    assert done.code == 3
    assert done.error.startswith("a.ckpt: ")
    assert done.hint
    assert not npz.judge(done.code, done.err)


@pytest.mark.parametrize("change", SEEN + UNSEEN)
@pytest.mark.parametrize("leaf", [1, 100, -1])
def test_a_change_at_any_time(
    call: Run, npz: Conversion, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], leaf: int
) -> None:
    """Told, or too late to matter: then the output is that of the file as it was."""
    _changing(monkeypatch, leaf, change, npz.folder / "a.ckpt")
    done = call(*npz.words)
    whole = npz.judge(done.code, done.err)
    assert (done.code, whole) in ((3, False), (0, True)), done.err
