"""The conversions that the tests disturb: each format, there and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from conversion import Conversion, made

from loftr2flax import convert_checkpoint
from tools.sample import write_sample

COMMANDS = {
    "npz": "a.ckpt -m loftr -o out.npz",
    "msgpack": "a.ckpt -m loftr -o out.msgpack",
    "safetensors": "a.ckpt -m loftr -o out.safetensors",
    "back to torch": "a.npz --reverse -o out.ckpt",
}
INPUTS = ("a.ckpt", "a.npz")


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Conversion]:
    """Each conversion, run once undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_sample(folder / INPUTS[0])
    convert_checkpoint(folder / INPUTS[0], folder / INPUTS[1], "loftr")
    return cache(lambda kind: made(folder, COMMANDS[kind]))


@pytest.fixture(params=COMMANDS)
def conversion(request: pytest.FixtureRequest, tmp_path: Path, originals: Callable[[str], Conversion]) -> Conversion:
    """One of each kind, in a folder of its own."""
    return _in(tmp_path, originals(request.param))


@pytest.fixture
def npz(tmp_path: Path, originals: Callable[[str], Conversion]) -> Conversion:
    """The one to .npz, where the format does not matter."""
    return _in(tmp_path, originals("npz"))


def _in(folder: Path, original: Conversion) -> Conversion:
    for name in INPUTS:
        shutil.copy(original.folder / name, folder)
    moved = replace(original, folder=folder)
    moved.prepare()
    return moved
