"""The same loss on one device, on eight, and in two processes.

The rate is small because Adam divides a gradient by its own size: where a gradient is all rounding, rounding becomes a
step. On one device, weights moved by one ulp drift in 20 steps by 3e-5 to 2e-4 of the loss at this rate, and by 1e-3 to
2e-2 at ten times it; eight devices, by up to 2e-4 and 2e-2. Without most of the compiler's optimisations, as here, they
add in nearly the same order, and drift less.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_options

from loftr2flax.training.folder import held
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
        out, err = process.communicate(timeout=600)
        assert (process.returncode, out) == (0, ""), err
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


def pair(folder: Path, *more: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Two processes, and what each is told beside the options."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(folder, 1, "--distributed", f"localhost:{port},2,{rank}", *words) for rank, words in enumerate(more)]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and error of each."""
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert not [err for err in told if "Traceback" in err or "stack trace" in err], told
    errors = [next((line for line in err.splitlines() if line.startswith("error: ")), "") for err in told]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def test_two_processes(one, tmp_path):
    folder = tmp_path / "run"
    two = losses(folder, *pair(folder, (), ()))
    assert np.abs(two / one - 1).max() < 1e-4, (one, two)
    assert abs(two[0] / one[0] - 1) < 1e-6


def test_a_signal_to_one_ends_both(tmp_path):
    """They agree at which step, save together, and go on together."""
    folder, more = tmp_path / "run", ("--num-epochs", "400", "--save-every", "400", "--log-every", "1")
    both = pair(folder, more, more)
    metrics = folder / "metrics.jsonl"
    while both[0].poll() is None and not (metrics.exists() and '"train"' in metrics.read_text()):
        time.sleep(0.1)
    both[1].send_signal(signal.SIGTERM)
    assert [code for code, _ in ends(both)] == [143, 143]
    assert len(list((folder / "states").iterdir())) == 1
    step = int(next((folder / "states").iterdir()).name)
    more = ("--num-epochs", "400", "--resume")
    both = pair(folder, more, more)
    while both[0].poll() is None and read_metrics(folder)[-1]["step"] <= step:
        time.sleep(0.1)
    both[0].send_signal(signal.SIGTERM)
    assert [code for code, _ in ends(both)] == [143, 143]


@pytest.mark.parametrize(
    ("words", "ends_with"),
    [
        (("--seed", "5"), [(2, "process 0 has seed=0, and process 1 has 5")] * 2),
        (
            ("--dataset-root", "nowhere"),
            [(4, "process 1 ended: nowhere: no such folder"), (3, "nowhere: no such folder")],
        ),
    ],
)
def test_two_that_are_not_alike(tmp_path, words, ends_with):
    assert ends(pair(tmp_path / "run", (), words)) == [(code, f"error: {error}") for code, error in ends_with]
    assert not list((tmp_path / "run").glob("*"))


def test_two_in_the_folder_of_another(tmp_path):
    told = f"{tmp_path}: another run is at work there"
    with held(tmp_path):
        assert ends(pair(tmp_path, (), ())) == [(4, f"error: {told}"), (4, f"error: process 0 ended: {told}")]
