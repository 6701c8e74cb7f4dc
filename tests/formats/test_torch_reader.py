"""The zip reader of PyTorch files, with torch.load for a judge."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import DTYPES, Call, Claim, Stored, bits, numbers, write_checkpoint, write_zip

from loftr2flax import dtypes
from loftr2flax.checkpoint import Scratch
from loftr2flax.errors import (
    CorruptFile,
    InputError,
    LimitExceeded,
    Loftr2FlaxError,
    UnsupportedFile,
    UnsupportedTensor,
)
from loftr2flax.formats import Limits, open_checkpoint, torch_tensors
from loftr2flax.formats.torch_zip import TorchZip


def layouts(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One tensor for each way to lie in a storage."""
    base = numbers(dtype, 5 * 4 * 3)
    cube = base.view(5, 4, 3)
    found = {
        "plain": cube, "transposed": base.view(12, 5).T, "permuted": cube.permute(2, 0, 1), "column": cube[:, :, 1],
        "row": cube[2], "steps": base[1::7], "scalar": base[17], "empty": base[:0].view(0, 3), "one": base[:1],
        "expanded": base[3:7].unsqueeze(0).expand(6, 4), "windows": base.as_strided((9, 4), (2, 1), 5),
        "diagonal": cube[1].diagonal(), "tied": cube,
        "channels_last": cube.unsqueeze(0).to(memory_format=torch.channels_last),
    }  # fmt: skip
    if dtype.is_complex:
        found |= {"conj": cube.conj(), "neg": cube.clone().conj().imag, "conj_column": cube[:, 2].conj()}
    return found


def agrees(path: Path, scratch: Scratch | None = None, state_dict: str | None = None) -> TorchZip:
    """Every leaf equal to torch.load's, in bits, shape and type."""
    expected: Any = torch.load(path, map_location="cpu", weights_only=False)
    checkpoint = TorchZip(path, state_dict)
    for part in filter(None, checkpoint.contents.container.split(".")):
        expected = expected[part]
    assert list(checkpoint.infos) == [name for name, value in expected.items() if isinstance(value, torch.Tensor)]
    for name, info in checkpoint.infos.items():
        array = checkpoint.read(name, scratch)
        assert array.shape == tuple(expected[name].shape) == info.shape
        assert str(array.dtype) == str(expected[name].dtype).removeprefix("torch.") == info.dtype
        assert array.flags.c_contiguous
        assert array.dtype.isnative
        assert bits(array) == bits(expected[name]), name
    return checkpoint


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_in_every_layout(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(layouts(dtype), path)
    for scratch in (None, Scratch()):
        agrees(path, scratch).close()


def test_every_type_has_a_name_and_a_test() -> None:
    assert {str(dtype).removeprefix("torch.") for dtype in DTYPES} == set(dtypes.NAMES)


@settings(max_examples=60)
@given(st.data())
def test_any_shape_stride_offset_and_type(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("any") / "w.pt"
    tensors = {}
    base = numbers(data.draw(st.sampled_from(DTYPES)), 400)
    for index in range(data.draw(st.integers(1, 4))):
        shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
        stride = data.draw(st.lists(st.integers(0, 20), min_size=len(shape), max_size=len(shape)))
        tensors[f"t{index}"] = base.as_strided(shape, stride, data.draw(st.integers(0, 80)))
    torch.save(tensors, path)
    agrees(path, Scratch()).close()


def test_pieces_of_a_tensor_that_does_not_fit_into_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tensors, "_SPAN", 64)
    for dtype in (torch.float32, torch.int8, torch.complex128):
        torch.save(layouts(dtype), tmp_path / "w.pt")
        for scratch in (None, Scratch()):
            agrees(tmp_path / "w.pt", scratch).close()


def test_layouts_and_sharing_are_told(tmp_path: Path) -> None:
    torch.save(layouts(torch.float32), tmp_path / "w.pt")
    infos = TorchZip(tmp_path / "w.pt").infos
    told = {name: info.layout for name, info in infos.items()}
    assert told["plain"] == told["tied"] == told["empty"] == told["one"] == ""
    assert told["transposed"] == "transposed"
    assert told["permuted"] == "strided (1, 12, 3)"
    assert told["column"] == "strided (12, 3), offset 1"
    assert told["row"] == "offset 24"
    assert told["expanded"] == "strided (0, 1), offset 3"
    shares = {info.shares for info in infos.values()}
    assert infos["plain"].shares == ""
    assert infos["tied"].shares == infos["row"].shares == "plain"
    assert shares == {"", "plain"}
    torch.save({"c": torch.ones(2, 3, dtype=torch.complex64).conj()}, tmp_path / "c.pt")
    assert TorchZip(tmp_path / "c.pt").info("c").layout == "conj"


def test_parameters_subclasses_and_attributes(tmp_path: Path) -> None:
    with_attribute = torch.arange(6.0).view(2, 3)
    with_attribute.note = "kept by torch"  # type: ignore[attr-defined]
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.note = "kept too"  # type: ignore[attr-defined]
    value = {
        "attribute": with_attribute, "parameter": parameter, "plain": torch.nn.Parameter(torch.zeros(2, 1)),
        "buffer": torch.nn.Buffer(torch.ones(4)), "subclass": torch.ones(2).as_subclass(Subclass),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
    }  # fmt: skip
    torch.save(value, tmp_path / "w.pt")
    assert agrees(tmp_path / "w.pt").contents.foreign == (f"{__name__}.Subclass",)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    torch.save({"state_dict": layouts(torch.int16), "epoch": 3}, tmp_path / "w.pt", pickle_protocol=protocol)
    agrees(tmp_path / "w.pt")


def test_deflated_archives(tmp_path: Path) -> None:
    torch.save(layouts(torch.float64), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    write_zip(tmp_path / "d.pt", records, method=zipfile.ZIP_DEFLATED)
    expected = layouts(torch.float64)
    checkpoint = TorchZip(tmp_path / "d.pt")
    assert all(bits(checkpoint.read(name)) == bits(value) for name, value in expected.items())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.bool, torch.uint16]
)
def test_big_endian_files(tmp_path: Path, dtype: torch.dtype) -> None:
    expected = layouts(dtype)
    torch.save(expected, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    for name, data in records.items():
        if name.startswith("w/data/"):
            records[name] = np.frombuffer(data, f"u{width}").byteswap().tobytes()
    records["w/byteorder"] = b"big"
    checkpoint = TorchZip(write_zip(tmp_path / "big.pt", records))
    assert all(bits(checkpoint.read(name)) == bits(value) for name, value in expected.items())


def test_the_real_checkpoint(student: Path) -> None:
    checkpoint = agrees(student)
    assert checkpoint.contents.container == "model_state_dict"
    assert len(checkpoint.infos) == 177
    assert {unread.path: unread.what for unread in checkpoint.contents.unread} == {
        "epoch": "int 34",
        "optimizer_state_dict": "dict of 2, 202 tensors",
        "scaler_state_dict": "dict of 5",
    }


class Settings:
    def __init__(self) -> None:
        self.width = 256


def lightning_checkpoint() -> dict[str, object]:
    return {
        "epoch": 3,
        "state_dict": {"matcher.weight": torch.ones(2, 3), "matcher.bias": torch.zeros(2)},
        "hyper_parameters": {"args": argparse.Namespace(lr=1e-3), "config": Settings(), "scale": np.float32(2)},
        "callbacks": {"Checkpoint{'monitor': None}": {"best": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"params": [0]}]}],
    }


def test_lightning_checkpoints_yield_their_tensors(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(lightning_checkpoint(), path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    contents = agrees(path).contents
    assert contents.container == "state_dict"
    assert [name for name in contents.foreign if not name.startswith("numpy")] == [
        "argparse.Namespace",
        f"{__name__}.Settings",
    ]
    assert {unread.path: unread.what for unread in contents.unread} == {
        "epoch": "int 3",
        "hyper_parameters": "dict of 3",
        "callbacks": "dict of 1, 1 tensor",
        "optimizer_states": "list of 1, 1 tensor",
    }


def test_a_payload_is_listed_and_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    path = tmp_path / "bad.pt"
    torch.save({"state_dict": {"w": torch.ones(2, 3)}, "extra": Call(os.system, f"touch {trap}")}, path)
    checkpoint = TorchZip(path)
    assert checkpoint.contents.foreign == ("posix.system",)
    assert bits(checkpoint.read("w")) == bits(torch.ones(2, 3))
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists(), "the payload is live: torch.load runs it"


def test_provenance_is_found(tmp_path: Path) -> None:
    value = {"w": Claim(Stored(), (2, 3), (3, 1))}
    said = {"tool": "loftr2flax 0.1", "mapping": {"name": "loftr"}}
    path = write_checkpoint(tmp_path / "p.pt", value, **{"loftr2flax.json": json.dumps(said).encode()})
    assert TorchZip(path).contents.provenance == said
    for nonsense in (b"", b"[1]", b"\xff", b"[" * 100_000):
        path = write_checkpoint(tmp_path / "p.pt", value, **{"loftr2flax.json": nonsense})
        assert TorchZip(path).contents.provenance is None


def test_records_without_crc_are_told(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(2, 3)}, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    (note,) = TorchZip(tmp_path / "w.pt").contents.notes
    assert note == "7 records carry no CRC, so damage to them cannot be seen"


# tensors that are no plain arrays


def refused_tensors() -> dict[str, tuple[object, str]]:
    return {
        "sparse": (torch.eye(3, 4).to_sparse(), "sparse tensor"),
        "meta": (torch.empty(3, 4, device="meta"), "tensor on the meta device"),
        "complex32": (torch.zeros(3, dtype=torch.complex32), "tensor of type complex32"),
        "bits8": (torch.zeros(3, dtype=torch.uint8).view(torch.bits8), "tensor of type bits8"),
        "uninitialized": (torch.nn.UninitializedParameter(), "uninitialized parameter"),
    }


@pytest.mark.filterwarnings("ignore")
def test_other_tensors_are_refused_only_when_read(tmp_path: Path) -> None:
    cases = refused_tensors()
    cases["quantized"] = (torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 1, torch.qint8), "quantized tensor")
    cases["csr"] = (torch.eye(3, 4).to_sparse_csr(), "sparse tensor")
    cases["nested"] = (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensor")
    torch.save({"w": torch.ones(2, 3)} | {name: value for name, (value, _) in cases.items()}, tmp_path / "w.pt")
    checkpoint = TorchZip(tmp_path / "w.pt")
    assert bits(checkpoint.read("w")) == bits(torch.ones(2, 3))
    assert {name: checkpoint.info(name).refused for name in cases} == {name: why for name, (_, why) in cases.items()}
    assert checkpoint.info("sparse").shape == checkpoint.info("meta").shape == checkpoint.info("csr").shape == (3, 4)
    for name, (_, why) in cases.items():
        with pytest.raises(UnsupportedTensor, match=f"'{name}' is a {why}"):
            checkpoint.read(name)
        assert checkpoint.info(name).nbytes >= 0


# claims that are not true

F = torch.FloatStorage
BAD_CLAIMS: dict[str, tuple[Claim, type[InputError], str]] = {
    "offset_past_the_end": (Claim(Stored(), (2, 3), (3, 1), 1), CorruptFile, "byte 28 of storage '0', which has 24"),
    "size_past_the_end": (Claim(Stored(), (7,), (1,)), CorruptFile, "end at byte 28"),
    "stride_past_the_end": (Claim(Stored(), (2, 3), (4, 1)), CorruptFile, "end at byte 28"),
    "negative_size": (Claim(Stored(), (-2, 3), (3, 1)), CorruptFile, "the tensor has the size -2"),
    "negative_stride": (Claim(Stored(), (2, 3), (3, -1)), CorruptFile, "the tensor has the stride -1"),
    "negative_offset": (Claim(Stored(), (2, 3), (3, 1), -1), CorruptFile, "the tensor has the offset -1"),
    "size_is_text": (Claim(Stored(), ("2",), (1,)), CorruptFile, "the tensor has the size a str"),
    "size_is_bool": (Claim(Stored(), (True,), (1,)), CorruptFile, "the tensor has the size a bool"),
    "sizes_are_none": (Claim(Stored(), None, (1,)), CorruptFile, "the tensor's sizes are not a tuple"),
    "huge_size": (Claim(Stored(), (1 << 100,), (1,)), CorruptFile, "the tensor has the size a int"),
    "product_overflows": (Claim(Stored(), (1 << 40, 1 << 40), (0, 0)), CorruptFile, "more than any machine can"),
    "stride_overflows": (Claim(Stored(), (3,), (1 << 61,)), CorruptFile, "of storage '0', which has 24"),
    "strides_missing": (Claim(Stored(), (2, 3), (1,)), CorruptFile, "2 sizes and 1 strides"),
    "absent_storage": (Claim(Stored("9"), (2, 3), (3, 1)), CorruptFile, "the file has no storage '9'"),
    "storage_too_short": (Claim(Stored(count=7), (2, 3), (3, 1)), CorruptFile, "claimed to have 28 bytes and has 24"),
    "storage_too_long": (Claim(Stored(count=5), (5,), (1,)), CorruptFile, "claimed to have 20 bytes and has 24"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CLAIMS)
def test_claims_past_the_truth_are_refused_by_leaf(name: str, tmp_path: Path) -> None:
    claim, error, reason = BAD_CLAIMS[name]
    path = write_checkpoint(tmp_path / "bad.pt", {"layer.w": claim})
    with pytest.raises(error) as caught:
        TorchZip(path)
    assert reason in caught.value.message
    assert caught.value.message.startswith(f"{path}: 'layer.w': ")
    assert caught.value.hint


def test_an_expanded_tensor_is_refused_beyond_what_was_allowed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "bad.pt", {"layer.w": Claim(Stored(), (1 << 22, 6), (0, 1))})
    with pytest.raises(
        LimitExceeded, match=r"its leaves would take 100663296 bytes .* the largest is 'layer.w'"
    ) as caught:
        open_checkpoint(path)
    assert caught.value.hint.endswith("`--max-bytes 100663296`")
    with open_checkpoint(path, limits=Limits(bytes=100663296)) as checkpoint:
        assert checkpoint.infos["layer.w"].shape == (1 << 22, 6)


BAD_STORAGES: dict[str, tuple[object, str]] = {
    "two_types": ([Stored(), Stored(kind=torch.IntStorage)], "storage '0' is claimed with two types or sizes"),
    "two_sizes": ([Stored(), Stored(count=5)], "storage '0' is claimed with two types or sizes"),
    "negative_count": ([Stored(count=-1)], "the persistent id of a storage is malformed"),
    "count_is_text": ([Stored(count="6")], "the persistent id of a storage is malformed"),
    "no_type": ([Stored(kind=torch.Tensor)], "the persistent id of a storage is malformed"),
}


@pytest.mark.parametrize("name", BAD_STORAGES)
def test_storages_that_contradict_themselves(name: str, tmp_path: Path) -> None:
    value, reason = BAD_STORAGES[name]
    with pytest.raises(CorruptFile, match=f"record 'x/data.pkl': pickle offset .* BINPERSID: {reason}"):
        TorchZip(write_checkpoint(tmp_path / "bad.pt", value))


def test_damaged_numbers_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.full((200, 3), 1.5), "v": torch.zeros(3)}, path)
    data = path.read_bytes()
    at = data.find(np.full(600, 1.5, np.float32).tobytes())
    path.write_bytes(data[: at + 100] + b"\7" + data[at + 101 :])
    checkpoint = TorchZip(path)
    assert bits(checkpoint.read("v")) == bits(torch.zeros(3))
    with pytest.raises(CorruptFile, match="record 'w/data/0' fails its check"):
        checkpoint.read("w")


def test_bool_is_0_or_1(tmp_path: Path) -> None:
    value = {"mask": Claim(Stored(count=3, kind=torch.BoolStorage), (3,), (1,))}
    path = write_checkpoint(tmp_path / "w.pt", value, {"0": b"\0\1\2"})
    with pytest.raises(CorruptFile, match="'mask' is bool and holds bytes other than 0 and 1"):
        TorchZip(path).read("mask")


SOUND = {"w": Claim(Stored(), (2, 3), (3, 1))}
BAD_RECORDS: dict[str, tuple[dict[str, bytes], type[InputError], str]] = {
    "byteorder_unknown": ({"byteorder": b"middle"}, UnsupportedFile, "record 'x/byteorder' says b'middle'"),
    "version_unknown": ({"version": b"11\n"}, UnsupportedFile, "record 'x/version' says b'11'"),
    "version_garbled": ({"version": b"three"}, UnsupportedFile, "record 'x/version' says b'three'"),
    "torchscript": ({"constants.pkl": b"N."}, UnsupportedFile, "a TorchScript archive"),
    "code": ({"code/net.py": b""}, UnsupportedFile, "a TorchScript archive"),
    "pickle_empty": ({"data.pkl": b""}, CorruptFile, "record 'x/data.pkl': the pickle ends without STOP"),
    "junk_after_pickle": ({"data.pkl": b"N.junk"}, CorruptFile, "record 'x/data.pkl': 4 bytes follow the pickle"),
    "no_state_dict": ({"data.pkl": b"N."}, InputError, "no state dict was found: the file holds a None"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_records_that_are_refused(name: str, tmp_path: Path) -> None:
    records, error, reason = BAD_RECORDS[name]
    path = write_checkpoint(tmp_path / "bad.pt", SOUND, **records)
    with pytest.raises(error) as caught:
        TorchZip(path)
    assert reason in caught.value.message
    assert caught.value.message.startswith(str(path))
    assert caught.value.hint


def test_archives_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFile, match="a zip archive, and not PyTorch's"):
        TorchZip(write_zip(tmp_path / "a.zip", {"a.npy": b""}))
    with pytest.raises(CorruptFile, match="the archive holds two checkpoints, 'a' and 'b'"):
        TorchZip(write_zip(tmp_path / "a.zip", {"a/data.pkl": b"N.", "b/data.pkl": b"N."}))
    with pytest.raises(CorruptFile, match="has no record 'a/version'"):
        TorchZip(write_zip(tmp_path / "a.zip", {"a/data.pkl": b"N."}))


def test_real_torchscript(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "s.pt")
    with pytest.raises(UnsupportedFile, match="a TorchScript archive: it holds a program") as caught:
        TorchZip(tmp_path / "s.pt")
    assert "torch.jit.load" in caught.value.hint


def test_every_byte_of_a_small_file_mutated(tmp_path: Path) -> None:
    """Refused, or the number is right; no other exception, and no wrong number without a word."""
    path = write_checkpoint(tmp_path / "m.pt", SOUND)
    data, expected = path.read_bytes(), np.arange(6, dtype=np.float32).tobytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :])
        try:
            with TorchZip(path) as checkpoint:
                (name,) = checkpoint.infos
                assert checkpoint.read(name).tobytes() == expected
        except Loftr2FlaxError:
            continue


def test_reading_needs_neither_torch_nor_jax(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "w.pt")
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "l.pt", _use_new_zipfile_serialization=False)
    program = (
        "import sys; from pathlib import Path\n"
        "from loftr2flax.formats.torch_zip import TorchZip; from loftr2flax.formats.torch_legacy import TorchLegacy\n"
        f"print(TorchZip(Path({str(tmp_path / 'w.pt')!r})).read('w').sum())\n"
        f"print(TorchLegacy(Path({str(tmp_path / 'l.pt')!r})).read('w').sum())\n"
        "print([name for name in ('torch', 'jax', 'flax', 'ml_dtypes') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["6.0", "6.0", "[]"]


def test_cost_grows_linearly_with_tensors(tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        path = tmp_path / f"{count}.pt"
        torch.save({f"l{i}.w": torch.ones(2, 3) for i in range(count)}, path)
        start = time.process_time()
        checkpoint = TorchZip(path)
        scratch = Scratch()
        for name in checkpoint.infos:
            checkpoint.read(name, scratch)
        return time.process_time() - start

    assert seconds(16_000) < 8 * 3 * seconds(2_000), "3 for chance: a quadratic step would cost 64 times as much"
