"""A bundle judges as torch does, without torch; the same run gives the same bytes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from small_loftr import SIZES
from usual_mistakes import factory

from loftr2flax.errors import CorruptFile, OutputExists, UsageError
from loftr2flax.parity import verify_golden, verify_parity

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["kornia"] = None  # any import of them fails
from loftr2flax.cli import main
main(["verify", "parity", sys.argv[2], "--golden", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def golden(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    report = verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES, save_golden=path)
    assert report.passed
    return path


def test_a_bundle_judges_as_torch_did(folder, golden):
    by_torch = verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES)
    report = verify_golden(golden, folder / "ifvit_jax.npz")
    assert report.passed
    assert report.compared == by_torch.compared
    for one, other in zip(report.runs, by_torch.runs, strict=True):
        assert [row.own_ratio for row in one.stages] == [row.own_ratio for row in other.stages]
        assert [row.drift_ratio for row in one.stages] == [row.drift_ratio for row in other.stages]
        assert one.inputs.sha256 == other.inputs.sha256


def test_no_torch_is_needed(folder, golden):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(golden), str(folder / "ifvit_jax.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS")
    assert "torch threads" not in done.stdout


def test_a_wrong_leaf_and_a_wrong_network_fail(folder, golden, changed):
    path = "layers.1.0/q_proj/kernel"
    report = verify_golden(golden, changed("ifvit_jax", {path: lambda leaf: leaf.T}))
    assert report.exit_code == 1
    assert report.culprit.leaves == (path,)
    report = verify_golden(golden, folder / "ifvit_jax.npz", flax=factory(4, "stale features"))
    assert report.exit_code == 1
    assert report.culprit.stage == "loftr_coarse/layers.1"


def test_the_same_run_gives_the_same_bytes(folder, golden, tmp_path):
    again = tmp_path / "again.npz"
    verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES, save_golden=again)
    with np.load(golden) as one, np.load(again) as other:
        inputs = [name for name in one.files if "/inputs/" in name]
        assert one.files == other.files
        assert inputs
        assert all(one[name].tobytes() == other[name].tobytes() for name in one.files)
    assert golden.read_bytes() == again.read_bytes()


def test_a_bundle_is_not_replaced_unasked_nor_of_another_format(folder, golden, tmp_path):
    with pytest.raises(OutputExists):
        verify_parity(folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES, save_golden=golden)
    with pytest.raises(UsageError, match=r"is an \.npz"):
        verify_parity(
            folder / "small.ckpt", folder / "ifvit_jax.npz", sizes=SIZES, save_golden=tmp_path / "golden.msgpack"
        )


def test_what_is_no_bundle_is_refused(folder, tmp_path):
    with pytest.raises(CorruptFile, match="not a golden bundle"):
        verify_golden(folder / "loftr.npz", folder / "loftr.npz")
    np.savez(tmp_path / "damaged.npz", about=np.frombuffer(b'{"schema": "loftr2flax.golden/1"}', np.uint8))
    with pytest.raises(CorruptFile, match="damaged"):
        verify_golden(tmp_path / "damaged.npz", folder / "loftr.npz")
