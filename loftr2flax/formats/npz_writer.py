"""Leaves as an ``.npz`` that `numpy.load` reads: one stored ``<path>.npy`` a leaf, the provenance as the comment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import UnwritableLeaf
from loftr2flax.formats.atomic import NewFile
from loftr2flax.formats.npy_header import encode_header
from loftr2flax.formats.provenance import Told, to_comment
from loftr2flax.formats.zip_writer import MAX_NAME, ZipWriter


class NpzEncoder:
    """See `loftr2flax.formats.writer.Encoder`.

    Raises:
      UnwritableLeaf: a name that numpy or an archive would take for another.
    """

    def __init__(self, path: Path, infos: Mapping[str, LeafInfo], provenance: Told) -> None:
        for name in infos:
            reason = _trouble(name, infos)
            if reason:
                raise UnwritableLeaf(f"{path}: leaf {name!r}: {reason}", "use --format safetensors, or rename it")
        self.order = tuple(infos)
        self._infos = infos
        self._provenance = provenance
        self.beside = False

    def begin(self, file: NewFile) -> None:
        """Write what precedes the first leaf."""
        self._zip = ZipWriter(file)

    def leaf(self, file: NewFile, name: str, data: memoryview) -> None:
        """Write one leaf."""
        self._zip.record(f"{name}.npy", encode_header(self._infos[name]), data)

    def end(self, file: NewFile) -> None:
        """Write what follows the last leaf."""
        comment = to_comment(self._provenance())
        self.beside = comment is None  # too long for an archive's comment
        self._zip.end(comment or b"")


def _trouble(name: str, infos: Mapping[str, LeafInfo]) -> str:
    """Why the name would not come back as itself, or ""."""
    if name.endswith(".npy") and name.removesuffix(".npy") in infos:
        return f"numpy.load would return {name.removesuffix('.npy')!r} for this name"
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        return "the name points outside an archive"
    if "\0" in name:
        return "a name in an archive cannot hold a zero byte"
    if len(name.encode()) + len(".npy") > MAX_NAME:
        return "the name is too long for an archive"
    return ""
