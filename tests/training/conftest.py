"""Runs small enough to make many of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starting import DIMS, started
from tiny import tiny_config

from loftr2flax import convert_checkpoint
from loftr2flax.training.config import DenseConfig
from loftr2flax.training.loop import dense_task, train
from loftr2flax.training.start import Loaded
from tools.sample import SampleSizes, write_sample


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs that many runs share are compiled once."""
    import jax

    cache = str(tmp_path_factory.mktemp("jax"))
    jax.config.update("jax_compilation_cache_dir", cache)
    os.environ.update(JAX_COMPILATION_CACHE_DIR=cache, JAX_DISABLE_MOST_OPTIMIZATIONS="1")  # for processes of their own
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_disable_most_optimizations", True)  # compiling takes longer than running here
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", None)
    del os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]


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
    train(tiny_config(folder), dense_task)
    return folder
