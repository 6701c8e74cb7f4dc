"""Headers from a few words: ``"fc.weight 3 4, fc.bias 3, steps int64"``."""

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo


def headers(text: str) -> dict[str, LeafInfo]:
    """Leaf infos by name; a word that is no number is the dtype, float32 without one."""
    infos = {}
    for entry in text.split(","):
        name, *words = entry.split()
        kinds = [word for word in words if word in dtypes.NAMES]
        shape = tuple(int(word) for word in words if word not in kinds)
        infos[name] = LeafInfo(shape, kinds[0] if kinds else "float32")
    return infos
