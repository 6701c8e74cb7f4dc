"""Files are told apart by their content."""

import gzip
import io
import json
import os
import pickle
import re
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch
from sample_leaves import leaf, write

from loftr2flax.errors import CorruptFile, EnvironmentFault, InputError, MissingInput, UnsupportedFile, UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.open import sniff
from loftr2flax.formats.writer import FORMATS

LEAVES = {"a/kernel": leaf("float32", (2, 5)), "b": leaf("int8", (3,))}


@pytest.mark.parametrize("format", FORMATS)
def test_endings_do_not_matter(tmp_path, format):
    path = write(tmp_path / "out.h5", format, LEAVES)
    with open_checkpoint(os.fspath(path)) as checkpoint:
        assert checkpoint.format == format
        assert set(checkpoint.infos) == set(LEAVES)


def test_the_two_kinds_of_torch_file(tmp_path):
    tensors = {"state_dict": {"a": torch.ones(2, 3)}, "epoch": 3}
    torch.save(tensors, tmp_path / "new.ckpt")
    torch.save(tensors, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert (sniff(tmp_path / "new.ckpt"), sniff(tmp_path / "old.ckpt")) == ("torch", "torch-legacy")


def test_torch_files_are_read(tmp_path):
    tensors = {"state_dict": {"a": torch.ones(2, 3)}, "epoch": 3}
    torch.save(tensors, tmp_path / "new.ckpt")
    torch.save(tensors, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for name in ("new.ckpt", "old.ckpt"):
        with open_checkpoint(tmp_path / name, state_dict="state_dict") as checkpoint:
            assert checkpoint.read("a").tolist() == [[1.0] * 3] * 2


def _safetensors(length, name="w"):
    """A file whose header has this length: the format allows spaces behind the JSON."""
    header = json.dumps({name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return length.to_bytes(8, "little") + header.ljust(length) + np.arange(6, dtype="<f4").tobytes()


LENGTHS = {
    **{f"pickle_{low}": low * 256 + 0x80 for low in range(6)},
    "maps_of_msgpack": 0x1281, "json": 0x7B, "html": 0x683C, "spaces": 0x2020, "gzip": 0x8B1F, "bzip2": 0x685A42,
    "magic_of_7z": 0x7A37, "longest_map": 0xDF + 256,
}  # fmt: skip


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_the_length_of_a_safetensors_header_is_no_magic_number(tmp_path, length):
    path = tmp_path / "model.bin"
    path.write_bytes(_safetensors(length))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert (checkpoint.read("w") == safetensors.numpy.load_file(path)["w"]).all()
    path.write_bytes(_safetensors(length)[:100])
    with pytest.raises(CorruptFile):  # and not, say, a pickle
        open_checkpoint(path)


def test_the_word_that_tells_a_tar_can_stand_in_any_file(tmp_path):
    def place(make):
        """Lengthen a name until the word stands where a tar has it."""
        for length in range(300):
            path = make("x" * length + "ustar")
            if path.read_bytes()[257:262] == b"ustar":
                return path
        raise AssertionError

    def index(name):
        (tmp_path / "shard.safetensors").write_bytes(_safetensors(512, name))
        (tmp_path / "index.json").write_text(json.dumps({"weight_map": {name: "shard.safetensors"}}))
        return tmp_path / "index.json"

    def legacy(name):
        tensors = {name: torch.ones(2, 3), "last": torch.ones(300)}
        torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        return tmp_path / "old.pt"

    def written(name):
        return write(tmp_path / "out", format, {name: leaf("float32", (20, 5))}, force=True)

    for format, make in {**dict.fromkeys(FORMATS, written), "index": index, "torch-legacy": legacy}.items():
        if format != "torch":  # its archive begins with a record of fixed name
            with open_checkpoint(place(make)) as checkpoint:
                assert any(name.endswith("ustar") for name in checkpoint.infos)


@pytest.mark.parametrize("name", ["params{", 'params{"', "\0\0\0\0\0\0{"])
def test_a_brace_at_byte_8_of_msgpack(tmp_path, name):
    path = write(tmp_path / "out", "msgpack", {name: leaf("float32", (20, 5))})
    assert path.read_bytes()[8:9] == b"{"
    assert sniff(path) == "msgpack"


def test_a_brace_at_byte_8_of_an_index(tmp_path):
    (tmp_path / "shard.safetensors").write_bytes(_safetensors(80))
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"abc": {}, "weight_map": {"w": "shard.safetensors"}}')
    assert path.read_bytes()[8:9] == b"{"
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.infos) == ["w"]


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "torch"])
def test_containers_are_torchs_alone(tmp_path, format):
    path = write(tmp_path / "out", format, LEAVES)
    with pytest.raises(UsageError, match=f"out: a {format} file has no state dicts to choose from"):
        open_checkpoint(path, state_dict="model")


def test_nothing_there(tmp_path):
    with pytest.raises(MissingInput, match="no such file"):
        open_checkpoint(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize(
    ("inside", "hint"),
    [
        ([], "name a file"),
        (["model.npz", "notes.txt"], "name a file in it, such as .*model.npz"),
        (["x-1.safetensors", "x.safetensors.index.json"], "such as .*x.safetensors.index.json"),
        (["_METADATA", "manifest.ocdbt", "d"], "it looks like an Orbax checkpoint"),
    ],
)
def test_a_folder(tmp_path, inside, hint):
    for name in inside:
        (tmp_path / name).touch()
    with pytest.raises(MissingInput, match="is a directory") as refusal:
        open_checkpoint(tmp_path)
    assert re.search(hint, refusal.value.hint)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedFile, match="is not a regular file"):
        open_checkpoint(tmp_path / "pipe")


def test_a_file_without_permission(tmp_path, monkeypatch):
    path = write(tmp_path / "out.npz", "npz", LEAVES)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EnvironmentFault, match="cannot be opened: Permission denied"):
        open_checkpoint(path)


def _tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def _zip(**records):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 3)))
    return buffer.getvalue()


OTHERS = {
    "empty": (b"", "is empty", "fetch"),
    "git_lfs": (b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "a git-lfs pointer", "lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><title>Sign in</title>", "a web page saved under a", "download"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "a web page saved", "download"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5, as Keras writes it", "safetensors or .npz"),
    "gzip": (gzip.compress(b"x"), "compressed with gzip", "gunzip it first"),
    "tar": (_tar(), "a tar archive, as PyTorch before 0.1.10 wrote them", "torch.save"),
    "npy": (_npy(), r"one array \(.npy\), without a name", "numpy.savez"),
    "gguf": (b"GGUF" + bytes(40), "GGUF, as llama.cpp writes it", "safetensors"),
    "pickle": (pickle.dumps({"a": np.zeros(3)}), "a plain pickle, which only running it could read", "torch.save"),
    "torchscript": (
        _zip(**{"m/data.pkl": b".", "m/code/m.py": b"", "m/constants.pkl": b"."}), "TorchScript", "torch.jit.load"),
    "other_zip": (_zip(**{"readme.txt": b"hello"}), "a zip archive of something else: 'readme.txt'", "unpack it first"),
    "keras": (_zip(**{"config.json": b"{}", "model.weights.h5": b""}), "a Keras archive", "safetensors or .npz"),
    "text": (b"hello, world\n", "not a checkpoint of a known format: it begins with b'hello, w'", "are read"),
    "zeros": (bytes(100), "not a checkpoint of a known format", "are read"),
    "json": (json.dumps({"a": 1, "b": 2}).encode(), "JSON, but not an index with a weight_map", "checkpoint itself"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_checkpoint_is_named(tmp_path, kind):
    content, message, hint = OTHERS[kind]
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(UnsupportedFile, match=message) as refusal:
        open_checkpoint(path)
    assert refusal.value.message.startswith(f"{path}: ")
    assert hint in refusal.value.hint


def test_a_truncated_zip_is_corrupt(tmp_path):
    path = write(tmp_path / "out.npz", "npz", LEAVES)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptFile, match="has no end record: truncated"):
        open_checkpoint(path)


@pytest.mark.parametrize("format", FORMATS)
def test_every_cut_is_refused(tmp_path, format):
    whole = write(tmp_path / "out", format, LEAVES).read_bytes()
    path = tmp_path / "cut"
    for size in range(0, len(whole), 7 if len(whole) > 1000 else 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            open_checkpoint(path)
