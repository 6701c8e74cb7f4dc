"""A pickle machine that executes nothing: data in, plain values and inert records out.

It knows every opcode of protocols 0 to 5. Globals are answered by the caller, who either names a builder of ours
or gets an `Opaque`; calls of anything but a builder are written down, not made. Nothing here recurses, every
length is held against the data before memory is asked for, and the opcodes are counted, so neither depth nor
sharing nor a declared gigabyte hurts.

The opcodes are explained in https://github.com/python/cpython/blob/main/Lib/pickletools.py.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import NoReturn

from loftr2flax.errors import CorruptFile, LimitExceeded
from loftr2flax.formats.pickle_values import Builder, Malformed, Opaque, OpaqueObject, dict_key
from loftr2flax.formats.source_file import FETCH_AGAIN

MAX_STEPS = 20_000_000
"""Opcodes, and items copied by builders, in one pickle; a tensor takes about 35."""

MAX_STACK = 2_000_000
"""Values waiting on the stack; nesting a list in a list takes one a level."""

_OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_HIGHEST_PROTOCOL = 5
_STRIDE = 4096  # opcodes between two looks at the limits; each pushes one value at most

FindGlobal = Callable[[str, str], object]
PersistentLoad = Callable[[object], object]


class PickleTruncated(CorruptFile):
    """The data ends before the pickle does; with more data the same pickle may be whole."""


class _Stop(Exception):
    """STOP was reached."""


def run(
    data: bytes,
    start: int = 0,
    *,
    where: str,
    find_global: FindGlobal,
    persistent_load: PersistentLoad,
) -> tuple[object, int]:
    """The value of the pickle that begins at ``start``, and the offset just past its STOP.

    ``where`` names file and record in errors. ``find_global(module, name)`` gives what a global stands for:
    a `Builder`, an `Opaque` or any inert value. ``persistent_load(id)`` gives what a persistent id stands for.

    Raises:
      PickleTruncated: the data ends too soon.
      CorruptFile: the pickle is malformed; the message names opcode and offset.
      LimitExceeded: more opcodes than `MAX_STEPS`, or more values waiting than `MAX_STACK`.
    """
    return _Machine(data, start, where, find_global, persistent_load).run()


class _Machine:
    """The state of one run; a method for each opcode, found through `_TABLE`."""

    def __init__(
        self, data: bytes, start: int, where: str, find_global: FindGlobal, persistent_load: PersistentLoad
    ) -> None:
        self.data = data
        self.at = start  # of the opcode at work
        self.position = start  # of the next byte
        self.where = where
        self.find_global = find_global
        self.persistent_load = persistent_load
        self.stack: list[object] = []
        self.below: list[list[object]] = []  # the stacks under each open mark
        self.memo: dict[int, object] = {}
        self.globals: dict[tuple[str, str], object] = {}
        self.steps_left = MAX_STEPS

    def run(self) -> tuple[object, int]:
        data, table = self.data, _TABLE
        try:
            while True:
                for _ in range(_STRIDE):
                    self.at = at = self.position
                    self.position = at + 1
                    table[data[at]](self)
                self.steps_left -= _STRIDE
                if self.steps_left < 0 or len(self.stack) > MAX_STACK or len(self.below) > MAX_STACK:
                    self.too_much()
        except _Stop:
            return self.stack[-1], self.position
        except IndexError:
            if self.position >= len(data):  # of the opcodes at the end, all but STOP want another to follow
                raise PickleTruncated(f"{self.where}: the pickle ends without STOP", FETCH_AGAIN) from None
            self.fail("finds too little on the stack")
        except Malformed as error:
            self.fail(str(error))

    def fail(self, reason: str) -> NoReturn:
        opcode = self.data[self.at]
        name = _OPCODES.get(opcode, f"opcode {opcode:#04x}")
        raise CorruptFile(f"{self.where}: pickle offset {self.at}, {name}: {reason}", FETCH_AGAIN) from None

    def too_much(self) -> NoReturn:
        raise LimitExceeded(
            f"{self.where}: the pickle takes more than {MAX_STEPS} steps or {MAX_STACK} waiting values",
            "no state dict needs that: the file was made to do harm, or is no checkpoint",
        )

    # reading arguments

    def take(self, size: int) -> bytes:
        start = self.position
        end = start + size
        if end > len(self.data):
            name = _OPCODES[self.data[self.at]]
            raise PickleTruncated(
                f"{self.where}: pickle offset {self.at}, {name}: {size} bytes declared, {len(self.data) - start} left",
                FETCH_AGAIN,
            )
        self.position = end
        return self.data[start:end]

    def number(self, size: int) -> int:
        end = self.position + size
        if end > len(self.data):
            self.take(size)
        value = int.from_bytes(self.data[self.position : end], "little")
        self.position = end
        return value

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise PickleTruncated(f"{self.where}: the pickle ends within a line of text", FETCH_AGAIN)
        text = self.data[self.position : end]
        self.position = end + 1
        return text

    def text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self.fail("the text is not UTF-8")

    def marked(self) -> list[object]:
        """What was pushed since the last mark, which is closed."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    # making things

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.fail(f"memo {index} was never set")
        self.stack.append(self.memo[index])

    def push_global(self, module: str, name: str) -> None:
        key = (module, name)
        if key not in self.globals:
            self.globals[key] = self.find_global(module, name)
        self.stack.append(self.globals[key])

    def call(self, function: object, args: object) -> None:
        if not isinstance(args, tuple):
            self.fail("the arguments are not a tuple")
        if isinstance(function, Builder):
            for argument in args:  # builders copy, and one list can be copied again and again
                if isinstance(argument, (list, tuple, dict, set, frozenset, str, bytes)):
                    self.steps_left -= len(argument) // (64 if isinstance(argument, (str, bytes)) else 1)
            if self.steps_left < 0:
                self.too_much()
            self.stack.append(function.call(args))
        else:
            self.stack.append(OpaqueObject(function, args))

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, OpaqueObject):
            target.items = target.items or []
            target.items.extend(items)
        else:
            self.fail(f"a {type(target).__name__} takes no items")

    def set_pairs(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, OpaqueObject):
            if target.pairs is None:
                target.pairs = {}
            target = target.pairs
        if not isinstance(target, dict):
            self.fail(f"a {type(target).__name__} takes no keys")
        if len(items) % 2:
            self.fail("a key has no value")
        for index in range(0, len(items), 2):
            target[dict_key(items[index])] = items[index + 1]

    def build(self) -> None:
        """Hand a state over: an inert object keeps it; elsewhere attributes of containers and tensors are dropped."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, OpaqueObject):
            target.state = state

    # opcodes that need more than a line

    def stop(self) -> None:
        if self.below or len(self.stack) != 1:
            self.fail(f"{len(self.stack)} values and {len(self.below)} marks are left, instead of one value")
        raise _Stop

    def protocol(self) -> None:
        version = self.number(1)
        if version > _HIGHEST_PROTOCOL:
            self.fail(f"protocol {version} is not known")

    def frame(self) -> None:
        size = self.number(8)
        end = self.position
        self.take(size)  # a frame is only a hint for reading ahead; that it fits is all there is to check
        self.position = end

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.below.pop()

    def decimal(self) -> None:
        """INT and LONG: digits in a line; ``00`` and ``01`` are how protocol 0 writes false and true."""
        raw = self.line()
        try:
            number = int(raw.removesuffix(b"L"))
        except ValueError:
            self.fail("not a number")
        self.stack.append({b"00": False, b"01": True}.get(raw, number))

    def decimal_float(self) -> None:
        try:
            self.stack.append(float(self.line()))
        except ValueError:
            self.fail("not a number")

    def index_line(self) -> int:
        raw = self.line()
        if not raw.isdigit() or len(raw) > 19:
            self.fail("not a memo index")
        return int(raw)

    def quoted(self) -> None:
        """STRING: a Python 2 string literal in quotes, with escapes."""
        raw = self.line().strip()
        if len(raw) < 2 or raw[:1] not in (b"'", b'"') or raw[:1] != raw[-1:]:
            self.fail("the text is not in quotes")
        try:
            self.python2_string(raw[1:-1].decode("unicode_escape").encode("latin-1"))
        except UnicodeError:
            self.fail("the text has a broken escape")

    def python2_string(self, raw: bytes) -> None:
        """Python 2 did not say whether a string is text; UTF-8 is taken for text, as torch does, the rest for bytes."""
        try:
            self.stack.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            self.stack.append(raw)

    def unicode_line(self) -> None:
        try:
            self.stack.append(self.line().decode("raw_unicode_escape"))
        except UnicodeDecodeError:
            self.fail("the text has a broken escape")

    def global_lines(self) -> None:
        module = self.text(self.line())
        self.push_global(module, self.text(self.line()))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self.fail("module and name are not text")
        self.push_global(module, name)

    def instance(self) -> None:
        self.global_lines()
        function = self.stack.pop()
        args = tuple(self.marked())
        self.call(function, args)

    def object_(self) -> None:
        items = self.marked()
        self.call(items[0], tuple(items[1:]))

    def reduce(self) -> None:
        args = self.stack.pop()
        self.call(self.stack.pop(), args)

    def new_object_ex(self) -> None:
        keywords, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if not isinstance(args, tuple):
            self.fail("the arguments are not a tuple")
        self.stack.append(OpaqueObject(function, (*args, keywords)))

    def make_dict(self) -> None:
        items = self.marked()
        self.stack.append({})
        self.set_pairs(items)

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def add_items(self) -> None:
        items = self.marked()
        target = self.stack[-1]
        if not isinstance(target, set):
            self.fail(f"a {type(target).__name__} is not a set")
        target.update(map(dict_key, items))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_pairs([key, value])

    def append(self) -> None:
        item = self.stack.pop()
        self.extend([item])

    def float8(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])


def _push(value: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    """The opcode that pushes what ``value`` computes."""

    def opcode(machine: _Machine) -> None:
        made = value(machine)  # first: it may close a mark, and so change what the stack is
        machine.stack.append(made)

    return opcode


def _refuse(reason: str) -> Callable[[_Machine], None]:
    """The opcode that ends the run."""

    def opcode(machine: _Machine) -> None:
        machine.fail(reason)

    return opcode


def _binint1(machine: _Machine) -> None:
    machine.stack.append(machine.data[machine.position])
    machine.position += 1


def _binput(machine: _Machine) -> None:
    machine.memo[machine.data[machine.position]] = machine.stack[-1]
    machine.position += 1


def _binget(machine: _Machine) -> None:
    machine.recall(machine.data[machine.position])
    machine.position += 1


def _signed(size: int) -> Callable[[_Machine], None]:
    return _push(lambda m: int.from_bytes(m.take(size), "little", signed=True))


def _long(size: int) -> Callable[[_Machine], None]:
    return _push(lambda m: int.from_bytes(m.take(m.number(size)), "little", signed=True))


_EXTENSION = _refuse("extension codes stand for globals of one machine's registry, which is not consulted")
_BUFFER = _refuse("the data lies outside the pickle")

_HANDLERS: dict[str, Callable[[_Machine], None]] = {
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.frame,
    "STOP": _Machine.stop,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m: m.marked().clear(),
    "DUP": _push(lambda m: m.stack[-1]),
    "NONE": _push(lambda m: None),
    "NEWTRUE": _push(lambda m: True),
    "NEWFALSE": _push(lambda m: False),
    "INT": _Machine.decimal,
    "LONG": _Machine.decimal,
    "BININT": _signed(4),
    "BININT1": _binint1,
    "BININT2": _push(lambda m: m.number(2)),
    "LONG1": _long(1),
    "LONG4": _long(4),
    "FLOAT": _Machine.decimal_float,
    "BINFLOAT": _Machine.float8,
    "STRING": _Machine.quoted,
    "BINSTRING": lambda m: m.python2_string(m.take(m.number(4))),
    "SHORT_BINSTRING": lambda m: m.python2_string(m.take(m.number(1))),
    "UNICODE": _Machine.unicode_line,
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
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "LIST": _push(lambda m: m.marked()),
    "DICT": _Machine.make_dict,
    "FROZENSET": _push(lambda m: frozenset(map(dict_key, m.marked()))),
    "APPEND": _Machine.append,
    "APPENDS": lambda m: m.extend(m.marked()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m: m.set_pairs(m.marked()),
    "ADDITEMS": _Machine.add_items,
    "GET": lambda m: m.recall(m.index_line()),
    "BINGET": _binget,
    "LONG_BINGET": lambda m: m.recall(m.number(4)),
    "PUT": lambda m: m.remember(m.index_line()),
    "BINPUT": _binput,
    "LONG_BINPUT": lambda m: m.remember(m.number(4)),
    "MEMOIZE": lambda m: m.remember(len(m.memo)),
    "GLOBAL": _Machine.global_lines,
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,  # the same stack: what to call, and its arguments
    "NEWOBJ_EX": _Machine.new_object_ex,
    "BUILD": _Machine.build,
    "PERSID": _push(lambda m: m.persistent_load(m.text(m.line()))),
    "BINPERSID": _push(lambda m: m.persistent_load(m.stack.pop())),
    "EXT1": _EXTENSION,
    "EXT2": _EXTENSION,
    "EXT4": _EXTENSION,
}
"""What each opcode does, by the name that `pickletools` gives it."""

_TABLE = tuple(_HANDLERS.get(_OPCODES.get(code, ""), _refuse("no such opcode")) for code in range(256))

__all__ = ["MAX_STACK", "MAX_STEPS", "Opaque", "OpaqueObject", "PickleTruncated", "run"]
