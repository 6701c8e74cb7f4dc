"""The number that stands behind ``drop`` (given back on the way back) or ``fill`` (given to a leaf)."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from loftr2flax import dtypes
from loftr2flax.mapping.nodes import Reader, Scalar, nearest
from loftr2flax.mapping.rules import Constant

CONSTANT = ("value", "dtype")
"""The words of a number that is spelled out."""
_WORDS = {"true": True, "false": False}


def read_constant(reader: Reader, node: yaml.Node, word: str) -> Constant | None:
    """``0``, ``1.5``, ``true``, ``{value: 0, dtype: int32}``; for ``drop`` also nothing, which is no way back.

    None stands for nothing, and for what has been told as a fault.
    """
    before = reader.faults.noted
    dtype: str | None = None
    value: Any = reader.plain(node)
    place = reader.place(node)
    if isinstance(value, dict):
        unknown = next((key for key in value if key not in CONSTANT), None)
        if unknown is not None:
            known = nearest(unknown, CONSTANT)
            reader.faults.add(
                place, f"unknown word {unknown!r} beside a number", known or "write {value: 0, dtype: int32}"
            )
        value, dtype = value.get("value"), value.get("dtype")
        if dtype is not None and dtype not in dtypes.NAMES:
            hint = nearest(str(dtype), dtypes.NAMES) or "such as float32 or int64"
            reader.faults.add(place, f"no dtype is called {dtype!r}", hint)
    if reader.faults.noted > before or (value is None and dtype is None and word == "drop"):
        return None
    return _constant(reader, node, value, dtype, word)


def read_word(reader: Reader, scalar: Scalar, text: str) -> Constant | None:
    """The value behind ``drop`` in a kind's line, where it is part of a text; nothing means no way back."""
    if not text:
        return None
    value: object = _WORDS.get(text, text)
    for number in (float, int):
        try:
            value = number(text)
        except ValueError:
            continue
    return _constant(reader, scalar.node, value, None, "drop")


def _constant(reader: Reader, node: yaml.Node, value: object, dtype: str | None, word: str) -> Constant | None:
    place = reader.place(node)
    if not isinstance(value, bool | int | float):
        reader.faults.add(place, f"`{word}` needs a number, not {value!r}")
        return None
    default = "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"
    constant = Constant(value, dtype or default)
    if not _holds(constant):
        reader.faults.add(place, f"{value} is no {constant.dtype}", "name a type that holds it: {value: …, dtype: …}")
        return None
    return constant


def _holds(constant: Constant) -> bool:
    """Whether the type has the number: whole types exactly, floating ones to their precision, never as infinity."""
    kind = dtypes.numpy_dtype(constant.dtype)
    try:
        with np.errstate(all="ignore"):
            number, stored = float(constant.value), np.asarray(constant.value).astype(kind)
    except OverflowError:
        return False
    if constant.dtype in dtypes.FLOATING or kind.kind == "c":
        return bool(np.isfinite(stored) == np.isfinite(number))
    return bool(stored == constant.value)
