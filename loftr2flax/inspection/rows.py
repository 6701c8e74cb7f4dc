"""Leaves in order, and folded: what is alike is one row of a table, or one branch of a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.folding import fold
from loftr2flax.inspection.natural import natural_key

_DEEPEST = 100  # segments; what lies deeper keeps the rest of its name in one piece

ORDERS = ("name", "file", "size", "shape", "dtype")
"""What leaves can be sorted by: natural order of names, place in the file, bytes (largest first), …"""


@dataclass(frozen=True, slots=True)
class Row:
    """Leaves that are alike, under one folded name."""

    name: str
    info: LeafInfo
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return self.info.nbytes * self.count


@dataclass(frozen=True, slots=True)
class Branch:
    """A leaf or a branch of the tree, or several that are alike under one folded name.

    Attributes:
      name: its last segment ("layers", "{0..7}").
      count: how many it stands for.
      info: the leaf's header; None for a branch.
      below: what lies under one of them.
      leaves, nbytes, dtypes: of all that lie in it, over all that it stands for.
    """

    name: str
    count: int
    info: LeafInfo | None
    below: tuple[Branch, ...]
    leaves: int
    nbytes: int
    dtypes: tuple[str, ...]


class Part(NamedTuple):
    """A branch of the names, or several that hold as much, and what lies in it."""

    name: str
    leaves: int
    nbytes: int


def in_order(infos: Mapping[str, LeafInfo], names: Iterable[str], order: str, separator: str) -> list[str]:
    """Names as in `ORDERS`; what is equal there stays in natural order.

    Raises:
      KeyError: there is no such order.
    """
    keys: dict[str, Callable[[str], Any]] = {
        "size": lambda name: -infos[name].nbytes,
        "shape": lambda name: (-len(infos[name].shape), tuple(-size for size in infos[name].shape)),
        "dtype": lambda name: infos[name].dtype,
    }
    if order == "file":
        return list(names)
    natural = sorted(names, key=lambda name: natural_key(name, separator))
    return natural if order == "name" else sorted(natural, key=keys[order])


def fold_rows(infos: Mapping[str, LeafInfo], names: Sequence[str]) -> tuple[Row, ...]:
    """A row for each leaf, or for leaves whose names count and whose headers are equal; in the order of ``names``."""
    alike: dict[LeafInfo, list[str]] = {}
    for name in names:
        alike.setdefault(infos[name], []).append(name)
    position = {name: n for n, name in enumerate(names)}
    rows = [
        (position[folded[0]], Row(label, info, len(folded)))
        for info, group in alike.items()
        for label, folded in fold(group).items()
    ]
    return tuple(row for _, row in sorted(rows, key=lambda item: item[0]))


def branch_of(infos: Mapping[str, LeafInfo], names: Sequence[str], separator: str) -> Branch:
    """The tree of some leaves, in the order in which its branches first appear in ``names``."""
    top: dict[str, Any] = {}
    for name in names:
        at = top
        *way, last = name.split(separator, _DEEPEST)
        for segment in way:
            at = at.setdefault(segment + separator, {})  # a leaf beside it may have the same name
        at[last] = infos[name]
    return _branch("", top, {})[0]


def _branch(name: str, content: dict[str, Any] | LeafInfo, known: dict[object, int]) -> tuple[Branch, int]:
    """A branch, and a number that is the same for all that are alike but for their own name."""
    if isinstance(content, LeafInfo):
        leaf = Branch(name, 1, content, (), 1, content.nbytes, (content.dtype,))
        return leaf, known.setdefault(content, len(known))
    alike: dict[int, dict[str, Branch]] = {}
    for key, value in content.items():
        child, number = _branch(key, value, known)
        alike.setdefault(number, {})[key] = child
    place = {key: n for n, key in enumerate(content)}
    folded = [
        (place[keys[0]], number, _times(children[keys[0]], label, len(keys)))
        for number, children in alike.items()
        for label, keys in (fold(children) if len(children) > 1 else {key: [key] for key in children}).items()
    ]
    folded.sort(key=lambda item: item[0])
    below = tuple(child for _, _, child in folded)
    number = known.setdefault(tuple((child.name, number) for _, number, child in folded), len(known))
    dtypes = tuple(dict.fromkeys(dtype for child in below for dtype in child.dtypes))
    whole = Branch(name, 1, None, below, sum(c.leaves for c in below), sum(c.nbytes for c in below), dtypes)
    return whole, number


def _times(branch: Branch, label: str, count: int) -> Branch:
    """The branch as it stands for ``count`` that are alike."""
    return replace(branch, name=label, count=count, leaves=count * branch.leaves, nbytes=count * branch.nbytes)


def cut(tree: Branch, depth: int) -> Iterator[tuple[str, Branch, int]]:
    """The leaves of a tree, and its branches ``depth`` segments deep: full name, what is there, how often in all."""
    waiting = [("", child, 1, 1) for child in reversed(tree.below)]
    while waiting:
        above, branch, level, times = waiting.pop()
        name = above + branch.name
        if level == depth or not branch.below:
            yield name, branch, times * branch.count
        else:
            waiting += [(name, child, level + 1, times * branch.count) for child in reversed(branch.below)]


def parts_of(infos: Mapping[str, LeafInfo], names: Sequence[str], separator: str) -> tuple[Part, ...]:
    """The branches that leaves fall into, below what all of them have in common; the largest first."""
    ways = [name.split(separator)[:-1] for name in names]
    common = 0
    for level in zip(*ways, strict=False):
        if len(set(level)) > 1:
            break
        common += 1
    sums: dict[str, tuple[int, int]] = {}
    for name, way in zip(names, ways, strict=True):
        if len(way) > common:
            leaves, nbytes = sums.get(way[common], (0, 0))
            sums[way[common]] = (leaves + 1, nbytes + infos[name].nbytes)
    alike: dict[tuple[int, int], list[str]] = {}
    for branch, held in sums.items():
        alike.setdefault(held, []).append(branch)
    parts = [
        Part(label, len(folded) * leaves, len(folded) * nbytes)
        for (leaves, nbytes), branches in alike.items()
        for label, folded in fold(branches).items()
    ]
    return tuple(sorted(parts, key=lambda part: -part.nbytes))
