"""HTML put together from elements. All text is escaped where it enters, so that no name can become markup."""

from __future__ import annotations

import html
import math


class Markup(str):
    """Text that is HTML already. Only this module makes it from anything but its own output."""

    __slots__ = ()


Child = str | None
"""What an element holds: text, which is escaped; `Markup`, which is not; None, which is nothing."""

_VOID = frozenset({"meta", "br", "hr"})


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """``element("td", "a < b", class_="number")`` → ``<td class="number">a &lt; b</td>``.

    Underscores in attribute names become hyphens, one at the end goes. None and False leave an attribute out, True
    gives it no value.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after the other."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def escaped(text: str) -> Markup:
    """Text as HTML: markup characters as entities, and control and direction characters in view, not at work."""
    if isinstance(text, Markup):
        return text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return Markup(html.escape(shown))


def trusted(text: str) -> Markup:
    """A piece of this package's own, such as its style sheet."""
    return Markup(text)


def number(value: float, digits: int = 3) -> str:
    """A number for a table: ``1.27``, ``4.1e-07``, ``∞``, and ``–`` for one that is not there."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}g}"
    return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", "−")


def ratio(value: float) -> str:
    """r for a table: two decimals as long as they tell something."""
    return f"{value:.2f}" if 0.01 <= value < 100 else number(value)


def counted(count: int, word: str, many: str = "") -> str:
    """``1 leaf``, ``2,048 leaves``."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
    return f' {name}="{escaped(text)}"'
