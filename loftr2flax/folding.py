"""Repeats fold: eight names become ``layers.{0..7}.merge.weight``. For messages and tables, never for matching."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence

_NUMBERS = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,17})(?![0-9])")
"""Runs of digits that count; one with leading zeros, or too long to be a number, is text."""


def fold(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Folded name -> the names that it stands for, in order of first appearance.

    A fold stands for the full product of its ranges: ``{0..7}`` and ``{0,2}`` never cover a name that is not there.
    """
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in dict.fromkeys(names):
        parts = _NUMBERS.split(name)
        groups.setdefault(tuple(parts[::2]), []).append(tuple(parts[1::2]))
    folded: dict[str, tuple[str, ...]] = {}
    for words, numbers in groups.items():
        for block in _blocks(numbers):
            label = _weave(words, [_span(_column(block, slot)) for slot in range(len(words) - 1)])
            folded[label] = folded.get(label, ()) + tuple(_weave(words, row) for row in block)
    return folded


def fold_line(names: Sequence[str], most: int = 6) -> str:
    """Folded names in one line, the first ``most`` of them."""
    labels = list(fold(names))
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def _blocks(rows: list[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """Splits different rows into full products of their columns."""
    waiting = [rows]
    while waiting:
        rows = waiting.pop()
        widths = [len(set(_column(rows, slot))) for slot in range(len(rows[0]))]
        if math.prod(widths) == len(rows):
            yield rows
            continue
        split = min((width, slot) for slot, width in enumerate(widths) if width > 1)[1]
        parts: dict[str, list[tuple[str, ...]]] = {}
        for row in rows:
            parts.setdefault(row[split], []).append(row)
        waiting += reversed(parts.values())


def _column(rows: Sequence[tuple[str, ...]], slot: int) -> list[str]:
    return list(dict.fromkeys(row[slot] for row in rows))


def _span(values: list[str]) -> str:
    if len(values) == 1:
        return values[0]
    runs: list[list[int]] = []
    for number in sorted(map(int, values)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    if len(runs) == 1:
        return f"{{{runs[0][0]}..{runs[0][-1]}}}"
    return "{" + ",".join(f"{r[0]}..{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in runs) + "}"


def _weave(words: Sequence[str], between: Sequence[str]) -> str:
    return "".join(word + filler for word, filler in zip(words, [*between, ""], strict=True))
