"""The reader of legacy PyTorch files, with torch.load for a judge."""

from __future__ import annotations

import os
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from test_torch_reader import layouts
from torch_files import DTYPES, UNTYPED_IN_FILES, Call, Claim, Stored, bits, numbers, write_legacy

from loftr2flax.checkpoint import Scratch
from loftr2flax.errors import CorruptFile, InputError, Loftr2FlaxError, UnsupportedFile
from loftr2flax.formats import torch_legacy
from loftr2flax.formats.torch_legacy import TorchLegacy

SIX = np.arange(6, dtype=np.float32).tobytes()
SOUND = {"w": Claim(Stored(), (2, 3), (3, 1))}


def save(value: object, path: Path) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_in_every_layout(dtype: torch.dtype, tmp_path: Path) -> None:
    """torch cannot load the newest types from its own legacy files; there the saved tensors are the judge."""
    saved = layouts(dtype)
    path = save(saved, tmp_path / "w.pth")
    expected = saved if dtype in UNTYPED_IN_FILES else torch.load(path, weights_only=False)
    with TorchLegacy(path) as checkpoint:
        assert list(checkpoint.infos) == list(expected)
        assert checkpoint.contents.notes == ()
        for scratch in (None, Scratch()):
            for name, value in expected.items():
                array = checkpoint.read(name, scratch)
                assert array.shape == tuple(value.shape)
                assert str(array.dtype) == str(value.dtype).removeprefix("torch.")
                assert array.flags.c_contiguous
                assert bits(array) == bits(value), name


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_longer_than_the_first_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.setattr(torch_legacy, "_FIRST_GUESS", 64)
    value = {"state_dict": {f"layer.{i}.weight": numbers(torch.float32, 6).view(2, 3) + i for i in range(300)}}
    torch.save(value, tmp_path / "w.pth", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    checkpoint = TorchLegacy(tmp_path / "w.pth")
    assert checkpoint.contents.container == "state_dict"
    assert all(bits(checkpoint.read(name)) == bits(tensor) for name, tensor in value["state_dict"].items())


@pytest.mark.filterwarnings("ignore")
def test_whole_modules(tmp_path: Path) -> None:
    """Legacy files keep the source of a module's class beside it; it is not looked at."""
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, (1, 5)), torch.nn.BatchNorm2d(3))
    checkpoint = TorchLegacy(save(network, tmp_path / "net.pth"))
    expected = network.state_dict()
    assert list(checkpoint.infos) == list(expected)
    assert all(bits(checkpoint.read(name)) == bits(value) for name, value in expected.items())
    assert "torch.nn.modules.conv.Conv2d" in checkpoint.contents.foreign


def test_views_of_storages(tmp_path: Path) -> None:
    """Files of torch 0.x: a storage can be part of another, by offset and size."""
    view = Stored(count=6, view=("77", 2, 3))
    value = {"whole": Claim(Stored(), (2, 3), (3, 1)), "part": Claim(view, (2,), (1,), 1)}
    path = write_legacy(tmp_path / "old.pth", value, {"0": (6, SIX)})
    checkpoint = TorchLegacy(path)
    assert checkpoint.read("part").tolist() == torch.load(path, weights_only=False)["part"].tolist() == [3.0, 4.0]
    assert checkpoint.info("part").shares == "whole"


def test_the_order_of_storages_is_the_lists(tmp_path: Path) -> None:
    value = {"a": Claim(Stored("0"), (6,), (1,)), "b": Claim(Stored("1", 2), (2,), (1,))}
    two = np.array([8, 9], np.float32).tobytes()
    path = write_legacy(tmp_path / "w.pth", value, {"1": (2, two), "0": (6, SIX)})
    checkpoint = TorchLegacy(path)
    assert checkpoint.read("b").tolist() == [8, 9]
    assert checkpoint.read("a").tolist() == [0, 1, 2, 3, 4, 5]


def test_a_big_endian_writer_changes_nothing(tmp_path: Path) -> None:
    """torch swaps when it writes there; its reader does not ask, and neither does ours."""
    path = write_legacy(tmp_path / "w.pth", SOUND, {"0": (6, SIX)}, little_endian=False)
    assert bits(TorchLegacy(path).read("w")) == bits(torch.load(path, weights_only=False)["w"]) == SIX


def test_bytes_after_the_last_storage_are_told(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "w.pth", SOUND, {"0": (6, SIX)}, after=b"more")
    checkpoint = TorchLegacy(path)
    assert checkpoint.contents.notes == ("4 bytes after the last storage were not read",)
    assert checkpoint.read("w").tobytes() == SIX


def test_a_payload_is_listed_and_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    value = {"state_dict": OrderedDict(w=torch.ones(2, 3)), "extra": Call(os.system, f"touch {trap}")}
    checkpoint = TorchLegacy(save(value, tmp_path / "bad.pth"))
    assert checkpoint.contents.foreign == ("posix.system",)
    assert not trap.exists()


def test_tar_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "storages").write_bytes(b"")
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "old.pth", "w", format=form) as archive:
            archive.add(tmp_path / "storages", "storages")
        with pytest.raises(UnsupportedFile, match=r"old.pth: a checkpoint in the tar format of torch 0.1") as caught:
            TorchLegacy(tmp_path / "old.pth")
        assert "torch.save" in caught.value.hint


def _bad(name: str, path: Path) -> Path:
    """A legacy file with the fault of that name."""
    if name == "wrong_magic":
        return write_legacy(path, SOUND, {"0": (6, SIX)}, magic=7)
    if name == "wrong_protocol":
        return write_legacy(path, SOUND, {"0": (6, SIX)}, protocol=1000)
    if name == "count_too_small":
        return write_legacy(path, SOUND, {"0": (5, SIX)})
    if name == "count_negative":
        return write_legacy(path, SOUND, {"0": (-6, SIX)})
    if name == "count_huge":
        return write_legacy(path, SOUND, {"0": (1 << 62, SIX)})
    if name == "storage_truncated":
        return write_legacy(path, SOUND, {"0": (6, SIX[:-1])})
    if name == "count_truncated":
        return write_legacy(path, SOUND, {}, keys=["0"], after=b"\6\0\0")
    if name == "storage_not_listed":
        return write_legacy(path, SOUND, {"0": (6, SIX)}, keys=[])
    if name == "storage_unknown":
        return write_legacy(path, SOUND, {"0": (6, SIX)}, keys=["0", "5"])
    if name == "storage_twice":
        return write_legacy(path, SOUND, {"0": (6, SIX)}, keys=["0", "0"])
    if name == "keys_are_a_dict":
        return write_legacy(path, SOUND, {"0": (6, SIX)}, keys={"0": 1})
    if name == "view_past_the_end":
        value = {"w": Claim(Stored(view=("7", 4, 3)), (3,), (1,))}
        return write_legacy(path, value, {"0": (6, SIX)})
    if name == "tensor_past_its_view":
        value = {"w": Claim(Stored(view=("7", 1, 2)), (3,), (1,))}
        return write_legacy(path, value, {"0": (6, SIX)})
    path.write_bytes({"empty": b"", "text": b"<!DOCTYPE html>\n", "one_pickle": b"\x80\x02}."}[name])
    return path


FAULTS: dict[str, tuple[type[InputError], str]] = {
    "wrong_magic": (UnsupportedFile, "a pickle, and not PyTorch's: the magic number is missing"),
    "wrong_protocol": (UnsupportedFile, "not the legacy protocol 1001"),
    "count_too_small": (CorruptFile, "storage '0' has 20 bytes, the pickle claims 24"),
    "count_negative": (CorruptFile, "storage '0' has -24 bytes, the pickle claims 24"),
    "count_huge": (CorruptFile, "storage '0' has 18446744073709551616 bytes, the pickle claims 24"),
    "storage_truncated": (CorruptFile, r"storage '0' would end at byte \d+, the file ends at byte \d+"),
    "count_truncated": (CorruptFile, r"storage '0' would end at byte \d+, the file ends at byte \d+"),
    "storage_not_listed": (CorruptFile, "'w': the file has no storage '0'"),
    "storage_unknown": (CorruptFile, "storage '5' is not one of the saved value's"),
    "storage_twice": (CorruptFile, "storage '0' is listed twice"),
    "keys_are_a_dict": (CorruptFile, "the list of storages is not a list of text"),
    "view_past_the_end": (CorruptFile, "the saved value: .* a view of storage '0' reaches past its end"),
    "tensor_past_its_view": (CorruptFile, "'w': the tensor would end at byte 12 of storage '0', which has 8"),
    "empty": (CorruptFile, "the magic number: the pickle ends without STOP"),
    "text": (CorruptFile, "the magic number: pickle offset 0, opcode 0x3c: no such opcode"),
    "one_pickle": (UnsupportedFile, "the magic number is missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused_by_name(name: str, tmp_path: Path) -> None:
    path = _bad(name, tmp_path / "bad.pth")
    error, reason = FAULTS[name]
    with pytest.raises(error, match=reason) as caught:
        TorchLegacy(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "w.pth", SOUND, {"0": (6, SIX)})
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(Loftr2FlaxError):
            TorchLegacy(path)


def test_every_byte_mutated(tmp_path: Path) -> None:
    """No checksums, so numbers may differ; whatever the byte, our errors or an array, and nothing else."""
    path = write_legacy(tmp_path / "w.pth", SOUND, {"0": (6, SIX)})
    data = path.read_bytes()
    for at in range(len(data) - len(SIX)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :])
        try:
            with TorchLegacy(path) as checkpoint:
                for name in checkpoint.infos:
                    checkpoint.read(name)
        except Loftr2FlaxError:
            continue
