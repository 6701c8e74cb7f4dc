"""The network as a row of stages, each of which can be run alone: what parity is judged by.

A *trace* is a dict of arrays by name. It begins with ``image/0``, ``image/1`` and, where there are any, ``mask/0``,
``mask/1``; each stage reads what it needs and adds its own:

| stage | adds |
|---|---|
| ``backbone`` | ``backbone/coarse/0``, ``/1`` [B, H, W, C̃] and ``backbone/fine/0``, ``/1`` [B, H, W, Ĉ] |
| ``pos_encoding`` | ``pos_encoding/0``, ``/1`` [B, H, W, C̃] |
| ``loftr_coarse/layers.{i}`` | ``loftr_coarse/layers.{i}/0``, ``/1`` [B, L, C̃] |
| ``conf_matrix`` | ``conf_matrix`` [B, L, S], and ``ids`` [3, M] of the matches, unless the trace has them already |
| ``fine_preprocess`` | ``fine_preprocess/0``, ``/1`` [M, w², Ĉ] |
| ``loftr_fine/layers.{i}`` | ``loftr_fine/layers.{i}/0``, ``/1`` [M, w², Ĉ] |
| ``expectation`` | ``expectation`` [M, 3] |

The backbone also leaves ``backbone/rough/0``, ``/1``, its fine maps before their last step. Where a trace has them, the
windows of the fine stage are smoothed one by one, as the whole network does where there are few matches; else they are
cut from ``backbone/fine``. So a free run shows the one way, and a stage fed with another network's trace the other.

A *free run* (`trace`) feeds each stage with this network's own results and shows drift. `run_stage` with the trace of
another network shows the error that one stage makes by itself. `reference.TorchLoFTR` has both under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from loftr2flax.models.loftr.chunks import by_chunks
from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.fine import expectation
from loftr2flax.models.loftr.matcher import Grid, LoFTR, check_images, flatten, grid
from loftr2flax.models.loftr.transformer import FeatureTransformer

Trace = dict[str, Any]
"""Arrays by name, numpy's or jax's."""


_MODULES = {
    "backbone": ("backbone",),
    "pos_encoding": (),
    "conf_matrix": ("coarse_matching",),
    "fine_preprocess": ("backbone", "fine_preprocess"),
    "expectation": (),
}
"""The modules whose variables a stage needs; the others are not handed over."""


def stage_names(config: LoFTRConfig) -> tuple[str, ...]:
    """The stages in the order in which they run."""
    coarse = (f"loftr_coarse/layers.{i}" for i in range(len(config.coarse_layers)))
    names = ("backbone", "pos_encoding", *coarse, "conf_matrix")
    if not config.fine:
        return names
    fine = (f"loftr_fine/layers.{i}" for i in range(len(config.fine_layers)))
    return (*names, "fine_preprocess", *fine, "expectation")


def trace(
    model: LoFTR,
    variables: Mapping[str, Any],
    image0: Any,
    image1: Any,
    mask0: Any | None = None,
    mask1: Any | None = None,
    ids: Any | None = None,
) -> Trace:
    """Every stage, each fed with what this network made before it.

    Args:
      model: the network.
      variables: its `params` and `batch_stats`.
      image0, image1: [B, H, W, 1] grey floats, 0 … 1.
      mask0, mask1: [B, H, W], True where there is image.
      ids: [3, M], the matches that the fine stage looks at; by default those that this network finds.
    """
    result: Trace = {"image/0": image0, "image/1": image1}
    result |= {name: mask for name, mask in (("mask/0", mask0), ("mask/1", mask1)) if mask is not None}
    if ids is not None:
        result["ids"] = ids
    for name in stage_names(model.config):
        result |= run_stage(model, variables, name, result)
    return result


def run_stage(model: LoFTR, variables: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> Trace:
    """One stage from the arrays of a trace: what it adds, as numpy arrays. Compiled, as the whole network is."""
    run = _layer if "/layers." in name else _backbone if name == "backbone" else _between
    out = {key: np.asarray(value) for key, value in run(model, variables, name, given).items()}
    if name == "conf_matrix":
        ids = out.pop("ids")[:, out.pop("valid")]
        out |= {} if "ids" in given else {"ids": ids}
    return out


def _before(config: LoFTRConfig, name: str) -> str:
    """The stage whose features this one takes further."""
    stage, _, layer = name.partition("/layers.")
    if layer not in ("", "0"):
        return f"{stage}/layers.{int(layer) - 1}"
    return {
        "pos_encoding": "backbone/coarse",
        "loftr_coarse": "pos_encoding",
        "conf_matrix": f"loftr_coarse/layers.{len(config.coarse_layers) - 1}",
        "fine_preprocess": f"loftr_coarse/layers.{len(config.coarse_layers) - 1}",
        "loftr_fine": "fine_preprocess",
        "expectation": f"loftr_fine/layers.{len(config.fine_layers) - 1}",
    }[stage]


def _inputs(config: LoFTRConfig, name: str, given: Mapping[str, Any]) -> list[str]:
    """Names of all that a stage reads, other than the backbone and layers."""
    fine = "backbone/rough" if "backbone/rough/0" in given else "backbone/fine"
    more = {"conf_matrix": ("mask",), "fine_preprocess": (fine,)}.get(name, ())
    both = (_before(config, name), *more)
    return [f"{what}/{side}" for what in both for side in (0, 1)] + (["ids"] if name == "fine_preprocess" else [])


def _own(variables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The variables that a stage needs."""
    return {kind: {top: tree[top] for top in _MODULES[name] if top in tree} for kind, tree in variables.items()}


def _backbone(model: LoFTR, variables: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, Array]:
    """Image by image, so that it is compiled once for each size: of all stages it takes longest."""
    images = [jnp.asarray(given[f"image/{side}"]) for side in (0, 1)]
    check_images(*images)
    made = [_compiled_backbone(model, _own(variables, name), image) for image in images]
    return {f"{name}/{kind}/{side}": maps[kind] for kind in made[0] for side, maps in enumerate(made)}


@partial(jax.jit, static_argnums=0)
def _compiled_backbone(model: LoFTR, variables: Mapping[str, Any], image: Array) -> dict[str, Array]:
    bound = model.bind(dict(variables))
    coarse, rough = bound.backbone.rough(image)
    return {"coarse": coarse, "fine": bound.backbone.smooth(rough), "rough": rough}


def _layer(model: LoFTR, variables: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, Array]:
    """One encoder layer, run as a transformer of one layer, so that all layers of a kind are compiled once."""
    config = model.config
    stage, _, number = name.partition("/layers.")
    own = {f"layers_{number}": "layers_0", f"layers.{number}.0": "layers.0.0", f"layers.{number}.1": "layers.0.1"}
    params = {own[key]: value for key, value in variables["params"][stage].items() if key in own}
    names = config.coarse_layers if stage == "loftr_coarse" else config.fine_layers
    before = _before(config, name)
    features = [jnp.asarray(given[f"{before}/{side}"]) for side in (0, 1)]
    features = [flatten(x) if x.ndim == 4 else x for x in features]
    masks = (model.coarse_mask(given.get(f"mask/{side}")) if stage == "loftr_coarse" else None for side in (0, 1))
    network = model.transformer((names[int(number)],), config)
    return _pair(name, *_compiled_layer(network, params, *features, *masks))


@partial(jax.jit, static_argnums=0)
def _compiled_layer(
    network: FeatureTransformer, params: Mapping[str, Any], *inputs: Array | None
) -> tuple[Array, Array]:
    updated: Any = network.apply({"params": params}, *inputs)
    return updated[0], updated[1]


def _between(model: LoFTR, variables: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, Array]:
    """A stage that is neither the backbone nor an encoder layer."""
    wanted = {key: jnp.asarray(given[key]) for key in _inputs(model.config, name, given) if key in given}
    cells = name in ("conf_matrix", "fine_preprocess")  # these count them, and are compiled for each grid
    grids = tuple(grid(given[f"pos_encoding/{side}"]) for side in (0, 1)) if cells else ()
    added: dict[str, Array] = _compiled(model, name, grids, _own(variables, name), wanted)
    return added


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(
    model: LoFTR, name: str, grids: tuple[Grid, ...], variables: Mapping[str, Any], given: Mapping[str, Array]
) -> dict[str, Array]:
    bound = model.bind(dict(variables))
    before = _before(model.config, name)
    first, second = given[f"{before}/0"], given[f"{before}/1"]
    if name == "pos_encoding":
        return _pair(name, bound.encode_position(first), bound.encode_position(second))
    if name == "conf_matrix":
        masks = [bound.coarse_mask(given.get(f"mask/{side}")) for side in (0, 1)]
        conf_matrix = bound.confidence(first, second, *masks)
        ids, _, valid, _ = bound.coarse_matches(conf_matrix, grids[0], grids[1], *masks)
        return {"conf_matrix": conf_matrix, "ids": ids, "valid": valid}
    if name == "fine_preprocess":
        return _pair(name, *_windows(model, variables, grids, given, (first, second)))
    return {"expectation": expectation(first, second)}


def _windows(
    model: LoFTR,
    variables: Mapping[str, Any],
    grids: tuple[Grid, ...],
    given: Mapping[str, Array],
    coarse: tuple[Array, Array],
) -> tuple[Array, Array]:
    ids = given["ids"]
    rough = "backbone/rough/0" in given
    maps = [given[f"backbone/{'rough' if rough else 'fine'}/{side}"] for side in (0, 1)]

    def some(ids: Array) -> Array:
        found: Any = model.apply(variables, *maps, *coarse, ids, *grids, rough, method="fine_windows")
        return jnp.stack(found, 1)

    both = by_chunks(some, ids, jnp.ones(ids.shape[1:], bool))  # [M, 2, w², Ĉ]
    return both[:, 0], both[:, 1]


def _pair(name: str, first: Array, second: Array) -> dict[str, Array]:
    return {f"{name}/0": first, f"{name}/1": second}
