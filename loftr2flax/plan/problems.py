"""What goes wrong leaf by leaf, told line by line: the same problem in eight layers is one fault, folded."""

from __future__ import annotations

from typing import NamedTuple

from loftr2flax.folding import fold_line
from loftr2flax.mapping.nodes import Faults
from loftr2flax.mapping.rules import Rule


class Problem(NamedTuple):
    """One disagreement of headers. ``text`` has ``{0}`` and ``{1}`` where the names of ``leaves`` stand."""

    text: str
    leaves: tuple[str, ...]
    hint: str = ""


class Problems:
    """Problems of all lines, until they are told."""

    def __init__(self) -> None:
        self._met: dict[tuple[int, str, str], tuple[Rule, list[tuple[str, ...]]]] = {}

    def add(self, rule: Rule, problem: Problem) -> None:
        """Notes a problem of one line."""
        _, leaves = self._met.setdefault((id(rule), problem.text, problem.hint), (rule, []))
        leaves.append(problem.leaves)

    def tell(self, faults: Faults) -> None:
        """Makes them faults, one for each line and text."""
        for (_, text, hint), (rule, leaves) in self._met.items():
            folded = [fold_line(tuple(dict.fromkeys(column))) for column in zip(*leaves, strict=True)]
            faults.add(rule.place, f"{text.format(*folded)}, in {rule.line!r}", hint)
