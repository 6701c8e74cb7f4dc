"""Values as tables in a notebook: HTML that needs nothing from elsewhere, and in which no name becomes markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loftr2flax.dtypes import SHORT
from loftr2flax.markup import Markup, element, joined

if TYPE_CHECKING:
    from loftr2flax.inspection.values import Inspection

_MOST_ROWS = 200


def as_html(found: Inspection) -> str:
    """An inspection: a heading, what it looks like, and its folded leaves."""
    rows = found.rows
    head = element("tr", *(element("th", word) for word in ("leaf", "shape", "dtype", "", "bytes")))
    cells = [
        (row.name, str(row.info.shape), SHORT.get(row.info.dtype, row.info.dtype), f"×{row.count}", f"{row.nbytes:,}")
        for row in rows[:_MOST_ROWS]
    ]
    body = joined(*(element("tr", *map(_cell, line)) for line in cells))
    more = element("p", f"and {len(rows) - _MOST_ROWS:,} more rows") if len(rows) > _MOST_ROWS else None
    caption = element("caption", f"{found.path}: {len(found.infos):,} leaves. {found.looks_like}")
    return str(joined(element("table", caption, element("thead", head), element("tbody", body)), more))


def _cell(text: str) -> Markup:
    return element("td", text, style="text-align: left")
