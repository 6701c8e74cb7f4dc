"""Gradients, leaf by leaf through the mapping, and coverage: which leaves a run exercised at all.

A mapping that moves weights moves their gradients in the same way, so torch's gradient of each key, arranged by the
plan, is what the Flax gradient of the leaf has to be. Where several leaves are copies of one tensor (`tied`), torch's
gradient is the sum of theirs.

The scalar that is differentiated is Σ ⟨cotangent, output⟩ with a fixed random cotangent for each output, scaled so that
all outputs count alike. A gradient passes through the kinks of ReLU, where a rounding error of the input turns one
element's slope from 0 to 1; on either side a few of millions flip, and each moves every leaf behind it by more than
rounding does. r of a gradient therefore has the wider limit `LIMIT`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from loftr2flax.folding import fold_line
from loftr2flax.parity import judge
from loftr2flax.parity.judge import Rounding
from loftr2flax.parity.network import Differentiable
from loftr2flax.parity.run import Record
from loftr2flax.parity.subject import outputs_of
from loftr2flax.parity.values import Coverage, GradientCheck, Judgement
from loftr2flax.plan import Move, run_move

LIMIT = 10.0
"""What r of a gradient may be: five times that of a stage, because of the kinks."""

Groups = Mapping[tuple[str, ...], Move]
"""Leaves that are copies of one tensor (mostly one leaf alone), and the move that makes them."""


def cotangents(record: Record, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A fixed random direction for each output, float32, scaled by the output's own size."""
    rng = np.random.default_rng(0)
    made = {}
    for name in outputs_of(record, outputs):
        array = record.free[name]
        scale = float(np.sqrt(np.mean(np.square(array[np.isfinite(array)])))) * np.sqrt(array.size)
        made[name] = (rng.standard_normal(array.shape) / (scale or 1.0)).astype(np.float32)
    return made


def tied_groups(moves: Sequence[Move]) -> dict[tuple[str, ...], Move]:
    """Moves by the leaves that share them; constants, which have no gradient in torch, are left out."""
    by_origin: dict[object, list[Move]] = {}
    for move in moves:
        if move.pieces:
            by_origin.setdefault(repr(move.pieces), []).append(move)
    return {tuple(move.leaf for move in group): group[0] for group in by_origin.values()}


def mapped(groups: Groups, gradients: Mapping[str, np.ndarray], key: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Torch's gradients arranged as the leaves are, by the first leaf of each group, in the precision they have."""
    made = {}
    for leaves, move in groups.items():
        kind = str(gradients[key(move.inputs[0])].dtype)
        wide = move._replace(stored=kind, info=move.info._replace(dtype=kind), copies=())
        made[leaves[0]] = run_move(wide, lambda name: gradients[key(name)]).copy()
    return made


def check_gradients(
    moves: Sequence[Move],
    key: Callable[[str], str],
    sides: tuple[Differentiable, Differentiable, Differentiable],
    record: Record,
    outputs: tuple[str, ...],
    title: str,
) -> GradientCheck:
    """Judges the gradient of every leaf.

    Args:
      moves: the plan's.
      key: the torch side's name for an input of a move.
      sides: oracle, torch in float32, candidate.
      record: the run whose inputs and outputs are used.
      outputs: the arrays that count, or () for the last stage's.
      title: of the inputs.
    """
    directions = cotangents(record, outputs)
    groups = tied_groups(moves)
    oracle, reference, candidate = (side.gradients(record.inputs, directions) for side in sides)
    exact, single = mapped(groups, oracle, key), mapped(groups, reference, key)
    judged = []
    for leaves in groups:
        name = fold_line(list(leaves))
        if missing := [leaf for leaf in leaves if leaf not in candidate]:
            judged.append(Judgement(name, np.inf, LIMIT, f"no gradient for {missing[0]}"))
            continue
        ours = np.sum([candidate[leaf].astype(np.float64) for leaf in leaves], axis=0)
        first = leaves[0]
        judged.append(_judged(name, ours, exact[first], Rounding.of(single[first], exact[first])))
    return GradientCheck(tuple(judged), title)


def _judged(name: str, actual: np.ndarray, oracle: np.ndarray, rounding: Rounding) -> Judgement:
    if not oracle.any() and actual.shape == oracle.shape and not actual.any():
        return Judgement(name, np.inf, LIMIT, "no output depends on it")
    found = judge.judge(name, actual, oracle, rounding)
    within = np.isfinite(found.ratio) and found.ratio <= LIMIT
    reason = "" if within else found.reason or f"r {found.ratio:.3g} is above {LIMIT:g}"
    return replace(found, limit=LIMIT, reason=reason)


def coverage(
    moves: Sequence[Move],
    key: Callable[[str], str],
    oracle: Differentiable,
    records: Sequence[Record],
    outputs: tuple[str, ...],
) -> Coverage:
    """Which leaves the outputs of the runs depend on. Runs are taken until all leaves are reached."""
    groups = tied_groups(moves)
    shares = {leaf: 0.0 for leaves in groups for leaf in leaves}
    for record in records:
        exact = mapped(groups, oracle.gradients(record.inputs, cotangents(record, outputs)), key)
        for leaves in groups:
            share = float(np.mean(exact[leaves[0]] != 0)) if exact[leaves[0]].size else 0.0
            shares |= {leaf: max(shares[leaf], share) for leaf in leaves}
        if all(shares.values()):
            break
    return Coverage(shares, tuple(leaf for leaf, share in shares.items() if not share))


def differentiable(*networks: object) -> bool:
    """Whether all of them give gradients."""
    return all(isinstance(network, Differentiable) for network in networks)
