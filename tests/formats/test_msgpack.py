"""Flax msgpack read and written, judged by flax.serialization."""

import flax.serialization
import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from sample_leaves import PROVENANCE, assert_holds, every_type, leaf, same_bits, trees, write

from loftr2flax.errors import (
    CorruptFile,
    InputError,
    LimitExceeded,
    UnsupportedFile,
    UnsupportedTensor,
    UnwritableLeaf,
)
from loftr2flax.formats import Limits, msgpack_wire, open_checkpoint
from loftr2flax.formats.msgpack_file import MsgpackFile


def _nested(leaves):
    tree = {}
    for name, array in leaves.items():
        *branches, last = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = array
    return tree


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _flax_reads(path, leaves):
    read = dict(_flat(flax.serialization.msgpack_restore(path.read_bytes())))
    assert read.keys() == leaves.keys()
    assert all(same_bits(read[name], array) for name, array in leaves.items())


def test_our_file_is_what_flax_reads(tmp_path):
    leaves = every_type()
    _flax_reads(write(tmp_path / "out.msgpack", "msgpack", leaves), leaves)


def test_our_file_is_what_we_read(tmp_path):
    leaves = every_type()
    with open_checkpoint(write(tmp_path / "out.msgpack", "msgpack", leaves)) as checkpoint:
        assert_holds(checkpoint, leaves)
        assert list(checkpoint.infos) == list(leaves)
        assert checkpoint.contents.provenance == PROVENANCE
        assert (checkpoint.format, checkpoint.separator) == ("msgpack", "/")


def test_flaxs_file_is_what_we_read(tmp_path):
    leaves = every_type()
    (tmp_path / "in.msgpack").write_bytes(flax.serialization.to_bytes(_nested(leaves)))
    with open_checkpoint(tmp_path / "in.msgpack") as checkpoint:
        assert_holds(checkpoint, leaves)
        assert checkpoint.contents.provenance is None


def test_our_bytes_are_flaxs_bytes(tmp_path):
    leaves = {
        "a/b": leaf("float32", (2, 5)),
        "a/c": leaf("bfloat16", (3, 1)),
        "d": leaf("int64", ()),
        "é": leaf("bool", (7,)),
    }
    path = write(tmp_path / "out.msgpack", "msgpack", leaves)
    assert path.read_bytes() == flax.serialization.msgpack_serialize(_nested(leaves))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaves=trees())
def test_any_tree_goes_both_ways(tmp_path, leaves):
    path = write(tmp_path / "out.msgpack", "msgpack", leaves, force=True)
    _flax_reads(path, leaves)
    with MsgpackFile(path) as checkpoint:
        assert_holds(checkpoint, leaves)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaves=trees())
def test_large_leaves_are_chunked_as_flax_does(tmp_path, leaves):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgpack_wire, "CHUNK_BYTES", 16)
        patch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
        path = write(tmp_path / "out.msgpack", "msgpack", leaves, force=True)
        by_flax = flax.serialization.msgpack_serialize(_nested(leaves), in_place=True)
    _flax_reads(path, leaves)
    assert len(by_flax) == path.stat().st_size  # the order of keys is flax's own
    (tmp_path / "in.msgpack").write_bytes(by_flax)
    for file in (path, tmp_path / "in.msgpack"):
        with MsgpackFile(file) as checkpoint:
            assert_holds(checkpoint, leaves)


def test_leaves_are_wanted_grouped(tmp_path):
    leaves = {name: leaf("int8", (2,), number) for number, name in enumerate(["a/x", "b", "a/y", "c/d/e", "a/z/w"])}
    path = write(tmp_path / "out.msgpack", "msgpack", leaves)
    with MsgpackFile(path) as checkpoint:
        assert list(checkpoint.infos) == ["a/x", "a/y", "a/z/w", "b", "c/d/e"]
        assert_holds(checkpoint, leaves)


def test_what_is_no_array_is_listed(tmp_path):
    tree = {
        "step": 1000, "rate": 0.5, "done": True, "z": 1 + 2j, "name": "x", "raw": b"yz", "none": None,
        "empty": {}, "list": [np.zeros((2, 3), "i1"), {"k": np.float32(1.5)}], "big": 2**40, "minus": -5,
    }  # fmt: skip
    (tmp_path / "in.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    with MsgpackFile(tmp_path / "in.msgpack") as checkpoint:
        assert_holds(checkpoint, {"list/0": np.zeros((2, 3), "i1"), "list/1/k": np.array(1.5, "f4")})
        assert {unread.path: unread.what for unread in checkpoint.contents.unread} == {
            "step": "int 1000", "rate": "float 0.5", "done": "bool True", "z": "complex", "name": "str", "raw": "bytes",
            "none": "nil", "empty": "empty map", "big": "int 1099511627776", "minus": "int -5",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a/b"], "leaf 'a': it is also a branch that holds other leaves"),
        (["a/b", "a"], "leaf 'a': it is also a branch that holds other leaves"),
        (["a/__msgpack_chunked_array__"], "Flax keeps '__msgpack_chunked_array__' for itself"),
        (["/".join("a" * 300)], "299 levels are too deep"),
    ],
)
def test_names_that_nested_maps_cannot_hold_are_refused(tmp_path, names, message):
    with pytest.raises(UnwritableLeaf, match=message):
        write(tmp_path / "out.msgpack", "msgpack", {name: leaf("int8", (2,)) for name in names})
    assert list(tmp_path.iterdir()) == []


def test_a_depth_that_we_write_is_one_that_flax_reads(tmp_path):
    leaves = {"/".join("a" * msgpack_wire.MAX_DEPTH): leaf("int8", (2,))}
    path = write(tmp_path / "out.msgpack", "msgpack", leaves)
    _flax_reads(path, leaves)
    with MsgpackFile(path) as checkpoint:
        assert_holds(checkpoint, leaves)


# --- provenance beside the file --------------------------------------------------------------------------------------


def test_provenance_of_another_file_is_ignored(tmp_path):
    path = write(tmp_path / "out.msgpack", "msgpack", {"a": leaf("int8", (3,), 1)})
    path.write_bytes(flax.serialization.to_bytes({"a": leaf("int8", (3,), 2)}))
    with MsgpackFile(path) as checkpoint:
        assert checkpoint.contents.provenance is None
        assert checkpoint.contents.notes == ("out.msgpack.provenance.json belongs to another file and was ignored",)


@pytest.mark.parametrize("junk", [b"", b"[1]", b"\xff", b'{"bytes": 1}', b"[" * 100_000])
def test_provenance_that_is_none_is_ignored(tmp_path, junk):
    path = write(tmp_path / "out.msgpack", "msgpack", {"a": leaf("int8", (3,))})
    (tmp_path / "out.msgpack.provenance.json").write_bytes(junk)
    with MsgpackFile(path) as checkpoint:
        assert checkpoint.contents.provenance is None


def test_provenance_left_from_a_file_that_is_gone_is_replaced(tmp_path):
    path = write(tmp_path / "out.msgpack", "msgpack", {"a": leaf("int8", (3,))}, {"run": 1})
    path.unlink()
    write(path, "msgpack", {"a": leaf("int8", (3,))}, {"run": 2})
    with MsgpackFile(path) as checkpoint:
        assert checkpoint.contents.provenance == {"run": 2}


# --- hostile files ---------------------------------------------------------------------------------------------------


def _array(shape=(2, 3), dtype="float32", data=bytes(24), code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def _chunked(shape, *chunks, **more):
    numbered = {str(i): chunk for i, chunk in enumerate(chunks)}
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(shape)},
        "chunks": numbered,
        **more,
    }


FAULTS = {
    "short_data": ({"a": {"b": _array(data=bytes(20))}}, r"'a/b': float32 of shape \(2, 3\) needs 24 bytes, 20 are"),
    "long_data": ({"a": _array(data=bytes(28))}, "needs 24 bytes, 28 are there"),
    "negative_size": ({"a": _array((-2, 3))}, r"leaf 'a': \(-2, 3\) is not a shape"),
    "fractional_size": ({"a": _array((2.0, 3))}, r"leaf 'a': \(-1, 3\) is not a shape"),
    "size_nan": ({"a": _array((float("nan"), 3))}, "leaf 'a': .* is not a shape"),
    "size_text": ({"a": _array(("2", 3))}, "leaf 'a'"),
    "overflowing_product": ({"a": _array((0, 1 << 62), data=b"")}, "leaf 'a': .* is not a shape"),
    "many_dimensions": ({"a": _array((1,) * 40, data=bytes(4))}, "leaf 'a' is not a triple"),
    "object_type": ({"a": _array(dtype="object")}, "leaf 'a': elements of type 'object' cannot be read"),
    "big_endian": ({"a": _array(dtype=">f4")}, "leaf 'a': elements of type '>f4' cannot be read"),
    "not_a_triple": ({"a": msgpack.ExtType(1, msgpack.packb((1, 2)))}, "leaf 'a' is not a triple of shape"),
    "junk_in_array": ({"a": msgpack.ExtType(1, _array().data + b"x")}, "leaf 'a': its bytes end at"),
    "empty_extension": ({"a": msgpack.ExtType(1, b""), "b": 1}, "leaf 'a'"),
    "chunks_too_few": ({"a": _chunked((2, 6), _array((6,)))}, r"shape \(2, 6\) needs 12 elements, its pieces have 6"),
    "chunks_none": ({"a": _chunked((2, 3))}, "leaf 'a': its pieces do not make an array"),
    "chunks_of_two_types": ({"a": _chunked((12,), _array((6,)), _array((6,), "int32"))}, "leaf 'a': its pieces do"),
    "chunks_not_flat": ({"a": _chunked((2, 3), _array((2, 3)))}, "leaf 'a': shape"),
    "chunk_numbers_with_a_gap": (
        {"a": _chunked((6,), _array((6,))) | {"chunks": {"0": _array((6,)), "2": 1}}},
        "leaf 'a/chunks/2' stands among the pieces of another",
    ),
    "chunks_and_more": ({"a": _chunked((6,), _array((6,)), more=1)}, "leaf 'a/more' stands among the pieces"),
    "chunk_shape_text": ({"a": _chunked(("abcdef",), _array((6,)))}, "leaf 'a': its pieces do not make an array"),
    "chunk_shape_negative": ({"a": _chunked((-6,), _array((6,)))}, "leaf 'a': its pieces do not make an array"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_leaf_is_refused(tmp_path, fault):
    tree, message = FAULTS[fault]
    path = tmp_path / "bad.msgpack"
    path.write_bytes(msgpack.packb(tree))
    with pytest.raises(CorruptFile, match=message) as refusal:
        MsgpackFile(path)
    assert refusal.value.message.startswith(f"{path}: ")
    assert "\n" not in refusal.value.message


BYTES = {
    "truncated": (b"\x81\xa1a", CorruptFile, "leaf 'a' would end at byte 4, the file ends at byte 3"),
    "junk_behind": (b"\x81\xa1a\x01\x00", CorruptFile, "the tree ends at byte 4, the file goes on"),
    "map_of_billions": (b"\xdf\xff\xff\xff\xff\xa1a\x01", CorruptFile, "would end at byte"),
    "string_of_gigabytes": (b"\x81\xa1a\xdb\x7f\xff\xff\xff", CorruptFile, "leaf 'a' would end at byte 2147483655"),
    "key_of_gigabytes": (b"\x81\xdb\x7f\xff\xff\xff", CorruptFile, "a key of 'the tree' is not a string of at most"),
    "key_a_number": (b"\x81\x01\x01", CorruptFile, "a key of 'the tree' is not a string"),
    "key_not_utf8": (b"\x81\xa1\xff\x01", CorruptFile, "a key of 'the tree' is not UTF-8"),
    "key_twice": (b"\x82\xa1a\x01\xa1a\x02", CorruptFile, "leaf 'a' stands twice"),
    "key_with_a_slash": (b"\x81\xa3a/b\x01", UnsupportedFile, "the key 'a/b' of 'the tree' has a slash"),
    "byte_c1": (b"\x81\xa1a\xc1", CorruptFile, "leaf 'a': byte 3 is 0xc1, which begins nothing"),
    "reserved_extension": (b"\x81\xa1a\xd4\xff\x00", CorruptFile, "leaf 'a': an extension of type -1"),
    "depth": (b"\x81\xa1a" * 100_000, LimitExceeded, "more than 256 levels"),
    "depth_of_arrays": (b"\x81\xa1a" + b"\x91" * 100_000, LimitExceeded, "more than 256 levels"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BYTES)
def test_faulty_bytes_are_refused(tmp_path, fault):
    content, kind, message = BYTES[fault]
    path = tmp_path / "bad.msgpack"
    path.write_bytes(content)
    with pytest.raises(kind, match=message):
        MsgpackFile(path)


def test_long_keys_nested_do_not_multiply(tmp_path):
    inner = {str(number): 1 for number in range(10_000)}
    for _ in range(3):
        inner = {"k" * 60_000: inner}
    path = tmp_path / "bad.msgpack"
    path.write_bytes(msgpack.packb(inner))
    with pytest.raises(LimitExceeded, match="the names of its leaves would take more than the 268435456 bytes"):
        MsgpackFile(path)


def test_one_array_without_a_tree_is_refused(tmp_path):
    path = tmp_path / "one.msgpack"
    path.write_bytes(flax.serialization.msgpack_serialize(np.zeros((2, 3))))
    with pytest.raises(UnsupportedFile, match="holds one extension, not a tree of arrays"):
        MsgpackFile(path)


def test_a_type_that_is_no_number_is_listed_and_refused_when_read(tmp_path):
    path = tmp_path / "in.msgpack"
    path.write_bytes(flax.serialization.msgpack_serialize({"a": np.array(["x", "yz"])}))
    with MsgpackFile(path) as checkpoint, pytest.raises(UnsupportedTensor, match="leaf 'a': elements of type 'str64'"):
        checkpoint.read("a")


def test_too_many_leaves(tmp_path):
    path = write(tmp_path / "out.msgpack", "msgpack", {"a": leaf("int8", (2,)), "b": leaf("int8", (3,))})
    with pytest.raises(LimitExceeded, match="more than 1 leaves and other values"):
        MsgpackFile(path, Limits(tensors=1))


def test_every_changed_byte_is_refused_or_read_as_flax_reads_it(tmp_path):
    whole = flax.serialization.msgpack_serialize({"a": {"b": leaf("int16", (2, 3))}, "c": leaf("float32", (5,))})
    path = tmp_path / "bad.msgpack"
    for at in range(len(whole)):
        for bits in (0x01, 0x80, 0xFF):
            content = whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]
            path.write_bytes(content)
            try:
                checkpoint = MsgpackFile(path)
            except InputError:
                continue
            with checkpoint:
                if any(info.refused for info in checkpoint.infos.values()):
                    continue  # an unknown type; flax refuses the whole file
                read = {name: checkpoint.read(name) for name in checkpoint.infos}
            expected = dict(_flat(flax.serialization.msgpack_restore(content)))
            for name, array in read.items():
                assert same_bits(array, np.asarray(expected[name])), (at, bits, name)
