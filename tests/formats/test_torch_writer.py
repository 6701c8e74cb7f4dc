"""State dicts written without torch, judged by torch.load(weights_only=True)."""

import pickletools
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from sample_leaves import PROVENANCE, assert_holds, every_type, infos_of, leaf, trees, write

from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.torch_writer import encode_state_dict
from loftr2flax.formats.torch_zip import PROVENANCE_RECORD


def _assert_same(state_dict, leaves):
    assert list(state_dict) == list(leaves)
    for name, array in leaves.items():
        tensor = state_dict[name]
        assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{array.dtype.name}", array.shape), name
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.stride() == torch.empty(array.shape).stride()
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert raw == array.tobytes(), name


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("container", ["", "state_dict", "model.weights"])
def test_our_file_is_what_torch_reads(tmp_path, container, mmap):
    leaves = every_type(".")
    path = write(tmp_path / "out.pt", "torch", leaves, container=container)
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    for key in container.split(".") if container else []:
        assert list(loaded) == [key]
        loaded = loaded[key]
    assert type(loaded) is OrderedDict
    _assert_same(loaded, leaves)


@pytest.mark.parametrize("container", ["", "state_dict"])
def test_our_file_is_what_we_read(tmp_path, container):
    leaves = every_type(".")
    with open_checkpoint(write(tmp_path / "out.pt", "torch", leaves, container=container)) as checkpoint:
        assert_holds(checkpoint, leaves)
        assert list(checkpoint.infos) == list(leaves)
        assert checkpoint.contents.provenance == PROVENANCE
        assert checkpoint.contents.container == container
        assert not checkpoint.contents.foreign
        assert (checkpoint.format, checkpoint.separator) == ("torch", ".")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaves=trees("."))
def test_any_state_dict_goes_to_torch(tmp_path, leaves):
    path = write(tmp_path / "out.pt", "torch", leaves, force=True)
    _assert_same(torch.load(path, weights_only=True), leaves)


def test_a_module_takes_our_file(tmp_path):
    module = torch.nn.Linear(3, 5)
    leaves = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    path = write(tmp_path / "out.pth", "torch", leaves)
    other = torch.nn.Linear(3, 5)
    other.load_state_dict(torch.load(path, weights_only=True))
    assert torch.equal(other.weight, module.weight)


def test_storages_are_aligned_and_provenance_is_no_tensor(tmp_path):
    path = write(tmp_path / "out.pt", "torch", {"a": leaf("float32", (2, 3)), "b": leaf("int8", (5,))})
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for record in archive.infolist():
            name, extra = (int.from_bytes(raw[record.header_offset + at :][:2], "little") for at in (26, 28))
            assert (record.header_offset + 30 + name + extra) % 64 == 0
        assert archive.namelist()[-1] == f"archive/{PROVENANCE_RECORD}"
        assert archive.read("archive/data/1") == leaf("int8", (5,)).tobytes()


def test_the_pickle_names_nothing_but_torchs_builders():
    infos = infos_of(every_type("."))
    names = {
        argument for opcode, argument, _ in pickletools.genops(encode_state_dict(infos)) if opcode.name == "GLOBAL"
    }
    assert {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "collections OrderedDict"} <= names
    assert all(name.startswith(("torch", "collections OrderedDict")) for name in names)


@pytest.mark.parametrize("size", [0, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 31, 1 << 40])
def test_sizes_of_every_width(size):
    from loftr2flax.checkpoint import LeafInfo

    pickle = encode_state_dict({"a": LeafInfo((size, 1), "int8")})
    integers = [
        argument for opcode, argument, _ in pickletools.genops(pickle) if "INT" in opcode.name or opcode.name == "LONG1"
    ]
    assert integers == [size, 0, size, 1, 1, 1]
