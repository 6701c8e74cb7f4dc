"""Runs small enough to make many of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from starting import DIMS, started
from tiny import tiny_config

from loftr2flax import convert_checkpoint
from loftr2flax.training.config import DenseConfig
from loftr2flax.training.loop import dense_task, train
from loftr2flax.training.start import Loaded
from tools.sample import SampleSizes, write_sample


@contextmanager
def compiled_soon() -> Iterator[None]:
    """Programs are compiled without most optimisations: to compile them takes longer than to run them here."""
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    if not before:
        jax.clear_caches()  # what this process compiled before rounds otherwise, and jax would take it up again
    jax.config.update(name, True)
    with mock.patch.dict(os.environ, {name.upper(): "1"}):  # for processes of their own
        yield
    jax.config.update(name, before)
    if not before:
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def soon() -> Iterator[None]:
    """For the tests of this folder, and for no other."""
    with compiled_soon():
        yield


@pytest.fixture
def config(tmp_path: Path) -> DenseConfig:
    """Two epochs of two steps; an image is not square, a part of every pair is an imposter's."""
    return tiny_config(tmp_path / "run")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoFTR of 4 layers in the official layout, and its conversions."""
    place = tmp_path_factory.mktemp("start")
    write_sample(place / "a.ckpt", sizes=SampleSizes(DIMS, 16, 4, 6, 2))
    facts = {"heads": 2}
    convert_checkpoint(place / "a.ckpt", place / "whole.npz", "loftr", facts=facts)
    convert_checkpoint(place / "a.ckpt", place / "coarse.msgpack", "loftr_coarse", facts=facts)
    convert_checkpoint(place / "a.ckpt", place / "ifvit.npz", "ifvit_jax", facts=facts)
    return place


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Callable[..., Loaded]:
    """Loads a file of that folder into a network that fits it but for the changes."""
    return lambda name, **changes: started(tmp_path, loftr_pretrained_ckpt=str(folder / name), **changes)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted; who writes there copies it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with compiled_soon():  # this lives longer than a module
        train(tiny_config(folder), dense_task)
    return folder
