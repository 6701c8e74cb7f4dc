"""The pickle machine: agrees with `pickle` on plain values, runs nothing, and ends on everything."""

from __future__ import annotations

import os
import pickle
import pickletools
import random
import struct
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_files import Call

from loftr2flax.errors import CorruptFile, LimitExceeded, Loftr2FlaxError
from loftr2flax.formats import pickle_machine
from loftr2flax.formats.pickle_machine import PickleTruncated
from loftr2flax.formats.pickle_values import OddKey, Opaque, OpaqueObject
from loftr2flax.formats.torch_globals import GlobalFinder
from loftr2flax.limits import DEFAULT, Limits

PROTOCOLS = range(6)


def run(data: bytes, finder: GlobalFinder | None = None, limits: Limits = DEFAULT) -> object:
    found = finder or GlobalFinder()
    value, end = pickle_machine.run(
        data, where="f.pkl", find_global=found, persistent_load=lambda name: ("persistent", name), limits=limits
    )
    assert end == len(data)
    return value


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.tuples(inner),
    max_leaves=20,
)


@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_values_come_out_as_pickle_has_them(value: object, protocol: int) -> None:
    assert run(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collections_come_out_as_plain_ones(protocol: int) -> None:
    value = [
        OrderedDict([("b", 1), ("a", 2)]), Counter("aab"), defaultdict(list, k=[1]), {1, 2}, frozenset({3}),
        bytearray(b"xyz"), list(range(2000)), {i: str(i) for i in range(2000)}, "ünï" * 100, b"\xff" * 300,
    ]  # fmt: skip
    assert run(pickle.dumps(value, protocol)) == value


def test_what_python_2_wrote() -> None:
    assert run(b"(lp0\nS'a\\x62'\np1\naI01\naL12L\naF1.5\na.") == ["ab", True, 12, 1.5]
    assert run(b"S'\\\\n \\n\\t \\'\\xc3\\xa9'\n.") == "\\n \n\t 'é"
    assert run(b"\x80\x02U\x02\xc3\xa9.") == "é"
    assert run(b"\x80\x02U\x01\xff.") == b"\xff", "no text in UTF-8: bytes"
    pairs = b"\x80\x02ccollections\nOrderedDict\n]](U\x01aK\x01ea\x85R."
    assert run(pairs) == {"a": 1}


def test_sharing_and_cycles_are_kept() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    again = run(pickle.dumps(cycle))
    assert isinstance(again, list)
    assert again[0] is again
    shared = ["x"]
    first, second = run(pickle.dumps((shared, shared)))  # type: ignore[misc]
    assert first is second


class Plain:
    def __init__(self) -> None:
        self.answer = 42


class FilledList(list):  # type: ignore[type-arg]
    pass


class FilledDict(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_foreign_objects_are_inert(protocol: int) -> None:
    finder = GlobalFinder()
    value = run(pickle.dumps([Plain(), FilledList([1, 2]), FilledDict(a=3)], protocol), finder)
    assert isinstance(value, list)
    plain, filled_list, filled_dict = value
    assert plain.source == Opaque(__name__, "Plain")
    assert plain.state == {"answer": 42}
    if protocol >= 2:
        assert filled_list.items == [1, 2]
        assert filled_dict.pairs == {"a": 3}
    assert finder.foreign[0] == f"{__name__}.Plain"


TRAP = "touch {}"

CALLS = {
    "reduce": b"cos\nsystem\n(V%s\ntR.",
    "reduce_protocol_4": b"\x80\x04\x8c\x02os\x8c\x06system\x93(V%s\ntR.",
    "inst": b"(V%s\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nV%s\no.",
    "newobj": b"cos\nsystem\n(V%s\nt\x81.",
    "newobj_ex": b"cos\nsystem\n(V%s\nt}\x92.",
    "reduce_through_memo": b"cos\nsystem\np7\n0g7\n(V%s\ntR.",
    "getattr": b"c__builtin__\ngetattr\n(cos\nsystem\nS'__call__'\ntR(V%s\ntR.",
    "eval": b"cbuiltins\neval\n(V__import__('os').system('%s')\ntR.",
    "build_setstate": b"cbuiltins\nobject\n)\x81}S'__setstate__'\ncos\nsystem\nsbV%s\nb.",
    "build_on_global": b"cos\nenviron\n}S'x'\nV%s\nsb.",
    "appends": b"cos\nsystem\n)R(V%s\ne.",
    "setitems": b"cos\nsystem\n)R(V%s\nK\x01u.",
    "nested": b"cos\nsystem\n(cos\ngetcwd\n)RtR(V%s\ntR.",
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_called(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "ran"
    called: list[object] = []
    monkeypatch.setattr(os, "system", lambda *args: called.append(args))
    finder = GlobalFinder()
    run(CALLS[name].replace(b"%s", TRAP.format(trap).encode()), finder)
    assert finder.foreign, "a payload's globals are listed"
    assert not called
    assert not trap.exists()


def test_a_module_on_the_path_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "booby_trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    finder = GlobalFinder()
    run(b"cbooby_trap\nCannon\n)\x81.", finder)
    assert finder.foreign == ["booby_trap.Cannon"]


def test_foreign_globals_are_listed_once_in_order() -> None:
    finder = GlobalFinder()
    run(b"(cb\nB\nca\nA\ncb\nB\nccollections\nOrderedDict\nt.", finder)
    assert finder.foreign == ["b.B", "a.A"]


FAULTS = {
    b"": "f.pkl: the pickle ends without STOP",
    b"N": "the pickle ends without STOP",
    b"K": "the pickle ends without STOP",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.": "pickle offset 2, FRAME: 9223372036854775807 bytes",
    b"X\x00\x00\x00\x40abc.": "pickle offset 0, BINUNICODE: 1073741824 bytes declared, 4 left",
    b"\x8e\x00\x00\x00\x00\x01\x00\x00\x00.": "pickle offset 0, BINBYTES8: 4294967296 bytes declared, 1 left",
    b"\x8b\xff\xff\xff\xff.": "pickle offset 0, LONG4: 4294967295 bytes declared, 1 left",
    b"Vabc": "ends within a line of text",
    b".": "pickle offset 0, STOP: 0 values and 0 marks are left",
    b"NN.": "pickle offset 2, STOP: 2 values",
    b"(.": "pickle offset 1, STOP: 0 values and 1 marks",
    b"N\x86.": "pickle offset 1, TUPLE2: finds too little on the stack",
    b"R.": "pickle offset 0, REDUCE: finds too little on the stack",
    b"t.": "pickle offset 0, TUPLE: finds too little on the stack",
    b"]e.": "pickle offset 1, APPENDS: finds too little on the stack",
    b"00.": "pickle offset 0, POP: finds too little on the stack",
    b"q\x00.": "pickle offset 0, BINPUT: finds too little on the stack",
    b"h\x07.": "pickle offset 0, BINGET: memo 7 was never set",
    b"g12\n.": "pickle offset 0, GET: memo 12 was never set",
    b"gx\n.": "pickle offset 0, GET: not a memo index",
    b"N\xfe.": "pickle offset 1, opcode 0xfe: no such opcode",
    b"\x80\x09N.": "PROTO: protocol 9 is not known",
    b"\x82\x01.": "EXT1: extension codes",
    b"\x83\x01\x00.": "EXT2: extension codes",
    b"\x84\x01\x00\x00\x00.": "EXT4: extension codes",
    b"\x97.": "NEXT_BUFFER: the data lies outside the pickle",
    b"N\x98.": "READONLY_BUFFER: the data lies outside the pickle",
    b"Ix\n.": "INT: not a number",
    b"I" + b"9" * 5000 + b"\n.": "INT: not a number",
    b"Fx\n.": "FLOAT: not a number",
    b"Sabc\n.": "STRING: the text is not in quotes",
    b"S'\\x'\n.": "STRING: the text has a broken escape",
    b"S'\\q'\n.": "STRING: the text has a broken escape",
    b"S'\\'\n.": "STRING: the text has a broken escape",
    b"V\\u12\n.": "UNICODE: the text has a broken escape",
    b"X\x01\x00\x00\x00\xff.": "BINUNICODE: the text is not UTF-8",
    b"K\x01K\x02\x93.": "STACK_GLOBAL: module and name are not text",
    b"cos\nsystem\nNR.": "REDUCE: the arguments are not a tuple",
    b"cos\nsystem\nN}\x92.": "NEWOBJ_EX: the arguments are not a tuple",
    b"NNa.": "APPEND: a NoneType takes no items",
    b"NNNs.": "SETITEM: a NoneType takes no keys",
    b"}(Nu.": "SETITEMS: a key has no value",
    b"](N\x90.": "ADDITEMS: a list is not a set",
    b"cbuiltins\nset\n(K\x01tR.": "REDUCE: a collection is to be made of something else than items",
    b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.": "REDUCE: only text may be encoded, and only as latin1",
    b"ctorch._utils\n_rebuild_tensor_v2\n)R.": "REDUCE: a tensor is to be made of 0 arguments, 6 to 7 are known",
    b"ctorch._utils\n_rebuild_tensor\n(NNNNtR.": "REDUCE: a tensor is to be made without a storage",
}


@pytest.mark.parametrize("data", FAULTS, ids=lambda data: repr(data[:20]))
def test_faults_are_named_with_opcode_and_offset(data: bytes) -> None:
    with pytest.raises(CorruptFile) as caught:
        run(data)
    assert FAULTS[data] in caught.value.message
    assert caught.value.message.startswith("f.pkl: ")


def test_every_truncation_says_so() -> None:
    data = pickle.dumps({"a": [1, 2.5, "x" * 300, (b"y", None)], "b": {3, 4}}, 4)
    for end in range(len(data)):
        with pytest.raises(PickleTruncated):
            run(data[:end])


def test_keys_that_cannot_be_hashed_are_kept_aside() -> None:
    value = run(b"}]K\x01s.")
    assert isinstance(value, dict)
    (key,) = value
    assert isinstance(key, OddKey)
    assert key.value == []


def _laughs(levels: int) -> bytes:
    """A tuple that holds another twice, and so on: 2 ** levels to walk, 4 bytes a level to write."""
    return b")" + b"2\x86" * levels


def test_keys_that_would_take_for_ever_to_hash_are_kept_aside() -> None:
    assert isinstance(run(b"}" + _laughs(100) + b"K\x01s."), dict)
    assert isinstance(run(b"\x8f(" + _laughs(100) + b"\x90."), set)
    deep = b")" + b"\x85" * 1_000_000  # hashing it would end the process
    assert isinstance(run(b"}" + deep + b"K\x01s."), dict)
    collide = b"".join(b"\x8a\x12" + (i * ((1 << 61) - 1)).to_bytes(18, "little") + b"N" for i in range(20_000))
    assert isinstance(run(b"}(" + collide + b"u."), dict)


@pytest.mark.parametrize("data", [b"]" * 3_000_000 + b".", b"(" * 3_000_000 + b"."], ids=["lists", "marks"])
def test_too_much_waiting_is_refused(data: bytes) -> None:
    with pytest.raises(LimitExceeded, match="the pickle would take more than the 100000000 bytes of memory"):
        run(data, limits=Limits(memory=100_000_000))


def test_copying_one_list_again_and_again_is_refused() -> None:
    data = b"](" + b"N" * 100_000 + b"eq\x00" + b"cbuiltins\nset\nq\x010" + b"h\x01h\x00\x85R0" * 1_000_000 + b"."
    with pytest.raises(LimitExceeded, match="bytes of memory"):
        run(data)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(LimitExceeded, match="more than 60000 steps"):
        run(b"N" + b"N0" * 40_000 + b".", limits=Limits(tensors=2000))


def test_persistent_ids() -> None:
    assert run(b"Pname\n.") == ("persistent", "name")
    assert run(b"K\x05Q.") == ("persistent", 5)


def test_every_opcode_has_its_handler() -> None:
    assert pickle_machine._HANDLERS.keys() == {opcode.name for opcode in pickletools.opcodes}


def test_garbage_is_refused_or_read() -> None:
    """Random bytes, and sound pickles with bytes changed: our errors, or a value, and nothing else."""
    chance = random.Random(5)
    sound = pickle.dumps([Call(os.getcwd), {"a": (1, 2.0)}, "text", b"bytes", {1}, 1 << 80], 4)
    codes = [ord(opcode.code) for opcode in pickletools.opcodes]
    for _ in range(3000):
        data = bytearray(sound)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for attempt in (bytes(data), bytes(chance.choices(codes, k=30)), chance.randbytes(30)):
            try:
                run(attempt)
            except Loftr2FlaxError:
                continue
            except AssertionError:  # sound, and something stands after it
                continue


def test_an_opaque_object_keeps_what_it_was_given() -> None:
    value = run(b"cm\nf\n(K\x01K\x02tR}S'a'\nK\x03sb.")
    assert isinstance(value, OpaqueObject)
    assert (value.source, value.args, value.state) == (Opaque("m", "f"), (1, 2), {"a": 3})


def test_binary_numbers_at_their_edges() -> None:
    for number in (-(1 << 31), (1 << 31) - 1, 255, 256, 65535, 65536, -1, 0, 1 << 2000):
        for protocol in PROTOCOLS:
            assert run(pickle.dumps(number, protocol)) == number
    assert run(b"G" + struct.pack(">d", -0.0) + b".") == 0.0
