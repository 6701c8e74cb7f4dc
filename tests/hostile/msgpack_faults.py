"""Flax's msgpack: lengths, shapes and types that lie, chunks that do not fit, depth."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
from hostile.catalogue import add

_ARRAY = np.arange(6, dtype="<f4").reshape(3, 2)
_DATA = _ARRAY.tobytes()


def _array(shape: Any = (3, 2), dtype: Any = "float32", data: Any = _DATA) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


def _bytes(name: str, content: bytes) -> None:
    add(f"msgpack_{name}", lambda path: path.write_bytes(content))


def _tree(name: str, kernel: Any, **beside: Any) -> None:
    _bytes(name, msgpack.packb({"layer": {"kernel": kernel}, **beside}, use_bin_type=True))


_SOUND = msgpack.packb({"layer": {"kernel": _array()}})
_bytes("sound", _SOUND)
_bytes("truncated", _SOUND[:-5])
_bytes("junk_after", _SOUND + b"\x01")
_bytes("two_trees", _SOUND + _SOUND)
_bytes("byte_that_begins_nothing", b"\x81\xa5layer\xc1")
_bytes("map_of_billions", b"\xdf\xff\xff\xff\xff" + _SOUND[1:])
_bytes("array_of_billions", b"\x81\xa5layer\xdd\xff\xff\xff\xff\xc0")
_bytes("text_of_gigabytes", b"\x81\xa5layer\xdb\xff\xff\xff\xffa")
_bytes("bytes_of_gigabytes", b"\x81\xa5layer\xc6\xff\xff\xff\xffa")
_bytes("extension_of_gigabytes", b"\x81\xa5layer\xc9\xff\xff\xff\xff\x01a")
_bytes("extension_of_negative_type", b"\x81\xa5layer\xc7\x01\xffa")
_bytes("key_of_gigabytes", b"\x81\xdb\xff\xff\xff\xffa\xc0")
_bytes("key_a_number", b"\x81\x01\xc0")
_bytes("key_not_utf8", b"\x81\xa1\xff\xc0")
_bytes("key_twice", b"\x82" + _SOUND[1:] * 2)
_bytes("key_with_a_slash", msgpack.packb({"a/b": _array()}))
_bytes("depth_of_a_million", b"\x81\xa1a" * 1_000_000 + b"\xc0")
_bytes("depth_of_a_million_arrays", b"\x81\xa1a" + b"\x91" * 1_000_000 + b"\xc0")
_bytes("no_tree", msgpack.packb([1, 2]))
_bytes("bomb_of_values", b"\x81\xa1a\xdd" + (18_000_000).to_bytes(4, "big") + b"\xc0" * 18_000_000)
_bytes("bomb_of_maps", b"\x81\xa1a\xdd" + (9_000_000).to_bytes(4, "big") + b"\x81\xa0" * 9_000_000)
_bytes("bomb_of_long_keys", b"".join(b"\x82\xda\xff\xff" + b"k" * 65535 for _ in range(200)) + b"\xc0" * 201)
_tree("shape_negative", _array((-3, -2)))
_tree("shape_too_large", _array((3, 9)))
_tree("shape_too_small", _array((3, 1)))
_tree("shape_overflows", _array((1 << 62, 4)))
_tree("shape_of_text", _array(("3", "2")))
_tree("shape_of_truth_values", _array((True, True)))
_tree("shape_a_number", _array(6))
_tree("shape_of_a_hundred_dimensions", _array((1,) * 100))
_tree("object_dtype", _array(dtype="object"))
_tree("object_dtype_by_letter", _array(dtype="O"))
_tree("big_endian", _array(dtype=">f4"))
_tree("dtype_unknown", _array(dtype="float128"))
_tree("dtype_a_number", _array(dtype=7))
_tree("dtype_of_another_size", _array(dtype="float64"))
_tree("data_a_number", _array(data=7))
_tree("triple_of_two", msgpack.ExtType(1, msgpack.packb(((3, 2), "float32"))))
_tree("elements_that_are_a_number", _array(data=math.nan))
_tree("elements_that_are_a_list", _array(data=[1, 2, 3]))
_tree("triple_with_junk", msgpack.ExtType(1, msgpack.packb(((3, 2), "float32", _DATA)) + b"\1"))
_tree("truth_values_that_are_neither", _array(dtype="bool", data=b"\0\1\2\0\1\0"))


def _chunks(name: str, shape: Any = None, chunks: Any = None, marker: Any = True, **beside: Any) -> None:
    pieces = {"0": _array((4,), data=_DATA[:16]), "1": _array((2,), data=_DATA[16:])}
    _tree(
        f"chunks_{name}",
        {
            "__msgpack_chunked_array__": marker,
            "shape": {"0": 3, "1": 2} if shape is None else shape,
            "chunks": pieces if chunks is None else chunks,
            **beside,
        },
    )


_PIECE = _array((4,), data=_DATA[:16])
_chunks("sound")
_chunks("too_few", chunks={"0": _PIECE})
_chunks("too_many", chunks={"0": _PIECE, "1": _PIECE})
_chunks("none", chunks={})
_chunks("misnumbered", chunks={"0": _PIECE, "2": _array((2,), data=_DATA[16:])})
_chunks("of_two_types", chunks={"0": _PIECE, "1": _array((2,), "int32", bytes(8))})
_chunks("of_two_dimensions", chunks={"0": _array()})
_chunks("shape_lies", shape={"0": 3, "1": 3})
_chunks("shape_of_text", shape={"0": "3", "1": 2})
_chunks("shape_negative", shape={"0": -3, "1": -2})
_chunks("marker_a_map", marker={"0": 2})
_chunks("marker_false", marker=False)
_chunks("with_another_leaf", other=_array())
