"""What `diff` finds, as frozen values that hold no open file.

    found = diff_checkpoints("a.ckpt", "b.npz")
    found.same, found.summary, found.exit_code
    for finding in found.differences:
        print(finding.leaf, finding.kind, finding.reason)

Every leaf of either file is in exactly one finding, but for those that globs or a prefix leave out.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loftr2flax.compare.summary import summarise

Kind = Literal[
    "same", "close", "dropped", "outside",
    "changed", "cast", "layout", "renamed", "removed", "added", "unread",
]  # fmt: skip

KINDS: dict[Kind, str] = {
    "changed": "values, shape or dtype differ",
    "cast": "equal up to rounding to another dtype, or the way there and back",
    "layout": "the same numbers, their axes in another order, or reshaped; no mapping says so",
    "renamed": "the same numbers under another name; a guess where `guess` is set",
    "removed": "on the left alone",
    "added": "on the right alone",
    "unread": "cannot be read as a plain array on one side or both (sparse, quantized)",
    "close": "differs within the tolerance that was asked for",
    "dropped": "has no place on the other side by the mapping; equal to what the other's record keeps, if it keeps it",
    "outside": "not in the mapping's scope",
    "same": "equal bit for bit; through a mapping, with the layout that it names",
}
"""Each kind of finding and what it means, in the order in which they are shown."""

ACCEPTED: frozenset[Kind] = frozenset({"same", "close", "dropped", "outside"})
"""The kinds that are no difference."""

COMPARED: frozenset[Kind] = frozenset({"same", "close", "changed", "cast", "layout", "renamed"})
"""The kinds for which two leaves were held against each other."""

SAME, DIFFERENT, NOTHING = 0, 1, 5
"""Exit codes."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A leaf as one side has it. Through a mapping, `name` may be several torch keys, joined by ", "."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Measures:
    """How far two leaves of one shape are apart; numbers are compared in float64, both as they are stored.

    Attributes:
      elements: how many each has.
      changed: how many differ in their bits (after widening, where the dtypes differ).
      max_abs: the largest |right − left| where both are finite; None where no finite pair differs.
      index: the element where it is; else the first that differs.
      left, right: both values there, as text that shows every bit.
      rel_l2: ‖right − left‖ / ‖left‖ over pairs that are finite; None where left is zero.
      cosine: of the two as vectors; None where one is zero.
      max_ulp: the largest distance in steps of the dtype; None where the dtypes differ or are not floating-point.
      scale: the largest magnitude on either side of a pair that is finite.
      one_sided: elements that are NaN, or infinite, on one side and not so on the other.
    """

    elements: int
    changed: int
    max_abs: float | None
    index: tuple[int, ...] | None
    left: str
    right: str
    rel_l2: float | None
    cosine: float | None
    max_ulp: int | None
    scale: float
    one_sided: int

    @property
    def share(self) -> float:
        """Changed elements as a share of all, 0 … 1."""
        return self.changed / self.elements if self.elements else 0.0

    def within(self, tolerance: float) -> bool:
        """Whether no element is off by more than ``tolerance`` times `scale`, and NaN and infinities agree."""
        error = self.max_abs or 0.0
        return not self.one_sided and math.isfinite(error) and error <= tolerance * self.scale

    def __str__(self) -> str:
        if not self.changed:
            return "all elements are equal in float64"
        share = "all" if self.changed == self.elements else f"{self.changed:,} of {self.elements:,}"
        words = [f"{share} elements differ" if self.elements > 1 else "the element differs"]
        if self.one_sided:
            words.append(f"NaN or inf on one side in {self.one_sided:,}")
        at = f" at {list(self.index)}: {self.left} → {self.right}" if self.index is not None else ""
        words.append((f"max abs {self.max_abs:.3g}" if self.max_abs is not None else "the first") + at)
        words += [f"rel L2 {self.rel_l2:.3g}"] if self.rel_l2 is not None else []
        words += [f"cosine {self.cosine:.6f}"] if self.cosine is not None else []
        if self.max_ulp is not None:
            words.append(f"max ulp {self.max_ulp:,}" if self.max_ulp < 10**6 else f"max ulp {self.max_ulp:.1e}")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of one leaf, or of a pair.

    Attributes:
      leaf: its name: the tree's through a mapping, else the left's, or the right's where the left has none.
      kind: one of `KINDS`.
      reason: one line; "" for a leaf that is the same and lies the same.
      left, right: the leaf as each side has it, or None.
      layout: how the axes move, as the mapping says ("[o i] → [i o]") or as was found ("axes [1, 0]"), or "".
      measures: how far the two are apart, where both could be compared element by element and differ.
      guess: whether the pair was put together by shape and statistics alone.
    """

    leaf: str
    kind: Kind
    reason: str
    left: Seen | None
    right: Seen | None
    layout: str = ""
    measures: Measures | None = None
    guess: bool = False

    @property
    def accepted(self) -> bool:
        """Whether this is no difference."""
        return self.kind in ACCEPTED

    def __str__(self) -> str:
        return f"{self.leaf}: {self.kind}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class SideInfo:
    """One of the two files: where it is, how it is written, which of its dicts was taken, how many leaves it has."""

    path: Path
    format: str
    container: str
    leaves: int


@dataclass(frozen=True)
class CheckpointDiff:
    """Two checkpoints, leaf by leaf.

    Attributes:
      left, right: the files.
      mapping: the mapping that they were compared through ("loftr/1"), or "" for name by name.
      tolerance: what was asked for; 0 is bit for bit.
      findings: one for each leaf or pair, in the order of the left file, then what the right alone has.
      numbers: elements of the leaves that were compared.
      left_out: leaves that globs or a prefix left out, both sides together.
      notes: things to tell, each one line.
    """

    left: SideInfo
    right: SideInfo
    mapping: str
    tolerance: float
    findings: tuple[Finding, ...]
    numbers: int
    left_out: int
    notes: tuple[str, ...]

    @property
    def differences(self) -> tuple[Finding, ...]:
        """The findings that are differences."""
        return tuple(finding for finding in self.findings if not finding.accepted)

    @property
    def compared(self) -> int:
        """Pairs of leaves that were held against each other."""
        return sum(finding.kind in COMPARED for finding in self.findings)

    @property
    def counts(self) -> dict[Kind, int]:
        """How many findings there are of each kind that occurs, in the order of `KINDS`."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def same(self) -> bool:
        """Whether something was compared, and nothing differs."""
        return self.compared > 0 and not self.differences

    @property
    def exit_code(self) -> int:
        """0 same, 1 different, 5 nothing was compared (no leaf on either side, or none that can be read)."""
        if self.same:
            return SAME
        return DIFFERENT if self.compared or any(f.kind != "unread" for f in self.differences) else NOTHING

    @property
    def summary(self) -> str:
        """The answer in one line: "same, bit for bit: 194 leaves", "only layers.{0..3} changed: …"."""
        return summarise(self)

    def __repr__(self) -> str:
        return f"<{self.left.path} and {self.right.path}: {self.summary}>"
