"""Leaves in blocks: the bits of `read`, whatever the format and the layout, and the same damage told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_leaves import every_type, write

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.errors import CorruptFile, UnsupportedTensor
from loftr2flax.formats import leaf_blocks, open_checkpoint

FORMATS = [("torch", "ckpt"), ("safetensors", "safetensors"), ("npz", "npz"), ("msgpack", "msgpack")]


def agrees(checkpoint: Checkpoint, elements: int) -> None:
    for name, info in checkpoint.infos.items():
        blocks = [block.copy() for block in leaf_blocks(checkpoint, name, elements)]
        assert all(block.size == elements for block in blocks[:-1])
        assert sum(block.size for block in blocks) == info.size
        assert b"".join(block.tobytes() for block in blocks) == checkpoint.read(name).tobytes(), name
        assert {block.dtype for block in blocks} <= {checkpoint.read(name).dtype}


@pytest.mark.parametrize("elements", [1, 4, 7, 1000])
@pytest.mark.parametrize(("format", "ending"), FORMATS)
def test_every_type_in_every_format(tmp_path: Path, format: str, ending: str, elements: int) -> None:
    without = ("float8_e8m0fnu", "complex128") if format == "safetensors" else ()
    leaves = every_type("." if format == "torch" else "/", without)
    with open_checkpoint(write(tmp_path / f"a.{ending}", format, leaves)) as checkpoint:
        agrees(checkpoint, elements)


@pytest.mark.parametrize("zipped", [True, False])
def test_tied_strided_and_offset_tensors(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    state = {
        "base": base, "turned": base.T, "late": base[2:], "column": base[:, 3], "tied": base,
        "wide": base[:1].expand(4, 12), "none": torch.empty(0, 3), "one": torch.tensor(7.5),
    }  # fmt: skip
    turning = torch.complex(base, base + 1)
    state |= {"conjugate": turning.conj(), "negative": turning.clone().conj().imag}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        agrees(checkpoint, 5)


def test_other_npz_layouts(tmp_path: Path) -> None:
    arrays = {"fortran": np.asfortranarray(np.arange(15.0).reshape(3, 5)), "big": np.arange(7, dtype=">f4")}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        with open_checkpoint(tmp_path / "a.npz") as checkpoint:
            agrees(checkpoint, 4)


def test_shards(tmp_path: Path) -> None:
    leaves = {"a/w": np.arange(12, dtype=np.float32).reshape(3, 4), "b/w": np.arange(5.0)}
    for name, array in leaves.items():
        write(tmp_path / f"{name[0]}.safetensors", "safetensors", {name: array})
    index = {"weight_map": {name: f"{name[0]}.safetensors" for name in leaves}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_checkpoint(tmp_path / "model.safetensors.index.json") as checkpoint:
        assert list(checkpoint.infos) == list(leaves)
        agrees(checkpoint, 5)


@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_damage_is_told_once_the_blocks_have_ended(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    values = np.arange(4096, dtype=np.float32)
    np.savez(path, w=values) if ending == "npz" else torch.save({"w": torch.from_numpy(values)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(values[1000:1010].tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint, pytest.raises(CorruptFile, match="fails its check"):
        list(leaf_blocks(checkpoint, "w", 64))


def test_damage_beside_a_part_of_a_storage_is_told(tmp_path: Path) -> None:
    values = torch.arange(4096, dtype=torch.float32)
    torch.save({"w": values[:100]}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(values[3000:3010].numpy().tobytes())] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with open_checkpoint(tmp_path / "a.pt") as checkpoint, pytest.raises(CorruptFile, match="fails its check"):
        next(leaf_blocks(checkpoint, "w", 64))


def test_a_refused_leaf_is_refused(tmp_path: Path) -> None:
    torch.save({"s": torch.eye(3).to_sparse(), "w": torch.ones(2)}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.pt") as checkpoint, pytest.raises(UnsupportedTensor):
        list(leaf_blocks(checkpoint, "s", 4))
