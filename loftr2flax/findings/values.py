"""One neutral list of findings, whichever verb made it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

State = Literal["passed", "failed", "skipped", "error"]
"""error: it could not be judged."""


class Finding(NamedTuple):
    """What was found of one leaf, one stage, or one check.

    Attributes:
      name: the leaf, stage or check, as the file spells it.
      group: what it belongs to: "weights", the title of a run.
      state: how it came out.
      cause: in a word or two: "changed", "drift"; "" where it passed.
      message: one line; may be "" where it passed.
      badness: of two failures the larger is the worse; inf for what has no measure.
    """

    name: str
    group: str
    state: State
    cause: str = ""
    message: str = ""
    badness: float = math.inf


class Findings(NamedTuple):
    """Everything that a verb found.

    Attributes:
      verb: "verify weights".
      subject: what was judged: "loftr.npz against official.ckpt".
      answer: one line.
      passed: whether the answer is yes.
      items: in the order of the files.
      seconds: wall time, where it was taken.
    """

    verb: str
    subject: str
    answer: str
    passed: bool
    items: tuple[Finding, ...]
    seconds: float = 0.0

    @property
    def worst(self) -> tuple[Finding, ...]:
        """What did not pass, the worst first; what is equally bad in its own order."""
        wrong = [item for item in self.items if item.state in ("failed", "error")]
        return tuple(sorted(wrong, key=lambda item: -math.inf if math.isnan(item.badness) else -item.badness))

    @property
    def groups(self) -> dict[str, list[Finding]]:
        """The items by group, both in order of appearance."""
        found: dict[str, list[Finding]] = {}
        for item in self.items:
            found.setdefault(item.group, []).append(item)
        return found

    def count(self, state: State) -> int:
        """How many items are in a state."""
        return sum(item.state == state for item in self.items)
