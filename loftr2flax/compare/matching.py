"""Two sides become findings: leaves of one name first, then those whose names do not agree, then what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from loftr2flax.compare.leaf_pair import LeafPairs, Pair, Verdict
from loftr2flax.compare.pairing import Sketches, by_content, by_prefix, by_statistics, common_prefix
from loftr2flax.compare.sides import Side
from loftr2flax.compare.values import Finding

_THREADS = 2
"""Blocks of one pair are compared while those of the next are read; more would wait for the memory."""
_RELATED = 0.5
"""The correlation from which on leaves that only statistics pair are taken for one that has changed."""


def compare_sides(
    left: Side, right: Side, tolerance: float, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Finding], list[str]]:
    """One finding for each leaf or pair, in the order of the left side, then of the right; and notes.

    Raises:
      CorruptFile: a leaf cannot be read.
    """
    comparison = _Comparison(left, right, tolerance)
    comparison.by_name(progress)
    comparison.by_prefix()
    comparison.by_content()
    comparison.by_statistics()
    return list(comparison.in_order()), comparison.notes


class _Comparison:
    """What is paired already, and what waits. The four steps are taken one after the other."""

    def __init__(self, left: Side, right: Side, tolerance: float) -> None:
        self._left, self._right = left, right
        self._pairs = LeafPairs(left, right, tolerance)
        self._sketches = Sketches(left, right)
        self._found: dict[Pair, Finding] = {}
        self._doubtful: dict[Pair, str] = {}
        self._lone_left = dict.fromkeys(left.infos)
        self._lone_right = dict.fromkeys(right.infos)
        self.notes: list[str] = []

    def by_name(self, progress: Callable[[int, int], None] | None) -> None:
        """Leaves that both sides have."""
        pairs = [Pair(name, name) for name in self._left.infos if name in self._right.infos]
        sizes = [self._left.infos[pair.left].nbytes for pair in pairs]
        total, done = sum(sizes), 0
        for (pair, verdict), size in zip(self._judged(pairs), sizes, strict=True):
            self._note(pair, verdict)
            done += size
            if progress is not None:
                progress(done, total)

    def by_prefix(self) -> None:
        """Leaves whose names are equal but for what stands before all of them."""
        lone = list(self._lone_left), list(self._lone_right)
        prefix = common_prefix(*lone)
        if not any(prefix):
            return
        pairs = by_prefix(*lone, prefix)
        for pair, verdict in self._judged(pairs):
            self._note(pair, verdict)
        side = "left" if prefix[0] else "right"
        names = "1 name" if len(pairs) == 1 else f"{len(pairs):,} names"
        self.notes.append(f"{''.join(prefix)!r} stands before {names} on the {side} alone")

    def by_content(self) -> None:
        """Leaves that hold the same numbers under names that have nothing in common."""
        pairs = list(by_content(self._sketches, list(self._lone_left), list(self._lone_right)))
        for pair, verdict in self._judged(pairs):
            if verdict.kind in ("same", "layout"):
                self._note(pair, verdict)

    def by_statistics(self) -> None:
        """Leaves that may be one, with other numbers: a guess."""
        pairs = list(by_statistics(self._sketches, list(self._lone_left), list(self._lone_right)))
        for pair, verdict in self._judged(pairs):
            cosine = verdict.measures.cosine if verdict.measures else None
            one, other = self._sketches.of(0, pair.left), self._sketches.of(1, pair.right)
            if cosine is not None and one.correlation(other, cosine) >= _RELATED:
                self._note(pair, verdict, guess=True)

    def in_order(self) -> Iterator[Finding]:
        """All findings, those of leaves without a partner among them."""
        paired = {pair.left: finding for pair, finding in self._believed()}
        for name in self._left.infos:
            seen = self._left.seen(name)
            yield paired.get(name) or Finding(name, "removed", "on the left alone", seen, None)
        for name in self._lone_right:
            yield Finding(name, "added", "on the right alone", None, self._right.seen(name))

    def _believed(self) -> Iterator[tuple[Pair, Finding]]:
        """What was found, a doubtful cast only where other leaves went the same way beyond doubt."""
        sure = {f.reason for pair, f in self._found.items() if f.kind == "cast" and pair not in self._doubtful}
        for pair, finding in self._found.items():
            if pair in self._doubtful and finding.reason not in sure:
                finding = replace(finding, kind="changed", reason=self._doubtful[pair])
            yield pair, finding

    def _judged(self, pairs: Iterable[Pair]) -> Iterator[tuple[Pair, Verdict]]:
        """Each pair with its verdict, in order, two at a time."""
        pairs = list(pairs)
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                yield from zip(pairs, pool.map(self._pairs.judge, pairs), strict=True)
            finally:
                pool.shutdown(cancel_futures=True)

    def _note(self, pair: Pair, verdict: Verdict, *, guess: bool = False) -> None:
        finding = self._finding(pair, verdict)
        if pair.left != pair.right:
            finding = _renamed(finding, f"{pair.left} → {pair.right}", guess=guess)
        self._found[pair] = finding
        if verdict.else_changed and not guess:
            self._doubtful[pair] = verdict.else_changed
        self._lone_left.pop(pair.left)
        self._lone_right.pop(pair.right)

    def _finding(self, pair: Pair, verdict: Verdict) -> Finding:
        named = self._left.layout(pair.left) or self._right.layout(pair.right)
        layout, reason = verdict.layout or named, verdict.reason or named
        return Finding(
            pair.left, verdict.kind, reason, self._left.seen(pair.left), self._right.seen(pair.right),
            layout, verdict.measures,
        )  # fmt: skip


def _renamed(finding: Finding, names: str, *, guess: bool) -> Finding:
    """The finding of a pair whose names differ."""
    if guess:
        reason = f"perhaps {names}: shape and statistics are alike; {finding.reason}"
        return replace(finding, kind="renamed", reason=reason, guess=True)
    if finding.kind in ("same", "layout"):
        turned = f", {finding.reason}" if finding.reason else ""
        return replace(finding, kind="renamed", reason=f"the same numbers: {names}{turned}")
    return finding
