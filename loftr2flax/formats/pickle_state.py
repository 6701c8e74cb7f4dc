"""The state of the pickle machine, and what its opcodes are made of: reading arguments, making things, failing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import NoReturn

from loftr2flax.errors import CorruptFile, LimitExceeded
from loftr2flax.formats.pickle_values import PER_KEY, Builder, OpaqueObject, dict_key
from loftr2flax.formats.source_file import FETCH_AGAIN
from loftr2flax.limits import Limits

OPCODES = {code[0]: name for name, code in vars(pickle).items() if isinstance(code, bytes) and len(code) == 1}
"""The name of each opcode, by its byte."""

FindGlobal = Callable[[str, str], object]
PersistentLoad = Callable[[object], object]


class PickleTruncated(CorruptFile):
    """The data ends before the pickle does; with more data the same pickle may be whole."""


class Machine:
    """The state of one run: stack, marks, memo, and where in the data it stands."""

    def __init__(
        self,
        data: bytes,
        start: int,
        where: str,
        find_global: FindGlobal,
        persistent_load: PersistentLoad,
        limits: Limits,
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
        self.limits = limits
        self.steps_left = limits.steps
        self.memory_left = limits.memory - len(data)  # bytes; charged in advance, by estimates from above

    def fail(self, reason: str) -> NoReturn:
        """End the run: the message names file, offset and opcode."""
        opcode = self.data[self.at]
        name = OPCODES.get(opcode, f"opcode {opcode:#04x}")
        raise CorruptFile(f"{self.where}: pickle offset {self.at}, {name}: {reason}", FETCH_AGAIN) from None

    def check_limits(self) -> None:
        """End the run if a limit was passed."""
        if self.memory_left < 0:
            self.limits.too_much_memory(self.where, "the pickle")
        if self.steps_left < 0:
            raise LimitExceeded(
                f"{self.where}: the pickle takes more than {self.limits.steps} steps",
                "no state dict needs that; if you trust the file, allow more with "
                f"`--max-tensors {10 * self.limits.tensors}`",
            )

    def charge(self, nbytes: int) -> None:
        """Count memory that is about to be taken; end the run where it is too much."""
        self.memory_left -= nbytes
        if self.memory_left < 0:
            self.check_limits()

    # reading arguments

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        start = self.position
        end = start + size
        if end > len(self.data):
            name = OPCODES[self.data[self.at]]
            raise PickleTruncated(
                f"{self.where}: pickle offset {self.at}, {name}: {size} bytes declared, {len(self.data) - start} left",
                FETCH_AGAIN,
            )
        self.position = end
        self.memory_left -= size
        return self.data[start:end]

    def number(self, size: int) -> int:
        """The next ``size`` bytes as an unsigned number, little-endian."""
        end = self.position + size
        if end > len(self.data):
            self.take(size)
        value = int.from_bytes(self.data[self.position : end], "little")
        self.position = end
        return value

    def line(self) -> bytes:
        """The bytes up to the next line feed, which is passed."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise PickleTruncated(f"{self.where}: the pickle ends within a line of text", FETCH_AGAIN)
        text = self.data[self.position : end]
        self.memory_left -= len(text)
        self.position = end + 1
        return text

    def text(self, raw: bytes) -> str:
        """Bytes of UTF-8 as text; lone surrogates, which pickle lets through, stay."""
        if not raw.isascii():
            self.charge(4 * len(raw))  # one character of four bytes makes all of them that wide
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
        """Keep the top of the stack under a memo index."""
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push what was kept under a memo index."""
        if index not in self.memo:
            self.fail(f"memo {index} was never set")
        self.stack.append(self.memo[index])

    def push_global(self, module: str, name: str) -> None:
        """Push what a global stands for; the caller is asked once for each."""
        key = (module, name)
        if key not in self.globals:
            self.globals[key] = self.find_global(module, name)
        self.stack.append(self.globals[key])

    def call(self, function: object, args: object) -> None:
        """Push what a builder makes of the arguments, or a record that the call was to be made."""
        if not isinstance(args, tuple):
            self.fail("the arguments are not a tuple")
        if isinstance(function, Builder):
            for argument in args:  # builders copy, and one list can be copied again and again
                if isinstance(argument, (list, tuple, dict, set, frozenset, str, bytes)):
                    self.charge(function.per_item * len(argument))
            self.stack.append(function.call(args))
        else:
            self.stack.append(OpaqueObject(function, args))

    def extend(self, items: list[object]) -> None:
        """Add items to the list, or the inert object, on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, OpaqueObject):
            target.items = target.items or []
            target.items.extend(items)
        else:
            self.fail(f"a {type(target).__name__} takes no items")

    def set_pairs(self, items: list[object]) -> None:
        """Set keys and values, in turn, in the dict or inert object on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, OpaqueObject):
            if target.pairs is None:
                target.pairs = {}
            target = target.pairs
        if not isinstance(target, dict):
            self.fail(f"a {type(target).__name__} takes no keys")
        if len(items) % 2:
            self.fail("a key has no value")
        self.charge(PER_KEY * (len(items) // 2))
        for index in range(0, len(items), 2):
            target[dict_key(items[index])] = items[index + 1]

    def build(self) -> None:
        """Hand a state over: an inert object keeps it; elsewhere attributes of containers and tensors are dropped."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, OpaqueObject):
            target.state = state
