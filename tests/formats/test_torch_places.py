"""What is said of a file without the state dict that was asked for: true, and what a hint names can be taken."""

from __future__ import annotations

import re
from typing import Any

import pytest

from loftr2flax.checkpoint import Container
from loftr2flax.errors import InputError
from loftr2flax.formats.pickle_values import OpaqueObject
from loftr2flax.formats.torch_containers import Found, find_state_dict
from loftr2flax.formats.torch_globals import StorageRef, TensorClaim

W = TensorClaim(StorageRef("0", "float32", 0, 24), "float32", 0, (2, 3), (3, 1))
B = TensorClaim(StorageRef("0", "float32", 0, 24), "float32", 0, (1, 3), (3, 1))
SD = {"a.weight": W, "a.bias": B}
OTHER = {"b.weight": W}
OPTIMIZER = {"state": {0: {"exp_avg": W}, 1: {"exp_avg": B}}, "param_groups": [{"params": [0, 1]}]}
GAN = {"net": {"generator": SD, "discriminator": OTHER}, "step": 3}
SAVE = "save `model.state_dict()` with torch.save"
NO_NAMES = "nothing in the file holds tensors under names"


def find(top: object, state_dict: str | None = None) -> Found:
    return find_state_dict(top, "f.pt", state_dict)


def _refusal(top: object, state_dict: str | None) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        find(top, state_dict)
    return caught.value.message, caught.value.hint


NOTHING: dict[str, tuple[object, str, str]] = {
    "no_tensors": ({"epoch": 3}, "a dict without any", SAVE),
    "number": (3, "an int 3", SAVE),
    "object": (OpaqueObject(None, ()), "an object of unknown class", SAVE),
    "bare_tensor": (W, "a single tensor without a name", SAVE),
    "list_of_tensors": ([W, B], "a list of 2 with 2 tensors, none in a state dict", SAVE),
    "tuple_of_one": ((W,), "a tuple of 1 with 1 tensor, none in a state dict", SAVE),
    "dict_of_lists": ({"a": [W], "b": [B]}, "a dict of 2 with 2 tensors, none in a state dict", SAVE),
    "numbers_as_keys": ({0: W}, "a dict of 1 with 1 tensor, none in a state dict", SAVE),
    "optimizer": (OPTIMIZER, "an optimizer's state", SAVE),
    "optimizer_inside": ({"optimizer": OPTIMIZER}, "a dict of 1 with 2 tensors, none in a state dict", SAVE),
    "list_of_dicts": (
        [SD, OTHER], "a list of 2 with 2 tensors, some in dicts further in",
        "take one of these with --state-dict: 0: 2, 1: 1"),
    "dict_of_lists_of_dicts": (
        {"nets": [SD, [OTHER]]}, "a dict of 1 with 2 tensors, some in dicts further in",
        "take one of these with --state-dict: nets.0: 2, nets.1.0: 1"),
    "object_with_attributes": (
        OpaqueObject(None, (), {"net": SD}), "an object of unknown class with 2 tensors, some in dicts further in",
        "take one of these with --state-dict: net: 2"),
}  # fmt: skip


@pytest.mark.parametrize("asked", [None, ""])
@pytest.mark.parametrize("name", NOTHING)
def test_a_file_without_a_state_dict(name: str, asked: str | None) -> None:
    top, holds, hint = NOTHING[name]
    assert _refusal(top, asked) == (f"f.pt: no state dict was found: the file holds {holds}", hint)


MISSES: dict[str, tuple[object, str, str]] = {
    "dict_of_lists": ({"a": [W], "b": [B]}, "a", NO_NAMES),
    "list_of_tensors": ([W, B], "0", NO_NAMES),
    "bare_tensor": (W, "a", NO_NAMES),
    "last_part_of_the_name": (
        GAN, "discriminator", "these hold tensors: net.discriminator: 1, net: 3, net.generator: 2"),
    "another_name": (GAN, "gan", "these hold tensors: net: 3, net.generator: 2, net.discriminator: 1"),
    "lightning": (
        {"state_dict": SD, "hyper_parameters": {"weights": [W]}, "callbacks": {0: W}, "optimizer_states": [OPTIMIZER]},
        "hyper_parameters", "these hold tensors: state_dict: 2"),
    "in_lists_and_objects": (
        {"best": SD, "snapshots": [OTHER, {"w": [W]}], "trainer": OpaqueObject(None, (), {"net": {"n": W}})}, "last",
        "these hold tensors: best: 2, snapshots.0: 1, trainer.net: 1"),
    "many": (
        {f"m{i}": {"w": W} for i in range(20)}, "m",
        "these hold tensors: the file itself (an empty name): 20, "
        + ", ".join(f"m{i}: 1" for i in range(7)) + ", and 13 more"),
    "the_one_that_is_meant_is_among_many": (
        {"x": {f"m{i}": {"w": [W], "v": W} for i in range(20)}}, "m19",
        "these hold tensors: x.m19: 1, x: 20, " + ", ".join(f"x.m{i}: 1" for i in range(6)) + ", and 13 more"),
    "hidden_by_another_of_its_path": (
        {"model": {"v1": SD}, "model.v1": OTHER}, "v2",
        "these hold tensors: the file itself (an empty name): 3, model.v1: 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSES)
def test_a_name_that_is_not_there(name: str) -> None:
    top, asked, hint = MISSES[name]
    assert _refusal(top, asked) == (f"f.pt: there is no state dict {asked!r}", hint)


@pytest.mark.parametrize("name", [*NOTHING, *MISSES])
def test_every_place_that_a_hint_names_can_be_taken(name: str) -> None:
    top, asked = (NOTHING[name][0], None) if name in NOTHING else MISSES[name][:2]
    _, hint = _refusal(top, asked)
    for path, count in re.findall(r"(?:: |, )([\w.]+|the file itself \(an empty name\)): (\d+)", hint):
        found = find(top, "" if path.startswith("the file") else path)
        assert len(found.claims) == int(count) > 0


@pytest.mark.parametrize(
    ("top", "asked", "where", "hint"),
    [
        ({"model": {"w": W, 3: B}}, None, "the state dict 'model'", "save it with text for keys"),
        ({"w": W, 3: B}, None, "the file", "save it with text for keys"),
        ({"model": {"w": W, 3: B}, "ema": SD}, None, "the state dict 'model'",
         "take one of these with --state-dict: ema: 2"),
        ({"a": {"w": W, 3: B}, "ema": SD}, "", "the file", "take one of these with --state-dict: ema: 2"),
    ],
)  # fmt: skip
def test_keys_that_are_not_text(top: object, asked: str | None, where: str, hint: str) -> None:
    assert _refusal(top, asked) == (f"f.pt: {where} has a tensor under a key that is not text: int 3", hint)


def test_lists_of_tensors_are_no_place_to_choose() -> None:
    top = {"state_dict": SD, "ema": OTHER, "hyper_parameters": {"weights": [W]}, "epoch": 3}
    found = find(top)
    assert found.containers == (Container("", 3), Container("state_dict", 2), Container("ema", 1))
    assert {unread.path: unread.what for unread in found.unread}["hyper_parameters"] == "dict of 1"  # W is counted
    alone = find({"my_net": SD, "hyper_parameters": {"weights": [W]}})
    assert alone.container == "my_net"
    assert alone.containers == (Container("my_net", 2),)


def test_a_preferred_name_with_nothing_but_lists_is_passed_over() -> None:
    assert find({"model": {"layers": [W]}, "weights": SD}).container == "weights"


def test_an_optimizer_by_name_can_still_be_taken() -> None:
    named = {"state": {"fc": {"exp_avg": W}}, "param_groups": []}
    assert list(find({"model": SD, "optimizer": named}, "optimizer").claims) == ["state.fc.exp_avg"]


def test_deep_and_circular_files_are_refused_in_time() -> None:
    deep: Any = [W]
    for _ in range(100_000):
        deep = {"a": [deep]}
    assert _refusal(deep, "b")[1] == NO_NAMES
    ring: dict[str, Any] = {"list": [SD]}
    ring["list"].append(ring)
    assert _refusal(ring, "b")[1] == "these hold tensors: list.0: 2"
    assert _refusal(ring, None)[1] == "take one of these with --state-dict: list.0: 2"
