"""A network of the user's own, exactly as docs/parity.md has it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.formats.writer import open_writer

DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"
FILES = re.compile(r"```(?:yaml|python)\n# (tiny\S*\.(?:yaml|py))\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The three files of the document, and a state dict."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in FILES.findall(DOCUMENT.read_text()):
        (folder / name).write_text(text)
    rng = np.random.default_rng(0)
    shapes = {"fc1.weight": (16, 6), "fc1.bias": (16,), "fc2.weight": (16, 16), "fc2.bias": (16,)}
    infos = {key: LeafInfo(shape, "float32") for key, shape in shapes.items()}
    with open_writer(folder / "net.pt", "torch", infos, {}) as writer:
        for key in writer.order:
            writer.write(key, rng.standard_normal(shapes[key]).astype(np.float32))
    return folder


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loftr2flax", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=dict(os.environ))


def commands() -> list[list[str]]:
    block = re.search(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return [shlex.split(line)[1:] for line in block[1].splitlines()]


def test_the_document_s_example_passes_as_written(place):
    convert, verify = commands()
    assert run(place, *convert).returncode == 0
    done = run(place, *verify)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("PASS  8 arrays of 2 runs")
    assert "gradients  4 leaves" in done.stdout
    assert "coverage   4 of 4 leaves exercised" in done.stdout


def test_a_square_matrix_transposed_fails_and_the_stage_is_named(place):
    convert, verify = commands()
    run(place, *convert, "--force")
    with np.load(place / "net.npz") as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
    leaves["out/kernel"] = leaves["out/kernel"].T.copy()
    np.savez(place / "wrong.npz", **leaves)
    done = run(place, *["wrong.npz" if word == "net.npz" else word for word in verify])
    assert done.returncode == 1
    assert "culprit: out: out/kernel is transposed" in done.stdout


@pytest.mark.parametrize(
    ("torch", "code", "said"),
    [
        ("tiny_torch", 2, "not a module and a factory"),
        ("no_such_module:make", 2, "No module named 'no_such_module'"),
        ("tiny_torch:nothing", 2, "no attribute 'nothing'"),
        ("tiny_flax:make", 3, "the factory make raised TypeError"),
    ],
)
def test_a_factory_that_cannot_be_used_is_told(place, torch, code, said):
    if not (place / "net.npz").exists():
        run(place, *commands()[0])
    done = run(
        place, "verify", "parity", "net.pt", "net.npz", "-m", "tiny.yaml", "--torch", torch, "--flax", "tiny_flax:make"
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr


WRONG = """
import numpy as np
import tiny_flax, tiny_torch


class NanFlax(tiny_flax.Tiny):
    def stage(self, name, given):
        made = {key: value.copy() for key, value in super().stage(name, given).items()}
        if name == "out":
            made["out"][3, 4] = np.nan
        return made


class LackingFlax(tiny_flax.Tiny):
    stage_names = ("hidden",)


class UnreadFlax(tiny_flax.Tiny):
    def _stage(self, params, name, given):
        made = super()._stage(params, name, given)
        return made if name == "hidden" else made - params["out"]["bias"]


class UnreadTorch(tiny_torch.Tiny):
    def _stage(self, name, given):
        made = super()._stage(name, given)
        return made if name == "hidden" else made - self.state["fc2.bias"]


def nan(variables, facts):
    return NanFlax(variables)


def lacking(variables, facts):
    return LackingFlax(variables)


def unread(variables, facts):
    return UnreadFlax(variables)


def unread_torch(state, facts, dtype):
    return UnreadTorch(state, dtype)
"""


@pytest.mark.parametrize(
    ("torch", "flax", "said"),
    [
        ("tiny_torch:make", "wrong:nan", "NaN on one side in 1 places, first at [3, 4]"),
        ("tiny_torch:make", "wrong:lacking", "culprit: out: the stage gives no out"),
        ("wrong:unread_torch", "wrong:unread", "culprit: no output depends on out/bias"),
    ],
    ids=["NaN on one side", "a missing stage", "a leaf that no gradient reaches"],
)
def test_what_was_not_compared_is_never_a_pass(place, torch, flax, said):
    (place / "wrong.py").write_text(WRONG)
    if not (place / "net.npz").exists():
        run(place, *commands()[0])
    done = run(
        place, "verify", "parity", "net.pt", "net.npz", "-m", "tiny.yaml", "--torch", torch, "--flax", flax
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("FAIL")
    assert said in done.stdout
