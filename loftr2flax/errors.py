"""Every failure that is not a bug of ours, and the exit code that it ends a command with.

An error says what is wrong in one line and, in ``hint``, the next thing to do. The library raises,
the command line prints (``error: …`` and ``hint: …``); nothing else in the package writes either word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Loftr2FlaxError(Exception):
    """The root of all errors that this package raises on purpose.

    Attributes:
      message: one line that names the file, the leaf and the reason.
      hint: the next command or action, one line; empty only where nothing can be done.
      exit_code: what a command ends with when this reaches its outer edge.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(Loftr2FlaxError):
    """What was asked for cannot be meant: `--format xyz`, or an output whose ending names no format."""

    exit_code = 2


class InputError(Loftr2FlaxError):
    """A file was refused. Exit code 3. The subclasses say why."""


class MissingInput(InputError):
    """`convert no_such_file.ckpt`: nothing is there, or what is there is a directory."""


class CorruptFile(InputError):
    """The bytes contradict themselves: a truncated archive, a wrong CRC, a tensor past its storage's end.

    The mend is to fetch the file again; nothing that a user can set makes such a file readable.
    """


class HashMismatch(InputError):
    """A download is not the file that was asked for, or not what it was when it was first seen. Both hashes are told.

    Where the change is meant, `loftr2flax fetch NAME --sha256 NEW` accepts it.
    """


class UnsupportedFile(InputError):
    """A sound file of a kind that is not read: TorchScript, HDF5, an HTML page saved as a checkpoint."""


class UnsupportedTensor(InputError):
    """One leaf cannot be had as a plain array (sparse, quantized, on the meta device), and it was asked for."""


class LimitExceeded(InputError):
    """A file claims more than the limits allow: tensors, bytes, depth. The hint names what can be done."""


class NoSuchLeaf(InputError, KeyError):
    """`checkpoint.read("matcher.backbone")`: no leaf has that name. The hint names the nearest one."""

    def __str__(self) -> str:
        return self.message


class UnwritableLeaf(InputError):
    """A format cannot hold a leaf: a dtype it does not know, or a name that would come back as another."""


class MappingError(InputError):
    """A mapping file is not well formed. ``faults`` holds every fault found, each with its place."""

    def __init__(self, message: str, hint: str = "", faults: Sequence[Fault] = ()) -> None:
        super().__init__(message, hint)
        self.faults = tuple(faults)


class MappingMismatch(MappingError):
    """A well-formed mapping does not fit a checkpoint: leaves missing, left over, or of the wrong shape."""


class CopiesDiffer(InputError):
    """Leaves that a mapping declares `tied` are not equal, so they cannot become one tensor."""


class EnvironmentFault(Loftr2FlaxError):
    """The machine is in the way: no space, no permission, an extra that is not installed. Exit code 4."""

    exit_code = 4


class OutputExists(EnvironmentFault):
    """The output is there already, and replacing it was not asked for (`--force`)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a mapping file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong, where it stands, and how to mend it (``hint`` may be empty)."""

    place: Place | None
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.message}" + (f" ({self.hint})" if self.hint else "")
