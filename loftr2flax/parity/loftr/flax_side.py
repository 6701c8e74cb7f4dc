"""LoFTR in Flax as a network that can be judged. Matrix products run at the highest precision that jax has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from loftr2flax.models.loftr import LoFTR, LoFTRConfig, stages
from loftr2flax.models.loftr.transformer import FeatureTransformer
from loftr2flax.parity.loftr.names import for_stage, with_matches
from loftr2flax.parity.network import Trace


class FlaxLoFTR:
    """The candidate.

    Args:
      config: the network.
      variables: ``params`` and ``batch_stats`` of the whole network; or the tree of a coarse transformer alone
        (``layers_0``, or ``layers.0.0`` and ``layers.0.1``), and then its layers are the only stages.
    """

    def __init__(self, config: LoFTRConfig, variables: Mapping[str, Any]) -> None:
        self.config = config
        self.whole = "params" in variables
        self.model = LoFTR(config)
        tree = variables if self.whole else {"params": {"loftr_coarse": variables}}
        self.variables: dict[str, Any] = jax.tree.map(_in_float32, dict(tree))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As `stages.stage_names`; the coarse layers of a tree that holds no more."""
        names = stages.stage_names(self.config)
        return names if self.whole else tuple(name for name in names if name.startswith("loftr_coarse/"))

    def stage(self, name: str, given: Trace) -> dict[str, np.ndarray]:
        """One stage, compiled."""
        with jax.default_matmul_precision("highest"):
            return with_matches(stages.run_stage(self.model, self.variables, name, for_stage(name, given)))

    def gradients(self, inputs: Trace, cotangents: Trace) -> dict[str, np.ndarray]:
        """See `network.Differentiable`; the whole network in one compiled step, not stage by stage."""

        def total(variables: Mapping[str, Any]) -> jax.Array:
            made = self._matcher(variables, inputs) if self.whole else self._coarse(variables, inputs)
            return jnp.stack([(made[name] * cotangent).sum() for name, cotangent in cotangents.items()]).sum()

        with jax.default_matmul_precision("highest"):
            found = jax.jit(jax.grad(total))(self.variables)
        flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in jax.tree.flatten_with_path(found)[0]}
        depth = 0 if self.whole else len("params/loftr_coarse/")
        return {path[depth:]: np.asarray(leaf) for path, leaf in flat.items()}

    def _matcher(self, variables: Mapping[str, Any], inputs: Trace) -> dict[str, Any]:
        images = [inputs[f"image/{side}"] for side in (0, 1)]
        masks = [inputs.get(f"mask/{side}") for side in (0, 1)]
        found: Any = self.model.apply(dict(variables), *images, *masks, ids=inputs["ids"])
        made = {"conf_matrix": found.conf_matrix, "expectation": found.expec_f}
        if not self.config.fine:
            (_, fine0), (_, fine1) = self.model.apply(dict(variables), *images, method="features")
            made |= {"backbone/fine/0": fine0, "backbone/fine/1": fine1}
        return made

    def _coarse(self, variables: Mapping[str, Any], inputs: Trace) -> dict[str, Any]:
        features = [inputs[f"pos_encoding/{side}"] for side in (0, 1)]
        flat = [x.reshape(len(x), -1, x.shape[-1]) for x in features]
        masks = [self.model.coarse_mask(inputs.get(f"mask/{side}")) for side in (0, 1)]  # type: ignore[arg-type]
        transformer = FeatureTransformer(self.config.coarse_layers, self.config)
        made: Any = transformer.apply({"params": variables["params"]["loftr_coarse"]}, *flat, *masks)
        return {f"{self.stage_names[-1]}/{side}": made[side] for side in (0, 1)}


def _in_float32(leaf: np.ndarray) -> np.ndarray:
    return np.asarray(leaf).astype(np.float32)
