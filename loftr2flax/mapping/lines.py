"""One half of a line as written: ``layers.{i}.bias? [o]`` or ``batch_stats:norm/mean [c]``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import yaml

from loftr2flax import dtypes
from loftr2flax.mapping.axes import Layout, parse_layout
from loftr2flax.mapping.names import NameSyntaxError
from loftr2flax.mapping.nodes import Reader, Scalar
from loftr2flax.mapping.rules import Constant

_HALF = re.compile(r"(?P<name>[^\[]*?)(?P<optional>\?)?(?:\s+(?P<axes>\[.*\]))?\s*")
_COLLECTION = re.compile(r"([A-Za-z_]\w*):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Half:
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
        return replace(self, layout=self.layout.private() if self.layout else None)


def read_half(reader: Reader, scalar: Scalar, separator: str, *, needs_layout: bool = False) -> Half | None:
    """Reads one half of a line; ``separator`` tells the sides apart ("." torch, "/" flax)."""
    found = _HALF.fullmatch(scalar.text)
    if not found:
        reader.faults.add(scalar.place, f"{scalar.text!r} is not `name [axes]`", "a line is `torch key [axes]: flax path [axes]`")
        return None
    text, collection = found["name"], ""
    if separator == "/" and (prefixed := _COLLECTION.fullmatch(text)):
        collection, text = prefixed.groups()
    if separator == "/" and found["optional"]:
        reader.faults.add(scalar.place, f"the '?' of {scalar.text!r} belongs to the torch side", "it then holds for both sides")
        return None
    layout = None
    if found["axes"]:
        try:
            layout = parse_layout(found["axes"])
        except NameSyntaxError as error:
            reader.faults.add(scalar.at(found.start("axes") + error.offset), str(error))
            return None
    elif needs_layout:
        reader.faults.add(scalar.place, f"{scalar.text!r} needs its axes in brackets", "[] is a scalar")
        return None
    return Half(text, layout, bool(found["optional"]), collection, scalar)


def read_constant(reader: Reader, scalar: Scalar, text: str) -> Constant | None:
    """The value behind ``drop`` in a kind's line; nothing behind it means that there is no way back."""
    if not text:
        return None
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    constant = None if node is None else constant_of(reader.plain(node), None)
    if constant is None:
        reader.faults.add(scalar.place, f"{text!r} is not a number to drop and give back")
    return constant


def constant_of(value: object, dtype: str | None) -> Constant | None:
    """A number with its element type: bool, int64 or float32 unless one is named. None if it is no number."""
    for kind, default in ((bool, "bool"), (int, "int64"), (float, "float32")):
        if isinstance(value, kind):
            return Constant(value, dtype or default)
    return None


def is_dtype(name: object) -> bool:
    """Whether a leaf can have elements of that type."""
    return name in dtypes.NAMES
