"""What a file may ask of this machine before it is refused: a checkpoint from a stranger can claim anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from loftr2flax.errors import LimitExceeded

if TYPE_CHECKING:
    from loftr2flax.checkpoint import Checkpoint

_TIMES, _BEYOND = 4, 64 << 20  # what the leaves of a file may take by default: so many times its size, and so much more


class Limits(NamedTuple):
    """Bounds that every reader keeps to; each is a flag of the command line.

        open_checkpoint("moe.pt", limits=Limits(tensors=400_000, memory=1 << 30))

    Attributes:
      tensors: leaves in one file, and records in one archive (``--max-tensors``).
      bytes: what all leaves together may take once they are unpacked, expanded and laid out (``--max-bytes``); None for
        four times the file's size and 64 MiB more. Deflated records and expanded tensors can claim a thousand times.
      memory: what opening may take, in bytes: a pickle and what it makes, an archive's directory, a JSON header
        (``--max-memory``). An estimate from above, counted before the memory is asked for.
    """

    tensors: int = 200_000
    bytes: int | None = None
    memory: int = 256 << 20

    @property
    def values(self) -> int:
        """Values that the containers of a PyTorch file may hold, the tensors among them."""
        return 2 * self.tensors

    @property
    def steps(self) -> int:
        """Opcodes of a pickle; a tensor takes about 35."""
        return 30 * self.tensors

    @property
    def pickle(self) -> int:
        """Bytes of a pickle: it is held twice while it is read, and what it makes comes on top."""
        return self.memory // 4

    def check_tensors(self, count: int, path: Path, what: str = "tensors", *, more: bool = False) -> None:
        """Raises `LimitExceeded` where a file has more leaves, or an archive more records, than are allowed.

        ``more`` says that ``count`` is how far they were counted.
        """
        if count > self.tensors:
            said, enough = (f"more than {self.tensors}", 10 * self.tensors) if more else (f"{count}", count)
            raise LimitExceeded(
                f"{path}: {said} {what}, the limit is {self.tensors}",
                f"if you trust the file, allow more of them with `--max-tensors {enough}`",
            )

    def check_memory(self, needed: int, where: object, what: str) -> None:
        """Raises `LimitExceeded` where ``what`` would take more memory than opening may."""
        if needed > self.memory:
            self.too_much_memory(where, what)

    def too_much_memory(self, where: object, what: str) -> NoReturn:
        """The refusal of what would take more memory than opening may."""
        raise LimitExceeded(
            f"{where}: {what} would take more than the {self.memory} bytes of memory that reading it may",
            f"if you trust the file, allow more with `--max-memory {max(2 * self.memory >> 20, 1)}MiB`",
        )

    def check_leaves(self, checkpoint: Checkpoint) -> None:
        """Raises `LimitExceeded` where the leaves of an open file are too many, or would take too much unpacked."""
        infos = checkpoint.infos
        self.check_tensors(len(infos), checkpoint.path)
        sizes = {name: info.nbytes for name, info in infos.items() if not info.refused}
        total = sum(sizes.values())
        if self.bytes is None and total <= _BEYOND:  # whatever the size of the file
            return
        allowed = self.bytes
        if allowed is None:
            allowed = _TIMES * sum(path.stat().st_size for path in checkpoint.files) + _BEYOND
        if total > allowed:
            largest = max(sizes, key=sizes.__getitem__)
            raise LimitExceeded(
                f"{checkpoint.path}: its leaves would take {total} bytes unpacked, {allowed} are allowed; "
                f"the largest is {largest!r} with {sizes[largest]}",
                f"if you trust the file, allow more with `--max-bytes {total}`",
            )


DEFAULT = Limits()
"""What holds where nothing else is asked for."""
