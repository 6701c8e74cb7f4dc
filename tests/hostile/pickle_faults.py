"""Pickles: every way to call, and every way to be broken. Each holds ``layer.weight`` beside the fault, if it can."""

from __future__ import annotations

import pickle
from pathlib import Path

from formats.torch_files import pickled, write_checkpoint
from hostile.catalogue import add
from hostile.zip_faults import WEIGHT

TRAP = "booby_trap"
"""A module on the path of the program under test; whoever imports it, or calls it, leaves a file behind."""

_SOUND = pickled({"layer.weight": WEIGHT})
_HEAD = _SOUND[:-1] + b"X\x04\x00\x00\x00hook"  # the dict, and a key to come
_GLOBAL = f"c{TRAP}\ngo\n".encode()


def _pickle(name: str, data: bytes) -> None:
    add(f"pickle_{name}", lambda path: write_checkpoint(path, data))


def _calls(name: str, value: bytes) -> None:
    """``value`` is pickled as the dict's ``hook``."""
    _pickle(f"calls_by_{name}", _HEAD + value + b"s.")


_calls("reduce", _GLOBAL + b")R")
_calls("stack_global", f"\x8c\x0a{TRAP}\x8c\x02go\x93)R".encode("latin-1"))
_calls("inst", f"(i{TRAP}\ngo\n".encode())
_calls("obj", b"(" + _GLOBAL + b"o")
_calls("newobj", _GLOBAL + b")\x81")
_calls("newobj_ex", _GLOBAL + b")}\x92")
_calls("build", _GLOBAL + b")\x81}X\x01\x00\x00\x00aK\x01sb")
_calls("build_with_slots", _GLOBAL + b")\x81N}X\x01\x00\x00\x00aK\x01s\x86b")
_calls("append", _GLOBAL + b")R(K\x01K\x02e")
_calls("setitem", _GLOBAL + b")RK\x01K\x02s")
_calls("reduce_through_memo", _GLOBAL + b"q\xf00)q\xf10h\xf0h\xf1R")
_calls("extension_1", b"\x82\x01)R")
_calls("extension_2", b"\x83\x01\x01)R")
_calls("extension_4", b"\x84\x01\x01\x01\x01)R")
_calls("getattr_of_a_builtin", b"c__builtin__\ngetattr\n(c__builtin__\n__import__\nX\x08\x00\x00\x00__call__tR")
_calls("eval", b"c__builtin__\neval\n(X\x1d\x00\x00\x00__import__('booby_trap').go()tR")
_calls("a_dotted_name", f"\x8c\x0a{TRAP}\x8c\x06go.now\x93)R".encode("latin-1"))
_calls("a_builder_of_ours", _GLOBAL + b"\x85" + b"0ctorch._utils\n_rebuild_tensor_v2\n" + _GLOBAL + b"\x85R")

_pickle("truncated", _SOUND[:-20])
_pickle("without_stop", _SOUND[:-1])
_pickle("junk_after", _SOUND + b"junk")
_pickle("empty", b"")
_pickle("stack_underflow", _HEAD + b"0000000.")
_pickle("missing_memo", _HEAD + b"h\xee" + b"s.")
_pickle("unknown_opcode", _HEAD + b"\xfe" + b"s.")
_pickle("protocol_9", b"\x80\x09" + _SOUND[2:])
_pickle("frame_of_exabytes", _HEAD + b"\x95" + b"\xff" * 7 + b"\x7fNs.")
_pickle("text_of_gigabytes", _HEAD + b"X\xff\xff\xff\x7fa" + b"s.")
_pickle("text8_of_exabytes", _HEAD + b"\x8d" + b"\xff" * 7 + b"\x7fa" + b"s.")
_pickle("bytes_of_gigabytes", _HEAD + b"B\xff\xff\xff\x7fa" + b"s.")
_pickle("bytes8_of_exabytes", _HEAD + b"\x8e" + b"\xff" * 7 + b"\x7fa" + b"s.")
_pickle("bytearray_of_exabytes", _HEAD + b"\x96" + b"\xff" * 7 + b"\x7fa" + b"s.")
_pickle("integer_of_gigabytes", _HEAD + b"\x8b\xff\xff\xff\x7fa" + b"s.")
_pickle("integer_of_negative_length", _HEAD + b"\x8b\xff\xff\xff\xffa" + b"s.")
_pickle("integer_of_many_digits", _HEAD + b"I" + b"9" * 5000 + b"\ns.")
_pickle("memo_index_of_many_digits", _HEAD + b"Np" + b"9" * 5000 + b"\ns.")
_pickle("buffer_outside", _HEAD + b"\x97s.")
_pickle("holds_no_dict", b"K\x07.")
_pickle("holds_itself", b"}q\x00X\x05\x00\x00\x00modelh\x00s.")
_pickle("state_dict_in_itself", _SOUND[:3] + b"q\xf0" + _SOUND[5:-1] + b"X\x04\x00\x00\x00selfh\xf0s.")
_pickle("key_of_another_kind", _SOUND[:-1] + b"K\x07NsK\x08]s.")
_pickle("billion_laughs_of_lists", _HEAD + b"]" + b"2\x86" * 64 + b"s.")
_pickle(
    "billion_laughs_of_dicts",
    _SOUND[:-1] + b"q\xf0" + b"0}(X\x01\x00\x00\x00ah\xf0X\x01\x00\x00\x00bh\xf0uq\xf0" * 64 + b".",
)
_pickle("depth_of_a_million_lists", _HEAD + b"]" * 1_000_000 + b"a" * 999_999 + b"s.")
_pickle("depth_of_a_million_tuples", _HEAD + b")" + b"\x85" * 1_000_000 + b"s.")
_pickle("depth_of_a_million_dicts", _HEAD + b"}" + b"X\x01\x00\x00\x00a}" * 1_000_000 + b"s" * 1_000_000 + b"s.")
_pickle("tuple_of_depth_a_million_as_key", _SOUND[:-1] + b")" + b"\x85" * 1_000_000 + b"Ns.")
_pickle("laughing_tuple_as_key", _SOUND[:-1] + b")" + b"2\x86" * 100 + b"Ns.")
_pickle("integers_that_collide_as_keys", _SOUND[:-1] + b"}(" + b"".join(
    b"\x8a\x12" + (i * ((1 << 61) - 1)).to_bytes(18, "little") + b"N" for i in range(20_000)) + b"u0.")  # fmt: skip
_pickle("keys_that_forge_lines", _SOUND[:-1] + b"X\x14\x00\x00\x00a\nhint: rm -rf \x1b[2J~Ns.")


def _protocols() -> None:
    for protocol in range(6):
        data = pickled({"layer.weight": WEIGHT}, protocol=protocol)
        add(f"pickle_protocol_{protocol}", lambda path, data=data: write_checkpoint(path, data))


_protocols()


def _plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"layer.weight": [1.0]}, 4))


add("pickle_without_an_archive", _plain_pickle)
