"""The two curves as SVG: r of each stage, drift and own error, on a log scale, the network running downwards.

Stages are rows, so that their names are read without turning the head. Letters on the chart: a circle is drift, a
diamond own error; a mark at the right edge is beyond the scale or no number at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loftr2flax.markup import Markup, element, joined, number, ratio
from loftr2flax.parity.values import Judgement
from loftr2flax.report.tracks import Track, short

_ROW = 24
_TOP = 30
_BOTTOM = 40
_FLOOR = 0.1  # r below is drawn at the left edge: how far under torch's own error does not matter
_CEILING = 1e9


@dataclass(frozen=True)
class Frame:
    """Where things stand on one chart, in its own pixels.

    Attributes:
      width: of the whole chart.
      left, right: the edges of the plot.
      decades: powers of ten at the two edges.
      wide: whether names are written in full and numbers beside the plot.
    """

    width: int
    left: int
    right: int
    decades: tuple[int, int]
    wide: bool

    def x(self, value: float) -> float:
        """Where r stands."""
        low, high = self.decades
        shown = 10.0**high if math.isnan(value) else min(max(value, 10.0**low), 10.0**high)
        return self.left + (math.log10(shown) - low) / (high - low) * (self.right - self.left)


def curves(rows: Sequence[Track], culprit: str = "") -> Markup:
    """The chart twice, for wide and for narrow screens; the style sheet shows one of them."""
    return joined(_chart(rows, culprit, wide=True), _chart(rows, culprit, wide=False))


def _chart(rows: Sequence[Track], culprit: str, *, wide: bool) -> Markup:
    width, left, right = (920, 214, 730) if wide else (360, 120, 346)
    frame = Frame(width, left, right, _decades(rows), wide)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    return element(
        "svg",
        element("title", "Error of each stage in units of torch's own rounding error"),
        element("desc", _told(rows)),
        *_ground(rows, frame, culprit),
        *_limit(rows, frame),
        _line([track.drift for track in rows], frame, "drift"),
        _line([track.own for track in rows], frame, "own"),
        *(_names(n, track, frame, culprit) for n, track in enumerate(rows)),
        *(_marks(n, track, frame) for n, track in enumerate(rows)),
        class_=f"curves {'wide' if wide else 'narrow'}",
        viewBox=f"0 0 {width} {height}",
        role="img",
    )


def _decades(rows: Sequence[Track]) -> tuple[int, int]:
    judged = [j.ratio for track in rows for j in (track.drift, track.own) if j is not None]
    values = [min(max(r, _FLOOR), _CEILING) for r in (*judged, *(t.limit for t in rows)) if math.isfinite(r)]
    return -1, max(math.ceil(math.log10(max(values, default=1.0) * 1.5)), 1)


def _ground(rows: Sequence[Track], frame: Frame, culprit: str) -> list[Markup]:
    """Bands, the grid of decades and their labels."""
    bottom = _TOP + _ROW * len(rows)
    drawn = [
        element("rect", x=0, y=_TOP + _ROW * n, width=frame.width, height=_ROW, class_="culprit", rx=4)
        for n, track in enumerate(rows)
        if track.stage == culprit
    ]
    low, high = frame.decades
    step = max(math.ceil((high - low) / (8 if frame.wide else 4)), 1)
    for power in range(low, high + 1):
        x = frame.x(10.0**power)
        drawn.append(element("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="one" if power == 0 else "grid"))
        if (power - low) % step == 0 or power == 0:
            drawn.append(element("text", _power(power), x=x, y=bottom + 17, class_="tick"))
    middle = (frame.left + frame.right) / 2
    drawn.append(element("text", "r, times torch’s own error", x=middle, y=bottom + 34, class_="tick axis"))
    return drawn


def _limit(rows: Sequence[Track], frame: Frame) -> list[Markup]:
    """The limit of each stage, what lies beyond it shaded."""
    steps = [(frame.x(track.limit), _TOP + _ROW * n) for n, track in enumerate(rows) if not math.isnan(track.limit)]
    if not steps:
        return []
    path = "".join(f"{'M' if n == 0 else 'L'}{x:.1f} {y}V{y + _ROW}" for n, (x, y) in enumerate(steps))
    back = f"H{frame.right}V{steps[0][1]}Z"
    label = element("text", f"limit {number(rows[0].limit)}", x=steps[0][0] + 4, y=_TOP - 8, class_="limit-name")
    return [element("path", d=path + back, class_="beyond"), element("path", d=path, class_="limit"), label]


def _line(judged: Sequence[Judgement | None], frame: Frame, kind: str) -> Markup:
    """One curve through the rows that have a number; where a row has none, it is broken."""
    path, pen = [], "M"
    for n, judgement in enumerate(judged):
        if judgement is None or math.isnan(judgement.ratio):
            pen = "M"
            continue
        path.append(f"{pen}{frame.x(judgement.ratio):.1f} {_centre(n)}")
        pen = "L"
    return element("path", d="".join(path), class_=f"curve {kind}")


def _names(n: int, track: Track, frame: Frame, culprit: str) -> Markup:
    y = _centre(n) + 4.5
    name = track.stage if frame.wide and len(track.stage) <= 30 else short(track.stage, 30 if frame.wide else 15)
    state = "stage" if track.passed else "stage failed"
    parts = [element("text", name, element("title", track.stage), x=8 if frame.wide else 4, y=y, class_=state)]
    if frame.wide:
        for column, judgement, kind in ((800, track.drift, "drift"), (866, track.own, "own")):
            value = "absent" if judgement is None else ratio(judgement.ratio)
            failed = " failed" if judgement is None or not judgement.passed else ""
            parts.append(element("text", value, x=column, y=y, class_=f"value {kind}{failed}"))
            if n == 0:
                parts.append(element("text", kind, x=column, y=_TOP - 8, class_=f"value {kind} head"))
        verdict = "✗" if not track.passed else "✓"
        word = "fails" if not track.passed else "passes"
        parts.append(element("text", verdict, element("title", word), x=900, y=y, class_=state + " verdict"))
    return element("g", *parts)


def _marks(n: int, track: Track, frame: Frame) -> Markup:
    """The points of a row, with their numbers for a pointer that rests on them."""
    y = _centre(n)
    marks = []
    for row in track.rows if len(track.rows) > 1 else ():
        for kind, judgement in (("drift", row.worst_drift), ("own", row.worst_own)) if row else ():
            if judgement is not None:
                marks.append(element("circle", cx=frame.x(judgement.ratio), cy=y, r=1.8, class_=f"run {kind}"))
    for kind, judgement in (("drift", track.drift), ("own", track.own)):
        if judgement is None:
            continue
        x = frame.x(judgement.ratio)
        told = element("title", f"{track.stage}, {_KINDS[kind]}: {_judged(judgement)}")
        state = f"mark {kind}" + ("" if judgement.passed else " failed")
        if kind == "drift":
            marks.append(element("circle", told, cx=x, cy=y, r=4.5, class_=state))
        else:
            d = f"M{x:.1f} {y - 5.5}l5.5 5.5-5.5 5.5-5.5-5.5Z"
            marks.append(element("path", told, d=d, class_=state))
        if not math.isfinite(judgement.ratio):
            marks.append(element("text", "∞", x=x + 7, y=y + 4.5, class_="tick edge"))
    if track.drift is None and track.own is None:
        marks.append(element("text", "absent", x=frame.left + 6, y=y + 4.5, class_="stage failed"))
    return element("g", *marks)


_KINDS = {"drift": "drift", "own": "own error"}


def _judged(judgement: Judgement) -> str:
    r = f"r {ratio(judgement.ratio)} of at most {number(judgement.limit)} ({judgement.array})"
    return f"{r}: {judgement.reason}" if judgement.reason else r


def _told(rows: Sequence[Track]) -> str:
    """The chart in words, for those who do not see it."""
    parts = []
    for track in rows:
        values = [
            f"{_KINDS[kind]} {ratio(j.ratio) if j else 'absent'}"
            for kind, j in (("drift", track.drift), ("own", track.own))
        ]
        parts.append(f"{track.stage}: {', '.join(values)}, limit {number(track.limit)}")
    return "; ".join(parts)


def _centre(n: int) -> float:
    return _TOP + _ROW * (n + 0.5)


def _power(power: int) -> str:
    if -2 <= power <= 3:
        return f"{10.0**power:g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
