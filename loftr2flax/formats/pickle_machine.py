"""A pickle machine that executes nothing: data in, plain values and inert records out.

It knows every opcode of protocols 0 to 5. Globals are answered by the caller, who either names a builder of ours
or gets an `Opaque`; calls of anything but a builder are written down, not made. Nothing here recurses, every
length is held against the data before memory is asked for, the opcodes are counted, and so is the memory that each can
take, so neither depth nor sharing nor a declared gigabyte hurts.

The opcodes are explained in https://github.com/python/cpython/blob/main/Lib/pickletools.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from loftr2flax.formats.pickle_state import (
    OPCODES,
    FindGlobal,
    Machine,
    PersistentLoad,
    PickleTruncated,
)
from loftr2flax.formats.pickle_values import PER_KEY, Malformed, OpaqueObject, dict_key
from loftr2flax.formats.source_file import FETCH_AGAIN
from loftr2flax.limits import DEFAULT, Limits

_HIGHEST_PROTOCOL = 5
_STRIDE = 4096  # opcodes between two looks at the limits
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_ESCAPES = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}  # what Python 2's repr writes


class _Stop(Exception):
    """STOP was reached."""


def run(
    data: bytes,
    start: int = 0,
    *,
    where: str,
    find_global: FindGlobal,
    persistent_load: PersistentLoad,
    limits: Limits = DEFAULT,
) -> tuple[object, int]:
    """The value of the pickle that begins at ``start``, and the offset just past its STOP.

    ``where`` names file and record in errors. ``find_global(module, name)`` gives what a global stands for:
    a `Builder`, an `Opaque` or any inert value. ``persistent_load(id)`` gives what a persistent id stands for.

    Raises:
      PickleTruncated: the data ends too soon.
      CorruptFile: the pickle is malformed; the message names opcode and offset.
      LimitExceeded: more opcodes, or more memory, than ``limits`` allow.
    """
    machine = Machine(data, start, where, find_global, persistent_load, limits)
    try:
        while True:
            spent = 0
            for _ in range(_STRIDE):
                machine.at = at = machine.position
                machine.position = at + 1
                opcode = data[at]
                spent += _COSTS[opcode]
                _TABLE[opcode](machine)
            machine.steps_left -= _STRIDE
            machine.memory_left -= spent
            machine.check_limits()
    except _Stop:
        return machine.stack[-1], machine.position
    except IndexError:
        if machine.position >= len(data):  # of the opcodes at the end, all but STOP want another to follow
            raise PickleTruncated(f"{where}: the pickle ends without STOP", FETCH_AGAIN) from None
        machine.fail("finds too little on the stack")
    except Malformed as error:
        machine.fail(str(error))


# opcodes that need more than a line


def _stop(machine: Machine) -> None:
    if machine.below or len(machine.stack) != 1:
        machine.fail(f"{len(machine.stack)} values and {len(machine.below)} marks are left, instead of one value")
    raise _Stop


def _protocol(machine: Machine) -> None:
    version = machine.number(1)
    if version > _HIGHEST_PROTOCOL:
        machine.fail(f"protocol {version} is not known")


def _frame(machine: Machine) -> None:
    size = machine.number(8)
    end = machine.position
    machine.take(size)  # a frame is only a hint for reading ahead; that it fits is all there is to check
    machine.position = end


def _mark(machine: Machine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.stack = machine.below.pop()


def _decimal(machine: Machine) -> None:
    """INT and LONG: digits in a line; ``00`` and ``01`` are how protocol 0 writes false and true."""
    raw = machine.line()
    try:
        number = int(raw.removesuffix(b"L"))
    except ValueError:
        machine.fail("not a number")
    machine.stack.append({b"00": False, b"01": True}.get(raw, number))


def _decimal_float(machine: Machine) -> None:
    try:
        machine.stack.append(float(machine.line()))
    except ValueError:
        machine.fail("not a number")


def _index_line(machine: Machine) -> int:
    raw = machine.line()
    if not raw.isdigit() or len(raw) > 19:
        machine.fail("not a memo index")
    return int(raw)


def _quoted(machine: Machine) -> None:
    """STRING: a Python 2 string literal in quotes, with escapes."""
    raw = machine.line().strip()
    if len(raw) < 2 or raw[:1] not in (b"'", b'"') or raw[:1] != raw[-1:]:
        machine.fail("the text is not in quotes")

    def replace(escape: re.Match[bytes]) -> bytes:
        code = escape[1]
        if code[:1] == b"x" and len(code) == 3:
            return bytes([int(code[1:], 16)])
        if code not in _ESCAPES:
            machine.fail("the text has a broken escape")
        return _ESCAPES[code]

    _python2_string(machine, _ESCAPE.sub(replace, raw[1:-1]))


def _python2_string(machine: Machine, raw: bytes) -> None:
    """Python 2 did not say whether a string is text; UTF-8 is taken for text, as torch does, the rest for bytes."""
    try:
        machine.stack.append(raw.decode("utf-8"))
    except UnicodeDecodeError:
        machine.stack.append(raw)


def _unicode_line(machine: Machine) -> None:
    try:
        machine.stack.append(machine.line().decode("raw_unicode_escape"))
    except UnicodeDecodeError:
        machine.fail("the text has a broken escape")


def _global_lines(machine: Machine) -> None:
    module = machine.text(machine.line())
    machine.push_global(module, machine.text(machine.line()))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        machine.fail("module and name are not text")
    machine.push_global(module, name)


def _instance(machine: Machine) -> None:
    _global_lines(machine)
    function = machine.stack.pop()
    args = tuple(machine.marked())
    machine.call(function, args)


def _object(machine: Machine) -> None:
    items = machine.marked()
    machine.call(items[0], tuple(items[1:]))


def _reduce(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.call(machine.stack.pop(), args)


def _new_object_ex(machine: Machine) -> None:
    keywords, args, function = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if not isinstance(args, tuple):
        machine.fail("the arguments are not a tuple")
    machine.stack.append(OpaqueObject(function, (*args, keywords)))


def _make_dict(machine: Machine) -> None:
    items = machine.marked()
    machine.stack.append({})
    machine.set_pairs(items)


def _tuple_of(machine: Machine, size: int) -> None:
    if len(machine.stack) < size:
        raise IndexError
    machine.stack[-size:] = [tuple(machine.stack[-size:])]


def _add_items(machine: Machine) -> None:
    items = machine.marked()
    target = machine.stack[-1]
    if not isinstance(target, set):
        machine.fail(f"a {type(target).__name__} is not a set")
    machine.charge(PER_KEY * len(items))
    target.update(map(dict_key, items))


def _frozen_set(machine: Machine) -> frozenset[object]:
    items = machine.marked()
    machine.charge(PER_KEY * len(items))
    return frozenset(map(dict_key, items))


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_pairs([key, value])


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    machine.extend([item])


def _float8(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _push(value: Callable[[Machine], object]) -> Callable[[Machine], None]:
    """The opcode that pushes what ``value`` computes."""

    def opcode(machine: Machine) -> None:
        made = value(machine)  # first: it may close a mark, and so change what the stack is
        machine.stack.append(made)

    return opcode


def _refuse(reason: str) -> Callable[[Machine], None]:
    """The opcode that ends the run."""

    def opcode(machine: Machine) -> None:
        machine.fail(reason)

    return opcode


def _binint1(machine: Machine) -> None:
    machine.stack.append(machine.data[machine.position])
    machine.position += 1


def _binput(machine: Machine) -> None:
    machine.memo[machine.data[machine.position]] = machine.stack[-1]
    machine.position += 1


def _binget(machine: Machine) -> None:
    machine.recall(machine.data[machine.position])
    machine.position += 1


def _signed(size: int) -> Callable[[Machine], None]:
    return _push(lambda m: int.from_bytes(m.take(size), "little", signed=True))


def _long(size: int) -> Callable[[Machine], None]:
    return _push(lambda m: int.from_bytes(m.take(m.number(size)), "little", signed=True))


_EXTENSION = _refuse("extension codes stand for globals of one machine's registry, which is not consulted")
_BUFFER = _refuse("the data lies outside the pickle")

_HANDLERS: dict[str, Callable[[Machine], None]] = {
    "PROTO": _protocol,
    "FRAME": _frame,
    "STOP": _stop,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda m: m.marked().clear(),
    "DUP": _push(lambda m: m.stack[-1]),
    "NONE": _push(lambda m: None),
    "NEWTRUE": _push(lambda m: True),
    "NEWFALSE": _push(lambda m: False),
    "INT": _decimal,
    "LONG": _decimal,
    "BININT": _signed(4),
    "BININT1": _binint1,
    "BININT2": _push(lambda m: m.number(2)),
    "LONG1": _long(1),
    "LONG4": _long(4),
    "FLOAT": _decimal_float,
    "BINFLOAT": _float8,
    "STRING": _quoted,
    "BINSTRING": lambda m: _python2_string(m, m.take(m.number(4))),
    "SHORT_BINSTRING": lambda m: _python2_string(m, m.take(m.number(1))),
    "UNICODE": _unicode_line,
    "SHORT_BINUNICODE": _push(lambda m: m.text(m.take(m.number(1)))),
    "BINUNICODE": _push(lambda m: m.text(m.take(m.number(4)))),
    "BINUNICODE8": _push(lambda m: m.text(m.take(m.number(8)))),
    "SHORT_BINBYTES": _push(lambda m: m.take(m.number(1))),
    "BINBYTES": _push(lambda m: m.take(m.number(4))),
    "BINBYTES8": _push(lambda m: m.take(m.number(8))),
    "BYTEARRAY8": _push(lambda m: bytearray(m.take(m.number(8)))),
    "NEXT_BUFFER": _BUFFER,
    "READONLY_BUFFER": _BUFFER,
    "EMPTY_TUPLE": _push(lambda m: ()),
    "EMPTY_LIST": _push(lambda m: []),
    "EMPTY_DICT": _push(lambda m: {}),
    "EMPTY_SET": _push(lambda m: set()),
    "TUPLE": _push(lambda m: tuple(m.marked())),
    "TUPLE1": lambda m: _tuple_of(m, 1),
    "TUPLE2": lambda m: _tuple_of(m, 2),
    "TUPLE3": lambda m: _tuple_of(m, 3),
    "LIST": _push(lambda m: m.marked()),
    "DICT": _make_dict,
    "FROZENSET": _push(_frozen_set),
    "APPEND": _append,
    "APPENDS": lambda m: m.extend(m.marked()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m: m.set_pairs(m.marked()),
    "ADDITEMS": _add_items,
    "GET": lambda m: m.recall(_index_line(m)),
    "BINGET": _binget,
    "LONG_BINGET": lambda m: m.recall(m.number(4)),
    "PUT": lambda m: m.remember(_index_line(m)),
    "BINPUT": _binput,
    "LONG_BINPUT": lambda m: m.remember(m.number(4)),
    "MEMOIZE": lambda m: m.remember(len(m.memo)),
    "GLOBAL": _global_lines,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,  # the same stack: what to call, and its arguments
    "NEWOBJ_EX": _new_object_ex,
    "BUILD": Machine.build,
    "PERSID": _push(lambda m: m.persistent_load(m.text(m.line()))),
    "BINPERSID": _push(lambda m: m.persistent_load(m.stack.pop())),
    "EXT1": _EXTENSION,
    "EXT2": _EXTENSION,
    "EXT4": _EXTENSION,
}
"""What each opcode does, by the name that `pickletools` gives it."""

_TABLE = tuple(_HANDLERS.get(OPCODES.get(code, ""), _refuse("no such opcode")) for code in range(256))

_PLAIN_COST = 16  # a place on the stack, and one in what it goes into
_HIGHER_COSTS = {
    **dict.fromkeys(("BININT", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), 48),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), 96),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"), 80),
    **dict.fromkeys(("BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), 80),
    "MARK": 80,
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), 64),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "LIST"), 104),
    **dict.fromkeys(("SETITEM", "SETITEMS", "DICT"), 104),  # of the first key; all keys are charged by their number
    **dict.fromkeys(("EMPTY_SET", "FROZENSET"), 240),
    **dict.fromkeys(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"), 112),
    **dict.fromkeys(("PERSID", "BINPERSID"), 240),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL", "INST"), 400),
}
_COSTS = tuple(_HIGHER_COSTS.get(OPCODES.get(code, ""), _PLAIN_COST) for code in range(256))
"""Bytes of memory that an opcode takes at most, by its byte; lengths that the data declare come on top."""

__all__ = ["PickleTruncated", "run"]
