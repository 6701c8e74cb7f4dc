"""JSON from a stranger: no key twice, no nesting without end, and no more memory than was allowed for it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from loftr2flax.errors import CorruptFile
from loftr2flax.formats.source_file import FETCH_AGAIN
from loftr2flax.limits import Limits

_PER_BRACKET, _PER_COMMA, _PER_BYTE = 150, 100, 3  # bytes that the parser takes for each, at most


def parse_json(text: bytes, path: Path, what: str, limits: Limits) -> Any:
    """The value of a JSON text; ``what`` names it in errors ("the header").

    Raises:
      CorruptFile: it is not JSON, or has a key twice, or text that no file can hold.
      LimitExceeded: it would take more memory than ``limits`` allow; told before it is parsed.
    """
    brackets = text.count(b"[") + text.count(b"{")
    needed = _PER_BRACKET * brackets + _PER_COMMA * text.count(b",") + _PER_BYTE * len(text)
    limits.check_memory(needed, path, what)
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise CorruptFile(f"{path}: {what} is nested too deeply", FETCH_AGAIN) from None
    except ValueError as error:
        raise CorruptFile(f"{path}: {what} is not JSON: {error}", FETCH_AGAIN) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} stands twice")
    return found
