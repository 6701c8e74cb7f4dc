"""`verify parity` as a command: verdict first, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from small_loftr import SIZES

from loftr2flax.parity.golden import Bundle, write_golden

SIZE = "x".join(map(str, SIZES[0]))


def run(folder, *arguments: str, block: str = "") -> subprocess.CompletedProcess[str]:
    blocked = f"sys.modules[{block!r}] = None" if block else ""
    code = f"import sys\n{blocked}\nfrom loftr2flax.cli import main\nmain()"
    command = [sys.executable, "-c", code, "verify", "parity", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_right_conversion_exits_0_with_the_verdict_first(folder):
    done = run(folder, "small.ckpt", "ifvit_jax.npz", "--sizes", SIZE, "--per-layer")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("PASS  16 arrays of 2 runs; nearest to its limit ")
    assert "40 leaves" in done.stdout
    assert "equal bit for bit" in done.stdout
    assert "drift r" in done.stdout
    assert "cosine" in done.stdout
    assert "coverage   40 of 40 leaves exercised" in done.stdout
    for flag in ("jax ", "flax ", "torch ", "kornia ", "numpy ", "torch threads", "jax matmul precision highest"):
        assert flag in lines[-2]


def test_a_wrong_conversion_exits_1_and_names_the_culprit(folder, changed):
    path = changed("ifvit_jax", {"layers.1.0/q_proj/kernel": lambda leaf: leaf.T})
    done = run(folder, "small.ckpt", str(path), "-m", "ifvit_jax", "--fact", "heads=4", "--sizes", SIZE, "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "loftr2flax.verify.parity/1"
    assert not document["passed"]
    assert document["culprit"]["cause"] == "layers.1.0/q_proj/kernel is transposed"
    assert document["culprit"]["leaves"] == ["layers.1.0/q_proj/kernel"]
    assert document["runs"][0]["stages"][1]["own"][0]["max_abs"]["index"]


def test_a_missing_extra_exits_4_with_the_command_that_installs_it(folder):
    done = run(folder, "small.ckpt", "ifvit_jax.npz", block="kornia")
    assert done.returncode == 4
    assert "hint: pip install 'loftr2flax[parity]'" in done.stderr


def test_images_without_pillow_exit_4_with_the_extra(folder):
    done = run(folder, "small.ckpt", "ifvit_jax.npz", "--images", "a.png", "b.png", block="PIL")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "error: reading images needs Pillow" in done.stderr
    assert "hint: pip install 'loftr2flax[parity]'" in done.stderr


def test_nothing_compared_exits_5(folder, tmp_path):
    golden = tmp_path / "golden.npz"
    write_golden(golden, Bundle("custom", "nothing/1", "", "", {}, {}, True, "", {}, (), ()))
    np.savez(tmp_path / "empty.npz")
    code = run(folder, str(tmp_path / "empty.npz"), "--golden", str(golden), "--flax", "builtins:dict")
    assert code.returncode == 5, code.stdout + code.stderr
    assert code.stdout.startswith("NOTHING WAS COMPARED")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["small.ckpt"], 2, "missing the conversion"),
        (["small.ckpt", "loftr.npz", "--sizes", "big"], 2, "not rows and columns"),
        (["small.ckpt", "loftr.npz", "--sizes", "16x16"], 2, "too small"),
        (["small.ckpt", "loftr.npz", "--fact", "colour=3"], 2, "no such fact of a LoFTR: colour"),
        (["small.ckpt", "loftr.npz", "--fact", "heads=5"], 2, "5 heads do not divide"),
        (["small.ckpt", "loftr.npz", "--torch", "a:b"], 2, "--torch alone"),
        (["small.ckpt", "no.npz"], 3, "no.npz"),
        (["loftr.npz", "--golden", "loftr.npz"], 3, "not a golden bundle"),
    ],
)
def test_what_cannot_be_meant_or_read_is_told(folder, arguments, code, said):
    done = run(folder, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
