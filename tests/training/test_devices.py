"""The same loss on one device, on eight, and in two processes.

The rate is small because Adam divides a gradient by its own size: where a gradient is all rounding, rounding becomes a
step. On one device, weights moved by one ulp drift in 20 steps by 3e-5 to 2e-4 of the loss at this rate, and by 1e-3 to
2e-2 at ten times it; eight devices, by up to 2e-4 and 2e-2. Without most of the compiler's optimisations, as here, they
add in nearly the same order, and drift less.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_options

from loftr2flax.training.metrics import read_metrics

STEPS = 20
OPTIONS = tiny_options(lr=1e-4, batch_size=8, pairs_per_epoch=8 * STEPS, num_epochs=1, eval_pairs=1)


def start(folder: Path, devices: int, *more: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    words = [sys.executable, "-m", "loftr2flax", "train", "dense", *OPTIONS, "--checkpoint-dir", str(folder), *more]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def losses(folder: Path, *running: subprocess.Popen[str]) -> np.ndarray:
    for process in running:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    found = [row["loss"] for row in read_metrics(folder) if row["kind"] == "train"]
    assert len(found) == STEPS
    return np.array(found)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("one") / "run"
    return losses(folder, start(folder, 1))


def test_eight_devices(one, tmp_path):
    eight = losses(tmp_path / "run", start(tmp_path / "run", 8))
    assert np.abs(eight / one - 1).max() < 1e-4, (one, eight)
    assert abs(eight[0] / one[0] - 1) < 1e-6


def test_two_processes(one, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "run"
    both = [start(folder, 1, "--distributed", f"localhost:{port},2,{rank}") for rank in (0, 1)]
    two = losses(folder, *both)
    assert np.abs(two / one - 1).max() < 1e-4, (one, two)
    assert abs(two[0] / one[0] - 1) < 1e-6
