"""Tensors that claim what is not so, and tensors that are no plain arrays."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from formats.torch_files import Claim, Stored, write_checkpoint
from hostile.catalogue import add, fault
from hostile.zip_faults import WEIGHT


def _claim(name: str, *claim: object, **storage: object) -> None:
    """One matrix of which storage, sizes, strides and offset are claimed."""
    value = {"layer.weight": Claim(Stored(**storage), *claim)}  # type: ignore[arg-type]
    add(f"tensor_{name}", lambda path: write_checkpoint(path, value))


_claim("offset_past_the_end", (2, 3), (3, 1), 1)
_claim("size_past_the_end", (3, 3), (3, 1))
_claim("stride_past_the_end", (2, 3), (4, 1))
_claim("more_elements_than_the_record", (7,), (1,))
_claim("negative_size", (-2, 3), (3, 1))
_claim("negative_stride", (2, 3), (3, -1))
_claim("negative_offset", (2, 3), (3, 1), -1)
_claim("size_of_a_hundred_bits", (1 << 100,), (1,))
_claim("product_overflows", (1 << 40, 1 << 40), (0, 0))
_claim("stride_overflows", (3,), (1 << 61,))
_claim("offset_overflows", (3,), (1,), (1 << 62) - 1)
_claim("sizes_are_text", ("2", "3"), (3, 1))
_claim("sizes_are_truth_values", (True, True), (1, 1))
_claim("sizes_are_no_tuple", None, (1,))
_claim("strides_missing", (2, 3), (1,))
_claim("a_hundred_dimensions", (1,) * 100, (1,) * 100)
_claim("expansion_bomb", (1 << 30, 6), (0, 1))
_claim("expansion_bomb_of_windows", (1 << 25, 1 << 2), (0, 1))
_claim("empty_with_wild_strides", (0, 3), (1 << 50, 1 << 50))
_claim("storage_absent", (2, 3), (3, 1), key="9")
_claim("storage_too_short", (2, 3), (3, 1), count=7)
_claim("storage_too_long", (5,), (1,), count=5)
_claim("storage_of_negative_length", (2, 3), (3, 1), count=-1)
_claim("storage_of_no_type", (2, 3), (3, 1), kind=torch.Tensor)
_claim("storage_key_goes_up", (2, 3), (3, 1), key="../0")


def _value(name: str, value: object, needed: object) -> None:
    """The fault beside a sound matrix, where the mapping does not ask for it; and as the matrix that it asks for."""
    beside = {"net.layer.weight": WEIGHT, "aside": value}
    add(f"tensor_{name}_that_is_not_needed", lambda path: _saved(_plain(beside), path))
    add(f"tensor_{name}", lambda path: _saved({"layer.weight": needed}, path))


def _saved(value: object, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path)


def _plain(state: dict[str, object]) -> dict[str, object]:
    return {key: torch.arange(6.0).view(2, 3) if value is WEIGHT else value for key, value in state.items()}


_MATRIX = torch.arange(6.0).view(2, 3)
_COMPLEX = torch.complex(_MATRIX, -_MATRIX)
_value("sparse", _MATRIX.to_sparse(), _MATRIX.to_sparse())
_value("meta", torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch means to drop quantized tensors; files that hold them stay
    _value("quantized", *(torch.quantize_per_tensor(_MATRIX, 0.1, 10, torch.qint8),) * 2)
_value("conjugate", _COMPLEX.conj(), _COMPLEX.conj())
_value("negative_view", *(_COMPLEX.conj().imag,) * 2)


@fault
def tensor_storage_under_two_types(path: Path) -> None:
    claims = {"layer.weight": WEIGHT, "other": Claim(Stored(kind=torch.IntStorage), (2, 3), (3, 1))}
    write_checkpoint(path, claims)


@fault
def tensor_storage_of_two_lengths(path: Path) -> None:
    write_checkpoint(path, {"layer.weight": WEIGHT, "other": Claim(Stored(count=5), (5,), (1,))})


@fault
def tensor_of_an_unknown_location(path: Path) -> None:
    """Where a tensor lay does not matter here; torch asks that the device exists."""
    write_checkpoint(path, {"layer.weight": WEIGHT})
    with zipfile.ZipFile(path) as archive:
        records = {name.removeprefix("x/"): archive.read(name) for name in archive.namelist()}
    changed = records.pop("data.pkl").replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00xpu:99")
    write_checkpoint(path, changed, {"0": records["data/0"]})


@fault
def tensor_of_truth_values_that_are_neither(path: Path) -> None:
    claim = Claim(Stored(kind=torch.BoolStorage), (2, 3), (3, 1))
    write_checkpoint(path, {"layer.weight": claim}, {"0": b"\0\1\2\0\1\0"})


@fault
def tensor_names_twice_by_nesting(path: Path) -> None:
    write_checkpoint(path, {"layer.weight": WEIGHT, "layer": {"weight": Claim(Stored(), (3, 2), (2, 1))}})
