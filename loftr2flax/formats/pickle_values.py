"""What a pickle becomes when nothing in it may run: plain Python values, and inert records for all else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PER_KEY = 100
"""Bytes of memory that a key takes in a dict or a set, with room to grow."""

_MAX_KEY_ITEMS = 16


class Malformed(ValueError):
    """A builder or a persistent id got arguments that make no sense; the machine adds the place."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """A global that a pickle names: a class or a function, neither imported nor looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class OpaqueObject:
    """What calling ``source`` would have made, had it been called.

    Attributes:
      source: what was to be called; an `Opaque`, or anything else that a pickle may put there.
      args: the arguments.
      state: what BUILD would have handed over; the attributes of a plain object.
      items: what APPENDS would have added, or None.
      pairs: what SETITEMS would have set, or None.
    """

    source: object
    args: tuple[object, ...]
    state: object = None
    items: list[object] | None = None
    pairs: dict[object, object] | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """A global of the allow-list: ``call`` is ours, takes the argument tuple, and raises `Malformed`.

    ``per_item`` is how many bytes it takes, at most, for each item of an argument that it copies.
    """

    name: str
    call: Callable[[tuple[object, ...]], object]
    per_item: int = 8

    def __str__(self) -> str:
        return self.name


@dataclass(eq=False, frozen=True, slots=True)
class OddKey:
    """A dict key that is kept, but not as a key: unhashable, or hashable only at a cost that the file would choose."""

    value: object


def dict_key(value: object) -> object:
    """``value`` where hashing it is cheap; an `OddKey` otherwise.

    Hashing a tuple walks it: one of depth a million ends the process, and one that holds itself twice, forty
    levels down, never ends. Integers past 64 bits can be chosen to collide.
    """
    if type(value) is str:
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else OddKey(value)
    if isinstance(value, tuple):
        plain = len(value) <= _MAX_KEY_ITEMS and all(not isinstance(item, tuple) for item in value)
        return value if plain and all(dict_key(item) is item for item in value) else OddKey(value)
    if value is None or isinstance(value, (float, bytes, Opaque, OpaqueObject, Builder)):
        return value
    return OddKey(value)


def plain_dict(args: tuple[object, ...]) -> dict[object, object]:
    """``OrderedDict()``, ``OrderedDict([[key, value], …])`` as Python 2 wrote it, ``OrderedDict({…})``."""
    if not args:
        return {}
    source = args[0]
    if isinstance(source, dict):
        return dict(source)
    if not isinstance(source, (list, tuple)):
        raise Malformed("a dict is to be made of something else than pairs")
    made: dict[object, object] = {}
    for pair in source:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise Malformed("a dict is to be made of something else than pairs")
        made[dict_key(pair[0])] = pair[1]
    return made


def _default_dict(args: tuple[object, ...]) -> dict[object, object]:
    return plain_dict(args[1:])


def _items(args: tuple[object, ...]) -> list[object]:
    if not args:
        return []
    if len(args) == 1 and isinstance(args[0], (list, tuple, set, frozenset)):
        return list(args[0])
    raise Malformed("a collection is to be made of something else than items")


def _set(args: tuple[object, ...]) -> set[object]:
    return {dict_key(item) for item in _items(args)}


def _encode(args: tuple[object, ...]) -> bytes:
    """``_codecs.encode(text, "latin1")``: how bytes are written in protocol 2."""
    text = args[0] if args else None
    if not isinstance(text, str) or args[1:] not in (("latin1",), ("latin-1",)):
        raise Malformed("only text may be encoded, and only as latin1")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Malformed("text to encode as latin1 is not") from None


def _bytearray(args: tuple[object, ...]) -> bytearray:
    if not args:
        return bytearray()
    if isinstance(args[0], bytes):
        return bytearray(args[0])
    return bytearray(_encode(args))


def _bytes(args: tuple[object, ...]) -> bytes:
    return bytes(_bytearray(args))


def _reconstructor(args: tuple[object, ...]) -> OpaqueObject:
    """``copyreg._reconstructor(cls, base, state)``: how protocols 0 and 1 make a plain object."""
    return OpaqueObject(args[0] if args else None, args[1:])


def _complex(args: tuple[object, ...]) -> complex:
    if len(args) == 2 and isinstance(args[0], float) and isinstance(args[1], float):
        return complex(args[0], args[1])
    raise Malformed("a complex number is to be made of something else than two floats")


_CALLS: dict[str, Callable[[tuple[object, ...]], object]] = {
    "set": _set,
    "frozenset": lambda args: frozenset(_set(args)),
    "list": _items,
    "tuple": lambda args: tuple(_items(args)),
    "dict": plain_dict,
    "bytes": _bytes,
    "bytearray": _bytearray,
    "complex": _complex,
}

PLAIN_BUILDERS: dict[tuple[str, str], Builder] = {
    ("collections", "OrderedDict"): Builder("collections.OrderedDict", plain_dict, PER_KEY),
    ("collections", "Counter"): Builder("collections.Counter", plain_dict, PER_KEY),
    ("collections", "defaultdict"): Builder("collections.defaultdict", _default_dict, PER_KEY),
    ("_codecs", "encode"): Builder("_codecs.encode", _encode),
    ("copyreg", "_reconstructor"): Builder("copyreg._reconstructor", _reconstructor),
    ("copy_reg", "_reconstructor"): Builder("copyreg._reconstructor", _reconstructor),
    **{
        (module, name): Builder(name, call, PER_KEY)
        for module in ("builtins", "__builtin__")
        for name, call in _CALLS.items()
    },
}
"""Globals of the standard library that make plain values, by module and name; Python 2 called some otherwise."""
