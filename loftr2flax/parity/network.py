"""What a network must be able to do to be judged: run one stage from given arrays.

A *trace* is a dict of numpy arrays by name. It begins with the inputs, each stage reads what it needs and adds its
own. The same names and the same layouts stand on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

Trace = Mapping[str, np.ndarray]
"""Arrays by name."""


class Network(Protocol):
    """One side of a comparison: torch in float64, torch in float32, or the candidate."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages in the order in which they run."""
        ...

    def stage(self, name: str, given: Trace) -> dict[str, np.ndarray]:
        """One stage: what it adds to the trace.

        Whole numbers and truth values are choices: they have to be equal, not near, and the stages behind go on with
        the oracle's on both sides.
        """
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A network that gives gradients, too."""

    def gradients(self, inputs: Trace, cotangents: Trace) -> dict[str, np.ndarray]:
        """The gradient of Σ ⟨cotangent, output⟩ with respect to every leaf, by the leaf's own name.

        ``cotangents`` has an array for each output that counts; the torch side answers by torch keys, the candidate by
        paths of its tree. A leaf that no output depends on has zeros.
        """
        ...


@runtime_checkable
class MakesInputs(Protocol):
    """A network of another kind than an image matcher says what it wants to be fed with."""

    def inputs(self, seed: int) -> dict[str, np.ndarray]:
        """The inputs of one run, float32, drawn from a seed."""
        ...


TorchFactory = Callable[[Mapping[str, np.ndarray], Mapping[str, Any], str], Network]
"""``factory(state_dict, facts, dtype)``: torch keys below the mapping's root, its facts, "float32" or "float64"."""

FlaxFactory = Callable[[Mapping[str, Any], Mapping[str, Any]], Network]
"""``factory(variables, facts)``: the nested tree of the target, the mapping's facts."""
