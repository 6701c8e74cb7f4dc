"""MessagePack taken apart token by token, straight from a file: contents are stepped over, not loaded."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from loftr2flax.errors import CorruptFile
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile

_WINDOW = 1 << 16

Kind = Literal["map", "array", "str", "bytes", "extension", "int", "float", "bool", "nil"]


class Token(NamedTuple):
    """One value's head.

    Attributes:
      kind: what it is.
      value: a number's value; a map's pairs, an array's items, or the bytes that follow of anything else.
      code: an extension's type.
    """

    kind: Kind
    value: int | float
    code: int = 0

    @property
    def length(self) -> int:
        """`value` where it is a count of pairs, items or bytes."""
        return int(self.value)


_BYTES: dict[int, tuple[Kind, int]] = {
    0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4),
    0xC7: ("extension", 1), 0xC8: ("extension", 2), 0xC9: ("extension", 4),
    0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
    0xDC: ("array", 2), 0xDD: ("array", 4),
    0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
_NUMBERS: dict[int, tuple[Kind, str]] = {
    0xCA: ("float", ">f"), 0xCB: ("float", ">d"),
    0xCC: ("int", ">B"), 0xCD: ("int", ">H"), 0xCE: ("int", ">I"), 0xCF: ("int", ">Q"),
    0xD0: ("int", ">b"), 0xD1: ("int", ">h"), 0xD2: ("int", ">i"), 0xD3: ("int", ">q"),
}  # fmt: skip


class Tokens:
    """A position in a file, which moves as tokens are taken. Small reads come from a window of 64 KiB."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._window = b""
        self._window_at = 0
        self.position = 0
        """The byte that is read next."""

    @property
    def ended(self) -> bool:
        """Whether the whole file has been read."""
        return self.position == self._source.size

    def take(self, size: int, what: str) -> bytes:
        """The next ``size`` bytes, few enough to hold; ``what`` names them in an error."""
        start = self.position - self._window_at
        if start < 0 or start + size > len(self._window):
            left = self._source.size - self.position
            self._window = self._source.read(max(size, min(_WINDOW, left)), self.position, what)
            self._window_at, start = self.position, 0
        self.position += size
        return self._window[start : start + size]

    def skip(self, size: int, what: str) -> None:
        """Step over ``size`` bytes, which the file must have."""
        if self.position + size > self._source.size:
            raise self._source.truncated(what, self.position + size)
        self.position += size

    def token(self, what: str) -> Token:
        """The head of the next value.

        Raises:
          CorruptFile: the file ends, or the byte begins nothing.
        """
        tag = self.take(1, what)[0]
        if tag < 0x80:
            return Token("int", tag)
        if tag < 0x90:
            return Token("map", tag & 0x0F)
        if tag < 0xA0:
            return Token("array", tag & 0x0F)
        if tag < 0xC0:
            return Token("str", tag & 0x1F)
        if tag >= 0xE0:
            return Token("int", tag - 0x100)
        if tag in _NUMBERS:
            kind, layout = _NUMBERS[tag]
            (value,) = struct.unpack(layout, self.take(struct.calcsize(layout), what))
            return Token(kind, value)
        if tag in _BYTES:
            kind, width = _BYTES[tag]
            size = int.from_bytes(self.take(width, what), "big")
            return Token(kind, size, self.take(1, what)[0] if kind == "extension" else 0)
        if 0xD4 <= tag <= 0xD8:
            return Token("extension", 1 << (tag - 0xD4), self.take(1, what)[0])
        if tag in (0xC2, 0xC3):
            return Token("bool", tag & 1)
        if tag == 0xC0:
            return Token("nil", 0)
        raise CorruptFile(
            f"{self._source.path}: {what}: byte {self.position - 1} is 0x{tag:02x}, which begins nothing", FETCH_AGAIN
        )
