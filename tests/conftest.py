"""Checkpoints that many tests need, made once, and the two ways to run the program."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from program import Outcome, run_program
from shared import shared_file

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background; the programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of a test
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """What jax compiles is kept for the whole run: every worker, and every process that a test starts, finds it."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker has the variables of the process that started it
        return
    kept = tempfile.mkdtemp(prefix="compiled-")
    config.add_cleanup(lambda: shutil.rmtree(kept, ignore_errors=True))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = kept
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 << 30)  # with a limit, jax locks what it writes and reads
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the official layout at full size, no two tensors of it alike: 211 tensors, 46 MB."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # the workers share one
    path = folder / "official.ckpt"
    with (folder / "official.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _write_official(path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
    return path


def _write_official(path: Path) -> None:
    import kornia
    import torch

    state = kornia.feature.LoFTR(pretrained=None).state_dict()
    generator = torch.Generator().manual_seed(2104)
    for number, value in enumerate(state.values()):
        value.copy_(torch.randn(value.shape, generator=generator) if value.is_floating_point() else 1000 + number)
    torch.save({"state_dict": {f"matcher.{key}": value for key, value in state.items()}}, path)


@pytest.fixture(scope="session")
def student() -> Path:
    """Real trained weights, 177 tensors beside an optimizer's state."""
    return shared_file("data/loftr_student/LoFTR_teacher.pt")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    """The real program, in a process of its own that runs in ``tmp_path``."""

    def call(*arguments: object, **options: str) -> Outcome:
        return run_program(*arguments, cwd=tmp_path, **options)

    return call


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The program inside this process, working in ``tmp_path``: a twentieth of the time of a process."""
    from loftr2flax.cli import main

    def call(*arguments: object) -> Outcome:
        monkeypatch.chdir(tmp_path)
        before = signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    return call
