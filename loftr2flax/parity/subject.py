"""What is compared, put together from its parts: what is known of the network, and the torch side.

`verify` drives a subject without knowing what network it is; `loftr.subject` and `factories` make one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loftr2flax.parity.inputs import Feed
from loftr2flax.parity.network import Network
from loftr2flax.parity.run import Record, Replay, Settle, record
from loftr2flax.parity.values import Culprit, MatchComparison, StageRow

Explain = Callable[[StageRow, Record, Replay], Culprit | None]
"""Looks for a change of the torch network that makes it agree with a stage that is wrong by itself."""


@dataclass(frozen=True)
class Subject:
    """A network and what is needed to judge it, with or without torch.

    Attributes:
      kind: "loftr" or "custom"; a golden bundle remembers it.
      title: one line for people.
      candidate: makes the Flax side from the target's nested tree.
      stage_of: the stage that reads a leaf, or "".
      outputs: arrays that count in gradients; () for the last stage's.
      apart: arrays that `match` judges, not the judge.
      match: compares matches as sets.
      config: what the network is built with.
      heads: attention heads, or 1.
    """

    kind: str
    title: str
    candidate: Callable[[Mapping[str, Any]], Network]
    stage_of: Callable[[str], str]
    outputs: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    match: Callable[[Record, Replay], MatchComparison | None] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    heads: int = 1


@dataclass(frozen=True)
class TorchPart:
    """The side to agree with.

    Attributes:
      oracle, reference: the network in float64 and in float32.
      feeds: the inputs of each run.
      others: see `run.record`.
      settle: see `run.Settle`.
      keep: arrays of the float32 run that `Subject.match` wants.
      explain: see `Explain`; None where nothing is known of the network.
    """

    oracle: Network
    reference: Network
    feeds: Sequence[Feed]
    others: Sequence[Network] = ()
    settle: Settle | None = None
    keep: tuple[str, ...] = ()
    explain: Explain | None = None

    def record(self, feed: Feed) -> Record:
        """What torch says to the inputs of one run."""
        return record(self.oracle, self.reference, feed.arrays, others=self.others, settle=self.settle, keep=self.keep)


def outputs_of(record: Record, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """The arrays that gradients start from: those named, else the last stage's."""
    return outputs or tuple(record.stages.values())[-1]
