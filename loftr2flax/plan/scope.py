"""Where in a checkpoint a mapping's names begin: "matcher.", "module.matcher.loftr_coarse.", or nowhere at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loftr2flax.errors import MappingMismatch
from loftr2flax.folding import fold_line
from loftr2flax.mapping.matching import Found, Matcher

Root = tuple[str, ...]


class PrefixNotFound(MappingMismatch):
    """`--prefix` names a place where none of the mapping's tensors are.

    Attributes:
      found: the prefixes under which they are.
    """

    def __init__(self, message: str, hint: str, found: Sequence[str]) -> None:
        super().__init__(message, hint)
        self.found = tuple(found)


@dataclass(frozen=True)
class Scope:
    """The part of a checkpoint that a mapping speaks of.

    Attributes:
      root: the segments before it, as the file spells them.
      members: canonical name below the root -> the file's own name, in the file's order.
      claims: canonical name -> the rules that claim it.
      outside: the file's other names.
      clashes: pairs of names that aliases make one.
    """

    root: Root
    members: Mapping[str, str]
    claims: Mapping[str, list[Found]]
    outside: tuple[str, ...]
    clashes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Names:
    """A checkpoint's names, split into segments: as spelled, and with aliases put right."""

    separator: str
    spelled: Mapping[str, Root]
    canonical: Mapping[str, Root]

    @classmethod
    def split(cls, names: Iterable[str], separator: str, aliases: Mapping[str, str]) -> Names:
        """Splits names; an alias replaces whole segments."""
        spelled = {name: tuple(name.split(separator)) for name in names}
        if not aliases:
            return cls(separator, spelled, spelled)
        canonical = {name: tuple(aliases.get(s, s) for s in segments) for name, segments in spelled.items()}
        return cls(separator, spelled, canonical)


def find_scope(names: Names, matcher: Matcher, at: Root, prefix: str | None, path: str) -> Scope:
    """The one place where the mapping's names begin.

    Args:
      names: the checkpoint's names.
      matcher: the rules' names on this side.
      at: the subtree that the mapping declares; a root that ends in it is preferred to others.
      prefix: where the user says that it is: any run of whole segments that stands in one place.
      path: the file, for messages.

    Raises:
      PrefixNotFound: nothing that fits stands under ``prefix``.
      MappingMismatch: nothing fits anywhere, or in several places alike.
    """
    counts = _roots(names, matcher)
    if not counts:
        wanted = f" under {'.'.join(at)!r}" if at else ""
        message = f"{path}: none of its {len(names.spelled)} names is one that the mapping knows{wanted}"
        raise MappingMismatch(message, "`loftr2flax mapping list` names the mappings, `inspect` shows the file")
    candidates = list(counts) if prefix is None else _below(names, counts, at, prefix, path)
    root = _choose(names, {c: counts[c] for c in candidates}, at, path)
    return _collect(names, matcher, root)


def _roots(names: Names, matcher: Matcher) -> Counter[Root]:
    """For each place where names of the mapping begin, how many do (places as spelled)."""
    counts: Counter[Root] = Counter()
    for name, segments in names.canonical.items():
        for start in range(len(segments)):
            if matcher.match(segments[start:]):
                counts[names.spelled[name][:start]] += 1
    return counts


def _below(names: Names, counts: Mapping[Root, int], at: Root, prefix: str, path: str) -> list[Root]:
    """The places that a user's prefix means."""
    run = tuple(prefix.strip(names.separator).split(names.separator)) if prefix else ()
    places = {
        segments[: start + len(run)]
        for segments in names.spelled.values()
        for start in range(len(segments) - len(run) + 1 if run else 1)
        if segments[start : start + len(run)] == run
    }
    meant = [root for root in counts if root in places or (at and root[: -len(at)] in places and root[-len(at) :] == at)]
    if meant:
        return meant
    found = [names.separator.join(root) for root in _preferred(counts, at)]
    where = " and ".join(repr(f) if f else "the top of the file" for f in found)
    what = "no tensor is there" if not places else "the tensors there are not the mapping's"
    raise PrefixNotFound(f"{path}: --prefix {prefix}: {what}; what the mapping names was found at {where}", f"--prefix {found[0]}", found)


def _preferred(counts: Mapping[Root, int], at: Root) -> list[Root]:
    """The roots that end in `at`; failing those the ones that pass through it; failing those all."""
    ending = [root for root in counts if not at or root[-len(at) :] == at]
    through = [root for root in counts if any(root[n : n + len(at)] == at for n in range(len(root)))]
    best = ending or through or list(counts)
    most = max(counts[root] for root in best)
    return [root for root in best if 2 * counts[root] >= most]  # stray names that happen to fit do not make a place


def _choose(names: Names, counts: Mapping[Root, int], at: Root, path: str) -> Root:
    best = _preferred(counts, at)
    if len(best) == 1:
        return best[0]
    shown = [names.separator.join(root) or "(the top)" for root in best]
    message = f"{path}: the mapping fits in {len(best)} places: {fold_line(shown)}"
    raise MappingMismatch(message, f"say which: `--prefix {shown[0]}`")


def _collect(names: Names, matcher: Matcher, root: Root) -> Scope:
    members: dict[str, str] = {}
    claims: dict[str, list[Found]] = {}
    outside: list[str] = []
    clashes: list[tuple[str, str]] = []
    depth = len(root)
    for name, spelled in names.spelled.items():
        if spelled[:depth] != root or len(spelled) == depth:
            outside.append(name)
            continue
        segments = names.canonical[name][depth:]
        canonical = names.separator.join(segments)
        if canonical in members:
            clashes.append((members[canonical], name))
            continue
        members[canonical] = name
        claims[canonical] = matcher.match(segments)
    return Scope(root, members, claims, tuple(outside), tuple(clashes))
