"""Which shipped mapping fits a checkpoint, when the user names none."""

from __future__ import annotations

from collections.abc import Mapping

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import MappingMismatch, UsageError
from loftr2flax.mapping import load_mapping, shipped_names
from loftr2flax.mapping.rules import Direction, TensorMapping
from loftr2flax.plan import Plan, PrefixNotFound, Wishes, build_plan


def fitting_plans(
    infos: Mapping[str, LeafInfo], direction: Direction, wishes: Wishes, path: str, *, every: bool = False
) -> tuple[list[Plan], list[MappingMismatch]]:
    """The plans of all shipped mappings that fit, best first, and why the others do not.

    A mapping that claims every tensor is better than one that leaves some outside its scope; where there is such a
    one, only its equals are returned, unless ``every`` one is asked for.

    Raises:
      UsageError: a wish makes sense to none of those that would fit.
    """
    whole: list[Plan] = []
    partial: list[Plan] = []
    refused: list[MappingMismatch] = []
    meant: UsageError | None = None
    for mapping in sorted(map(load_mapping, shipped_names()), key=lambda mapping: len(mapping.at)):
        if whole and not every and direction == "forward" and not _may_claim_all(mapping, infos):
            continue
        try:
            plan = build_plan(mapping, infos, direction, wishes, path)
        except MappingMismatch as error:
            refused.append(error)
            continue
        except UsageError as error:  # a wish that makes sense to another mapping: `--choose j=0`
            meant = error
            continue
        (partial if plan.outside else whole).append(plan)
    if meant is not None and not (whole or partial):
        raise meant
    return ([*whole, *partial] if every else whole or partial), refused


def find_plan(infos: Mapping[str, LeafInfo], direction: Direction, wishes: Wishes, path: str) -> Plan:
    """The plan of the one shipped mapping that fits.

    Raises:
      PrefixNotFound: what a mapping names is there, but not under ``wishes.prefix``.
      MappingMismatch: none fits, or several do; the message lists them.
    """
    plans, refused = fitting_plans(infos, direction, wishes, path)
    if len(plans) == 1:
        return plans[0]
    if plans:
        names = [plan.mapping.stem for plan in plans]
        raise MappingMismatch(
            f"{path}: {len(plans)} mappings fit: {', '.join(names)}", f"say which: `--mapping {names[0]}`"
        )
    nearest = min(refused, key=lambda error: len(error.faults) or len(infos))
    if isinstance(nearest, PrefixNotFound):
        raise nearest
    message = f"{path}: no shipped mapping fits ({', '.join(shipped_names())}); the nearest says:\n{nearest.message}"
    raise MappingMismatch(message, nearest.hint, nearest.faults)


def _may_claim_all(mapping: TensorMapping, infos: Mapping[str, LeafInfo]) -> bool:
    """Whether every name passes through the mapping's subtree: a cheap test that spares a plan."""
    return all(f".{'.'.join(mapping.at)}." in f".{name}" for name in infos) if mapping.at else True
