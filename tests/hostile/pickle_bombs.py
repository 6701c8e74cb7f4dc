"""Pickles of 18 MB that would become gigabytes, or take minutes: each opcode's way to make much of little."""

from __future__ import annotations

import struct

from formats.torch_files import write_checkpoint
from hostile.catalogue import add
from hostile.pickle_faults import _HEAD, _SOUND

SIZE = 18_000_000


def _bomb(name: str, body: bytes, end: bytes = b".", head: bytes = b"") -> None:
    """``body`` again and again."""
    add(f"bomb_of_{name}", lambda path: write_checkpoint(path, head + body * max(SIZE // len(body), 1) + end))


def _text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


_bomb("empty_sets", b"\x8f")
_bomb("empty_dicts", b"}")
_bomb("empty_lists", b"]")
_bomb("marks", b"(")
_bomb("lists_of_one", b"]Na")
_bomb("dicts_of_one", b"}NNs")
_bomb("sets_of_one", b"\x8f(N\x90")
_bomb("frozen_sets", b"(\x91")
_bomb("tuples_of_one", b"N\x85")
_bomb("nested_tuples", b"\x85", head=b")")
_bomb("small_integers", b"K\x01")
_bomb("integers", b"J\x01\x02\x03\x04")
_bomb("long_integers", b"\x8a\x09\1\2\3\4\5\6\7\x08\x09")
_bomb("floats", b"G\1\2\3\4\5\6\7\x08")
_bomb("nothing", b"N0")
_bomb("texts", b"\x8c\x01a")
_bomb("wide_texts", b"X\x10\0\0\0" + "aaaaaaaaaaaa😀".encode())
_bomb("bytes", b"C\x01a")
_bomb("bytearrays", b"\x96\x01\0\0\0\0\0\0\0a")
_bomb("memos", b"".join(b"r" + struct.pack("<I", i) for i in range(SIZE // 5)), head=b"N")
_bomb("memoized", b"\x94", head=b"N")
_bomb("objects", b"h\xf0)\x81", head=b"ca\nb\nq\xf00")
_bomb("filled_objects", b"h\xf0)\x81(NNu", head=b"ca\nb\nq\xf00")
_bomb("ordered_dicts", b"h\xf0)R", head=b"ccollections\nOrderedDict\nq\xf00")
_bomb("copied_lists", b"h\xf0h\xf1\x85R0", head=b"c__builtin__\nlist\nq\xf00](" + b"N" * 100_000 + b"eq\xf10")
_bomb("copied_lists_kept", b"h\xf0h\xf1\x85R", head=b"c__builtin__\nlist\nq\xf00](" + b"N" * 100_000 + b"eq\xf10")
_bomb("copied_dicts", b"h\xf0h\xf1\x85R", head=b"ccollections\nOrderedDict\nq\xf00}(" + b"".join(
    b"J" + struct.pack("<i", i) + b"N" for i in range(10_000)) + b"uq\xf10")  # fmt: skip
_bomb(
    "copied_bytes",
    b"h\xf0h\xf1\x85R",
    head=b"c__builtin__\nbytearray\nq\xf00B" + struct.pack("<I", 10**6) + bytes(10**6) + b"q\xf10",
)
_bomb("globals", b"".join(b"cm\n%d\n" % i for i in range(1_800_000)))
_bomb("storages", b"".join(
    b"(h\xf0h\xf1" + _text(str(i)) + b"h\xf2K\x01tQ" for i in range(900_000)
), head=_text("storage") + b"q\xf00ctorch\nFloatStorage\nq\xf10" + _text("cpu") + b"q\xf20")  # fmt: skip
_bomb("references", b"h\xf0", head=b"]q\xf00")
_bomb("duplicates", b"2", head=b"]")


def _beside(name: str, value: bytes) -> None:
    """A value that is built within the limits, beside a sound tensor: to walk, count and describe it is the bomb."""
    add(f"bomb_beside_of_{name}", lambda path: write_checkpoint(path, _HEAD + value + b"s."))


_beside("empty_dicts", b"](" + b"}" * 390_000 + b"e")
_beside("named_dicts", b"}(" + b"".join(_text(str(i)) + b"}" for i in range(190_000)) + b"u")
_beside("named_numbers", b"}(" + b"".join(_text(str(i)) + b"N" for i in range(390_000)) + b"u")
_beside("many_lists_of_one_list", b"](" + b"N" * 100_000 + b"eq\xf0(" + b"h\xf0" * 100_000 + b"l0")
add(
    "bomb_of_names_without_tensors",
    lambda path: write_checkpoint(
        path, _SOUND[:-1] + b"(" + b"".join(_text(str(i)) + b"N" for i in range(390_000)) + b"u."
    ),
)
