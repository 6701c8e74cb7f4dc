"""safetensors read and written, judged by the safetensors library."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from sample_leaves import PROVENANCE, assert_holds, every_type, leaf, trees, write

from loftr2flax.checkpoint import Scratch
from loftr2flax.errors import (
    CorruptFile,
    LimitExceeded,
    MissingInput,
    UnsupportedFile,
    UnsupportedTensor,
    UnwritableLeaf,
)
from loftr2flax.formats import Limits, open_checkpoint
from loftr2flax.formats.safetensors_file import SafetensorsFile
from loftr2flax.formats.safetensors_index import ShardedSafetensors

_WITHOUT = ("complex128",)


def _torch_bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_our_file_is_what_the_library_reads(tmp_path):
    leaves = every_type(without=_WITHOUT)
    path = write(tmp_path / "out.safetensors", "safetensors", leaves)
    read = safetensors.torch.load_file(path)
    assert read.keys() == leaves.keys()
    for name, array in leaves.items():
        found = (str(read[name].dtype), tuple(read[name].shape), _torch_bits(read[name]))
        assert found == (f"torch.{array.dtype.name}", array.shape, array.tobytes()), name
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"loftr2flax": json.dumps(PROVENANCE, sort_keys=True, separators=(",", ":"))}


def test_our_file_is_what_we_read(tmp_path):
    leaves = every_type(without=_WITHOUT)
    with open_checkpoint(write(tmp_path / "out.safetensors", "safetensors", leaves)) as checkpoint:
        assert_holds(checkpoint, leaves)
        assert list(checkpoint.infos) == list(leaves)
        assert checkpoint.contents.provenance == PROVENANCE
        assert (checkpoint.format, checkpoint.separator) == ("safetensors", "/")


def test_the_librarys_file_is_what_we_read(tmp_path):
    leaves = every_type(".", without=_WITHOUT)
    safetensors.numpy.save_file(leaves, tmp_path / "in.safetensors")
    with open_checkpoint(tmp_path / "in.safetensors") as checkpoint:
        assert_holds(checkpoint, leaves)
        assert checkpoint.contents.provenance is None
        assert checkpoint.separator == "."


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaves=trees(without=_WITHOUT))
def test_any_tree_goes_both_ways(tmp_path, leaves):
    path = write(tmp_path / "out.safetensors", "safetensors", leaves, force=True)
    read = safetensors.torch.load_file(path)
    assert {name: _torch_bits(tensor) for name, tensor in read.items()} == {
        name: array.tobytes() for name, array in leaves.items()
    }
    with SafetensorsFile(path) as checkpoint:
        assert_holds(checkpoint, leaves)


def test_leaves_are_aligned_to_their_elements(tmp_path):
    leaves = {"a": leaf("uint8", (3,)), "b": leaf("float64", (2,)), "c": leaf("int16", (5,))}
    path = write(tmp_path / "out.safetensors", "safetensors", leaves)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert size % 8 == 0
    assert [header[name]["data_offsets"] for name in "abc"] == [[26, 29], [0, 16], [16, 26]]


def test_scratch_is_used_again(tmp_path):
    leaves = {"a": leaf("float32", (2, 5)), "b": leaf("float32", (3,))}
    scratch = Scratch()
    with SafetensorsFile(write(tmp_path / "out.safetensors", "safetensors", leaves)) as checkpoint:
        first = checkpoint.read("a", scratch)
        assert np.shares_memory(first, checkpoint.read("b", scratch))
        assert not np.shares_memory(checkpoint.read("a"), checkpoint.read("a"))


def test_a_type_that_the_format_lacks_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UnwritableLeaf, match=r"leaf 'a/b': safetensors has no complex128"):
        write(tmp_path / "out.safetensors", "safetensors", {"a/b": leaf("complex128", (2, 3))})
    assert list(tmp_path.iterdir()) == []


def _file(header, data=b"", *, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def _entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


FAULTS = {
    "truncated_length": (b"\x08\0\0\0", "the header's length would end at byte 8, the file ends at byte 4"),
    "header_past_the_end": (_file({}, size=99), "the header would end at byte 107"),
    "header_of_gigabytes": (_file(b"{" + b" " * 9, size=1 << 40), "claims a header of 1099511627776 bytes"),
    "not_an_object": (_file(b"[1, 2]"), "the header does not begin with {"),
    "not_json": (_file(b'{"a": '), "the header is not JSON"),
    "not_utf8": (_file(b'{"\xff": 1}'), "the header is not JSON"),
    "lone_surrogate": (_file({"\ud800": _entry(0, 8)}, bytes(8)), "the header is not JSON"),
    "number_of_5000_digits": (_file(b'{"a": ' + b"1" * 5000 + b"}"), "the header is not JSON"),
    "nested_deeply": (_file(b'{"a":' + b"[" * 200_000), "the header is nested too deeply"),
    "key_twice": (_file(b'{"a": 1, "a": 2}'), "the key 'a' stands twice"),
    "metadata_not_strings": (_file({"__metadata__": {"a": 1}}), "__metadata__ does not map strings to strings"),
    "entry_not_an_object": (_file({"a": 1}), "leaf 'a': the header lacks dtype, shape or data_offsets"),
    "no_shape": (_file({"a": {"dtype": "F32", "data_offsets": [0, 0]}}), "leaf 'a': the header lacks dtype"),
    "dtype_not_a_string": (_file({"a": _entry(0, 8, dtype=4)}, bytes(8)), "leaf 'a': the dtype 4 is not a string"),
    "negative_size": (_file({"a": _entry(0, 8, (-2,))}, bytes(8)), r"leaf 'a': \[-2\] is not a shape"),
    "fractional_size": (_file({"a": _entry(0, 8, (2.0,))}, bytes(8)), r"leaf 'a': \[2.0\] is not a shape"),
    "size_true": (_file({"a": _entry(0, 4, (True,))}, bytes(4)), r"leaf 'a': \[True\] is not a shape"),
    "overflowing_product": (_file({"a": _entry(0, 0, (0, 1 << 62))}), "leaf 'a': .* is not a shape"),
    "offsets_backwards": (_file({"a": _entry(8, 0)}, bytes(8)), r"leaf 'a': data_offsets \[8, 0\] are no extent"),
    "offsets_negative": (_file({"a": _entry(-8, 0)}, bytes(8)), "leaf 'a': data_offsets .* are no extent"),
    "offsets_three": (
        _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, bytes(8)),
        r"leaf 'a': data_offsets \[0, 8, 8\] are not two integers",
    ),
    "wrong_length": (_file({"a": _entry(0, 12)}, bytes(12)), r"F32 of shape \[2\] needs 8 bytes, its offsets give 12"),
    "past_the_end": (_file({"a": _entry(0, 8)}, bytes(7)), "leaf 'a' ends at byte 8 of the data, which has 7"),
    "gap": (_file({"a": _entry(0, 8), "b": _entry(9, 17)}, bytes(17)), "leaf 'b' leaves a gap of 1 bytes before it"),
    "overlap": (_file({"a": _entry(0, 8), "b": _entry(4, 12)}, bytes(12)), "leaf 'b' overlaps the leaf before it"),
    "junk_behind": (_file({"a": _entry(0, 8)}, bytes(9)), "1 bytes after the last leaf belong to none"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused(tmp_path, fault):
    content, message = FAULTS[fault]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=message) as refusal:
        SafetensorsFile(path)
    assert refusal.value.message.startswith(f"{path}: ")
    assert "\n" not in refusal.value.message
    assert refusal.value.hint
    if fault != "key_twice":  # the library takes one of the two
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the library raises
            safetensors.numpy.load(content)


def test_every_cut_of_a_file_is_refused(tmp_path):
    whole = write(tmp_path / "out.safetensors", "safetensors", {"a": leaf("int16", (2, 3))}).read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises((CorruptFile, UnsupportedFile)):
            open_checkpoint(path)


def test_an_unknown_type_is_listed_and_refused_when_read(tmp_path):
    path = tmp_path / "f4.safetensors"
    path.write_bytes(_file({"a": _entry(0, 1, (2,), "F4"), "b": _entry(1, 9)}, bytes(9)))
    with SafetensorsFile(path) as checkpoint:
        assert checkpoint.read("b").shape == (2,)
        with pytest.raises(UnsupportedTensor, match="leaf 'a': elements of type F4, which numpy does not have"):
            checkpoint.read("a")


def test_a_bool_is_0_or_1(tmp_path):
    path = tmp_path / "bool.safetensors"
    path.write_bytes(_file({"a": _entry(0, 2, (2,), "BOOL")}, b"\x01\x02"))
    with SafetensorsFile(path) as checkpoint, pytest.raises(CorruptFile, match="leaf 'a': a bool has the value 2"):
        checkpoint.read("a")


def test_too_many_tensors(tmp_path):
    path = write(tmp_path / "out.safetensors", "safetensors", {"a": leaf("int8", (2,)), "b": leaf("int8", (3,))})
    with pytest.raises(LimitExceeded, match="2 tensors, the limit is 1"):
        SafetensorsFile(path, Limits(tensors=1))


def test_a_header_of_millions_of_numbers_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(_file(b'{"a": [' + b"0," * 1000 + b"0]}"))
    with pytest.raises(LimitExceeded, match="the header would take more than the 100000 bytes of memory"):
        SafetensorsFile(path, Limits(memory=100_000))


def test_a_file_of_many_gigabytes(tmp_path):
    """Sparse: it takes no room. Offsets beyond 32 bits are offsets too."""
    rows = 3 << 30
    path = tmp_path / "huge.safetensors"
    path.write_bytes(
        _file({"a": _entry(0, 2 * rows, (rows, 2), "I8"), "b": _entry(2 * rows, 2 * rows + 3, (3,), "I8")})
    )
    start = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(start + 2 * rows)
        file.write(b"\x01\x02\x03")
    with SafetensorsFile(path) as checkpoint:
        assert checkpoint.info("a").nbytes == 2 * rows
        assert checkpoint.read("b").tolist() == [1, 2, 3]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = write(tmp_path / "out.safetensors", "safetensors", {"a": leaf("float32", (2, 5))})
    with SafetensorsFile(path) as checkpoint:
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(CorruptFile, match="leaf 'a'"):
            checkpoint.read("a")


# --- several files ---------------------------------------------------------------------------------------------------


def _shards(folder, weight_map=None):
    safetensors.numpy.save_file({"a": leaf("float32", (2, 3)), "b": leaf("int8", (5,))}, folder / "x-1.safetensors")
    safetensors.numpy.save_file({"c": leaf("float16", (4, 1))}, folder / "x-2.safetensors")
    shards = {"a": "x-1.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors"}
    index = folder / "x.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 37}, "weight_map": weight_map or shards}, indent=2))
    return index


def test_shards_read_as_one(tmp_path):
    leaves = {"a": leaf("float32", (2, 3)), "b": leaf("int8", (5,)), "c": leaf("float16", (4, 1))}
    with open_checkpoint(_shards(tmp_path)) as checkpoint:
        assert_holds(checkpoint, leaves)
        assert isinstance(checkpoint, ShardedSafetensors)


_ONE, _TWO = "x-1.safetensors", "x-2.safetensors"
INDEX_FAULTS = {
    "missing_shard": ({"a": _ONE, "b": _ONE, "c": "gone.safetensors"}, "the shard 'gone.safetensors' is missing"),
    "missing_tensor": ({"a": _ONE, "b": _ONE, "c": _TWO, "d": _TWO}, "leaf 'd' is not in the shard 'x-2.safetensors'"),
    "extra_tensor": ({"a": _ONE, "c": _TWO}, "leaf 'b' of the shard 'x-1.safetensors' is not in the index"),
    "parent_folder": ({"a": "../x-1.safetensors"}, "the shard '../x-1.safetensors' lies outside the index's folder"),
    "absolute": ({"a": "/x-1.safetensors"}, "the shard '/x-1.safetensors' lies outside the index's folder"),
    "pickles": ({"a": "x-1.bin"}, "the shard 'x-1.bin' is not safetensors"),
    "not_strings": ({"a": 1}, "JSON, but not an index with a weight_map"),
}


@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_a_faulty_index_is_refused(tmp_path, fault):
    weight_map, message = INDEX_FAULTS[fault]
    with pytest.raises((MissingInput, CorruptFile, UnsupportedFile), match=message):
        open_checkpoint(_shards(tmp_path, weight_map))


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    index = _shards(tmp_path)
    safetensors.numpy.save_file({"c": leaf("float16", (4, 1)), "a": leaf("int8", (2,))}, tmp_path / _TWO)
    with pytest.raises(CorruptFile, match=r"leaf 'a' is in two shards, 'x-1.safetensors' and 'x-2.safetensors'"):
        open_checkpoint(index)


def test_a_tensor_twice_in_the_index_is_refused(tmp_path):
    index = tmp_path / "x.index.json"
    index.write_text('{"weight_map": {"a": "x-1.safetensors", "a": "x-2.safetensors"}}')
    with pytest.raises(CorruptFile, match="the key 'a' stands twice"):
        open_checkpoint(index)


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x10280])
def test_a_header_whose_length_begins_as_a_pickle_does(tmp_path, length):
    """0x80 and a small byte: also the first two bytes of a pickle, and of a header of 640 bytes."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode().ljust(length)
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + array.tobytes())
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["a"], array)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        np.testing.assert_array_equal(checkpoint.read("a"), array)
