"""The readers and the mapping parser as functions of bytes, each with its seeds and its judge."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fuzz import judges

from loftr2flax.errors import Loftr2FlaxError
from loftr2flax.formats.zip_archive import ZipArchive
from loftr2flax.mapping import parse_mapping

CORPUS = Path(__file__).parent / "corpus"
_WORK = tempfile.TemporaryDirectory(prefix="loftr2flax-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_FILE = Path(_WORK.name) / "fuzzed"


class Target(NamedTuple):
    """One thing to fuzz.

    Attributes:
      run: reads the bytes; True where they were read and the judge agreed, False where they were refused.
      seeds: sound inputs to begin with.
    """

    run: Callable[[bytes], bool]
    seeds: Callable[[], Iterator[bytes]]


def corpus(name: str) -> list[Path]:
    """What was found for a target in earlier runs."""
    return sorted((CORPUS / name).glob("*"))


# torch


def _storages() -> dict[str, bytes]:
    return {key: bytes(range(64, 64 + 48)) for key in "0123"}


def _torch_pickle(data: bytes) -> bool:
    """``data`` as the pickle of a sound archive: CRCs and directory are right, so that the pickle itself is reached."""
    with zipfile.ZipFile(_FILE, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/byteorder", b"little")
        for key, content in _storages().items():
            archive.writestr(f"x/data/{key}", content)
        archive.writestr("x/version", b"3\n")
    return judges.refused_or_equal(_FILE, judges.torch_judge)


def _torch_legacy(data: bytes) -> bool:
    _FILE.write_bytes(data)
    return judges.refused_or_equal(_FILE, judges.torch_judge)


def _any_file(data: bytes) -> bool:
    """Whatever it is: only that it ends as it should is judged."""
    _FILE.write_bytes(data)
    return judges.refused_or_equal(_FILE, judges.none)


def _pickle_seeds() -> Iterator[bytes]:
    import torch
    from formats.torch_files import Claim, Stored, pickled

    whole = Stored("0", 12)
    plain = {"a.weight": Claim(whole, (3, 4), (4, 1)), "a.bias": Claim(whole, (2, 3), (1, 2), 3)}
    kinds = {
        "half": Claim(Stored("1", 24, torch.HalfStorage), (2, 12), (12, 1)),
        "bytes": Claim(Stored("2", 48, torch.ByteStorage), (3,), (16,), 1),
        "complex": Claim(Stored("3", 6, torch.ComplexFloatStorage), (6,), (1,), 0, {"conj": True}),
    }
    for protocol in range(1, 6):  # in protocol 0 a persistent id is text
        yield pickled(plain, protocol=protocol)
    yield pickled({"state_dict": plain, "epoch": 3, "more": [1.5, None, True, (1, 2), {3}, b"b", "text"]}, protocol=4)
    yield pickled({"model": kinds, "optimizer": {"state": {0: plain}, "param_groups": [{"lr": 0.1}]}}, protocol=2)


def _legacy_seeds() -> Iterator[bytes]:
    import torch

    state = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.arange(3, dtype=torch.int64)}
    for protocol in (2, 3, 4):
        out = io.BytesIO()
        torch.save(state, out, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        yield out.getvalue()
    out = io.BytesIO()
    torch.save({"state_dict": {**state, "t": state["a.weight"].T, "r": state["a.weight"][1]}}, out,
               _use_new_zipfile_serialization=False)  # fmt: skip
    yield out.getvalue()


# zip and npz


def _zip(data: bytes) -> bool:
    _FILE.write_bytes(data)
    try:
        with ZipArchive(_FILE) as archive:
            records = {name: archive.read(name) for name in archive.entries}
    except Loftr2FlaxError:
        return False
    judges.zip_judge(_FILE, records)
    return True


def _zip_seeds() -> Iterator[bytes]:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for wide in (False, True):
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", method) as archive:
                for name, content in (("t/a", b"alpha"), ("t/b", b"beta" * 9), ("t/empty", b"")):
                    with archive.open(name, "w", force_zip64=wide) as record:
                        record.write(content)
                archive.comment = b"of no meaning" if wide else b""
            yield out.getvalue()


def _npy(data: bytes) -> bool:
    """``data`` as the one record of a sound archive."""
    with zipfile.ZipFile(_FILE, "w") as archive:
        archive.writestr("a.npy", data)
    return judges.refused_or_equal(_FILE, judges.numpy_judge)


def _npy_seeds() -> Iterator[bytes]:
    import numpy as np

    for array in (
        np.arange(12, dtype="<f4").reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=">i2").reshape(4, 3)),
        np.array(True),
        np.zeros((0, 3), "<c8"),
        np.array([(1,), (2,)], [("bfloat16", "<u2")]),
        np.array(["text"]),
        np.array([None], object),
    ):
        out = io.BytesIO()
        np.lib.format.write_array(out, array, allow_pickle=True)
        yield out.getvalue()
    for version in ((2, 0), (3, 0)):
        out = io.BytesIO()
        np.lib.format.write_array(out, np.arange(3.0), version)
        yield out.getvalue()


def _npz(data: bytes) -> bool:
    _FILE.write_bytes(data)
    return judges.refused_or_equal(_FILE, judges.numpy_judge if data[:2] == b"PK" else judges.none)


def _npz_seeds() -> Iterator[bytes]:
    import numpy as np

    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, a=np.arange(6, dtype="<i2").reshape(2, 3), b=np.float32(2.5))
        yield out.getvalue()


# safetensors and its index


def _safetensors(data: bytes) -> bool:
    _FILE.write_bytes(data)
    ours = data[8:9] == b"{" and data[4:8] == bytes(4)
    return judges.refused_or_equal(_FILE, judges.safetensors_judge if ours else judges.none)


def _safetensors_seeds() -> Iterator[bytes]:
    import numpy as np
    import safetensors.numpy

    tree = {"a.weight": np.arange(6, dtype="<f4").reshape(2, 3), "a.bias": np.arange(3, dtype="<i8")}
    yield safetensors.numpy.save(tree)
    yield safetensors.numpy.save({**tree, "n": np.array(True), "e": np.zeros((0, 4), "<f2")}, {"made": "by hand"})
    header = json.dumps(
        {
            "h": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]},
            "q": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [4, 7]},
        }
    ).encode()
    yield len(header).to_bytes(8, "little") + header + bytes(range(7))


_SHARDS = ("one.safetensors", "two.safetensors")


def _index(data: bytes) -> bool:
    import numpy as np
    import safetensors.numpy

    if not _FILE.with_name(_SHARDS[0]).exists():
        safetensors.numpy.save_file({"a": np.arange(6.0).reshape(2, 3)}, _FILE.with_name(_SHARDS[0]))
        safetensors.numpy.save_file({"b": np.arange(5), "c": np.float32([2])}, _FILE.with_name(_SHARDS[1]))
    _FILE.write_bytes(data)
    judge = judges.shards_judge if data.lstrip()[:1] == b"{" else judges.none
    return judges.refused_or_equal(_FILE, judge)


def _index_seeds() -> Iterator[bytes]:
    index = {"metadata": {"total_size": 92}, "weight_map": {"a": _SHARDS[0], "b": _SHARDS[1], "c": _SHARDS[1]}}
    yield json.dumps(index).encode()
    yield json.dumps({"weight_map": {"a": _SHARDS[0]}}, indent=1).encode()


# msgpack


def _msgpack(data: bytes) -> bool:
    _FILE.write_bytes(data)
    judge = judges.flax_judge if data[:1] and (0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)) else None
    return judges.refused_or_equal(_FILE, judge or judges.none)


def _msgpack_seeds() -> Iterator[bytes]:
    import flax
    import ml_dtypes
    import numpy as np

    pack = flax.serialization.msgpack_serialize
    tree = {"params": {"d": {"kernel": np.arange(6, dtype="<f4").reshape(2, 3), "bias": np.arange(3, dtype="<i2")}}}
    yield pack(tree)
    yield pack({**tree, "step": np.int64(7), "n": 3, "x": 1.5, "s": "text", "none": None})
    yield pack({"b": np.array([1, 2], ml_dtypes.bfloat16), "l": [np.ones(2), np.ones(3)]})
    chunks = {"0": np.arange(4, dtype="<f4"), "1": np.arange(2, dtype="<f4")}
    marked = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3}, "chunks": chunks}
    yield pack({"k": marked})


# mappings


def _mapping(data: bytes) -> bool:
    """A mapping is refused with the place of each fault, or says twice the same."""
    try:
        mapping = parse_mapping(data, Path("fuzzed.yaml"))
    except Loftr2FlaxError as error:
        faults = getattr(error, "faults", ())
        if not error.message or any("\n" in fault.message or not fault.message for fault in faults):
            raise judges.Disagreement(f"a fault that is not one line: {error.message!r:.500}") from error
        return False
    if repr(parse_mapping(data, Path("fuzzed.yaml"))) != repr(mapping):
        raise judges.Disagreement("parsed twice, it is two mappings")
    return True


def _mapping_seeds() -> Iterator[bytes]:
    from loftr2flax.mapping import mappings_folder

    for folder in (mappings_folder(), Path(__file__).parents[1] / "fixtures" / "mappings"):
        for path in sorted(folder.rglob("*.yaml")):
            yield path.read_bytes()


# plain bytes for all readers at once: whichever the sniffing picks


def _every_seed() -> Iterator[bytes]:
    for name, target in TARGETS.items():
        if name not in ("open", "mapping", "npy", "pickle"):
            yield from target.seeds()
    yield b"\x89HDF\r\n\x1a\n"
    yield pickle.dumps({"a": 1}, 4)


TARGETS: dict[str, Target] = {
    "pickle": Target(_torch_pickle, _pickle_seeds),
    "legacy": Target(_torch_legacy, _legacy_seeds),
    "zip": Target(_zip, _zip_seeds),
    "npy": Target(_npy, _npy_seeds),
    "npz": Target(_npz, _npz_seeds),
    "safetensors": Target(_safetensors, _safetensors_seeds),
    "index": Target(_index, _index_seeds),
    "msgpack": Target(_msgpack, _msgpack_seeds),
    "mapping": Target(_mapping, _mapping_seeds),
    "open": Target(_any_file, _every_seed),
}
