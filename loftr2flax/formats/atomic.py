"""A new file that appears whole or not at all.

The bytes go to a temporary file beside the target, are forced to the disk, and take the target's name in one step.
Until then the old file is intact. The temporary has no name while it is written where the system can do that (Linux),
so that not even SIGKILL leaves one behind; elsewhere it has a name, which every exception removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loftr2flax.errors import EnvironmentFault, OutputExists, UsageError
from loftr2flax.formats.flushing import Flusher

_GATHER = 1 << 16  # pieces smaller than this are joined before they are written
_AT_ONCE = 1 << 20  # bytes a call: beside what forces it to the disk, ext4 takes three times as long for 64 MiB at once
_HEAD = 1 << 16


class NewFile:
    """The file being written: bytes are added at its end, and few that could not be known earlier are rewritten."""

    def __init__(self, descriptor: int, path: Path, source: str) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._flusher = Flusher(descriptor)
        self.path = path
        self.source = Path(source)
        """Where its bytes can be read before it has its name, once they are settled."""
        self.position = 0
        """Bytes written so far."""
        self.head = bytearray()
        """The first 64 KiB of them."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add ``data`` (one byte an item) to the end; large pieces are not copied.

        Raises:
          EnvironmentFault: the disk is full, or the system refuses for another reason.
        """
        self.position += len(data)
        self.head += data[: _HEAD - len(self.head)]
        if len(data) < _GATHER:
            self._waiting += data
            if len(self._waiting) >= _GATHER:
                self._flush()
        else:
            self._flush()
            self._put(memoryview(data))

    def rewrite(self, position: int, data: bytes) -> None:
        """Put ``data`` in the place of as many bytes that have been written at ``position``.

        Raises:
          EnvironmentFault: the system refuses.
        """
        self._flush()
        self.head[position : min(position + len(data), _HEAD)] = data[: max(_HEAD - position, 0)]
        with _blaming(self.path, "written"):
            while data:
                count = os.pwrite(self._descriptor, data, position)
                data, position = data[count:], position + count

    def pad(self, alignment: int) -> None:
        """Add zero bytes until the position is a multiple of ``alignment``."""
        self.write(bytes(-self.position % alignment))

    def settle(self) -> None:
        """Force everything written so far to the disk."""
        self._flush()
        with _blaming(self.path, "written"):
            self._flusher.end()
            os.fsync(self._descriptor)

    def abandon(self) -> None:
        """Let go of the descriptor, whatever became of the data."""
        with contextlib.suppress(OSError):  # told already, or of no interest any more
            self._flusher.end()

    def _flush(self) -> None:
        self._put(memoryview(self._waiting))
        self._waiting = bytearray()

    def _put(self, data: memoryview) -> None:
        with _blaming(self.path, "written"):
            while data:
                data = data[os.write(self._descriptor, data[:_AT_ONCE]) :]
        self._flusher.reached(self.position)


@contextmanager
def new_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[NewFile]:
    """The file at ``path``, replaced when the block ends and left alone when it raises.

    Where ``path`` is a symbolic link, what it points at is replaced and the link stays. Permissions are what
    `open` gives a new file.

    Raises:
      OutputExists: something is there and ``force`` is not set, also when it came there during the block.
      UsageError: a directory, a device, a pipe or a socket is there.
      EnvironmentFault: the parent folder is missing, or the system refuses to write.
    """
    asked = Path(path)
    target = Path(os.path.realpath(asked))
    check_target(asked, force=force)
    temporary = target.with_name(f".loftr2flax-{os.urandom(6).hex()}.part")
    descriptor, file = -1, None
    try:
        with _blaming(asked, "created"):
            descriptor, source = _open(target.parent, temporary)
        file = NewFile(descriptor, asked, source)
        yield file
        file.settle()
        with _blaming(asked, "created"):
            _publish(source, temporary, target, asked, force)
    finally:
        if file is not None:
            file.abandon()
        if descriptor >= 0:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # gone already where all went well; an error here would hide the first one
            os.unlink(temporary)


def check_target(path: Path, *, force: bool) -> None:
    """Whether `new_file` can write to ``path``, as far as that can be seen without writing.

    Raises:
      OutputExists, UsageError, EnvironmentFault: as for `new_file`.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise EnvironmentFault(f"{path}: the folder does not exist", f"mkdir -p {path.parent}") from None
        return
    except OSError as error:
        raise _fault(path, "created", error) from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise UsageError(f"{path}: cannot be replaced: it is {kind}", "name a file, such as out.npz")
    if not force:
        raise _exists(path)


def _open(folder: Path, temporary: Path) -> tuple[int, str]:
    """A descriptor for a new file in ``folder``, and a path to it: ``temporary``, or one that ends with the process."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        try:
            descriptor = os.open(folder, flags | os.O_TMPFILE, 0o666)
            return descriptor, f"/proc/self/fd/{descriptor}"
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
    return os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o666), os.fspath(temporary)


def _publish(source: str, temporary: Path, target: Path, asked: Path, force: bool) -> None:
    """Give the finished file its name; without ``force``, never in place of a file that came there meanwhile."""
    named = source == os.fspath(temporary)
    if force:
        if not named:
            _link(source, temporary)
        os.replace(temporary, target)
    else:
        try:
            _link(source, target)
        except FileExistsError:
            raise _exists(asked) from None
        except OSError:
            if not named:
                raise
            # a file system without hard links: only here can another writer slip in, between these two lines
            check_target(asked, force=False)
            os.replace(temporary, target)
    _settle_folder(target.parent)


def _link(source: str, name: Path) -> None:
    """Give the file a further name. With a folder's descriptor, and only then, Python follows the link in /proc."""
    folder = os.open(name.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.link(source, name.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _settle_folder(path: Path) -> None:
    """Ask that the new name outlives a power cut. Some file systems cannot promise it, and the file is there anyway."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _exists(path: Path) -> OutputExists:
    return OutputExists(f"{path}: exists already", "add --force to replace it, or name another output")


@contextmanager
def _blaming(path: Path, done: str) -> Iterator[None]:
    """Turn the system's refusal into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise _fault(path, done, error) from None


def _fault(path: Path, done: str, error: OSError) -> EnvironmentFault:
    hints = {
        errno.ENOSPC: f"free some space there (`df -h {path.parent}`), or write to another disk",
        errno.EDQUOT: "your quota is used up: free some space, or write to another disk",
        errno.EACCES: f"check the permissions: `ls -ld {path.parent}`",
        errno.EPERM: f"check the permissions: `ls -ld {path.parent}`",
        errno.EROFS: "the disk is read-only: write to another",
    }
    hint = hints.get(error.errno or 0, "write to another place")
    return EnvironmentFault(f"{path}: cannot be {done}: {error.strerror}", hint)
