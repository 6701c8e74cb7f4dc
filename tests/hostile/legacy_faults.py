"""Files from before torch 1.6, and from before 0.1.10."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from formats.torch_files import Claim, Stored, write_legacy
from hostile.catalogue import add, fault
from hostile.zip_faults import NUMBERS

_STATE = {"layer.weight": Claim(Stored(), (2, 3), (3, 1))}
_STORAGES = {"0": (6, NUMBERS)}


def _legacy(name: str, **changes: object) -> None:
    value, storages = changes.pop("value", _STATE), changes.pop("storages", _STORAGES)
    add(f"legacy_{name}", lambda path: write_legacy(path, value, storages, **changes))  # type: ignore[arg-type]


_legacy("sound")
_legacy("wrong_magic", magic=7)
_legacy("wrong_protocol", protocol=7)
_legacy("big_endian_writer", little_endian=False)
_legacy("junk_after", after=b"junk")
_legacy("storage_list_is_none", keys=7)
_legacy("storage_listed_twice", keys=["0", "0"])
_legacy("storage_listed_and_unknown", keys=["9"])
_legacy("storage_unlisted", keys=[])
_legacy("storage_of_another_length", storages={"0": (5, NUMBERS)})
_legacy("storage_of_negative_length", storages={"0": (-6, NUMBERS)})
_legacy("storage_cut_short", storages={"0": (6, NUMBERS[:-5])})
_legacy("view_past_the_end", value={"layer.weight": Claim(Stored(view=("1", 3, 6)), (2, 3), (3, 1))})
_legacy("tensor_past_the_end", value={"layer.weight": Claim(Stored(), (4, 3), (3, 1))})
_legacy("expansion_bomb", value={"layer.weight": Claim(Stored(), (1 << 30, 6), (0, 1))})


@fault
def legacy_truncated(path: Path) -> None:
    write_legacy(path, _STATE, _STORAGES)
    path.write_bytes(path.read_bytes()[:150])


@fault
def legacy_bomb_of_empty_sets(path: Path) -> None:
    write_legacy(path, _STATE, _STORAGES)
    data = path.read_bytes()
    at = data.index(b"layer.weight")
    path.write_bytes(data[: at - 8] + b"\x8f" * 18_000_000 + b".")


@fault
def tar_of_torch_0_1(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"\x80\x02N."))
