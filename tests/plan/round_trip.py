"""State dicts carried to a Flax tree and back, in memory and through files."""

from pathlib import Path

import numpy as np

from loftr2flax import dtypes
from loftr2flax.checkpoint import LeafInfo, Scratch
from loftr2flax.convert import convert_checkpoint
from loftr2flax.formats import open_checkpoint
from loftr2flax.mapping import parse_mapping
from loftr2flax.plan import Wishes, build_plan, run_move


def mapping_of(text):
    """A mapping as a user would write it."""
    return parse_mapping(text.encode(), Path("user.yaml"))


def infos_of(arrays):
    return {name: LeafInfo(array.shape, str(array.dtype)) for name, array in arrays.items()}


def carry(mapping, arrays, direction="forward", **wishes):
    """The plan, and the arrays that running it makes."""
    plan = build_plan(mapping, infos_of(arrays), direction, Wishes(**wishes))
    made = {}
    for move in plan.moves:
        array = run_move(move, lambda name: arrays[name])
        lent = run_move(move, lambda name: arrays[name], Scratch())
        assert lent.tobytes() == array.tobytes(), "the same in memory that is lent"
        assert (array.shape, array.dtype) == (move.info.shape, dtypes.numpy_dtype(move.info.dtype)), "as planned"
        assert array.flags.c_contiguous
        made[move.leaf] = array.copy()
    return plan, made


def assert_same(found, wanted):
    """The same names with the same bits."""
    assert sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def there_and_back(text, arrays):
    """The tree that a mapping makes of a state dict, after it has given the state dict back bit for bit."""
    mapping = mapping_of(text)
    plan, tree = carry(mapping, arrays)
    _, back = carry(mapping, tree, "reverse", groups=plan.present)
    root = f"{plan.root}." if plan.root else ""
    assert_same({root + key: array for key, array in back.items()}, arrays)
    return tree


def through_files(text, arrays, folder):
    """The same by way of files: a torch checkpoint, an .npz, and a torch checkpoint again, in the old order."""
    import torch

    (folder / "user.yaml").write_text(text, "utf-8")
    torch.save({name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}, folder / "net.pt")
    convert_checkpoint(folder / "net.pt", folder / "net.npz", folder / "user.yaml")
    convert_checkpoint(folder / "net.npz", folder / "back.pt", folder / "user.yaml", reverse=True)
    back = torch.load(folder / "back.pt", weights_only=True)
    assert list(back) == list(arrays)
    assert_same({name: tensor.numpy() for name, tensor in back.items()}, arrays)
    with open_checkpoint(folder / "net.npz") as file:
        return {name: file.read(name) for name in file.infos}


def state_of(module, prefix="layer."):
    """A torch module's state dict as numpy arrays."""
    return {prefix + name: tensor.numpy() for name, tensor in module.state_dict().items()}


def nested(tree):
    """Slashed paths as nested dicts, as Flax wants them."""
    out = {}
    for path, array in tree.items():
        *above, name = path.split("/")
        node = out
        for word in above:
            node = node.setdefault(word, {})
        node[name] = array
    return out


def distinct(*shape, dtype=np.float32, start=0):
    """An array in which no two numbers are the same, so that no wrong place goes unseen."""
    return (np.arange(start, start + int(np.prod(shape)), dtype=np.int64) + 1).reshape(shape).astype(dtype)
