"""loftr2flax turns PyTorch checkpoints into Flax checkpoints by declarative mappings, without torch and without jax.

    from loftr2flax import convert_checkpoint, load_params

    convert_checkpoint("outdoor_ds.ckpt", "loftr.msgpack")
    variables = load_params("loftr.msgpack")

A name is loaded when it is first used. `loftr2flax.models` and `loftr2flax.parity` need the extra `parity`, and are
imported by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from loftr2flax.version import VERSION as __version__

if TYPE_CHECKING:
    from loftr2flax.checkpoint import Checkpoint as Checkpoint
    from loftr2flax.checkpoint import LeafInfo as LeafInfo
    from loftr2flax.compare.diff import diff_checkpoints as diff_checkpoints
    from loftr2flax.convert import Conversion as Conversion
    from loftr2flax.convert import convert_checkpoint as convert_checkpoint
    from loftr2flax.convert import plan_conversion as plan_conversion
    from loftr2flax.errors import Loftr2FlaxError as Loftr2FlaxError
    from loftr2flax.flaxtree import load_loftr_weights as load_loftr_weights
    from loftr2flax.flaxtree import load_params as load_params
    from loftr2flax.flaxtree import merge_params as merge_params
    from loftr2flax.formats import open_checkpoint as open_checkpoint
    from loftr2flax.inspection import inspect_checkpoint as inspect_checkpoint
    from loftr2flax.limits import Limits as Limits
    from loftr2flax.mapping import load_mapping as load_mapping

_HOMES = {
    "Checkpoint": "checkpoint",
    "Conversion": "convert",
    "LeafInfo": "checkpoint",
    "Limits": "limits",
    "Loftr2FlaxError": "errors",
    "convert_checkpoint": "convert",
    "diff_checkpoints": "compare.diff",
    "inspect_checkpoint": "inspection",
    "load_loftr_weights": "flaxtree",
    "load_mapping": "mapping",
    "load_params": "flaxtree",
    "merge_params": "flaxtree",
    "open_checkpoint": "formats",
    "plan_conversion": "convert",
}
"""The public names, each with the module that has it."""

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'loftr2flax' has no attribute {name!r}")
    found = getattr(import_module(f"loftr2flax.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
