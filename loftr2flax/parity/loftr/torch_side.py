"""LoFTR in torch as the network to agree with, in float64 and in float32. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from kornia.feature import LoFTR as KorniaLoFTR
from torch import Tensor, nn

from loftr2flax.models.loftr import LoFTRConfig
from loftr2flax.models.loftr.reference import TorchLoFTR, kornia_config
from loftr2flax.models.loftr.stages import stage_names
from loftr2flax.parity.loftr.names import for_stage, with_matches
from loftr2flax.parity.network import Trace


class TorchSide:
    """kornia's LoFTR as a `Network`.

    Args:
      state: torch keys without a prefix, the whole network's or the coarse transformer's.
      config: the network.
      dtype: "float32" or "float64".
      coarse_only: whether the coarse layers are the only stages.

    Raises:
      ValueError: the weights are not those of such a network.
    """

    def __init__(
        self, state: Mapping[str, np.ndarray], config: LoFTRConfig, dtype: str = "float32", coarse_only: bool = False
    ) -> None:
        self.config = config
        self.coarse_only = coarse_only
        self.network = TorchLoFTR(_completed(state, config), config, dtype)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As `stages.stage_names`, or the coarse layers alone."""
        names = stage_names(self.config)
        return tuple(name for name in names if name.startswith("loftr_coarse/")) if self.coarse_only else names

    def stage(self, name: str, given: Trace) -> dict[str, np.ndarray]:
        """One stage in this network's precision."""
        return with_matches(self.network.stage(name, for_stage(name, given)))

    def features(self, images: Trace) -> dict[str, np.ndarray]:
        """What the coarse transformer is fed with for these images, by stage name."""
        backbone = self.network.stage("backbone", images)
        return self.network.stage("pos_encoding", backbone)

    def gradients(self, inputs: Trace, cotangents: Trace) -> dict[str, np.ndarray]:
        """See `network.Differentiable`. Running statistics count as leaves, as they do on the Flax side."""
        network = self.network
        with _spelled_out_norms(network.module):
            leaves = {**dict(network.module.named_parameters()), **dict(network.module.named_buffers())}
            leaves = {key: leaf for key, leaf in leaves.items() if leaf.is_floating_point() and "pos_enc" not in key}
            leaves["coarse_matching.bin_score"] = network.bin_score
            for leaf in leaves.values():
                leaf.requires_grad_(True)
            trace: dict[str, Any] = dict(inputs)
            for name in self.stage_names:
                trace |= network.tensors(name, trace)
            parts = [(trace[name] * torch.as_tensor(c).to(network.dtype)).sum() for name, c in cotangents.items()]
            found = torch.autograd.grad(torch.stack(parts).sum(), list(leaves.values()), allow_unused=True)
            for leaf in leaves.values():
                leaf.requires_grad_(False)
        pairs = zip(leaves.items(), found, strict=True)
        return {key: (torch.zeros_like(leaf) if grad is None else grad).numpy() for (key, leaf), grad in pairs}


def _completed(state: Mapping[str, np.ndarray], config: LoFTRConfig) -> dict[str, Any]:
    """The state of a whole network: a coarse transformer that comes alone gets a backbone that is never run."""
    have: dict[str, Any] = {key: np.array(value) for key, value in state.items()}
    if any(key.startswith("backbone.") for key in have):
        return have
    blank = KorniaLoFTR(pretrained=None, config=kornia_config(config)).state_dict()
    return {key: value for key, value in blank.items() if key.startswith("backbone.")} | have


class _spelled_out_norms:
    """Within the block every BatchNorm is its formula, through which gradients reach the running statistics."""

    def __init__(self, module: nn.Module) -> None:
        self._norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        for norm in self._norms:
            norm.forward = lambda x, norm=norm: _batch_norm(norm, x)  # type: ignore[method-assign, misc]

    def __exit__(self, *_: object) -> None:
        for norm in self._norms:
            del norm.forward  # the instance's own; the class's is behind it


def _batch_norm(norm: Any, x: Tensor) -> Tensor:
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * factor
    normal: Tensor = x * factor[:, None, None] + shift[:, None, None]
    return normal
