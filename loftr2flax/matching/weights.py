"""Weights for matching: one of our outputs, or a torch checkpoint that is converted in memory."""

from __future__ import annotations

import difflib
import math
import os
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.convert import Order, prepared
from loftr2flax.convert.provenance import stated_facts
from loftr2flax.convert.stream import stream
from loftr2flax.errors import CorruptFile, InputError, MappingMismatch, UsageError
from loftr2flax.extras import needed
from loftr2flax.flaxtree import Tree, merge_params, nested
from loftr2flax.formats import open_checkpoint
from loftr2flax.limits import DEFAULT, Limits

with needed("matching", "parity", "jax", "flax"):
    import jax

    from loftr2flax.models.loftr import LoFTR, LoFTRConfig

MAPPING = "loftr"
"""The mapping that makes the whole matcher."""

INVISIBLE = ("heads", "attention", "layer_norm_eps", "temperature", "temp_bug_fix")
"""What changes the function and leaves no trace in the weights."""

_MAY_BE_ZERO = ("border", "threshold", "sinkhorn_iterations")


class NoMatcher(InputError):
    """`match a.png b.png -c coarse.npz`: the weights hold no whole LoFTR, only a part of it or another model."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A network that can match.

    Attributes:
      path: the file, as it was named.
      config: what its shapes show, completed by its facts.
      variables: ``params`` and ``batch_stats``, numpy arrays of float32.
      converted: whether it is a torch checkpoint, converted in memory.
      assumed: facts of the network that neither the file nor the caller states, and that its shapes cannot show.
    """

    path: Path
    config: LoFTRConfig
    variables: Tree
    converted: bool
    assumed: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """One line for people."""
        config = self.config
        coarse = f"{len(config.coarse_layers)} coarse layers of width {config.coarse_dim}"
        fine = f"{len(config.fine_layers)} fine of width {config.fine_dim}" if config.fine else "no fine stage"
        return f"LoFTR at 1/{config.resolution[0]}, {coarse}, {fine}, {config.matching.replace('_', ' ')}"

    def __repr__(self) -> str:
        return f"<weights {str(self.path)!r}: {self.model}>"


def load_weights(
    path: str | os.PathLike[str],
    facts: Mapping[str, Any] | None = None,
    state_dict: str | None = None,
    limits: Limits = DEFAULT,
) -> Weights:
    """Reads weights and says which network they belong to.

    Args:
      path: an output of `convert` by the mapping `loftr`, or a torch checkpoint that this mapping fits.
      facts: what the weights cannot show, where it differs from what the file (or the mapping) states.
      state_dict: the container to take, in a torch file.
      limits: what the file may ask of this machine.

    Raises:
      NoMatcher: the file holds no backbone.
      UsageError: a fact is not one of a LoFTR, or has a value that it cannot have.
      MappingMismatch: leaves are missing, left over, or of other shapes than the network's.
      Loftr2FlaxError: the file is refused.
    """
    asked = _checked(facts or {})
    with open_checkpoint(path, state_dict, limits) as checkpoint:
        _demand_matcher(checkpoint)
        if checkpoint.separator == "/":
            leaves = {name: checkpoint.read(name) for name in checkpoint.infos}
            return _fitted(checkpoint.path, leaves, _stated(checkpoint), asked, converted=False)
    with prepared(path, None, Order(MAPPING, state_dict=state_dict, limits=limits)) as job:
        leaves = {move.leaf: array.copy() for move, array in stream(job.plan.moves, job.source)}
        return _fitted(job.source.path, leaves, _stated(job.source), asked, converted=True)


def _fitted(
    path: Path,
    leaves: Mapping[str, np.ndarray],
    stated: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    converted: bool,
) -> Weights:
    try:
        config = LoFTRConfig.from_checkpoint(leaves, {**stated, **asked})
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "state what its network has, e.g. `--fact heads=1`") from None
    try:
        variables = merge_params(template(config), nested(leaves), at="")
    except MappingMismatch as error:
        message = f"{path}: not the leaves of {Weights(path, config, {}, converted).model}: {error.message}"
        raise MappingMismatch(message, f"loftr2flax inspect {path}") from None
    assumed = tuple(name for name in INVISIBLE if name not in stated and name not in asked)
    return Weights(path, config, variables, converted, assumed)


def _stated(checkpoint: Checkpoint) -> dict[str, Any]:
    """The facts in an output's record; those that are no field of a config (`model`) are for other readers."""
    kinds = get_type_hints(LoFTRConfig)
    record = stated_facts(checkpoint)
    facts = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items() if name in kinds}
    for name, value in facts.items():
        if not _is(name, value, kinds[name]):
            message = f"{checkpoint.path}: its record states {name}={value}, which no LoFTR can have"
            raise CorruptFile(message, "convert the torch file again")
    return facts


def template(config: LoFTRConfig) -> Tree:
    """The network's own tree, shapes and dtypes alone."""
    side = 2 * config.resolution[0]
    image = np.zeros((1, side, side, 1), np.float32)
    shapes: Tree = jax.eval_shape(LoFTR(config).init, jax.random.key(0), image, image)
    return shapes


def _demand_matcher(checkpoint: Checkpoint) -> None:
    names = [name.replace("/", ".") for name in checkpoint.infos]
    if any(".backbone." in f".{name}" for name in names):
        return
    if any(name.endswith(("q_proj.kernel", "q_proj.weight")) for name in names):
        message = f"{checkpoint.path}: holds a transformer alone; matching needs the backbone too"
        raise NoMatcher(message, "convert the whole checkpoint: `loftr2flax convert FILE -m loftr -o loftr.npz`")
    raise NoMatcher(
        f"{checkpoint.path}: holds no LoFTR that can match: no leaf is under backbone/",
        f"loftr2flax inspect {checkpoint.path}",
    )


def _checked(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, each of a kind that its field takes."""
    kinds = get_type_hints(LoFTRConfig)
    for name, value in facts.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]}?" if near else f"its facts are {', '.join(sorted(kinds))}"
            raise UsageError(f"--fact {name}: no such fact of a LoFTR", hint)
        if not _is(name, value, kinds[name]):
            raise UsageError(f"--fact {name}={value}: not a value that it takes", f"it takes {_spelled(kinds[name])}")
    return dict(facts)


def _is(name: str, value: object, kind: Any) -> bool:
    """Whether a value is of a field's type; most counts and all epsilons are above zero."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_is(name, value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(name, one, get_args(kind)[0]) for one in value)
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            return False
        return 0 < value < math.inf or (value == 0 and name in _MAY_BE_ZERO)
    return isinstance(value, kind)


def _spelled(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    names = {float: "a number above 0", int: "a whole number above 0", bool: "true or false"}
    return names.get(kind, "no value from the command line: the shapes show it")
