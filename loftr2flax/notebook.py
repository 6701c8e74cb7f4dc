"""Values as tables in a notebook: HTML that loads nothing from elsewhere, and in which no name becomes markup."""

from __future__ import annotations

from collections.abc import Sequence

from loftr2flax.markup import element, joined

_MOST_ROWS = 200


def table_of(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a caption; of many rows the first 200, and how many there are more."""
    head = element("tr", *(element("th", word) for word in heads))
    body = [
        element("tr", *(element("td", cell, style="text-align: left") for cell in row)) for row in rows[:_MOST_ROWS]
    ]
    more = element("p", f"and {len(rows) - _MOST_ROWS:,} more rows") if len(rows) > _MOST_ROWS else None
    shown = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return str(joined(shown, more))
