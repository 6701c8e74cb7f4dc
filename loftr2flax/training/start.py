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
from loftr2flax.training.config import DenseConfig, MatchConfig
from loftr2flax.training.fit import WrongNetwork, check_fit, taken_for_granted
from loftr2flax.training.incoming import BACKBONE, COARSE, Incoming, first_layers, read_incoming

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


def from_scratch(variables: Mapping[str, Any]) -> Loaded:
    """Everything at its random start."""
    return Loaded(dict(variables), tuple(_left(variables["params"], "no weights were given")))


def load_start(variables: Mapping[str, Any], config: DenseConfig, limits: Limits = DEFAULT) -> Loaded:
    """Module 1's variables, with what `loftr_pretrained_ckpt` holds for it; ``limits`` bound what it may ask.

    Raises:
      WrongNetwork: the weights are of another depth, width, number of heads, attention, epsilon or sharing.
      MappingMismatch: a leaf is missing or of another shape.
      Loftr2FlaxError: the file is refused.
    """
    named, alone = config.loftr_pretrained_ckpt, _ALONE.get(config.loftr_parts)
    if not named:
        return from_scratch(variables)
    if not config.use_loftr and alone != BACKBONE:
        raise WrongNetwork(
            f"{named}: use_loftr=false: no LoFTR weights fit the generic SiameseTransformer",
            "`--use-loftr true`, or `--loftr-parts backbone`, or leave out --loftr-pretrained-ckpt",
        )
    incoming = read_incoming(named, config, alone, limits)
    _demand(incoming, alone or COARSE, config)
    params, stats = variables["params"], variables.get("batch_stats", {})
    taken = [part for part in params if part in incoming.params and alone in (part, None)]
    check_fit(incoming, config, taken)
    if config.loftr_layers and COARSE in taken:
        incoming.params[COARSE] = first_layers(incoming.params[COARSE], config.loftr_layers)
    filled = _filled(params, stats, incoming, taken)
    lacking = {part: tree for part, tree in params.items() if part not in taken}
    why = dict.fromkeys(lacking, "the file does not hold it")
    if alone:
        why = dict.fromkeys(lacking, f"loftr_parts={config.loftr_parts} takes the {config.loftr_parts} alone")
    rows = _loaded_rows(filled, "", f"the first {config.loftr_layers} layers" if config.loftr_layers else "")
    rows += [row for part, tree in lacking.items() for row in _left({part: tree}, why[part])]
    return Loaded(
        {"params": {**params, **filled.params}, "batch_stats": {**stats, **filled.batch_stats}},
        (*rows, *_not_taken(incoming, params, stats)),
        (*incoming.notes, *taken_for_granted(incoming, config, taken)),
    )


def load_trained(variables: Mapping[str, Any], config: MatchConfig, limits: Limits = DEFAULT) -> Loaded:
    """Module 2's variables, both branches started from the weights that Module 1's training wrote.

    Raises: as `load_start`.
    """
    if not config.dense_weights:
        return from_scratch(variables)
    incoming = read_incoming(config.dense_weights, config, None, limits)
    params, stats = dict(variables["params"]), dict(variables["batch_stats"])
    taken = list(params[_BRANCHES[0]])
    for part in taken:
        _demand(incoming, part, config)
    check_fit(incoming, config, taken)
    rows = []
    for branch in _BRANCHES:
        filled = _filled(params[branch], stats[branch], incoming, taken)
        params[branch], stats[branch] = filled.params, filled.batch_stats
        rows += _loaded_rows(filled, f"{branch}/", "")
    rest = {part: tree for part, tree in params.items() if part not in _BRANCHES}
    one = _BRANCHES[0]
    return Loaded(
        {"params": params, "batch_stats": stats},
        (*rows, *_left(rest, "new in Module 2"), *_not_taken(incoming, params[one], stats[one])),
        (*incoming.notes, *taken_for_granted(incoming, config, taken)),
    )


class _Filled(NamedTuple):
    """The parts of one network that were taken from the file."""

    params: dict[str, Tree]
    batch_stats: dict[str, Tree]


def _demand(incoming: Incoming, part: str, config: DenseConfig | MatchConfig) -> None:
    """Raises WrongNetwork where the file lacks what was asked of it."""
    if part in incoming.params:
        return
    told, hint = f"{incoming.path}: holds no {_CALLED.get(part, part)}", f"loftr2flax inspect {incoming.path}"
    if isinstance(config, MatchConfig):
        raise WrongNetwork(told, "Module 2 starts from the weights.npz that `loftr2flax train dense` writes")
    for word, other in _ALONE.items():
        if other != part and other in incoming.params:
            hint = f"`--loftr-parts {word}`"
    raise WrongNetwork(f"{told}, and loftr_parts={config.loftr_parts}", hint)


def _filled(params: Mapping[str, Any], stats: Mapping[str, Any], incoming: Incoming, taken: list[str]) -> _Filled:
    """The parts with the file's weights, and the running statistics of those that have some."""
    filled = _Filled({}, {})
    for part in taken:
        filled.params[part] = _merged(incoming.path, params[part], incoming.params[part], part)
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
    return rows


def _row(part: str, tree: Any, state: str, why: str) -> Row:
    leaves = jax.tree.leaves(tree)
    return Row(part, len(leaves), sum(int(np.size(leaf)) for leaf in leaves), state, why)
