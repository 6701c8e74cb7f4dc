"""What an output says of its making, and where each format keeps it.

It is a JSON object. safetensors has a place for it in the header, torch's archive a record, an ``.npz`` the comment of
its archive; msgpack has none, so ``<file>.provenance.json`` stands beside. A file beside another can be left behind or
mixed up: it states the size and the first bytes' CRC of the file that it belongs to, and is ignored beside any other.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from loftr2flax.errors import LimitExceeded, MissingInput, OutputExists
from loftr2flax.formats.atomic import check_target, new_file
from loftr2flax.formats.source_file import SourceFile

KEY = "loftr2flax"
"""The name that the object goes by in every format."""

HEAD = 1 << 16
"""Bytes at the beginning of a file that tell it from another."""

_MAX_COMMENT = 60_000  # a zip comment ends at 65,535 bytes
_MAX_BYTES = 16 << 20
_FIELDS = {KEY, "bytes", "head_crc32"}  # of a file beside
_PACKED = b"loftr2flax:zlib:"


class Told(Protocol):
    """Gives the object when it is needed: part of it may still be worked out while the leaves are written."""

    def __call__(self, *, final: bool = True) -> Mapping[str, Any]:
        """The object; if not ``final``, at once, with a stand-in of equal length for what is not known yet."""


def to_json(provenance: Mapping[str, Any]) -> str:
    """Canonical JSON: the same object gives the same text."""
    return json.dumps(provenance, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(text: str | bytes) -> dict[str, Any] | None:
    """The object, or None where ``text`` is not one: provenance explains a file, it never makes one unreadable."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def to_comment(provenance: Mapping[str, Any]) -> bytes | None:
    """The object as the comment of a zip archive, packed if it is long; None if it is too long even then."""
    plain = to_json({KEY: provenance}).encode()
    if len(plain) <= _MAX_COMMENT:
        return plain
    packed = _PACKED + base64.b64encode(zlib.compress(plain, 9))
    return packed if len(packed) <= _MAX_COMMENT else None


def from_comment(comment: bytes) -> dict[str, Any] | None:
    """What `to_comment` made a comment of; None for any other comment."""
    if comment.startswith(_PACKED):
        stream = zlib.decompressobj()
        try:
            comment = stream.decompress(base64.b64decode(comment[len(_PACKED) :], validate=True), _MAX_BYTES)
        except (ValueError, zlib.error):
            return None
    return _under_key(from_json(comment))


def file_beside(path: Path) -> Path:
    """``out.msgpack`` → ``out.msgpack.provenance.json``."""
    return path.with_name(path.name + ".provenance.json")


def check_beside(path: Path, *, force: bool) -> bool:
    """Whether what lies beside ``path`` is to be replaced: a record of ours always is, any other file with ``force``.

    Raises:
      OutputExists: a file that is no record of ours is there, and ``force`` is not set.
      UsageError, EnvironmentFault: it cannot be replaced, or not be read.
    """
    beside = file_beside(path)
    check_target(beside, force=True)
    if force:
        return True
    try:
        other = SourceFile(beside)
    except MissingInput:
        return False
    try:
        found = from_json(other.read(other.size, 0, "the record")) if other.size <= _MAX_BYTES else None
    finally:
        other.close()
    if found is None or found.keys() != _FIELDS or _under_key(found) is None:
        raise OutputExists(
            f"{beside}: exists already, and is no record of an output",
            "add --force to replace it, or name another output",
        )
    return True


def write_beside(path: Path, provenance: Mapping[str, Any], size: int, head: bytes, *, force: bool) -> None:
    """Write the file beside ``path``, for content of ``size`` bytes that begins with ``head``.

    Raises:
      OutputExists: a file that is no record of ours is there, and ``force`` is not set.
      UsageError, EnvironmentFault: the system refuses.
    """
    text = to_json({KEY: provenance, "bytes": size, "head_crc32": zlib.crc32(head[:HEAD])})
    with new_file(file_beside(path), force=check_beside(path, force=force)) as file:
        file.write(text.encode() + b"\n")


def read_beside(source: SourceFile) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The provenance beside ``source``, and a note if what is there belongs to another file."""
    beside = file_beside(source.path)
    try:
        other = SourceFile(beside)
    except MissingInput:
        return None, ()
    try:
        if other.size > _MAX_BYTES:
            raise LimitExceeded(f"{beside}: {other.size} bytes are too many for a provenance", f"rm {beside}")
        found = from_json(other.read(other.size, 0, "the provenance"))
    finally:
        other.close()
    head = source.read(min(HEAD, source.size), 0, "the head")
    if found and (found.get("bytes"), found.get("head_crc32")) == (source.size, zlib.crc32(head)):
        return _under_key(found), ()
    return None, (f"{beside.name} belongs to another file and was ignored",)


def _under_key(found: dict[str, Any] | None) -> dict[str, Any] | None:
    inner = found.get(KEY) if found else None
    return inner if isinstance(inner, dict) else None
