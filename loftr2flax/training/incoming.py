"""What a file brings to the start of a run: the parts of a network that it holds, and what it says of them.

A file is one of `convert`'s outputs (mappings loftr, loftr_coarse, ifvit_jax), weights that a run wrote, or the torch
checkpoint itself, which is converted in memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loftr2flax.checkpoint import Checkpoint, told_choice
from loftr2flax.convert import Job, Order, prepared
from loftr2flax.convert.facts import recorded_facts
from loftr2flax.convert.provenance import stated_facts
from loftr2flax.convert.stream import stream
from loftr2flax.errors import InputError, UsageError
from loftr2flax.fetch import source
from loftr2flax.flaxtree import Tree, nested
from loftr2flax.formats import open_checkpoint
from loftr2flax.limits import Limits
from loftr2flax.training.config import DenseConfig, TrainConfig

COARSE, FINE, BACKBONE = "loftr_coarse", "loftr_fine", "backbone"

_COARSE_PARTS, _FINE_PARTS = (BACKBONE, COARSE), ("fine_preprocess", FINE)
_MODULE_2 = ("whole", "roi")

_SHARED = re.compile(r"layers_(\d+)")
_SEPARATE = re.compile(r"layers\.(\d+)\.[01]")


class Incoming(NamedTuple):
    """A file's leaves by part, numpy arrays; and what it states of its network.

    Attributes:
      path: the file, as it was named.
      params, batch_stats: ``{part: tree}``.
      facts: what the file's record says that weights do not show; empty for most torch files.
      outside: leaves and numbers of what a torch file holds beside that, by the first word of its names.
      notes: things to tell, each one line.
    """

    path: str
    params: dict[str, Tree]
    batch_stats: dict[str, Tree]
    facts: Mapping[str, Any]
    outside: Mapping[str, tuple[int, int]] = {}
    notes: tuple[str, ...] = ()


class Layers(NamedTuple):
    """A transformer's encoder layers, as its names tell: one for both images, or one for each; and their numbers."""

    separate: bool
    numbers: tuple[int, ...]


def parts_of(config: TrainConfig) -> tuple[str, ...]:
    """The parts of the network that have weights; in Module 2, of each branch."""
    return _COARSE_PARTS + (_FINE_PARTS if isinstance(config, DenseConfig) and config.fine else ())


def layers_of(part: Mapping[str, Any]) -> Layers:
    """The layers among a part's names: ``layers_3``, or ``layers.3.0`` and ``layers.3.1``."""
    for separate, pattern in ((True, _SEPARATE), (False, _SHARED)):
        if found := {int(match[1]) for name in part if (match := pattern.fullmatch(name))}:
            return Layers(separate, tuple(sorted(found)))
    return Layers(False, ())


def first_layers(part: Tree, count: int) -> Tree:
    """A transformer's part with its first ``count`` layers alone, and whatever is no layer."""
    matches = {name: _SEPARATE.fullmatch(name) or _SHARED.fullmatch(name) for name in part}
    return {name: part[name] for name, match in matches.items() if match is None or int(match[1]) < count}


def read_incoming(named: str, config: TrainConfig, alone: str | None, limits: Limits) -> Incoming:
    """Reads what starts a run.

    Args:
      named: a path, or the name of a checkpoint that has been fetched.
      config: says whether sublayers are shared, and where to look in a torch file.
      alone: the one part that will be taken, or None.
      limits: what the file may ask of this machine.

    Raises:
      InputError: it holds no part of a LoFTR, or an array where a part should be.
      Loftr2FlaxError: the file is refused, or is not in the cache.
    """
    path = source.checkpoint(named)
    with open_checkpoint(path, config.state_dict or None, limits) as checkpoint:
        if checkpoint.separator == "/":
            return _from_tree(checkpoint, config)
        choice = told_choice(checkpoint.contents.container, checkpoint.contents.containers)
        sign = f"{config.prefix.strip('.')}.backbone." if config.prefix else "backbone."
        complete = any(sign in name for name in checkpoint.infos)
    notes = (choice,) if choice else ()
    if alone == COARSE or not complete:
        return _converted(path, _transformer(config), config, limits)._replace(notes=notes)
    incoming = _converted(path, "loftr", config, limits)._replace(notes=notes)
    if alone is None and config.sublayers == "separate":
        incoming.params.update(_converted(path, _transformer(config), config, limits).params)
    return incoming


def _transformer(config: TrainConfig) -> str:
    """The mapping of the coarse transformer alone."""
    return "loftr_coarse" if config.sublayers == "shared" else "ifvit_jax"


def _from_tree(checkpoint: Checkpoint, config: TrainConfig) -> Incoming:
    if config.prefix:
        raise UsageError(f"{checkpoint.path}: prefix={config.prefix} is for a torch file", "leave out --prefix")
    leaves = {name: checkpoint.read(name) for name in checkpoint.infos}
    return _parts(str(checkpoint.path), leaves, stated_facts(checkpoint))


def _converted(path: Path, mapping: str, config: TrainConfig, limits: Limits) -> Incoming:
    """A torch file's leaves by a mapping, in memory."""
    order = Order(mapping, state_dict=config.state_dict or None, prefix=config.prefix or None, limits=limits)
    with prepared(path, None, order) as job:
        leaves = {move.leaf: array.copy() for move, array in stream(job.plan.moves, job.source)}
        incoming = _parts(str(path), leaves, recorded_facts(job.source, job.plan.mapping))
        return incoming._replace(outside=_counted(job))


def _counted(job: Job) -> dict[str, tuple[int, int]]:
    """Leaves and numbers that the mapping leaves outside, by part."""
    matcher = ".".join(job.plan.root.split(".")[: -len(job.plan.mapping.at) or None])
    counts = defaultdict[str, list[int]](list)
    for name in job.plan.outside:
        counts[name.removeprefix(f"{matcher}.").split(".")[0]].append(prod(job.source.infos[name].shape))
    return {part: (len(sizes), sum(sizes)) for part, sizes in counts.items()}


def _parts(path: str, leaves: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Incoming:
    hint = f"loftr2flax inspect {path}"
    try:
        tree = nested(leaves)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint) from None
    if leaves and all(name.startswith(("params/", "batch_stats/")) for name in leaves):
        params, stats = tree.get("params", {}), tree.get("batch_stats", {})
    elif layers_of(tree).numbers:
        params, stats = {COARSE: tree}, {}
    else:
        raise InputError(f"{path}: holds neither a LoFTR nor its transformer", hint)
    if any(branch in params for branch in _MODULE_2):
        raise InputError(f"{path}: holds Module 2, of two branches", "a run starts from the weights of Module 1")
    for kind, parts in (("params", params), ("batch_stats", stats)):
        for part in _COARSE_PARTS + _FINE_PARTS:
            if not isinstance(parts.get(part, {}), dict):
                raise InputError(f"{path}: {kind}/{part}: one array, where a part of a network should be", hint)
    return Incoming(path, params, stats, facts)
