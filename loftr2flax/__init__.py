"""loftr2flax turns PyTorch checkpoints into Flax checkpoints by declarative mappings, without torch and without jax.

    from loftr2flax import convert_checkpoint, load_params

    convert_checkpoint("outdoor_ds.ckpt", "loftr.msgpack")
    variables = load_params("loftr.msgpack")

Importing the package loads numpy and nothing heavier; `loftr2flax.models` needs jax and flax, and is imported by name.
"""

from loftr2flax.checkpoint import Checkpoint as Checkpoint
from loftr2flax.checkpoint import LeafInfo as LeafInfo
from loftr2flax.convert import Conversion as Conversion
from loftr2flax.convert import convert_checkpoint as convert_checkpoint
from loftr2flax.convert import plan_conversion as plan_conversion
from loftr2flax.errors import Loftr2FlaxError as Loftr2FlaxError
from loftr2flax.flaxtree import load_loftr_weights as load_loftr_weights
from loftr2flax.flaxtree import load_params as load_params
from loftr2flax.flaxtree import merge_params as merge_params
from loftr2flax.formats import open_checkpoint as open_checkpoint
from loftr2flax.inspection import inspect_checkpoint as inspect_checkpoint
from loftr2flax.mapping import load_mapping as load_mapping
from loftr2flax.version import VERSION as __version__

__all__ = [
    "Checkpoint",
    "Conversion",
    "LeafInfo",
    "Loftr2FlaxError",
    "__version__",
    "convert_checkpoint",
    "inspect_checkpoint",
    "load_loftr_weights",
    "load_mapping",
    "load_params",
    "merge_params",
    "open_checkpoint",
    "plan_conversion",
]
