"""The part of MessagePack that Flax's files are made of, and the names that Flax gives it.

An array is an extension whose content is itself MessagePack: ``[shape, dtype name, bytes]``. An array of more than
`CHUNK_BYTES` is a map: the marker, its shape and its flat pieces, both as maps from "0", "1", ….
https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

NDARRAY, COMPLEX, SCALAR = 1, 2, 3
"""Codes of Flax's extensions: array, Python complex, numpy scalar (an array of shape ())."""

CHUNKED = "__msgpack_chunked_array__"
"""The key that marks a map as an array in pieces."""

CHUNK_BYTES = 1 << 30
"""An array of more bytes than this is stored in pieces, as Flax does."""

MAX_DEPTH = 256
"""Maps within maps; the msgpack library itself gives up at 511."""


def map_header(count: int) -> bytes:
    """What precedes ``count`` pairs of key and value."""
    return bytes([0x80 | count]) if count < 16 else _sized(count, (0xDE, 0xDF), first_width=2)


def array_header(count: int) -> bytes:
    """What precedes ``count`` values."""
    return bytes([0x90 | count]) if count < 16 else _sized(count, (0xDC, 0xDD), first_width=2)


def bin_header(size: int) -> bytes:
    """What precedes ``size`` bytes of binary data."""
    return _sized(size, (0xC4, 0xC5, 0xC6))


def ext_header(code: int, size: int) -> bytes:
    """What precedes ``size`` bytes of the extension ``code``."""
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}
    head = bytes([fixed[size]]) if size in fixed else _sized(size, (0xC7, 0xC8, 0xC9))
    return head + bytes([code])


def text(value: str) -> bytes:
    """A whole string."""
    raw = value.encode()
    head = bytes([0xA0 | len(raw)]) if len(raw) < 32 else _sized(len(raw), (0xD9, 0xDA, 0xDB))
    return head + raw


def unsigned(value: int) -> bytes:
    """A whole integer from 0 to 2**64 - 1."""
    return bytes([value]) if value < 128 else _sized(value, (0xCC, 0xCD, 0xCE, 0xCF))


def array_head(shape: tuple[int, ...], dtype: str, nbytes: int) -> bytes:
    """All of an array's extension up to its ``nbytes`` bytes of elements."""
    sizes = b"".join(map(unsigned, shape))
    inner = array_header(3) + array_header(len(shape)) + sizes + text(dtype) + bin_header(nbytes)
    return ext_header(NDARRAY, len(inner) + nbytes) + inner


def _sized(value: int, tags: tuple[int, ...], first_width: int = 1) -> bytes:
    """The first of ``tags`` whose width holds ``value``, and the value; each width is twice the one before."""
    width = first_width
    for tag in tags:
        if value < 1 << 8 * width:
            return bytes([tag]) + value.to_bytes(width, "big")
        width *= 2
    raise ValueError(f"{value} does not fit in {width // 2} bytes")
