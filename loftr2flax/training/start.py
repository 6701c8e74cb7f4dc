"""The start of a run: weights put into the network, and a word on every part that was or was not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from loftr2flax.errors import InputError, MappingMismatch
from loftr2flax.flaxtree import Tree, merge_params
from loftr2flax.folding import fold_line
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.training.config import DenseConfig, MatchConfig, TrainConfig
from loftr2flax.training.fit import WrongNetwork, check_fit, taken_for_granted
from loftr2flax.training.incoming import BACKBONE, COARSE, Incoming, first_layers, parts_of, read_incoming

_ALONE = {"transformer": COARSE, "backbone": BACKBONE}
"""The one part that each value of `loftr_parts` but ``all`` takes."""

_CALLED = {COARSE: "coarse transformer", BACKBONE: "backbone"}

_BRANCHES = ("whole", "roi")


class Row(NamedTuple):
    """What became of one part of the network, or of the file."""

    part: str
    leaves: int
    numbers: int
    state: str
    why: str


class Loaded(NamedTuple):
    """The network's variables after the start, and the table of it."""

    variables: dict[str, Any]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class _Filled(NamedTuple):
    """The parts of one network that were taken from the file."""

    params: dict[str, Tree]
    batch_stats: dict[str, Tree]


def read_start(config: TrainConfig, limits: Limits = DEFAULT) -> Incoming | None:
    """What a run starts from, held against the network that the config describes; None where it starts at random.

    Nothing is computed for it: what is wrong with a file is told before there is a network.

    Args:
      config: `loftr_pretrained_ckpt` names the file for Module 1, `dense_weights` that for Module 2.
      limits: what the file may ask of this machine.

    Raises:
      WrongNetwork: the weights are of another depth, width, number of heads, attention, epsilon or sharing.
      Loftr2FlaxError: the file is refused.
    """
    named, alone, demanded = "", None, [BACKBONE, COARSE]
    if isinstance(config, MatchConfig):
        named = config.dense_weights
    elif isinstance(config, DenseConfig):
        named, alone = config.loftr_pretrained_ckpt, _ALONE.get(config.loftr_parts)
        demanded = [alone or COARSE]
    if not named:
        return None
    incoming = read_incoming(named, config, alone, limits)
    for part in demanded:
        _demand(incoming, part, config)
    check_fit(incoming, config, _taken(incoming, config))
    return incoming


def put_in(variables: Mapping[str, Any], config: TrainConfig, incoming: Incoming | None) -> Loaded:
    """The network's variables with what `read_start` found.

    Raises:
      MappingMismatch: a leaf is missing, left over or of another shape.
      InputError: numbers are not finite.
    """
    if incoming is None:
        return Loaded(dict(variables), tuple(_left(variables["params"], "no weights were given")))
    if isinstance(config, DenseConfig):
        filled, rows = _into_dense(variables, config, incoming)
    else:
        filled, rows = _into_match(variables, incoming)
    notes = (*incoming.notes, *taken_for_granted(incoming, config, _taken(incoming, config)))
    return Loaded({"params": filled.params, "batch_stats": filled.batch_stats}, tuple(rows), notes)


def _into_dense(variables: Mapping[str, Any], config: DenseConfig, incoming: Incoming) -> tuple[_Filled, list[Row]]:
    """Module 1: parts that are not taken stay at their start."""
    params, stats = variables["params"], variables["batch_stats"]
    taken, first = _taken(incoming, config), config.loftr_layers
    filled = _filled(params, stats, incoming, taken, first)
    rows = _loaded_rows(filled, "", _first(first))
    alone = f"loftr_parts={config.loftr_parts} takes the {config.loftr_parts} alone"
    why = "the file does not hold it" if config.loftr_parts == "all" else alone
    rows += _left({part: tree for part, tree in params.items() if part not in taken}, why)
    whole = _Filled({**params, **filled.params}, {**stats, **filled.batch_stats})
    return whole, rows + _not_taken(incoming, params, stats)


def _into_match(variables: Mapping[str, Any], incoming: Incoming) -> tuple[_Filled, list[Row]]:
    """Module 2: both branches start as the one network that Module 1 trained."""
    params, stats = dict(variables["params"]), dict(variables["batch_stats"])
    rows = []
    for branch in _BRANCHES:
        filled = _filled(params[branch], stats[branch], incoming, list(params[branch]))
        params[branch], stats[branch] = filled
        rows += _loaded_rows(filled, f"{branch}/", "")
    rows += _left({part: tree for part, tree in params.items() if part not in _BRANCHES}, "new in Module 2")
    return _Filled(params, stats), rows + _not_taken(incoming, params[_BRANCHES[0]], stats[_BRANCHES[0]])


def _first(layers: int) -> str:
    return {0: "", 1: "the first layer"}.get(layers, f"the first {layers} layers")


def _demand(incoming: Incoming, part: str, config: TrainConfig) -> None:
    """Raises WrongNetwork where the file lacks what was asked of it."""
    if part in incoming.params:
        return
    told, hint = f"{incoming.path}: holds no {_CALLED.get(part, part)}", f"loftr2flax inspect {incoming.path}"
    if not isinstance(config, DenseConfig):
        raise WrongNetwork(told, "Module 2 starts from the weights.npz that `loftr2flax train dense` writes")
    for word, other in _ALONE.items():
        if other != part and other in incoming.params:
            hint = f"`--loftr-parts {word}`"
    raise WrongNetwork(f"{told}, and loftr_parts={config.loftr_parts}", hint)


def _taken(incoming: Incoming, config: TrainConfig) -> list[str]:
    """The parts of the file that go into the network."""
    alone = _ALONE.get(config.loftr_parts) if isinstance(config, DenseConfig) else None
    return [part for part in parts_of(config) if part in incoming.params and alone in (part, None)]


def _filled(
    params: Mapping[str, Any], stats: Mapping[str, Any], incoming: Incoming, taken: list[str], layers: int = 0
) -> _Filled:
    """The parts with the file's weights, and the running statistics of those that have some.

    Of the coarse transformer the first ``layers`` are taken; 0 stands for all.
    """
    filled = _Filled({}, {})
    for part in taken:
        tree = incoming.params[part]
        if part == COARSE and layers:
            tree = first_layers(tree, layers)
        filled.params[part] = _merged(incoming.path, params[part], tree, part)
        if part not in stats:
            continue
        if part not in incoming.batch_stats:
            raise WrongNetwork(
                f"{incoming.path}: holds the {part} and not its running statistics, without which it is another",
                "convert the torch file again; the mapping `loftr` takes them along",
            )
        told = f"running statistics of the {part}"
        filled.batch_stats[part] = _merged(incoming.path, stats[part], incoming.batch_stats[part], told)
    return filled


def _merged(path: str, template: Any, tree: Tree, told: str) -> Tree:
    try:
        merged = merge_params(template, tree, at="")
    except MappingMismatch as error:
        why = error.message.removeprefix("the weights do not fit the template: ").replace("template", "network")
        raise MappingMismatch(f"{path}: {told}: {why}", f"loftr2flax inspect {path}") from None
    leaves = {"/".join(entry.key for entry in at): leaf for at, leaf in jax.tree_util.tree_leaves_with_path(merged)}
    if bad := [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]:
        raise InputError(
            f"{path}: {told}: NaN or infinite numbers in {fold_line(bad)}", "no run can start from these weights"
        )
    return merged


def _loaded_rows(filled: _Filled, before: str, why: str) -> list[Row]:
    rows = []
    for part, tree in filled.params.items():
        rows.append(_row(before + part, tree, "loaded", why if part == COARSE else ""))
        if part in filled.batch_stats:
            rows.append(_row(f"{before}{part} (running statistics)", filled.batch_stats[part], "loaded", ""))
    return rows


def _left(params: Mapping[str, Any], why: str) -> list[Row]:
    return [_row(part, tree, "left at its start", why) for part, tree in params.items()]


def _not_taken(incoming: Incoming, params: Mapping[str, Any], stats: Mapping[str, Any]) -> list[Row]:
    """What the file holds and the network has no place for."""
    why = "the network has no such part"
    rows = [_row(part, tree, "not taken", why) for part, tree in incoming.params.items() if part not in params]
    for part, tree in incoming.batch_stats.items():
        if part not in stats or part not in incoming.params:
            reason = why if part not in stats else f"the file does not hold the {part} itself"
            rows.append(_row(f"{part} (running statistics)", tree, "not taken", reason))
    rows += [Row(part, *count, "not taken", why) for part, count in incoming.outside.items() if part not in params]
    return rows


def _row(part: str, tree: Any, state: str, why: str) -> Row:
    leaves = jax.tree.leaves(tree)
    return Row(part, len(leaves), sum(int(np.size(leaf)) for leaf in leaves), state, why)
