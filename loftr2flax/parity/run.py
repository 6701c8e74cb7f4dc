"""Running both sides on one set of inputs, stage by stage, and judging every array.

`record` runs torch, in float64 and in float32, and keeps what a judge needs; `replay` runs the candidate against the
record. A record can be stored (`golden`) and judged by without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loftr2flax.parity.judge import Rounding, judge, judge_choice
from loftr2flax.parity.network import Network, Trace
from loftr2flax.parity.values import Judgement, StageRow

Settle = Callable[[Trace], Trace]
"""Asked after each stage of the oracle for further inputs that both sides get, such as the matches to refine."""


@dataclass(frozen=True)
class Record:
    """What torch says to one set of inputs.

    Attributes:
      inputs: what every network is given at the start; float32, or whole numbers.
      stages: names of the arrays that each stage adds, in order.
      free: the oracle's float64 arrays, each stage fed with what it made before: what drift is judged by.
      alone: its arrays when each stage is fed the float32 rounding of `free`: what own errors are judged by.
      drift, own: what float32 costs torch on either, by array.
      reference: torch's float32 results that a later comparison wants (the confidence matrix and its matches).
    """

    inputs: Trace
    stages: Mapping[str, tuple[str, ...]]
    free: Trace
    alone: Trace
    drift: Mapping[str, Rounding]
    own: Mapping[str, Rounding]
    reference: Trace = field(default_factory=dict)

    def given(self) -> dict[str, np.ndarray]:
        """What each stage is fed when it runs alone: the inputs and the oracle's free run in float32."""
        return {name: single(value) for name, value in self.free.items()} | dict(self.inputs)


def record(
    oracle: Network,
    reference: Network,
    inputs: Trace,
    *,
    others: Sequence[Network] = (),
    settle: Settle | None = None,
    keep: tuple[str, ...] = (),
) -> Record:
    """Runs torch in float64 (``oracle``) and in float32 (``reference``).

    Args:
      oracle, reference: the same network in two precisions.
      inputs: the arrays to begin with.
      others: the float32 network again, computed in other ways that are as right.
      settle: see `Settle`.
      keep: arrays of the float32 run to keep as they are.
    """
    inputs = dict(inputs)
    free: dict[str, np.ndarray] = {}
    stages: dict[str, tuple[str, ...]] = {}
    for name in oracle.stage_names:
        added = oracle.stage(name, {**free, **inputs})
        free |= added
        stages[name] = tuple(added)
        if settle is not None:
            inputs |= settle({**free, **inputs})
    singles = (reference, *others)
    theirs = [free_run(network, inputs, free) for network in singles]
    partial = Record(inputs, stages, free, {}, {}, {})
    given = partial.given()
    alone: dict[str, np.ndarray] = {}
    own: dict[str, Rounding] = {}
    for name in stages:
        exact = oracle.stage(name, given)
        alone |= exact
        own |= _roundings([network.stage(name, given) for network in singles], exact)
    kept = {key: theirs[0][key] for key in keep if key in theirs[0]}
    return Record(inputs, stages, free, alone, _roundings(theirs, free), own, kept)


def _roundings(singles: Sequence[Trace], exact: Trace) -> dict[str, Rounding]:
    """What float32 costs on each array, by the run that it costs most."""
    return {
        key: Rounding.widest([Rounding.of(made[key], value) for made in singles])
        for key, value in exact.items()
        if not is_choice(value)
    }


def free_run(network: Network, inputs: Trace, oracle: Trace) -> dict[str, np.ndarray]:
    """Every stage, each fed with what this network made before it; choices are the oracle's."""
    made: dict[str, np.ndarray] = {}
    given = dict(inputs)
    for name in network.stage_names:
        added = network.stage(name, given)
        made |= added
        given |= {key: oracle[key] if is_choice(value) and key in oracle else value for key, value in added.items()}
        given |= inputs
    return made


@dataclass(frozen=True)
class Replay:
    """The candidate's free run, its stages alone, and the verdict on each."""

    rows: tuple[StageRow, ...]
    made: Trace
    alone: Trace


def replay(record: Record, candidate: Network, apart: tuple[str, ...] = ()) -> Replay:
    """Runs the candidate on a record's inputs and judges every array of every stage that the record has.

    ``apart`` names arrays that are judged elsewhere: matches, which are compared as sets.
    """
    have = set(candidate.stage_names)
    made = free_run(candidate, record.inputs, record.free)
    given = record.given()
    rows: list[StageRow] = []
    alone: dict[str, np.ndarray] = {}
    for name, arrays in record.stages.items():
        by_itself = candidate.stage(name, given) if name in have else {}
        alone |= by_itself
        wanted = [key for key in arrays if key not in apart]
        missing = tuple(key for key in wanted if key not in by_itself or key not in made)
        there = [key for key in wanted if key not in missing]
        drift = [_judged(key, made[key], record.free[key], record.drift) for key in there]
        own = [_judged(key, by_itself[key], record.alone[key], record.own) for key in there]
        rows.append(StageRow(name, tuple(drift), tuple(own), missing))
    return Replay(tuple(rows), made, alone)


def single(array: np.ndarray) -> np.ndarray:
    """float64 as float32; everything else as it is."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def is_choice(array: np.ndarray) -> bool:
    """Whether an array holds whole numbers or truth values, which rounding does not touch."""
    return array.dtype.kind in "biu"


def _judged(key: str, actual: np.ndarray, oracle: np.ndarray, roundings: Mapping[str, Rounding]) -> Judgement:
    if is_choice(oracle):
        return judge_choice(key, actual, oracle)
    return judge(key, actual, oracle, roundings[key])
