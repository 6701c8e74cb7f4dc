"""The hash of a file that is computed beside other work: right, or loud."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from loftr2flax.errors import CorruptFile, EnvironmentFault, UnsupportedFile
from loftr2flax.filehash import FileHash


def test_several_files_are_hashed_as_one(tmp_path):
    contents = [os.urandom(5_000_003), b"", b"end"]  # more than a portion, none, and less
    files = [tmp_path / str(n) for n in range(len(contents))]
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    assert FileHash(files).hexdigest() == hashlib.sha256(b"".join(contents)).hexdigest()


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"other"), lambda path: _replace(path, b"same size")])
def test_a_file_that_changes_meanwhile_is_told(tmp_path, monkeypatch, change):
    path = tmp_path / "file"
    path.write_bytes(b"same size")
    opened, changed = threading.Event(), threading.Event()
    real = os.readv

    def slowly(descriptor, buffers):
        opened.set()
        changed.wait()
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "readv", slowly)
    digest = FileHash([path])
    opened.wait()
    change(path)
    changed.set()
    with pytest.raises(CorruptFile, match="file: the file changed while it was being read"):
        digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


def test_what_cannot_be_read_is_told_when_the_digest_is_asked_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedFile, match="pipe: is not a regular file"):
        FileHash([tmp_path / "pipe"]).hexdigest()
    with pytest.raises(EnvironmentFault, match="none: cannot be read: No such file or directory"):
        FileHash([tmp_path / "none"]).hexdigest()


def test_the_end_of_the_block_stops_it(tmp_path, monkeypatch):
    path = tmp_path / "endless"
    path.write_bytes(b"x")
    reading = threading.Event()

    def endless(descriptor, buffers):
        reading.set()
        return 1

    monkeypatch.setattr(os, "readv", endless)
    with FileHash([path]) as digest:
        reading.wait()
    digest.hexdigest()  # returns: nobody reads any more
