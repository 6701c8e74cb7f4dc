"""safetensors, each rule of the format broken once, and indexes of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from hostile.catalogue import add, fault

_DATA = np.arange(6, dtype=np.float32).tobytes()
_ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def _file(header: bytes, data: bytes = _DATA, size: int | None = None) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header + data


def _bytes(name: str, content: bytes) -> None:
    add(f"safetensors_{name}", lambda path: path.write_bytes(content))


def _entry(name: str, **changes: Any) -> None:
    entry = {key: value for key, value in {**_ENTRY, **changes}.items() if value != "absent"}
    _bytes(name, _file(json.dumps({"layer.weight": entry}).encode()))


def _two(name: str, *entries: dict[str, Any], data: bytes = _DATA) -> None:
    header = {f"layer.{part}": {**_ENTRY, **entry} for part, entry in zip(("weight", "other"), entries, strict=True)}
    _bytes(name, _file(json.dumps(header).encode(), data))


_SOUND = json.dumps({"layer.weight": _ENTRY}).encode()
_bytes("sound", _file(_SOUND))
_bytes("truncated", _file(_SOUND)[:-7])
_bytes("truncated_in_the_header", _file(_SOUND)[:40])
_bytes("truncated_in_the_length", _file(_SOUND)[:5])
_bytes("junk_after", _file(_SOUND) + b"junk")
_bytes("header_longer_than_the_file", _file(_SOUND, size=1 << 20))
_bytes("header_of_gigabytes", _file(_SOUND, size=1 << 31))
_bytes("header_of_exabytes", _file(_SOUND, size=(1 << 63) - 1))
_bytes("header_no_json", _file(b'{"layer.weight": }'))
_bytes("header_not_utf8", _file(b'{"\xff": 1}'))
_bytes("header_a_list", _file(b"[1, 2]"))
_bytes("header_after_spaces", _file(b" " + _SOUND))
_bytes("header_with_nan", _file(_SOUND.replace(b"[0, 24]", b"[0, NaN]")))
_bytes("key_twice", _file(b'{"layer.weight": %b, "layer.weight": %b}' % ((json.dumps(_ENTRY).encode(),) * 2)))
_bytes("name_a_lone_surrogate", _file(_SOUND.replace(b"layer", b"\\ud800")))
_bytes("nested_a_million_deep", _file(b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000))
_bytes("metadata_of_numbers", _file(b'{"__metadata__": {"a": 1}, ' + _SOUND[1:]))
_bytes("metadata_a_list", _file(b'{"__metadata__": [], ' + _SOUND[1:]))
_entry("without_dtype", dtype="absent")
_entry("without_shape", shape="absent")
_entry("without_offsets", data_offsets="absent")
_entry("dtype_unknown", dtype="F128")
_entry("dtype_a_number", dtype=32)
_entry("shape_negative", shape=[-2, -3])
_entry("shape_of_fractions", shape=[2.0, 3.0])
_entry("shape_of_truth_values", shape=[True, 6])
_entry("shape_overflows", shape=[1 << 62, 1 << 62])
_entry("shape_of_other_size", shape=[2, 4])
_entry("offsets_reversed", data_offsets=[24, 0])
_entry("offsets_negative", data_offsets=[-24, 0])
_entry("offsets_three", data_offsets=[0, 12, 24])
_entry("offsets_past_the_end", data_offsets=[1000, 1024])
_two("gap", {"shape": [3], "data_offsets": [0, 12]}, {"shape": [1], "data_offsets": [20, 24]})
_two("overlap", {}, {})
_two("hole_at_the_start", {"shape": [2], "data_offsets": [4, 12]}, {"shape": [3], "data_offsets": [12, 24]})
_entry("truth_values_that_are_neither", dtype="BOOL", shape=[2, 12])
_bytes("bomb_of_lists", _file(b'{"a":[' + b"[]," * 6_000_000 + b"[]]}"))
_bytes("bomb_of_numbers", _file(b'{"a":[' + b"1," * 9_000_000 + b"1]}"))
_bytes("bomb_of_keys", _file(b"{" + b",".join(b'"%d":{}' % i for i in range(1_400_000)) + b"}"))
_bytes("bomb_of_deep_lists", _file(b'{"a":[' + b",".join([b"[" * 900 + b"]" * 900] * 10_000) + b"]}"))
_bytes(
    "a_million_tensors",
    _file(
        b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(1_000_000)) + b"}",
        b"",
    ),
)


def _index(name: str, weight_map: Any, *, text: bytes | None = None) -> None:
    def make(path: Path) -> None:
        for shard, leaf in (("one.safetensors", "layer.weight"), ("two.safetensors", "other")):
            safetensors.numpy.save_file({leaf: np.arange(6, dtype=np.float32).reshape(2, 3)}, path.parent / shard)
        (path.parent / "three.bin").write_bytes(b"other")
        path.write_bytes(json.dumps({"weight_map": weight_map}).encode() if text is None else text)

    add(f"index_{name}", make)


_BOTH = {"layer.weight": "one.safetensors", "other": "two.safetensors"}
_index("sound", _BOTH)
_index("shard_missing", {**_BOTH, "other": "four.safetensors"})
_index("leaf_missing_in_shard", {**_BOTH, "layer.more": "two.safetensors"})
_index("leaf_missing_in_index", {"layer.weight": "one.safetensors", "layer.x": "two.safetensors"})
_index("leaf_in_another_shard", {"layer.weight": "two.safetensors", "other": "two.safetensors"})
_index(
    "key_twice", None, text=b'{"weight_map": {"layer.weight": "one.safetensors", "layer.weight": "two.safetensors"}}'
)
_index("shard_goes_up", {**_BOTH, "other": "../two.safetensors"})
_index("shard_absolute", {**_BOTH, "other": "/etc/passwd"})
_index("shard_with_nul", {**_BOTH, "other": "a\0b.safetensors"})
_index("shard_of_another_format", {**_BOTH, "other": "three.bin"})
_index("shard_a_number", {**_BOTH, "other": 7})
_index("itself_as_shard", {**_BOTH, "other": "index_itself_as_shard.ckpt"})
_index("no_map", [1, 2])
_index("no_json", None, text=b'{"weight_map": ')
_index("ten_thousand_shards", {f"layer.{n}": f"{n}.safetensors" for n in range(10_000)})
_index("bomb_of_lists", None, text=b'{"a":[' + b"[]," * 6_000_000 + b"[]]}")


@fault
def index_in_two_shards(path: Path) -> None:
    """Both shards hold the leaf; the index names one of them, so a reader's choice would be a matter of taste."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    safetensors.numpy.save_file({"layer.weight": weight}, path.parent / "one.safetensors")
    safetensors.numpy.save_file({"layer.weight": -weight, "other": weight}, path.parent / "two.safetensors")
    path.write_text(json.dumps({"weight_map": _BOTH}))
