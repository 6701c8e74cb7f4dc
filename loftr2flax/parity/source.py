"""The two files of a comparison, opened: the torch side's tensors, the target's leaves, and the plan between them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import Checkpoint, LeafInfo
from loftr2flax.convert import Order, prepared
from loftr2flax.convert.facts import recorded_facts, spelled
from loftr2flax.errors import MappingMismatch
from loftr2flax.flaxtree import Tree, nested
from loftr2flax.formats import open_checkpoint
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.mapping import TensorMapping
from loftr2flax.parity.weights import leaf_digest
from loftr2flax.plan import Move, Plan, run_move


@dataclass(frozen=True)
class Pair:
    """An open source, an open target, and the plan that says which tensor each leaf should be.

    Attributes:
      facts: the mapping's, overruled by the records of the files, overruled by the user's.
      root: what stands before the torch network's own keys in the source ("matcher").
    """

    source: Checkpoint
    target: Checkpoint
    plan: Plan
    facts: Mapping[str, Any]
    root: str

    def key(self, name: str) -> str:
        """The torch network's own name of a tensor of the source: without the root, aliases put right."""
        aliases = self.plan.mapping.aliases
        bare = name.removeprefix(f"{self.root}.") if self.root else name
        return ".".join(aliases.get(segment, segment) for segment in bare.split("."))

    def infos(self) -> dict[str, LeafInfo]:
        """Headers of the torch network's tensors by its own keys."""
        return {self.key(name): info for name, info in self.source.infos.items() if self._ours(name)}

    def state(self) -> dict[str, np.ndarray]:
        """The torch network's tensors by its own keys; types that torch does not take from numpy as float32.

        What the conversion cast to a narrower type is rounded in the same way here.
        """
        casts = self.casts
        return {
            self.key(name): _plain(_rounded(self.source.read(name), casts.get(name)))
            for name in self.source.infos
            if self._ours(name)
        }

    @property
    def casts(self) -> dict[str, str]:
        """Tensor of the source → the type that its numbers went through on the way to the target."""
        cast = (move for move in self.plan.moves if move.stored != move.info.dtype)
        return {name: move.info.dtype for move in cast for name in move.inputs}

    def variables(self) -> Tree:
        """The target's nested tree."""
        return load_tree(self.target)

    def expected(self) -> dict[str, str]:
        """Path → digest of every leaf that the mapping names."""
        return {move.leaf: leaf_digest(run_move(move, self.source.read)) for move in self.plan.moves}

    def array(self, path: str) -> np.ndarray:
        """One leaf as the mapping names it."""
        return run_move(self.moves[path], self.source.read)

    @property
    def moves(self) -> dict[str, Move]:
        """The plan's moves by leaf."""
        return {move.leaf: move for move in self.plan.moves}

    def _ours(self, name: str) -> bool:
        return (not self.root or name.startswith(f"{self.root}.")) and not self.source.infos[name].refused


@contextmanager
def opened(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    mapping: str | os.PathLike[str] | TensorMapping | None,
    facts: Mapping[str, Any],
    prefix: str | None,
    state_dict: str | None,
    limits: Limits = DEFAULT,
) -> Iterator[Pair]:
    """Both files with their plan; they are closed when the block ends.

    Raises:
      MappingMismatch: the mapping does not fit the source, or the files state different facts.
      Loftr2FlaxError: a file is refused.
    """
    with open_checkpoint(target, limits=limits) as actual:
        made = actual.contents.provenance or {}
        if mapping is None:
            mapping = made_with(made) or None
        order = Order(
            mapping, format="npz", prefix=prefix, state_dict=state_dict, dtype=made.get("dtype"), limits=limits
        )
        with prepared(source, None, order) as job:
            stated = {**job.plan.mapping.facts, **_agreed(job.source, actual, job.plan.mapping, facts), **facts}
            yield Pair(job.source, actual, job.plan, stated, _root(job.plan))


def made_with(provenance: Mapping[str, Any]) -> str:
    """The stem of the mapping that a target was made with, or ""."""
    return str((provenance.get("mapping") or {}).get("name", "")).split("/")[0]


def load_tree(target: Checkpoint) -> Tree:
    """A target's nested tree."""
    return nested({name: target.read(name) for name in target.infos})


def _agreed(
    source: Checkpoint, target: Checkpoint, mapping: TensorMapping, asked: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What the target's record states, where the source's states nothing else.

    Raises:
      MappingMismatch: both state a fact, each otherwise, and the user does not say which is right.
    """
    theirs, ours = recorded_facts(source, mapping), recorded_facts(target, mapping)
    for name in ours.keys() & theirs.keys() - asked.keys():
        if ours[name] != theirs[name]:
            one, other = (f"{name}={spelled(facts[name])}" for facts in (theirs, ours))
            message = f"{source.path} states {one}, and {target.path} {other}: these are two networks"
            raise MappingMismatch(message, f"`--fact {one}` or `--fact {other}` if one of them is wrong")
    return ours


def _root(plan: Plan) -> str:
    """A plan's root ends with the mapping's subtree, and the network's own keys begin with that subtree."""
    at = ".".join(plan.mapping.at)
    return plan.root.removesuffix(at).removesuffix(".") if at else plan.root


def _rounded(array: np.ndarray, kind: str | None) -> np.ndarray:
    return array if kind is None else array.astype(dtypes.numpy_dtype(kind))


def _plain(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in "biu" or array.dtype in (np.float32, np.float64) else array.astype(np.float32)
