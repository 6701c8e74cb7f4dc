"""PyTorch files for tests: sound ones from torch itself, and unsound ones put together record by record."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip
UNTYPED_IN_FILES = {
    torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
}  # fmt: skip
"""Types that torch stores as bytes without a type; its own legacy reader cannot load them."""


def numbers(dtype: torch.dtype, count: int) -> torch.Tensor:
    """``count`` elements with all kinds of bits, the same each time; NaN among them where the type has one."""
    raw = torch.from_numpy(np.random.default_rng(7).integers(0, 256, count * dtype.itemsize, np.uint8))
    return raw % 2 == 1 if dtype == torch.bool else raw.view(dtype)


def bits(array: np.ndarray | torch.Tensor) -> bytes:
    """The elements in C order, so that NaN equals NaN and 0.0 does not equal -0.0."""
    if isinstance(array, torch.Tensor):
        dense = torch.empty(array.numel(), dtype=array.dtype).copy_(array.detach().reshape(-1))
        return dense.view(torch.uint8).numpy().tobytes()
    return array.tobytes()


@dataclass
class Stored:
    """A storage that a hand-made pickle points to."""

    key: str = "0"
    count: object = 6
    kind: object = torch.FloatStorage
    view: object = None


class Claim:
    """Pickles as a tensor of storage, offset, sizes and strides, none of which need to be true."""

    def __init__(
        self, storage: object, shape: object, stride: object, offset: object = 0, metadata: object = None
    ) -> None:
        self.args = (storage, offset, shape, stride, False, OrderedDict())
        self.args += () if metadata is None else (metadata,)

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


class Call:
    """Pickles as a call of ``function``, made on unpickling by whoever is careless enough."""

    def __init__(self, function: object, *args: object) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


class _Pickler(pickle.Pickler):
    legacy = False

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, Stored):
            return None
        entry = ("storage", value.kind, value.key, "cpu", value.count)
        return (*entry, value.view) if self.legacy else entry


def pickled(value: object, *, protocol: int = 2, legacy: bool = False) -> bytes:
    """A pickle in which `Stored` becomes a persistent id, as torch writes it."""
    out = io.BytesIO()
    pickler = _Pickler(out, protocol)
    pickler.legacy = legacy
    pickler.dump(value)
    return out.getvalue()


def write_zip(path: Path, records: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    """An archive with exactly these records."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def write_checkpoint(
    path: Path, value: object, storages: Mapping[str, bytes] | None = None, *, protocol: int = 2, **extra: bytes
) -> Path:
    """A zip checkpoint of ``value`` (bytes: the pickle itself); ``extra`` adds records, or replaces them."""
    data = value if isinstance(value, bytes) else pickled(value, protocol=protocol)
    storages = {"0": np.arange(6, dtype=np.float32).tobytes()} if storages is None else storages
    records = {"x/data.pkl": data, "x/byteorder": b"little"}
    records |= {f"x/data/{key}": content for key, content in storages.items()}
    records["x/version"] = b"3\n"
    records |= {f"x/{name}": content for name, content in extra.items()}
    return write_zip(path, records)


def write_legacy(
    path: Path,
    value: object,
    storages: Mapping[str, tuple[int, bytes]],
    *,
    little_endian: bool = True,
    magic: int = torch.serialization.MAGIC_NUMBER,
    protocol: int = torch.serialization.PROTOCOL_VERSION,
    keys: object = None,
    after: bytes = b"",
) -> Path:
    """A legacy checkpoint; each storage with the count that stands before its bytes."""
    facts = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (magic, protocol, facts)]
    parts.append(pickled(value, legacy=True))
    parts.append(pickle.dumps(list(storages) if keys is None else keys, 2))
    for count, content in storages.values():
        parts += [count.to_bytes(8, "little", signed=True), content]
    path.write_bytes(b"".join([*parts, after]))
    return path
