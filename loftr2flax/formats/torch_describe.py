"""Saying in a few words what a value of a pickle is, whatever its size, and how many tensors lie in it."""

from __future__ import annotations

from collections.abc import Iterator

from loftr2flax.formats.pickle_values import Opaque, OpaqueObject
from loftr2flax.formats.torch_globals import StorageRef, TensorClaim

_TEXT_SHOWN = 40


def inner(value: object) -> Iterator[object]:
    """Everything directly inside a value."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, OpaqueObject):
        yield from (value.args, value.state, value.items, value.pairs)


def count_tensors(value: object, seen: set[int]) -> int:
    """Tensors inside a value that are not in ``seen``, to which all that is visited is added."""
    count, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list, tuple, set, frozenset, OpaqueObject, TensorClaim)) and id(value) not in seen:
            seen.add(id(value))
            count += isinstance(value, TensorClaim)
            waiting += inner(value)
    return count


def words(value: object) -> str:
    """A value in a few words, whatever its size."""
    match value:
        case None | bool():
            return str(value)
        case int():
            return f"int {value}" if abs(value) < 1 << 64 else f"int of {value.bit_length()} bits"
        case float() | complex():
            return f"{type(value).__name__} {value}"
        case str():
            return f"text {value!r}" if len(value) <= _TEXT_SHOWN else f"text of {len(value)} characters"
        case bytes() | bytearray():
            return f"{len(value)} bytes"
        case dict() | list() | tuple() | set() | frozenset():
            return f"{type(value).__name__} of {len(value)}"
        case TensorClaim():
            sound = isinstance(value.shape, tuple) and len(value.shape) < 10
            return f"tensor {value.shape} {value.dtype}" if sound else f"tensor {value.dtype}"
        case OpaqueObject():
            source = value.source
            return f"object of {source}" if isinstance(source, Opaque) else "object of unknown class"
        case StorageRef():
            return f"storage of {value.nbytes} bytes"
    return str(value) if isinstance(value, Opaque) else type(value).__name__
