"""One half of a line as written: ``layers.{i}.bias? [o]`` or ``batch_stats:norm/mean [c]``."""

from __future__ import annotations

import re
from typing import NamedTuple

from loftr2flax.mapping.axes import Layout, parse_layout
from loftr2flax.mapping.names import NameSyntaxError
from loftr2flax.mapping.nodes import Reader, Scalar

_COLLECTION = re.compile(r"([A-Za-z_][A-Za-z_0-9]*):(.*)", re.DOTALL)


class Half(NamedTuple):
    """A name still to be parsed (a kind's leaf may be joined to it), and its axes.

    ``collection`` is "" where none is written; ``layout`` None where no brackets stand.
    """

    text: str
    layout: Layout | None
    optional: bool
    collection: str
    scalar: Scalar

    def private(self) -> Half:
        """The same half with axis names that no file can mention."""
        return self._replace(layout=self.layout.private() if self.layout else None)


def read_half(reader: Reader, scalar: Scalar, separator: str, *, needs_layout: bool = False) -> Half | None:
    """Reads one half of a line; ``separator`` tells the sides apart ("." torch, "/" flax)."""
    name, bracket, axes = scalar.text.partition("[")
    if (bracket and not (name == "" or name[-1].isspace())) or (bracket and not axes.rstrip().endswith("]")):
        message = f"{scalar.text!r} is not `name [axes]`"
        reader.faults.add(scalar.place, message, "a line is `torch key [axes]: flax path [axes]`")
        return None
    text, collection = name.rstrip(), ""
    optional = text.endswith("?")
    text = text.removesuffix("?")
    if separator == "/" and (prefixed := _COLLECTION.fullmatch(text)):
        collection, text = prefixed.groups()
    if separator == "/" and optional:
        message = f"the '?' of {scalar.text!r} belongs to the torch side"
        reader.faults.add(scalar.place, message, "it then holds for both sides")
        return None
    layout = None
    if bracket:
        try:
            layout = parse_layout((bracket + axes).rstrip())
        except NameSyntaxError as error:
            reader.faults.add(scalar.at(len(name) + error.offset), f"{error} in {scalar.text!r}", error.hint)
            return None
    elif needs_layout:
        reader.faults.add(
            scalar.place, f"{scalar.text!r} needs its axes in brackets", "[...] is any layout, as it is; [] is a scalar"
        )
        return None
    return Half(text, layout, optional, collection, scalar)
