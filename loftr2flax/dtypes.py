"""Names of element types, one spelling for every format, and the numpy type behind each.

The names are numpy's and ml_dtypes' own (``float32``, ``bfloat16``, ``float8_e4m3fn``). ml_dtypes is
imported only when a file holds a type that numpy lacks.
"""

from __future__ import annotations

import numpy as np

_INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
_NUMPY = _INTEGERS | {"bool", "float16", "float32", "float64", "complex64", "complex128"}
_ML_DTYPES = {
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
NAMES = tuple(sorted(_NUMPY | _ML_DTYPES.keys()))
"""Every element type that a leaf can have, by its one name."""
FLOATING = ("float64", "float32", "float16", *sorted(_ML_DTYPES))
"""The types that `--dtype` casts from and to."""

SHORT = {
    "float16": "f16", "float32": "f32", "float64": "f64", "bfloat16": "bf16",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "complex64": "c64", "complex128": "c128",
}  # fmt: skip
"""Short names for tables; a type that is not here is shown by its full name."""


def numpy_dtype(name: str) -> np.dtype:
    """The native-endian numpy dtype called ``name``.

    Raises:
      KeyError: no leaf can have a type of that name.
    """
    if name in _NUMPY:
        return np.dtype(name)
    if name in _ML_DTYPES:
        import ml_dtypes

        found: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return found
    raise KeyError(name)


def itemsize(name: str) -> int:
    """Bytes of one element, without importing ml_dtypes."""
    return _ML_DTYPES[name] if name in _ML_DTYPES else np.dtype(name).itemsize


def is_native(name: str) -> bool:
    """Whether plain numpy knows the type (false for bfloat16 and the float8 kinds)."""
    return name in _NUMPY
