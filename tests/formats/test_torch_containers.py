"""Which state dict is taken from a file, what is listed beside it, and what names its leaves get."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_files import bits, pickled, write_checkpoint

from loftr2flax.checkpoint import Container
from loftr2flax.errors import CorruptFile, InputError, LimitExceeded
from loftr2flax.formats.pickle_values import OpaqueObject
from loftr2flax.formats.torch_containers import Found, find_state_dict
from loftr2flax.formats.torch_globals import StorageRef, TensorClaim
from loftr2flax.formats.torch_zip import TorchZip


def claim(rows: int = 2) -> TensorClaim:
    return TensorClaim(StorageRef("0", "float32", 0, 24), "float32", 0, (rows, 3), (3, 1))


W, B = claim(), claim(1)
SD = {"a.weight": W, "a.bias": B}
OPTIMIZER = {"state": {0: {"exp_avg": W}, 1: {"exp_avg": B}}, "param_groups": [{"params": [0, 1]}]}


def find(top: object, state_dict: str | None = None) -> Found:
    return find_state_dict(top, "f.pt", state_dict)


CHOICES: dict[str, tuple[object, str, list[str]]] = {
    "the_file_itself": (SD, "", ["a.weight", "a.bias"]),
    "state_dict": ({"state_dict": SD, "epoch": 3}, "state_dict", ["a.weight", "a.bias"]),
    "named_over_stray_tensors": ({"best": W, "model": SD}, "model", ["a.weight", "a.bias"]),
    "order_of_names": ({"weights": {"w": W}, "params": {"p": W}, "net": {"n": W}}, "net", ["n"]),
    "state_dict_first": ({"model": {"m": W}, "state_dict": {"s": W}}, "state_dict", ["s"]),
    "a_name_without_tensors": ({"state_dict": {"x": 1}, "weights": {"w": W}}, "weights", ["w"]),
    "only_child": ({"my_net": SD, "epoch": 1}, "my_net", ["a.weight", "a.bias"]),
    "only_child_beside_optimizer": ({"my_net": SD, "optimizer": OPTIMIZER}, "my_net", ["a.weight", "a.bias"]),
    "only_child_then_name": ({"ckpt": {"state_dict": SD, "optimizer": OPTIMIZER}}, "ckpt.state_dict", list(SD)),
    "name_in_name": ({"model": {"state_dict": SD, "step": 1}}, "model.state_dict", list(SD)),
    "nested_dicts_flatten": ({"model": {"in": {"w": W, "b": B}, "out": {"w": W}}}, "model", ["in.w", "in.b", "out.w"]),
    "no_name_is_skipped_inside": ({"model": {"model": {"w": W}, "head": {"w": W}}}, "model", ["model.w", "head.w"]),
    "several_without_names": ({"encoder": {"w": W}, "decoder": {"w": B}}, "", ["encoder.w", "decoder.w"]),
    "stray_and_nested": ({"w": W, "inner": {"w": B}}, "", ["w", "inner.w"]),
    "integer_keys_are_no_state_dict": ({"w": W, "cache": {0: W}}, "", ["w"]),
    "odd_names": ({"": W, "a b": W, "ü/☃": W, "a..b": W, "\n": W}, "", ["", "a b", "ü/☃", "a..b", "\n"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_the_choice(name: str) -> None:
    top, container, names = CHOICES[name]
    found = find(top)
    assert found.container == container
    assert list(found.claims) == names
    assert found.containers[[place.path for place in found.containers].index(container)].tensors == len(names)


def test_containers_are_listed_with_counts() -> None:
    top = {"best": W, "model": SD, "ema": {"w": W}, "optimizer": OPTIMIZER, "epoch": 3, "inner": {"net": {"x": W}}}
    assert find(top).containers == (
        Container("", 5),
        Container("model", 2),
        Container("ema", 1),
        Container("inner", 1),
    )


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ["w", "model.a.weight", "model.a.bias", "ema.v1.w"]),
        ("model", ["a.weight", "a.bias"]),
        ("ema", ["v1.w"]),
        ("ema.v1", ["w"]),
        ("snapshots.1", ["late"]),
        ("trainer.net", ["n"]),
    ],
)
def test_the_caller_overrules(path: str, names: list[str]) -> None:
    trainer = OpaqueObject(None, (), {"net": {"n": W}})
    top = {"w": W, "model": SD, "ema": {"v1": {"w": B}}, "snapshots": [{"early": W}, {"late": W}], "trainer": trainer}
    found = find(top, path)
    assert found.container == path
    assert list(found.claims) == names


def test_keys_with_dots_are_followed() -> None:
    assert list(find({"model.v1": {"w": W}, "model": {"v2": {"x": W}}}, "model.v1").claims) == ["w"]
    assert list(find({"model.v1": {"w": W}, "model": {"v2": {"x": W}}}, "model.v2").claims) == ["x"]


@pytest.mark.parametrize("path", ["nothing", "model.a", "epoch", "model.a.weight", "optimizer.state.0"])
def test_a_wrong_path_names_those_that_exist(path: str) -> None:
    with pytest.raises(InputError) as caught:
        find({"model": SD, "epoch": 3, "optimizer": OPTIMIZER}, path)
    assert caught.value.message == f"f.pt: there is no state dict {path!r}"
    assert caught.value.hint == "these hold tensors: model: 2"


def test_what_stands_beside_is_described() -> None:
    top = {
        "model": {"w": W, "version": "1.2", "note": None, "extra": {"k": 1}, "list": [W, B]},
        "epoch": 12, "loss": 0.5, "done": True, "name": "x" * 50, "blob": b"123", "big": 1 << 5000,
        "optimizer": OPTIMIZER, "best": W, "object": OpaqueObject(None, ()), 7: (1, 2),
    }  # fmt: skip
    assert {unread.path: unread.what for unread in find(top).unread} == {
        "epoch": "int 12", "loss": "float 0.5", "done": "True", "name": "text of 50 characters", "blob": "3 bytes",
        "big": "int of 5001 bits", "optimizer": "dict of 2, 2 tensors", "best": "tensor (2, 3) float32",
        "object": "object of unknown class", "int 7": "tuple of 2",
        "model.version": "text '1.2'", "model.note": "None", "model.extra": "dict of 1", "model.list": "list of 2",
    }  # fmt: skip


def test_tensors_counted_once_wherever_they_are() -> None:
    deep: Any = {"x": [claim(), (claim(), {claim(): 1})], "object": OpaqueObject(None, (claim(),), {"s": claim()})}
    deep["self"] = deep
    (unread,) = find({"model": SD, "rest": deep}).unread
    assert unread.what == "dict of 3, 4 tensors"


@pytest.mark.parametrize("top", [None, 3, [W], (W,), {}, {"epoch": 3}, OPTIMIZER, {0: W}, W])
def test_files_without_a_state_dict(top: object) -> None:
    with pytest.raises(InputError, match=r"f\.pt: no state dict was found: the file holds a"):
        find(top)


def test_keys_that_are_not_text() -> None:
    with pytest.raises(InputError, match="the state dict 'model' has a tensor under a key that is not text: int 3"):
        find({"model": {"w": W, 3: B}})


def test_two_leaves_of_one_name() -> None:
    with pytest.raises(CorruptFile, match=r"two leaves are called 'a\.b'"):
        find({"a": {"b": W}, "a.b": B})


def test_a_container_inside_itself() -> None:
    top: dict[str, Any] = {"w": W, "inner": {}}
    top["inner"]["again"] = top
    with pytest.raises(CorruptFile, match=r"the container 'inner\.again' lies inside itself"):
        find(top)
    alone: dict[str, Any] = {"model": {"w": W}}
    alone["model"]["model"] = alone["model"]
    with pytest.raises(CorruptFile, match="the container 'model' lies inside itself"):
        find(alone)


def test_depth_and_sharing_end() -> None:
    deep: dict[str, Any] = {"w": W}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(LimitExceeded, match="more than 200 deep"):
        find(deep)
    with pytest.raises(LimitExceeded, match="more than 200 deep"):
        find({"w": W, "deep": deep})
    laughs: dict[str, Any] = {"w": W}
    for _ in range(60):
        laughs = {"a": laughs, "b": laughs}
    with pytest.raises(LimitExceeded, match="hold more than 400000 values"):
        find(laughs)
    assert find({"model": SD, "rest": [laughs] * 1000}).container == "model"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.tied = self.first
        self.blocks = torch.nn.ModuleList([torch.nn.Conv1d(3, 4, 5, bias=False), torch.nn.PReLU()])
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("passing", torch.arange(4.0), persistent=False)
        self.register_parameter("absent", None)


@pytest.mark.parametrize("wrapped", [False, True])
def test_whole_modules_give_their_state_dict(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(0)
    network = Net()
    torch.save({"model": network, "epoch": 1} if wrapped else network, tmp_path / "net.pt")
    checkpoint = TorchZip(tmp_path / "net.pt")
    expected = network.state_dict()
    assert checkpoint.contents.container == ("model" if wrapped else "")
    assert list(checkpoint.infos) == list(expected)
    assert all(bits(checkpoint.read(name)) == bits(value) for name, value in expected.items())
    assert checkpoint.info("tied.weight").shares == "first.weight"
    assert f"{__name__}.Net" in checkpoint.contents.foreign


class FilledDict(dict):  # type: ignore[type-arg]
    pass


def test_dicts_of_other_classes(tmp_path: Path) -> None:
    ordered = OrderedDict(w=torch.ones(2, 3))
    ordered._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    torch.save({"state_dict": FilledDict(w=torch.ones(2, 3))}, tmp_path / "f.pt")
    torch.save({"state_dict": ordered}, tmp_path / "o.pt")
    for name in ("f.pt", "o.pt"):
        checkpoint = TorchZip(tmp_path / name)
        assert checkpoint.contents.container == "state_dict"
        assert list(checkpoint.infos) == ["w"]


def test_the_choice_reaches_the_constructor(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2, 3)}, "ema": {"b": torch.zeros(2, 3)}}, tmp_path / "w.pt")
    assert list(TorchZip(tmp_path / "w.pt").infos) == ["a"]
    assert list(TorchZip(tmp_path / "w.pt", "ema").infos) == ["b"]
    with pytest.raises(InputError, match="there is no state dict 'emma'") as caught:
        TorchZip(tmp_path / "w.pt", "emma")
    assert caught.value.hint == "these hold tensors: the file itself (an empty name): 2, model: 1, ema: 1"


def test_a_pickle_that_names_itself_ends(tmp_path: Path) -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    path = write_checkpoint(tmp_path / "c.pt", pickled({"state_dict": cycle, "rest": cycle}))
    with pytest.raises(InputError, match="no state dict was found"):
        TorchZip(path)


def test_a_sibling_that_lies_inside_itself_does_no_harm() -> None:
    ring: dict[str, Any] = {"w": W}
    ring["ring"] = ring
    found = find({"model": SD, "rest": ring})
    assert found.containers == (Container("", 3), Container("model", 2), Container("rest", 1))


def test_many_containers_that_share_their_content_end() -> None:
    shared = {f"w{i}": W for i in range(10_000)}
    with pytest.raises(LimitExceeded, match="hold more than 400000 values"):
        find({"model": SD, **{f"copy{i}": {"inner": shared} for i in range(10_000)}})
