"""Leaves as a safetensors file: a JSON header, then the elements of all leaves without gaps.

The header lists the leaves in the order given. Their data stand by falling element size, so that each leaf is aligned
to its own elements, as the safetensors library lays them out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import UnwritableLeaf
from loftr2flax.formats.atomic import NewFile
from loftr2flax.formats.provenance import KEY, Told, to_json
from loftr2flax.formats.safetensors_file import DTYPES, MAX_HEADER, METADATA

_LENGTH = 8  # bytes that hold the length of the header, before it
_CODES = {name: code for code, name in DTYPES.items()}


class SafetensorsEncoder:
    """See `loftr2flax.formats.writer.Encoder`.

    Raises:
      UnwritableLeaf: a type that the format does not have, or the name that it keeps for itself.
    """

    beside = False

    def __init__(self, path: Path, infos: Mapping[str, LeafInfo], provenance: Told) -> None:
        for name, info in infos.items():
            if info.dtype not in _CODES:
                hint = "use --format npz, or --dtype complex64"
                raise UnwritableLeaf(f"{path}: leaf {name!r}: safetensors has no {info.dtype}", hint)
            if name == METADATA:
                raise UnwritableLeaf(f"{path}: leaf {name!r}: safetensors keeps this name for itself", "rename it")
        self.order = tuple(sorted(infos, key=lambda name: -dtypes.itemsize(infos[name].dtype)))
        self._final_header = partial(_header, infos, self.order, provenance)
        self._header = _header(infos, self.order, provenance, final=False)
        if len(self._header) > MAX_HEADER:
            raise UnwritableLeaf(
                f"{path}: the header would have {len(self._header)} bytes, safetensors allows {MAX_HEADER}",
                "use --format npz",
            )

    def begin(self, file: NewFile) -> None:
        """Write what precedes the first leaf."""
        file.write(len(self._header).to_bytes(_LENGTH, "little") + self._header)

    def leaf(self, file: NewFile, name: str, data: memoryview) -> None:
        """Write one leaf."""
        file.write(data)

    def end(self, file: NewFile) -> None:
        """Nothing follows the last leaf; the header is made final."""
        header = self._final_header()
        if len(header) != len(self._header):
            raise RuntimeError(f"{file.path}: the header has grown from {len(self._header)} to {len(header)} bytes")
        if header != self._header:
            file.rewrite(_LENGTH, header)


def _header(infos: Mapping[str, LeafInfo], order: tuple[str, ...], told: Told, *, final: bool = True) -> bytes:
    provenance = told(final=final)
    offsets: dict[str, list[int]] = {}
    at = 0
    for name in order:
        offsets[name] = [at, at + infos[name].nbytes]
        at += infos[name].nbytes
    header: dict[str, Any] = {METADATA: {KEY: to_json(provenance)}} if provenance else {}
    for name, info in infos.items():
        header[name] = {"dtype": _CODES[info.dtype], "shape": list(info.shape), "data_offsets": offsets[name]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)
