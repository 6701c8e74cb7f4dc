"""From the tokens of a Flax msgpack file to its leaves: where each array lies, and what stands beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo, Unread
from loftr2flax.errors import CorruptFile, LimitExceeded, UnsupportedFile
from loftr2flax.formats.leaf_bytes import MAX_DIMS, is_shape
from loftr2flax.formats.msgpack_tokens import Token, Tokens
from loftr2flax.formats.msgpack_wire import CHUNKED, COMPLEX, MAX_DEPTH, NDARRAY, SCALAR
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.limits import Limits

_MAX_KEY = 1 << 16
_PER_NAME = 500  # bytes of memory that a leaf takes beside the characters of its path
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array: its info, and (offset, bytes) of each piece in the file."""

    info: LeafInfo
    pieces: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds, by slashed path."""

    leaves: dict[str, Leaf]
    unread: tuple[Unread, ...]


@dataclass(slots=True)
class _Open:
    """A map or an array whose entries are being read."""

    path: str
    token: Token
    done: int = 0
    keys: set[str] = field(default_factory=set)


def scan(source: SourceFile, limits: Limits) -> Found:
    """Every leaf of the file, located and not loaded.

    Raises:
      CorruptFile, LimitExceeded, UnsupportedFile: see `loftr2flax.formats.msgpack_file.MsgpackFile`.
    """
    tokens = Tokens(source)
    top = tokens.token("the tree")
    if top.kind != "map":
        raise UnsupportedFile(f"{source.path}: holds one {top.kind}, not a tree of arrays", "save a dict of arrays")
    leaves: dict[str, Leaf] = {}
    others: dict[str, Token] = {}
    names = count = 0
    stack = [_Open("", top)]
    while stack:
        branch = stack[-1]
        if branch.done == branch.token.length:
            stack.pop()
            continue
        path = _next_path(source.path, tokens, branch)
        branch.done += 1
        names += _PER_NAME + len(path) * (1 if path.isascii() else 4)  # long keys, nested, would multiply
        token = tokens.token(f"leaf {path!r}")
        if path.rpartition("/")[2] == CHUNKED and (token.kind, token.value) != ("bool", 1):
            raise CorruptFile(f"{source.path}: leaf {path!r} marks an array in pieces, and is not true", FETCH_AGAIN)
        if token.kind in ("map", "array") and token.length:
            stack.append(_Open(f"{path}/", token))
            if len(stack) > MAX_DEPTH:
                raise LimitExceeded(f"{source.path}: leaf {path[:60]!r}…: more than {MAX_DEPTH} levels", FETCH_AGAIN)
        elif token.kind == "extension" and token.code in (NDARRAY, SCALAR):
            leaves[path] = _array(source.path, tokens, path, token)
        else:
            others[path] = token
            if token.code > 127:  # as a signed byte it is negative, which MessagePack keeps for itself
                raise CorruptFile(f"{source.path}: leaf {path!r}: an extension of type {token.code - 256}", FETCH_AGAIN)
            if token.kind in ("str", "bytes", "extension"):
                tokens.skip(token.length, f"leaf {path!r}")
        count += 1
        limits.check_tensors(count, source.path, "leaves and other values", more=True)
        limits.check_memory(2 * names, source.path, "the names of its leaves")
    if not tokens.ended:
        raise CorruptFile(f"{source.path}: the tree ends at byte {tokens.position}, the file goes on", FETCH_AGAIN)
    _join_chunks(source.path, leaves, others)
    return Found(leaves, tuple(Unread(path, _describe(token)) for path, token in others.items()))


def _next_path(path: Path, tokens: Tokens, branch: _Open) -> str:
    """The path of the branch's next entry: an array's is its index, a map's its key."""
    if branch.token.kind == "array":
        return f"{branch.path}{branch.done}"
    what = f"a key of {branch.path or 'the tree'!r}"
    key = tokens.token(what)
    if key.kind != "str" or key.length > _MAX_KEY:
        raise CorruptFile(f"{path}: {what} is not a string of at most {_MAX_KEY} bytes", FETCH_AGAIN)
    try:
        name = tokens.take(key.length, what).decode()
    except UnicodeDecodeError:
        raise CorruptFile(f"{path}: {what} is not UTF-8", FETCH_AGAIN) from None
    if "/" in name:
        raise UnsupportedFile(
            f"{path}: the key {name!r} of {branch.path or 'the tree'!r} has a slash: paths would be ambiguous",
            "rename the key, and save the file again",
        )
    if name in branch.keys:
        raise CorruptFile(f"{path}: leaf {branch.path + name!r} stands twice", FETCH_AGAIN)
    branch.keys.add(name)
    return branch.path + name


def _array(path: Path, tokens: Tokens, name: str, extension: Token) -> Leaf:
    """The array inside an extension; its elements are stepped over."""
    what = f"leaf {name!r}"
    end = tokens.position + extension.length
    outer, inner = tokens.token(what), tokens.token(what)
    if (outer.kind, outer.value, inner.kind) != ("array", 3, "array") or inner.length > MAX_DIMS:
        raise CorruptFile(f"{path}: {what} is not a triple of shape, type and bytes", FETCH_AGAIN)
    shape = tuple(_size(tokens.token(what)) for _ in range(inner.length))
    if not is_shape(shape):
        raise CorruptFile(f"{path}: {what}: {shape!r:.80} is not a shape", FETCH_AGAIN)
    code = tokens.token(what)
    if code.kind not in ("str", "bytes") or code.length > 64:
        raise CorruptFile(f"{path}: {what}: the type has no name", FETCH_AGAIN)
    dtype = tokens.take(code.length, what).decode("latin-1")
    data = tokens.token(what)
    if data.kind not in ("str", "bytes"):
        raise CorruptFile(f"{path}: {what}: its elements are no bytes", FETCH_AGAIN)
    offset = tokens.position
    tokens.skip(data.length, what)
    if tokens.position != end:
        raise CorruptFile(
            f"{path}: {what}: its bytes end at {tokens.position}, its extension at byte {end}", FETCH_AGAIN
        )
    return Leaf(_info(path, name, tuple(shape), dtype, data.length), ((offset, data.length),))


def _info(path: Path, name: str, shape: tuple[int, ...], dtype: str, nbytes: int) -> LeafInfo:
    if dtype not in dtypes.NAMES:
        if dtype == "object" or dtype.startswith(">"):  # Flax writes neither: it refuses the one and renames the other
            raise CorruptFile(f"{path}: leaf {name!r}: elements of type {dtype!r} cannot be read", FETCH_AGAIN)
        return LeafInfo(shape, "uint8", refused=f"elements of type {dtype!r}")
    info = LeafInfo(shape, dtype)
    if info.nbytes != nbytes:
        raise CorruptFile(
            f"{path}: leaf {name!r}: {dtype} of shape {shape} needs {info.nbytes} bytes, {nbytes} are there",
            FETCH_AGAIN,
        )
    return info


def _join_chunks(path: Path, leaves: dict[str, Leaf], others: dict[str, Token]) -> None:
    """Put arrays that were stored in pieces together again, in place."""
    markers = [name for name in others if name.rpartition("/")[2] == CHUNKED]
    for marker in markers:
        name = marker.rpartition("/")[0]
        del others[marker]
        shape = tuple(map(_size, _numbered(others, f"{name}/shape")))
        chunks = _numbered(leaves, f"{name}/chunks")
        kinds = {chunk.info.dtype for chunk in chunks}
        # an array without dimensions is an empty map, which was listed among the others
        others.pop(f"{name}/shape", None)
        if len(kinds) != 1 or not is_shape(shape) or any(chunk.info.refused for chunk in chunks):
            raise CorruptFile(f"{path}: leaf {name!r}: its pieces do not make an array", FETCH_AGAIN)
        size = sum(chunk.info.size for chunk in chunks)
        if size != math.prod(shape) or any(len(chunk.info.shape) != 1 for chunk in chunks):
            raise CorruptFile(
                f"{path}: leaf {name!r}: shape {shape} needs {math.prod(shape)} elements, its pieces have {size}",
                FETCH_AGAIN,
            )
        leaves[name] = Leaf(
            LeafInfo(tuple(shape), kinds.pop()), tuple(piece for chunk in chunks for piece in chunk.pieces)
        )
    joined = {marker.rpartition("/")[0] for marker in markers}
    for name in (*leaves, *others) if joined else ():
        parent = name.rpartition("/")[0]
        if parent in joined or parent.rpartition("/")[0] in joined:
            raise CorruptFile(f"{path}: leaf {name!r} stands among the pieces of another", FETCH_AGAIN)


def _numbered(found: dict[str, _T], prefix: str) -> list[_T]:
    """The entries ``prefix/0``, ``prefix/1``, …, taken out of ``found``."""
    taken: list[_T] = []
    while (name := f"{prefix}/{len(taken)}") in found:
        taken.append(found.pop(name))
    return taken


def _size(token: Token) -> int:
    """A number that a shape can hold, or -1: the head of a string or a map has a value too, its length."""
    return token.length if token.kind == "int" else -1


def _describe(token: Token) -> str:
    if token.kind in ("int", "float"):
        return f"{token.kind} {token.value}"
    if token.kind == "bool":
        return f"bool {bool(token.value)}"
    if token.kind == "extension":
        return "complex" if token.code == COMPLEX else f"extension {token.code}"
    return f"empty {token.kind}" if token.kind in ("map", "array") else token.kind
