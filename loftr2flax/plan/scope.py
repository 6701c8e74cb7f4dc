"""Where in a checkpoint a mapping's names begin: "matcher.", "module.matcher.loftr_coarse.", or nowhere at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from loftr2flax.errors import MappingMismatch
from loftr2flax.folding import fold_line
from loftr2flax.mapping.matching import Found, Matcher

Root = tuple[str, ...]
_Roots = dict[Root, dict[str, list[Found]]]
"""For each place where names of the mapping begin, the file's names that do, each with the rules that claim it."""


class PrefixNotFound(MappingMismatch):
    """`--prefix` names a place where none of the mapping's tensors are.

    Attributes:
      found: the prefixes under which they are.
    """

    def __init__(self, message: str, hint: str, found: Sequence[str]) -> None:
        super().__init__(message, hint)
        self.found = tuple(found)


class Scope(NamedTuple):
    """The part of a checkpoint that a mapping speaks of.

    Attributes:
      root: the segments before it, as the file spells them.
      members: canonical name below the root -> the file's own name, in the file's order.
      claims: canonical name -> the rules that claim it.
      outside: the file's other names.
      clashes: pairs of names that aliases make one.
      spelling: canonical name -> name below the root as the file spells it, where they differ.
    """

    root: Root
    members: Mapping[str, str]
    claims: Mapping[str, list[Found]]
    outside: tuple[str, ...]
    clashes: tuple[tuple[str, str], ...]
    spelling: Mapping[str, str]


class Names(NamedTuple):
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
    roots = _roots(names, matcher)
    if not roots:
        wanted = f" under {'.'.join(at)!r}" if at else ""
        message = f"{path}: none of its {len(names.spelled)} names is one that the mapping knows{wanted}"
        raise MappingMismatch(message, "`loftr2flax mapping list` names the mappings, `inspect` shows the file")
    counts = {root: len(claims) for root, claims in roots.items()}
    candidates = list(counts) if prefix is None else _below(names, counts, at, prefix, path)
    root = _choose(names, {c: counts[c] for c in candidates}, at, path)
    if prefix is None and names.separator == ".":  # in a tree no `--prefix` could say that another place is meant
        _check_place(names, root, at, path)
    return _collect(names, roots[root], root)


def _roots(names: Names, matcher: Matcher) -> _Roots:
    roots: _Roots = {}
    for name, segments in names.canonical.items():
        for start in range(len(segments)):
            if found := matcher.match(segments, start):
                roots.setdefault(names.spelled[name][:start], {})[name] = found
    return roots


def _below(names: Names, counts: Mapping[Root, int], at: Root, prefix: str, path: str) -> list[Root]:
    """The places that a user's prefix means."""
    prefix = prefix.strip(names.separator)
    run = tuple(prefix.split(names.separator)) if prefix else ()
    places = {
        segments[: start + len(run)]
        for segments in names.spelled.values()
        for start in range(len(segments) - len(run) + 1 if run else 1)
        if segments[start : start + len(run)] == run
    }
    meant = [root for root in counts if root in places or (_ends(root, at) and root[: len(root) - len(at)] in places)]
    if meant:
        return meant
    found = [names.separator.join(root) for root in _preferred(counts, at)]
    where = fold_line([repr(f) if f else "the top of the file" for f in found])
    what = "no tensor is there" if not places else "the tensors there are not the mapping's"
    message = f"{path}: --prefix {prefix or repr(prefix)}: {what}; what the mapping names was found at {where}"
    raise PrefixNotFound(message, f"--prefix {found[0] or repr('')}", found)


def _ends(root: Root, at: Root) -> bool:
    return root[len(root) - len(at) :] == at


def _passes(root: Root, at: Root) -> bool:
    return any(root[n : n + len(at)] == at for n in range(len(root) - len(at) + 1))


def _preferred(counts: Mapping[Root, int], at: Root) -> list[Root]:
    """The roots that end in `at`; failing those the ones that pass through it; failing those all."""
    ending = [root for root in counts if _ends(root, at)]
    through = [root for root in counts if _passes(root, at)]
    best = ending or through or list(counts)
    most = max(counts[root] for root in best)
    return [root for root in best if 2 * counts[root] >= most]  # stray names that happen to fit do not make a place


def _choose(names: Names, counts: Mapping[Root, int], at: Root, path: str) -> Root:
    best = _preferred(counts, at)
    if len(best) == 1:
        return best[0]
    shown = [names.separator.join(root) or "(the top)" for root in best]
    message = f"{path}: the mapping fits in {len(best)} places: {fold_line(shown)}"
    say = next((names.separator.join(root) for root in best if root), "")
    hint = f"say which: `--prefix {say}`" if names.separator == "." else "give a file that holds one of them"
    raise MappingMismatch(message, hint)


def _check_place(names: Names, root: Root, at: Root, path: str) -> None:
    """A place that is not called as the mapping says is taken unasked only if it is all that the file holds."""
    if _passes(root, at) or all(segments[: len(root)] == root for segments in names.spelled.values()):
        return
    place = names.separator.join(root)
    message = f"{path}: it has no {names.separator.join(at)!r}; what the mapping names stands at {place!r}"
    raise MappingMismatch(message, f"if that is meant, say so: `--prefix {place}`")


def _collect(names: Names, claims: Mapping[str, list[Found]], root: Root) -> Scope:
    members: dict[str, str] = {}
    claimed: dict[str, list[Found]] = {}
    outside: list[str] = []
    clashes: list[tuple[str, str]] = []
    spelling: dict[str, str] = {}
    depth = len(root)
    for name, spelled in names.spelled.items():
        if spelled[:depth] != root or len(spelled) == depth:
            outside.append(name)
            continue
        canonical = names.separator.join(names.canonical[name][depth:])
        if canonical in members:
            clashes.append((members[canonical], name))
            continue
        members[canonical] = name
        claimed[canonical] = claims.get(name, [])
        written = names.separator.join(spelled[depth:])
        if written != canonical:
            spelling[canonical] = written
    return Scope(root, members, claimed, tuple(outside), tuple(clashes), spelling)
