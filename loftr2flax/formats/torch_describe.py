"""Saying in a few words what a value of a pickle is, whatever its size, and what tensors lie in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from loftr2flax.formats.pickle_values import Opaque, OpaqueObject
from loftr2flax.formats.torch_globals import StorageRef, TensorClaim

_TEXT_SHOWN = 40
_VISITED = (dict, list, tuple, set, frozenset, OpaqueObject, TensorClaim)


def inner(value: object) -> Iterator[object]:
    """Everything directly inside a value."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, OpaqueObject):
        yield from (value.args, value.state, value.items, value.pairs)


class Tally(NamedTuple):
    """How many tensors there are, and the bytes of their storages."""

    tensors: int
    nbytes: int


def tally_tensors(value: object, seen: set[int]) -> Tally:
    """Tensors inside a value, and storages, that are not in ``seen``, to which all that is visited is added."""
    count, nbytes, waiting = 0, 0, [value]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, _VISITED) or id(value) in seen:
            continue
        seen.add(id(value))
        waiting += inner(value)
        if isinstance(value, TensorClaim):
            count += 1
            if value.storage is not None and id(value.storage) not in seen:
                seen.add(id(value.storage))
                nbytes += value.storage.nbytes
    return Tally(count, nbytes)


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
