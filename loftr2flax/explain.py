"""Which line of a mapping claims a name, how its axes move and where it lands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loftr2flax.mapping.axes import ELLIPSIS
from loftr2flax.mapping.matching import Matcher
from loftr2flax.mapping.names import Bindings
from loftr2flax.mapping.rules import Rule, Spec, TensorMapping
from loftr2flax.plan.presence import assignments


@dataclass(frozen=True)
class Claim:
    """One line's claim on a name.

    Attributes:
      mapping: the mapping's name.
      rule: the line.
      torch: the torch key (below the root), or "" for a fill.
      flax: the flax paths that it lands on; () for a drop.
      layout: the axes on either side.
      meaning: what happens to the axes, in words.
      line_class: how faithful the line is.
    """

    mapping: str
    rule: Rule
    torch: str
    flax: tuple[str, ...]
    layout: str
    meaning: str
    line_class: str


def explain_key(mapping: TensorMapping, key: str) -> list[Claim]:
    """Every claim on a torch key or a flax path; whatever stands before it in a file is looked through."""
    found = list(_claims(mapping, key, "source"))
    return found + [claim for claim in _claims(mapping, key, "target") if claim not in found]


def _claims(mapping: TensorMapping, key: str, side: str) -> Iterator[Claim]:
    separator, aliases = (".", mapping.aliases) if side == "source" else ("/", {})
    specs = [(n, spec) for n, rule in enumerate(mapping.rules) if (spec := getattr(rule, side))]
    matcher = Matcher(((n, spec.name) for n, spec in specs), mapping.indices)
    segments = [aliases.get(segment, segment) for segment in key.split(separator)]
    for start in range(len(segments)):
        before = tuple(segments[:start])
        if start and mapping.at and side == "source" and not _through(before, mapping.at):
            continue  # `loftr_fine.layers.0…` is not the coarse transformer's
        for number, bindings in matcher.match(segments[start:]):
            yield _claim(mapping, mapping.rules[number], bindings)
        if start < len(segments) and matcher.match(segments[start:]):
            return


def _claim(mapping: TensorMapping, rule: Rule, bindings: Bindings) -> Claim:
    torch = _names(mapping, rule.source, bindings)
    flax = _names(mapping, rule.target, bindings)
    layout = f"{rule.source.layout} → {rule.target.layout}" if rule.source and rule.target else ""
    return Claim(mapping.name, rule, ", ".join(torch), tuple(flax), layout, _meaning(rule), mapping.line_class(rule))


def _names(mapping: TensorMapping, spec: Spec | None, bindings: Bindings) -> list[str]:
    if spec is None:
        return []
    free = [name for name in spec.name.indices if name not in bindings]
    closed = {name: mapping.indices[name].values or ("…",) for name in free}
    return [spec.name.format({**bindings, **rest}) for rest in assignments(free, closed)]


def _meaning(rule: Rule) -> str:
    if rule.target is None:
        return f"dropped; the way back writes {rule.constant.value}" if rule.constant else "dropped, with no way back"
    if rule.source is None:
        return f"filled with {rule.constant.value if rule.constant else 0}"
    here, there = rule.source.layout, rule.target.layout
    words = []
    common = [n for n in here.names if n in there.names]
    if [n for n in there.names if n in here.names] != common:
        words.append("transposed" if len(common) == 2 and ELLIPSIS not in common else "axes permuted")
    flipped = {a.label for a in here.atoms if a.flipped} ^ {a.label for a in there.atoms if a.flipped}
    words += [f"{', '.join(sorted(flipped))} reversed"] if flipped else []
    stacked = [n for n in there.names if n in rule.source.name.indices]
    words += [f"stacked along {', '.join(stacked)}"] if stacked else []
    split = [n for n in here.names if n in rule.target.name.indices]
    words += [f"split along {', '.join(split)}"] if split else []
    if any(len(axis) != 1 for axis in (*here.axes, *there.axes)):
        words.append("axes merged or taken apart")
    return ", ".join(words) or "copied as it is"


def _through(before: tuple[str, ...], at: tuple[str, ...]) -> bool:
    return any(before[n : n + len(at)] == at for n in range(len(before)))
