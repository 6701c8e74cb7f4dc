"""An output in several files: the library reads each, the index names all, and nothing of it comes half."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from sample_leaves import PROVENANCE, infos_of, leaf, same_bits

from loftr2flax.errors import OutputExists, UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats import safetensors_shards as shards
from loftr2flax.formats.writer import open_writer

LEAVES = {
    "a/kernel": leaf("float32", (3, 5)),  # 60 bytes
    "a/bias": leaf("int8", (7,)),
    "b/kernel": leaf("float64", (4, 9)),  # 288 bytes, more than a file may hold
    "b/bias": leaf("bfloat16", (6,)),
    "c": leaf("float32", (0, 2)),
}


def _write(path, most, stop="", skip=0, **options):
    with open_writer(path, "safetensors", infos_of(LEAVES), PROVENANCE, most=most, **options) as writer:
        for name in writer.order[: len(LEAVES) - skip]:
            writer.write(name, LEAVES[name])
            if name == stop:
                raise ZeroDivisionError


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_index_opens_as_one_checkpoint(tmp_path):
    _write(tmp_path / "out.safetensors", 100)
    index = tmp_path / "out.safetensors.index.json"
    assert _names(tmp_path) == [*(f"out-0000{n}-of-00003.safetensors" for n in (1, 2, 3)), index.name]
    with open_checkpoint(index) as checkpoint:
        assert list(checkpoint.infos) == list(LEAVES)
        assert checkpoint.contents.provenance == PROVENANCE
        for name, array in LEAVES.items():
            assert same_bits(checkpoint.read(name), array)


def test_each_file_is_plain_safetensors_and_no_larger_than_its_leaves_allow(tmp_path):
    _write(tmp_path / "out.safetensors", 100)
    index = json.loads((tmp_path / "out.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in LEAVES.values())
    held = {shard: load_file(tmp_path / shard) for shard in dict.fromkeys(index["weight_map"].values())}
    assert {name: shard for shard, leaves in held.items() for name in leaves} == index["weight_map"]
    for shard, leaves in held.items():
        assert sum(array.nbytes for array in leaves.values()) <= 100 or list(leaves) == ["b/kernel"], shard
        for name, array in leaves.items():
            assert array.dtype == LEAVES[name].dtype
            np.testing.assert_array_equal(array, LEAVES[name])


def test_what_fits_in_one_file_is_one_file(tmp_path):
    _write(tmp_path / "one.safetensors", None)
    _write(tmp_path / "fits.safetensors", 1000)
    assert _names(tmp_path) == ["fits.safetensors", "one.safetensors"]
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "fits.safetensors").read_bytes()


def test_an_output_replaces_the_one_before_whatever_its_shape(tmp_path):
    path = tmp_path / "out.safetensors"
    _write(path, None)
    for most in (100, 20, 300):  # three files, then more, then fewer
        with pytest.raises(OutputExists):
            _write(path, most)
        _write(path, most, force=True)
        index = json.loads((tmp_path / "out.safetensors.index.json").read_text())
        assert _names(tmp_path) == sorted({*index["weight_map"].values(), "out.safetensors.index.json"})


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.safetensors"
    _write(path, 100)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for stop in LEAVES:
        with pytest.raises(ZeroDivisionError):
            _write(path, 70, stop, force=True)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_leaf_that_never_came_is_a_bug_and_no_output(tmp_path):
    for skip in (1, 2, len(LEAVES)):
        with pytest.raises(RuntimeError, match="never written"):
            _write(tmp_path / "out.safetensors", 100, skip=skip)
    assert _names(tmp_path) == []


def test_too_many_files_and_other_formats_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_SHARDS", 2)
    with pytest.raises(UsageError, match="would become 3 files, the limit is 2"):
        _write(tmp_path / "out.safetensors", 100)
    with pytest.raises(UsageError, match="only safetensors is written in several files"):
        open_writer(tmp_path / "out.npz", "npz", infos_of(LEAVES), {}, most=100).__enter__()
    assert _names(tmp_path) == []
