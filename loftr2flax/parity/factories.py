"""A user's own networks: ``--torch package.module:factory --flax package.module:factory``.

What is imported stands on the command line and nowhere else: a mapping file cannot name code. `network` has the
protocol, docs/parity.md a worked example.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from loftr2flax.errors import InputError, UsageError
from loftr2flax.parity.inputs import Feed, Size, image_feeds
from loftr2flax.parity.network import FlaxFactory, MakesInputs, Network
from loftr2flax.parity.subject import Subject, TorchPart

RUNS = 2
"""Runs of a network that makes its own inputs, from seeds that follow one another."""


def load_factory(option: str, name: str | Callable[..., Any]) -> Callable[..., Any]:
    """``package.module:factory`` → the factory; a function is given back as it is.

    Modules of the working directory are found, as they are by ``python -m``.

    Raises:
      UsageError: the text has no colon, the module cannot be imported, or has no such name.
    """
    if callable(name):
        return name
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"{option} {name}: not a module and a factory", f"such as `{option} my_package.nets:make`")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{option} {name}: {error}", "is the module installed, or in this folder?") from None
    if not callable(found):
        raise UsageError(f"{option} {name}: {attribute} cannot be called", "name a function that makes the network")
    factory: Callable[..., Any] = found
    return factory


def custom_torch(
    factory: Callable[..., Any],
    state: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    images: Sequence[Path],
    seed: int,
    sizes: Sequence[Size],
) -> TorchPart:
    """The torch side of a user's own: ``factory(state, facts, "float64")`` and ``factory(state, facts, "float32")``.

    Raises:
      InputError: the factory raises.
    """
    oracle, reference = (_made("--torch", factory, state, dict(facts), dtype) for dtype in ("float64", "float32"))
    if isinstance(oracle, MakesInputs):
        feeds = [Feed.of(oracle.inputs(s), f"inputs of seed {s}", f"seed {s}") for s in range(seed, seed + RUNS)]
    else:
        feeds = image_feeds(images, seed, sizes, masks=False)
    return TorchPart(oracle, reference, feeds)


def custom_candidate(factory: FlaxFactory, facts: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Network]:
    """Makes the Flax side of a user's own: ``factory(variables, facts)``."""
    return lambda variables: _made("--flax", factory, variables, dict(facts))


def custom_subject(candidate: Callable[[Mapping[str, Any]], Network], stages: Sequence[str], title: str) -> Subject:
    """What is known of a user's network: no more than the names of its stages."""

    def stage_of(leaf: str) -> str:
        return next((name for name in stages if f"/{name}/" in f"/{leaf}"), "")

    return Subject("custom", title, candidate, stage_of)


def _made(option: str, factory: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return factory(*arguments)
    except Exception as error:  # a user's own code: whatever it raises, the option that named it is told
        message = (
            f"{option}: the factory {getattr(factory, '__name__', factory)} raised {type(error).__name__}: {error}"
        )
        raise InputError(message, "call it in Python to see where") from error
